"""The systems that are compared, one module each."""

from __future__ import annotations

from ..system import System
from .better_sse import BetterSse
from .flask_socketio import SocketIOGevent, SocketIOThreads
from .floors import FloorInC, FloorInPython
from .nchan import Nchan
from .sidearm import Sidearm, SidearmAgain
from .sse_starlette import SseStarlette
from .talk import Talk

ALL: tuple[System, ...] = (
    Sidearm(),
    SidearmAgain(),
    Nchan(),
    BetterSse(),
    SseStarlette(),
    Talk(),
    SocketIOGevent(),
    SocketIOThreads(),
    FloorInC(),
    FloorInPython(),
)
