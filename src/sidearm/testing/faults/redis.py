"""redis-py: each command, and each pipeline when it is executed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from .drivers import Driver


class RedisDriver(Driver):
    """redis-py: each command, and each pipeline when it is executed."""

    def install(self, stack: ExitStack) -> None:  # noqa: ARG002 - the points put all back
        from redis import ConnectionError as RedisConnectionError
        from redis.client import Pipeline, Redis

        self._error: type[Exception] = RedisConnectionError
        self._points.replace(Redis, "execute_command", self._command)
        self._points.replace(Pipeline, "execute", self._pipeline)

    def _command(self, original: Callable[..., Any], client: Any, *args: Any, **named: Any) -> Any:
        self._come_by(str(args[0]).upper())
        return original(client, *args, **named)

    def _pipeline(
        self, original: Callable[..., Any], pipeline: Any, *args: Any, **named: Any
    ) -> Any:
        self._come_by("pipeline")
        return original(pipeline, *args, **named)

    def _come_by(self, command: str) -> None:
        trace = self._points.active
        if trace is None:
            return
        step, kind = trace.reach(f"redis: {command}", ("redis", command))
        step.in_driver = True
        if kind is not None:
            raise trace.make(kind, self._error)
