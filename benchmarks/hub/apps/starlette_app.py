"""sse-starlette's application."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

queues: set[asyncio.Queue[ServerSentEvent]] = set()


async def stream(request: Request) -> Any:  # noqa: ARG001
    """The events."""
    queue: asyncio.Queue[ServerSentEvent] = asyncio.Queue()
    queues.add(queue)

    async def events() -> AsyncIterator[ServerSentEvent]:
        try:
            while True:
                yield await queue.get()
        finally:
            queues.discard(queue)

    return EventSourceResponse(events(), ping=3600)


async def publish(request: Request) -> Response:
    """Publish the body, so many times."""
    data = json.dumps(await request.json())
    for _ in range(int(request.query_params["n"])):
        event = ServerSentEvent(data, event="sold")
        for queue in queues:
            queue.put_nowait(event)
    return Response()


app = Starlette(routes=[Route("/stream", stream), Route("/publish", publish, methods=["POST"])])
