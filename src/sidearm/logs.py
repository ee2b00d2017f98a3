"""One form for the log lines of all processes: each names its process, as text or as JSON.

Where JSON is wanted, everything is: what libraries print, tracebacks, and what a server writes past
:mod:`logging`. So standard output and standard error are replaced by streams that turn each line
that is no JSON object into one.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import threading
from collections.abc import Callable
from datetime import datetime
from types import TracebackType
from typing import Any, TextIO

import msgspec

FORMATS = ("text", "json")
#: What every record of :mod:`logging` has; the rest was given as ``extra=``.
_USUAL = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class TextFormatter(logging.Formatter):
    """``2026-11-25T13:04:57.041+01:00 [4711] [WARNING] hub: what happened``.

    Args:
        process: What the process is, such as ``"web"``.
    """

    def __init__(self, process: str) -> None:
        super().__init__(f"%(asctime)s [%(process)d] [%(levelname)s] {process}: %(message)s")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: ARG002, N802 (the base's)
        """The time of a record (RFC 3339)."""
        return _time(record.created)


class JSONFormatter(logging.Formatter):
    """A record as one JSON object on one line.

    It has ``time`` (RFC 3339), ``level``, ``process``, ``pid``, ``logger`` and ``message``, and
    ``exception``, the traceback, where there is one. What was given as ``extra=`` follows, where
    JSON has such values.

    Args:
        process: What the process is, such as ``"web"``.
    """

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        fields: dict[str, Any] = {
            "time": _time(record.created),
            "level": record.levelname,
            "process": self._process,
            "pid": record.process,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info and record.exc_info[0] is not None:
            fields["exception"] = self.formatException(record.exc_info)
        elif record.exc_text:
            fields["exception"] = record.exc_text
        if record.stack_info:
            fields["stack"] = self.formatStack(record.stack_info)
        for key, value in vars(record).items():
            if key not in _USUAL and isinstance(value, (str, int, float, bool, type(None))):
                fields.setdefault(key, value)
        return _as_json(fields)


def formatter_for(process: str, form: str) -> logging.Formatter:
    """What writes a process's records.

    Args:
        process: What the process is, such as ``"web"``.
        form: ``"text"`` or ``"json"``.
    """
    return JSONFormatter(process) if form == "json" else TextFormatter(process)


def begin(process: str, form: str, *, level: int | str | None = None) -> None:
    """Give this process's standard streams their form, and with a level its log a handler.

    Args:
        process: What the process is, such as ``"web"``.
        form: ``"text"`` or ``"json"``.
        level: From which level on the root logger writes to standard error, unless the application
            has said where it writes; None: as it is.
    """
    if form == "json":
        sys.stdout = LineWriter(sys.stdout, process, logging.INFO)
        sys.stderr = LineWriter(sys.stderr, process, logging.WARNING)
        sys.excepthook = _log_uncaught(process)
    if level is not None and not logging.root.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(formatter_for(process, form))
        logging.root.addHandler(handler)
        logging.root.setLevel(level)


def make_record(logger: str, level: int, message: str, **fields: Any) -> logging.LogRecord:
    """A record that comes from no logging call."""
    return logging.makeLogRecord(
        {"name": logger, "levelno": level, "levelname": logging.getLevelName(level)}
        | {"msg": message, "args": None}
        | fields
    )


def speaker(process: str, form: str = "text") -> Callable[[str], None]:
    """A function that prints one line of a process's log.

    On a terminal, where somebody looks at it, text is printed as it is. What cannot be printed any
    more is left out: what is left to do is done all the same.

    Args:
        process: What the process is, such as ``"up"``.
        form: ``"text"`` or ``"json"``.
    """
    formatter = formatter_for(process, form)

    def say(line: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # nobody reads, or it is closed
            if form == "text" and sys.stdout.isatty():
                print(line, flush=True)  # noqa: T201 (it is what this is for)
            else:
                record = make_record(f"sidearm.{process}", logging.INFO, line)
                print(formatter.format(record), flush=True)  # noqa: T201

    return say


class LineWriter(io.TextIOBase):
    """A standard stream on which each line is a JSON object.

    Args:
        stream: The real one.
        process: What the process is.
        level: Of a line of which nothing else is known.
    """

    def __init__(self, stream: TextIO, process: str, level: int) -> None:
        self._stream = stream
        self._level = level
        self._formatter = JSONFormatter(process)
        self._begun = threading.local()  # lines of several threads do not mix
        self._lock = threading.Lock()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._after_fork)

    def _after_fork(self) -> None:
        self._lock = threading.Lock()  # another thread of the parent may have held it

    # Those who write ask for these.

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """UTF-8, as JSON has it."""
        return "utf-8"

    @property
    def errors(self) -> str:  # type: ignore[override]
        """How text is written that UTF-8 cannot have."""
        return "backslashreplace"

    def fileno(self) -> int:
        """The real stream's descriptor."""
        return self._stream.fileno()

    def writable(self) -> bool:
        """Whether it can be written to: yes."""
        return True

    def write(self, text: str, /) -> int:
        """Write text; each line leaves when it is whole."""
        if not isinstance(text, str):
            raise TypeError(f"write() wants text, and was given {type(text).__name__}.")
        *lines, rest = (getattr(self._begun, "text", "") + text).split("\n")
        self._begun.text = rest
        if lines:
            self._put(lines)
        return len(text)

    def flush(self) -> None:
        """Write what has begun as a line of its own."""
        rest, self._begun.text = getattr(self._begun, "text", ""), ""
        if rest:
            self._put([rest])
        self._stream.flush()

    def _put(self, lines: list[str]) -> None:
        made = "".join(self._as_object(line) + "\n" for line in lines if line.strip())
        with self._lock:
            self._stream.write(made)
            self._stream.flush()

    def _as_object(self, line: str) -> str:
        if line.startswith("{"):
            with contextlib.suppress(ValueError):
                if isinstance(msgspec.json.decode(line), dict):
                    return line  # made by a formatter
        return self._formatter.format(make_record("", self._level, line))


def _log_uncaught(
    process: str,
) -> Callable[[type[BaseException], BaseException, TracebackType | None], None]:
    formatter = JSONFormatter(process)

    def hook(
        kind: type[BaseException], error: BaseException, traceback: TracebackType | None
    ) -> None:
        record = make_record(
            "", logging.CRITICAL, "Uncaught exception.", exc_info=(kind, error, traceback)
        )
        sys.stderr.write(formatter.format(record) + "\n")
        sys.stderr.flush()

    return hook


def _time(created: float) -> str:
    return datetime.fromtimestamp(created).astimezone().isoformat(timespec="milliseconds")


def _as_json(fields: dict[str, Any]) -> str:
    try:
        return msgspec.json.encode(fields).decode()
    except (UnicodeEncodeError, ValueError):  # lone surrogates, which UTF-8 cannot have
        import json

        return json.dumps(fields)
