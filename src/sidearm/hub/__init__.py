"""The hub: a small process that holds the open streams. Nothing here knows Flask."""
