"""A Redis client whose writes wait for the commit, and are seen by the task that made them."""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NoReturn

from redis.client import Pipeline, Redis
from redis.commands import CoreCommands

from ..exceptions import NotWhileWaiting
from ..tasks.callbacks import Held

if TYPE_CHECKING:
    from types import FrameType

    from ..tasks.task import Task

#: Methods whose commands wait for the commit.
WAITING = (
    *("set", "mset", "append", "incr", "incrby", "decr", "decrby"),
    *("delete", "unlink", "expire", "pexpire", "persist"),
    *("hset", "hdel", "hincrby", "sadd", "srem", "zadd", "zincrby", "zrem"),
    *("lpush", "rpush", "ltrim", "xadd", "publish"),
)
#: Methods that read one key, the first argument, and see nothing that waits.
READING = (
    *("strlen", "ttl", "pttl", "type"),
    *("hget", "hgetall", "hmget", "hexists", "hlen", "sismember", "smembers", "scard"),
    *("zscore", "zrank", "zrange", "zcard", "llen", "lindex", "lrange", "xlen", "xrange"),
)

#: Options of SET that do not make it depend on what is there.
_PLAIN_OPTIONS = frozenset({"EX", "PX", "EXAT", "PXAT", "KEEPTTL"})
#: An integer as INCRBY takes it.
_INTEGER = re.compile(rb"0|-?[1-9][0-9]*")


class Write(NamedTuple):
    """A command that waits.

    Attributes:
        words: What goes to the server: the name, then all arguments as bytes.
        options: What redis-py wants to know besides.
        keys: What it writes.
        effect: What it does to a key: ``"set"``, ``"delete"``, ``"add"``, ``"nothing"`` (to the
            value), or ``"unknown"``, where that depends on what is there when it arrives.
    """

    words: tuple[Any, ...]
    options: dict[str, Any]
    keys: tuple[bytes, ...]
    effect: Literal["set", "delete", "add", "nothing", "unknown"]

    def value_for(self, key: bytes) -> bytes:
        """What a command that sets gives to a key."""
        if self.words[0] == "MSET":
            pairs = self.words[1:]
            last = max(at for at in range(0, len(pairs), 2) if pairs[at] == key)
            return bytes(pairs[last + 1])
        return bytes(self.words[2])

    @property
    def amount(self) -> int:
        """What a command that adds adds."""
        return int(self.words[2]) * (-1 if self.words[0] == "DECRBY" else 1)


class TaskRedis:
    """A client of redis-py, as tasks see it: ``cache = arm.use(redis.Redis())``.

    Its methods are redis-py's. What a task writes is held like an event: all of it is sent in one
    MULTI/EXEC after the commit of the transaction that it belongs to, and never after a rollback.
    Until then the task reads its own writes, and nobody else does. A server that is away then is
    logged and signalled, and fails no task.

    A command that waits has no answer yet. ``set`` and ``mset`` give ``True``, as they always do;
    who uses the answer of another gets the error :exc:`~sidearm.exceptions.NotWhileWaiting`, and
    never an answer that was made up.

    Attributes:
        now: The client itself: what is done with it neither waits nor sees what waits.
    """

    def __init__(self, client: Redis, require_task: Callable[[str], Task]) -> None:
        self.now = client
        self._require_task = require_task
        self._encoder: Any = client.get_encoder()
        self._send = self._apply  # one object, by which neighbours leave together

    def reach(self) -> None:
        """Raise unless the server answers."""
        self.now.ping()

    # Reading

    def get(self, name: Any) -> Any:
        """The value of a key, as this task sees it; ``None`` if there is none."""
        (value,) = self._values("get", [name])
        return value

    def mget(self, keys: Any, *args: Any) -> list[Any]:
        """The values of several keys, in order; ``None`` for each that has none."""
        names = [keys] if isinstance(keys, (str, bytes, memoryview)) else list(keys)
        return self._values("mget", [*names, *args])

    def exists(self, *names: Any) -> int:
        """How many of these keys are there, as this task sees them."""
        seen = self._seen("exists", names)
        ask = [name for name, value in zip(names, seen, strict=True) if value is _ASK]
        there = sum(value is not None and value is not _ASK for value in seen)
        return there + (int(self.now.exists(*ask)) if ask else 0)

    def _values(self, method: str, names: Sequence[Any]) -> list[Any]:
        seen = self._seen(method, names)
        ask = [name for name, value in zip(names, seen, strict=True) if value is _ASK]
        answers: Iterator[Any] = iter(())
        if ask and method == "get":
            answers = iter([self.now.get(*ask)])
        elif ask:
            asked: Any = self.now.mget(ask)
            answers = iter(asked)
        return [
            next(answers) if value is _ASK else None if value is None else self._decode(value)
            for value in seen
        ]

    def _read(self, method: str, name: Any, *args: Any, **kwargs: Any) -> Any:
        task = self._require_task(f"redis.{method}()")
        for write in self._writes(task, self._encode(name)):
            raise NotWhileWaiting(method.upper(), f"{write.words[0]} for the same key waits")
        return getattr(self.now, method)(name, *args, **kwargs)

    def _seen(self, method: str, names: Iterable[Any]) -> list[Any]:
        """What this task's own writes have made of some keys: bytes, ``None``, or ``_ASK``."""
        task = self._require_task(f"redis.{method}()")
        return [self._value(task, method, self._encode(name)) for name in names]

    def _value(self, task: Task, method: str, key: bytes) -> Any:
        value: Any = _ASK
        for write in self._writes(task, key):
            if write.effect == "set":
                value = write.value_for(key)
            elif write.effect == "delete":
                value = None
            elif write.effect == "add":
                value = self._sum(method, key, value, write.amount)
            elif write.effect == "unknown":
                value = write
        if isinstance(value, Write):
            raise NotWhileWaiting(method.upper(), f"{value.words[0]} for the same key waits")
        return value

    def _sum(self, method: str, key: bytes, value: Any, amount: int) -> Any:
        if isinstance(value, Write):
            return value
        before = self.now.get(key) if value is _ASK else value
        number = b"0" if before is None else self._encode(before)
        if not _INTEGER.fullmatch(number):
            raise NotWhileWaiting(method.upper(), "what waits adds to something that is no integer")
        total = int(number) + amount
        if not -(1 << 63) <= total < 1 << 63:
            raise NotWhileWaiting(method.upper(), "what waits adds to more than 64 bits")
        return str(total).encode()

    # Writing

    def _wait(self, method: str, *args: Any, **kwargs: Any) -> Any:
        task = self._require_task(f"redis.{method}()")
        write = self._recorded(method, args, kwargs)
        self._hold(task, method, write, sys._getframe(1))  # noqa: SLF001 - the place of the call
        return True if write.effect == "set" else WaitingReply(str(write.words[0]))

    def _recorded(self, method: str, args: Any, kwargs: Any) -> Write:
        """A call of redis-py's method, as the command that it would send."""
        words, options = getattr(_recorder, method)(*args, **kwargs)
        name = str(words[0])
        # Encoded at once: what redis-py cannot encode is an error of this line, and what is changed
        # later is sent as it was.
        encoded = tuple(self._encode(word) for word in words[1:])
        effect = _effect(name, encoded)
        if name == "SET" and effect == "unknown":
            raise NotWhileWaiting(
                "SET with a condition, or with GET", "what it does is known when it arrives"
            )
        return Write((name, *encoded), options, _keys(name, encoded), effect)

    def _hold(self, task: Task, method: str, write: Write, caller: FrameType) -> None:
        held = Held.to_send(f"redis.{method}", self._send, write, caller)
        with task.lock:
            task.hold(held)
            # All that is written leaves at once, at the place of the first.
            waiting = task.require_open_round(held.call).held
            before = [at for at, each in enumerate(list(waiting)[:-1]) if each.send is self._send]
            if before:
                waiting.insert(before[-1] + 1, waiting.pop())

    def _writes(self, task: Task, key: bytes) -> list[Write]:
        round_ = task.open_round()
        if round_ is None:
            return []
        waiting = [held.item for held in list(round_.held) if held.send is self._send]
        return [write for write in waiting if key in write.keys]

    def _apply(self, writes: Sequence[Write]) -> None:
        with self.now.pipeline(transaction=True) as pipeline:
            send: Any = pipeline.execute_command
            for write in writes:
                send(*write.words, **write.options)
            answers = pipeline.execute(raise_on_error=False)
        errors: list[Exception] = []
        for write, answer in zip(writes, answers, strict=True):
            if isinstance(answer, Exception):
                answer.add_note(f"This is the answer to {write.words[0]} {write.keys}.")
                errors.append(answer)
        if len(errors) == 1:
            raise errors[0]
        if errors:
            raise ExceptionGroup("Redis refused several commands; the others are done.", errors)

    def _encode(self, value: Any) -> bytes:
        return bytes(self._encoder.encode(value))

    def _decode(self, value: bytes) -> Any:
        return self._encoder.decode(value)

    # The commands

    def __getattr__(self, name: str) -> Any:
        if name in WAITING:
            return functools.partial(self._wait, name)
        if name in READING:
            return functools.partial(self._read, name)
        if hasattr(Redis, name):
            raise AttributeError(
                f"A Redis client in a task has no {name}(): it can neither wait for the commit nor"
                f" see what waits. If that is meant, call it at once: client.now.{name}()."
            )
        raise AttributeError(f"A Redis client has no {name!r}.")

    def __repr__(self) -> str:
        return f"<TaskRedis {self.now!r}>"


class WaitingReply:
    """The answer of a command that waits: whatever would look at it gets an error."""

    __slots__ = ("_command",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, command: str) -> None:
        self._command = command

    def _refuse(self, *_: Any) -> NoReturn:
        raise NotWhileWaiting(self._command, "it is sent after the commit")

    __bool__ = __int__ = __float__ = __index__ = __len__ = __iter__ = __bytes__ = __str__ = _refuse
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __contains__ = __getitem__ = _refuse
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __format__ = _refuse

    def __repr__(self) -> str:
        return f"<the answer of {self._command}, which waits for the commit>"


class _Recorder(CoreCommands):
    """redis-py's own methods, which make a command of a call; this one only gives it back."""

    def execute_command(self, *args: Any, **options: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return args, options


_recorder_class: Any = _Recorder  # abstract on paper: its methods ask for more than these
_recorder: Any = _recorder_class()

#: Nothing of the task's own is known of a key: the server has to be asked.
_ASK = object()


def _keys(name: str, words: tuple[bytes, ...]) -> tuple[bytes, ...]:
    if name in ("DEL", "UNLINK"):
        return words
    if name == "MSET":
        return words[::2]
    return () if name == "PUBLISH" else words[:1]


def _effect(
    name: str, words: tuple[bytes, ...]
) -> Literal["set", "delete", "add", "nothing", "unknown"]:
    if name == "SET":
        options = {word.decode("ascii", "replace") for word in words[2:] if not word.isdigit()}
        return "set" if options <= _PLAIN_OPTIONS else "unknown"
    if name == "MSET":
        return "set"
    if name in ("DEL", "UNLINK"):
        return "delete"
    if name in ("INCRBY", "DECRBY"):
        return "add"
    if name in ("PERSIST", "PUBLISH") or (name in ("EXPIRE", "PEXPIRE") and _lasts(words)):
        return "nothing"
    return "unknown"


def _lasts(words: tuple[bytes, ...]) -> bool:
    """Whether a key lives on for some time; one that is over at once is deleted."""
    return int(words[1]) > 0


def is_client(thing: Any) -> bool:
    """Whether something is a client of redis-py that can wait: no pipeline, none for asyncio."""
    return isinstance(thing, Redis) and not isinstance(thing, Pipeline)
