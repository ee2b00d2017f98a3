"""Chapter 4, the application's side: what views say. The hub (``sidearm.hub``) does the rest."""

from __future__ import annotations

from .closing import close_streams as close_streams
from .closing import close_streams_now as close_streams_now
from .publish import publish as publish
from .publish import publish_now as publish_now
from .stream import EventStream as EventStream
from .stream import event_stream as event_stream
from .stream import stream_position as stream_position
