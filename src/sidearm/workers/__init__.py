"""The processes of a deployment: web workers and the hub, on one port, with one command."""
