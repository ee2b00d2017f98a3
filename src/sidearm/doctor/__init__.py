"""``flask sidearm doctor URL``: what is wrong with a deployment, seen from outside.

``target`` says what is looked at, ``application`` what the application itself knows of that where
it is at hand. ``probing`` speaks HTTP and watches a stream. ``streams``, ``site``, ``origins`` and
``pools`` judge what came; each gives ``findings``. ``visit`` asks for all of them in turn, and
``printing`` shows the report. Nothing is changed at the other end, and nothing is posted.
"""

from __future__ import annotations
