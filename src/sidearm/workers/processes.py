"""Child processes: started in order, watched, started again when they die, stopped in reverse.

One loop sleeps in one selector. Signals arrive through ``signal.set_wakeup_fd``, so that none is
lost between a look and the sleep. Each child holds the write end of a pipe on which it says that it
is ready, and the read end of the *lifeline*, which breaks when this process is gone.

A service that can be replaced without a break gets a second process, its *successor*, which takes
over from the first by itself. The successor is the child from the moment at which it is ready, or
at which the first has ended; whatever ends before that is not restarted, so there are never three.

Children have process groups of their own: Ctrl-C in a terminal reaches this process alone, which
stops them in order. A child that ended leaves nothing behind: the rest of its group is killed, such
as gunicorn's workers when their master was.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from ..exceptions import StartError
from .systemd import Notifier

FIRST_DELAY = 0.1  # seconds before a dead child is started again; doubled each time
LONGEST_DELAY = 10.0  # seconds
STARTING_GRACE = 5.0  # seconds to stop for a child that was not ready yet: it served nobody
LAST_WORDS = 1.0  # seconds to end by itself for a successor that cannot take over any more
HEALTHY_AFTER = 10.0  # seconds; a child that was ready for so long begins anew with FIRST_DELAY
SUCCESSION_PATIENCE = 60.0  # seconds in which a successor must have taken over
WANTS_SUCCESSOR = b'{"replace": true}\n'  # what a child says that asks to be replaced
KEEPS_ALL = b'{"replace": false}\n'  # what it says when its successor cannot take over any more


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """What one child runs.

    Its program understands ``--lifeline FD`` (end when that pipe does) and ``--ready FD`` (write a
    JSON object as a line there when it can be used; one with ``workers`` is written by each, and
    one of a service that ``reloads`` counts in ``loads`` how often it has). One that ``succeeds``
    also understands ``--replace``, and may write :data:`WANTS_SUCCESSOR` and :data:`KEEPS_ALL`
    there. One with ``checks`` understands ``--check``: load all that a reload would, and end.

    Attributes:
        name: As it stands in messages, such as ``"the hub"``.
        program: The interpreter's arguments that choose the program, such as ``("-m", "x.y")``.
        arguments: The program's own.
        descriptors: Inherited under the same numbers.
        environment: Added to this process's own.
        stop_within: Seconds that it may take to stop; what it says when ready may raise them.
        reloads: Whether SIGHUP has it load its code again.
        checks: Whether it is seen before that if there is code that can be loaded.
        succeeds: Whether a new process can take over from a running one, as SIGUSR2 asks for.
    """

    name: str
    program: tuple[str, ...]
    arguments: tuple[str, ...] = ()
    descriptors: tuple[int, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    stop_within: float = 30.0  # seconds
    reloads: bool = False
    checks: bool = False
    succeeds: bool = False


class Child:
    """One service's process, through all its starts.

    Attributes:
        process: The running process, or None.
        ready: What it said when it was ready; None before that.
        ever_ready: Whether any process of this service was.
        due: When to start it again, by the monotonic clock; None while it runs or shall not run.
        pipe: Where it says that it is ready; None when nothing more is heard from there.
        follows: Whether its process has taken over from another.
        is_given_up: Whether its process was to take over, and cannot any more.
        loads: How often its process has loaded its code again, as far as it has said.
        reload_from: What ``loads`` was when it was asked to; None: it has done so.
        check: The process that finds out whether a reload would succeed, or None.
    """

    def __init__(self, service: Service) -> None:
        self.service = service
        self.process: subprocess.Popen[bytes] | None = None
        self.ready: Mapping[str, Any] | None = None
        self.ready_since = 0.0
        self.ever_ready = False
        self.due: float | None = None
        self.pipe: int | None = None
        self.follows = False
        self.is_given_up = False
        self.loads = 0
        self.reload_from: int | None = None
        self.check: subprocess.Popen[bytes] | None = None
        self._fresh = 0  # workers that have said that they run the code of the last load
        self._said = b""
        self._delay = FIRST_DELAY

    @property
    def has_ended(self) -> bool:
        """Whether its process has ended, and was not given up yet."""
        return self.process is not None and self.process.poll() is not None

    @property
    def failed(self) -> bool:
        """Whether its process has ended, and not as it should."""
        return self.has_ended and self.process is not None and self.process.returncode != 0

    def describe_end(self) -> str:
        """How its process ended, in words."""
        return describe_status(self.process.returncode) if self.process is not None else "ended"

    def inherit(self, old: Child) -> None:
        """Go on as the child that the old one was."""
        self.follows = True
        self.due = None
        self.ever_ready = self.ever_ready or old.ever_ready
        self._delay = old._delay

    @property
    def grace(self) -> float:
        """Seconds that it may take to stop."""
        if self.ready is None:
            return STARTING_GRACE
        return max(self.service.stop_within, float(self.ready.get("stop_within", 0)))

    def start(self, lifeline: int, *arguments: str) -> None:
        """Start the process.

        Args:
            lifeline: The read end of a pipe that breaks when this process is gone.
            arguments: Added to the service's own.

        Raises:
            OSError: The machine has no room for it.
        """
        self.due = None
        self.ready = None
        self.follows = False
        self.loads, self._fresh, self.reload_from = 0, 0, None
        self._said = b""
        self.pipe, theirs = os.pipe()
        os.set_blocking(self.pipe, False)
        try:
            self.process = self._run(lifeline, "--ready", str(theirs), *arguments, also=(theirs,))
        finally:
            os.close(theirs)

    def start_check(self, lifeline: int) -> None:
        """Find out whether a reload would succeed; a check that runs already is of no use any more.

        Args:
            lifeline: As for :meth:`start`.

        Raises:
            OSError: The machine has no room for it.
        """
        self.end_check()
        self.check = self._run(lifeline, "--check")

    def end_check(self) -> int | None:
        """End the check; its return code if it had ended by itself."""
        check, self.check = self.check, None
        if check is None:
            return None
        status = check.poll()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(check.pid, signal.SIGKILL)
        check.wait()
        return status

    def _run(
        self, lifeline: int, *arguments: str, also: tuple[int, ...] = ()
    ) -> subprocess.Popen[bytes]:
        service = self.service
        return subprocess.Popen(
            [
                *(sys.executable, *service.program, "--lifeline", str(lifeline)),
                *arguments,
                *service.arguments,
            ],
            env={**os.environ, **service.environment},
            stdin=subprocess.DEVNULL,
            pass_fds=(lifeline, *also, *service.descriptors),
            process_group=0,
        )

    def read(self) -> bytes | None:
        """What it has just said on its pipe, or None; empty when it will say no more."""
        try:
            return None if self.pipe is None else os.read(self.pipe, 4096)
        except BlockingIOError:
            return None

    def take_down(self, said: bytes, now: float) -> bool:
        """Keep what it said until each of its workers is ready. True: that is so now."""
        self._said += said
        lines = self._said.splitlines(keepends=True)
        facts = msgspec.json.decode(lines[0], type=dict[str, Any])
        if sum(line.endswith(b"\n") for line in lines) < facts.get("workers", 1):
            return False
        self._said = self._said.rpartition(b"\n")[2]
        self.ready = facts
        self.ready_since = now
        self.ever_ready = True
        return True

    def has_reloaded(self, said: bytes) -> bool:
        """Keep what it said after it was ready. True: all workers run what was last loaded."""
        self._said += said
        *lines, self._said = self._said.split(b"\n")
        for line in lines:
            facts = msgspec.json.decode(line, type=dict[str, Any])
            loads = facts.get("loads", 0)
            if loads > self.loads:
                self.loads, self._fresh = loads, 0
            if loads == self.loads:
                self._fresh += 1
            if (
                self.reload_from is not None
                and self.loads > self.reload_from
                and self._fresh >= facts.get("workers", 1)
            ):
                self.reload_from = None
                return True
        return False

    def postpone(self, now: float) -> float:
        """Plan the next start, and say in how many seconds: longer each time that it dies soon."""
        if self.ready is not None and now - self.ready_since >= HEALTHY_AFTER:
            self._delay = FIRST_DELAY
        delay, self._delay = self._delay, min(2 * self._delay, LONGEST_DELAY)
        self.due = now + delay
        return delay

    def signal_group(self, number: signal.Signals) -> None:
        """Send a signal to the process and to all that it started."""
        if self.process is not None:
            # PermissionError: macOS, when only the unreaped leader is left.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, number)


class Supervisor:
    """Runs services until a signal stops them.

    Args:
        services: Started in this order, each when the one before is ready; stopped in reverse.
        say: Prints one line about what happened to a child.
        on_ready: Called once, when all are ready for the first time.
        on_stop: Called once, before the first is stopped, with the failure that it is for, if any.
        notifier: Tells a service manager, if there is one.
        drain: Seconds between the signal and the first stop, in which all goes on.
        on_drain: Called when they begin.
        more: Called before ``on_ready``: which services are to be started, too, by what the others
            have said.
    """

    def __init__(
        self,
        services: Sequence[Service],
        *,
        say: Callable[[str], None],
        on_ready: Callable[[Mapping[str, Child]], None],
        on_stop: Callable[[StartError | None], None],
        notifier: Notifier | None = None,
        drain: float = 0.0,
        on_drain: Callable[[], None] = lambda: None,
        more: Callable[[Mapping[str, Child]], Sequence[Service]] = lambda _children: (),
    ) -> None:
        self._children = {service.name: Child(service) for service in services}
        self._successors: dict[str, Child] = {}
        self._replaced: list[Child] = []  # have given all away, and are about to end
        self._wanted: list[str] = []  # services that want a successor
        self._say = say
        self._on_ready = on_ready
        self._on_stop = on_stop
        self._drain = drain
        self._on_drain = on_drain
        self._more = more
        self._drained: float | None = None  # when draining is over, by the monotonic clock
        self._notifier = notifier or Notifier({})
        self._sign_of_life = 0.0  # when the next is due, by the monotonic clock
        self._selector = selectors.DefaultSelector()
        self._signals: list[int] = []
        self._on_terminal = os.isatty(0)  # asked now: one that has hung up is none
        self._announced = False
        self._lifeline = -1  # the read end of a pipe that breaks when this process is gone
        self._stopping = False
        self._asked: Child | None = None  # the one that was asked to stop
        self._patience = 0.0  # when it is killed, by the monotonic clock
        self._failure: StartError | None = None

    def run(self) -> None:
        """Run until SIGINT or SIGTERM, from the main thread; a second one ends all at once.

        Raises:
            StartError: A service ended before it was ever ready.
        """
        lifeline, held = os.pipe()
        self._lifeline = lifeline
        try:
            with self._listening():
                self._watch(lifeline)
        finally:
            for child in (*self._children.values(), *self._successors.values(), *self._replaced):
                self._kill(child)
            self._selector.close()
            os.close(lifeline)
            os.close(held)
        if self._failure is not None:
            raise self._failure

    def _watch(self, lifeline: int) -> None:
        while not self._over():
            self._give_sign_of_life()
            if self._drained is not None and time.monotonic() >= self._drained:
                self._drained = None
                self._stop()
                continue
            self._start_due(lifeline)
            while self._wanted:
                self._start_successor(self._wanted.pop(0), lifeline)
            for key, _ in self._selector.select(self._pause()):
                key.data()
            # After the pipes: a child may become ready and end between two looks.
            self._reap()
            while self._signals:
                self._obey(self._signals.pop(0))

    @contextlib.contextmanager
    def _listening(self) -> Generator[None]:
        """Turn signals into entries of a list, and each into one byte that ends the sleep."""
        receiving, sending = socket.socketpair()
        receiving.setblocking(False)
        sending.setblocking(False)

        def drain() -> None:
            with contextlib.suppress(BlockingIOError):
                while receiving.recv(4096):
                    pass

        self._selector.register(receiving, selectors.EVENT_READ, drain)
        numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGUSR2]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup
            numbers.append(signal.SIGHUP)
        before = {
            number: signal.signal(number, lambda number, _frame: self._signals.append(number))
            for number in numbers
        }
        # A full pipe needs no warning: the list has the signal, and the sleep ends anyway.
        wakeup = signal.set_wakeup_fd(sending.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)
            self._selector.unregister(receiving)
            receiving.close()
            sending.close()

    def _obey(self, number: int) -> None:
        if number == signal.SIGCHLD:
            return  # the reaping that follows each sleep has seen to it
        if number == signal.SIGUSR2:
            self._wanted += [name for name, c in self._children.items() if c.service.succeeds]
            return
        # A terminal that hangs up takes its programs along; a service is asked to reload.
        if number == signal.SIGHUP and not self._on_terminal:
            for child in self._children.values():
                if child.service.reloads and child.ready is not None and not self._stopping:
                    self._notifier.reloading()
                    self._prepare_reload(child)
        elif self._stopping or self._drained is not None:
            if not self._stopping:
                self._drained = None
                self._stop()
            for child in self._children.values():
                child.signal_group(signal.SIGKILL)
        elif self._drain and self._announced:
            self._drained = time.monotonic() + self._drain
            self._on_drain()
        else:
            self._stop()

    def _prepare_reload(self, child: Child) -> None:
        """See whether the code can be loaded: a server whose workers all fail would end."""
        if not child.service.checks:
            self._reload(child)
            return
        try:
            child.start_check(self._lifeline)
        except OSError as error:
            self._not_reloaded(child, f"it could not be tried ({error.strerror})")

    def _reload(self, child: Child) -> None:
        child.reload_from = child.loads
        self._signal(child, signal.SIGHUP)

    def _not_reloaded(self, child: Child, why: str) -> None:
        self._say(f"{child.service.name} goes on with the code that it has: {why}.")
        self._notifier.ready()

    def _see_check(self, child: Child) -> None:
        if child.check is None or child.check.poll() is None:
            return
        status = child.end_check() or 0
        if status:
            self._not_reloaded(
                child,
                f"loading the new one {describe_status(status)}. The lines above say why",
            )
        elif child.ready is not None:
            self._reload(child)

    def _stop(self) -> None:
        self._stopping = True
        for child in self._children.values():
            child.due = None
            child.end_check()
        for successor in self._successors.values():
            self._kill(successor)
        self._successors.clear()
        self._notifier.stopping()
        self._on_stop(self._failure)

    def _over(self) -> bool:
        """Whether all has ended; asks the next child to stop when it is time."""
        if not self._stopping:
            return False
        running = [child for child in self._children.values() if child.process is not None]
        if not running:
            return True
        last, now = running[-1], time.monotonic()
        if last is not self._asked:
            self._asked, self._patience = last, now + last.grace
            self._signal(last, signal.SIGTERM)
        elif now >= self._patience:
            self._say(f"{last.service.name} did not stop within {last.grace:g} s and is killed.")
            self._patience = now + last.grace
            last.signal_group(signal.SIGKILL)
        return False

    def _start_due(self, lifeline: int) -> None:
        """Start what is to be started again, and the first service whose turn has come."""
        if self._stopping:
            return
        now = time.monotonic()
        for child in self._children.values():
            first = child.process is None and child.due is None
            if first or (child.due is not None and child.due <= now):
                self._start(child, lifeline)
            if not child.ever_ready:
                return

    def _start(self, child: Child, lifeline: int) -> None:
        try:
            child.start(lifeline)
        except OSError as error:
            self._ended(child, f"could not be started ({error.strerror})")
        if child.pipe is not None:
            self._selector.register(child.pipe, selectors.EVENT_READ, lambda: self._hear(child))

    def _start_successor(self, name: str, lifeline: int) -> None:
        """Start a process that takes over from a running one, unless there is none, or one is."""
        child = self._children[name]
        if name in self._successors and self._successors[name].is_given_up:
            self._not_replaced(name, "its replacement did not take over in time")
        if self._stopping or child.ready is None or name in self._successors:
            return
        successor = self._successors[name] = Child(child.service)
        try:
            successor.start(lifeline, "--replace")
        except OSError as error:
            self._not_replaced(name, f"its replacement could not be started ({error.strerror})")
            return
        successor.due = time.monotonic() + SUCCESSION_PATIENCE
        if successor.pipe is not None:
            self._selector.register(
                successor.pipe, selectors.EVENT_READ, lambda: self._hear(successor)
            )

    def _not_replaced(self, name: str, how: str) -> None:
        self._kill(self._successors.pop(name))
        child = self._children[name]
        pid = child.process.pid if child.process is not None else "?"
        self._say(f"{name} was not replaced: {how}. Process {pid} goes on.")

    def _promote(self, name: str) -> Child:
        """Let a successor be the child from now on."""
        old, new = self._children[name], self._successors.pop(name)
        new.inherit(old)
        self._children[name] = new
        return old

    def _hear(self, child: Child) -> None:
        said = child.read()
        if said == b"":
            self._hang_up(child)
            return
        if not said:
            return
        if child.service.succeeds and WANTS_SUCCESSOR in said:
            self._wanted.append(child.service.name)
        successor = self._successors.get(child.service.name)
        if successor is not None and successor is not child and KEEPS_ALL in said:
            successor.is_given_up = True
            successor.due = time.monotonic() + LAST_WORDS
        again = child.ever_ready
        if child.ready is None:
            if child.take_down(said, time.monotonic()):
                self._ready(child, again=again)
        elif child.service.reloads and child.has_reloaded(said):
            self._say(f"{child.service.name} runs the new code.")
            self._notifier.ready()

    def _ready(self, child: Child, *, again: bool) -> None:
        name = child.service.name
        if self._successors.get(name) is child:
            old = self._promote(name)
            self._replaced.append(old)
            old.due = time.monotonic() + STARTING_GRACE
        if child.follows and child.process is not None:
            self._say(f"{name} was replaced by process {child.process.pid}.")
        else:
            self._announce(child, again=again)

    def _announce(self, child: Child, *, again: bool) -> None:
        if again and child.process is not None:
            self._say(f"{child.service.name} is back (process {child.process.pid}).")
        if not self._announced and all(c.ready is not None for c in self._children.values()):
            if more := self._more(self._children):
                self._children |= {service.name: Child(service) for service in more}
                return
            self._announced = True
            self._on_ready(self._children)
            self._notifier.ready()
        elif again and child.service.reloads:
            self._notifier.ready()  # also where it died of the new code, and has it now

    def _reap(self) -> None:
        now = time.monotonic()
        for old in list(self._replaced):
            if old.has_ended or (old.due is not None and old.due <= now):
                self._kill(old)
                self._replaced.remove(old)
        for name, successor in list(self._successors.items()):
            self._look_after(name, self._children[name], successor, now)
        for child in self._children.values():
            self._see_check(child)
            if child.has_ended:
                self._ended(child, child.describe_end())

    def _look_after(self, name: str, child: Child, successor: Child, now: float) -> None:
        """See what became of a replacement; afterwards one of both is the child."""
        if child.has_ended:
            # It has given all away, or has died on the way: the other one knows.
            if child.failed:
                self._say(f"{name} {child.describe_end()} while it was being replaced.")
            self._kill(self._promote(name))
        elif successor.has_ended:
            self._not_replaced(name, f"its replacement {successor.describe_end()}")
        elif successor.due is not None and successor.due <= now:
            self._not_replaced(name, "its replacement did not take over in time")

    def _ended(self, child: Child, how: str) -> None:
        self._kill(child)  # what it left in its group, and the pipe
        if self._stopping:
            return
        if child.ever_ready:
            delay = child.postpone(time.monotonic())
            self._say(f"{child.service.name} {how}; it is started again in {delay:g} s.")
            return
        self._failure = StartError(
            f"{child.service.name} {how} before it was ready. The lines above say why."
        )
        self._stop()

    def _hang_up(self, child: Child) -> None:
        if child.pipe is None:
            return
        with contextlib.suppress(KeyError):  # it could not even be started
            self._selector.unregister(child.pipe)
        os.close(child.pipe)
        child.pipe = None

    def _kill(self, child: Child) -> None:
        child.end_check()
        if child.process is not None:
            child.signal_group(signal.SIGKILL)
            child.process.wait()
            child.process = None
        self._hang_up(child)

    def _signal(self, child: Child, number: signal.Signals) -> None:
        if child.process is not None:
            child.process.send_signal(number)

    def _give_sign_of_life(self) -> None:
        interval, now = self._notifier.interval, time.monotonic()
        if interval is not None and now >= self._sign_of_life:
            self._sign_of_life = now + interval
            self._notifier.alive()

    def _pause(self) -> float | None:
        """Seconds until something is due; None: until something happens."""
        if self._stopping:
            due = [self._patience]
        else:
            waiting = (*self._children.values(), *self._successors.values(), *self._replaced)
            due = [child.due for child in waiting if child.due is not None]
        if self._notifier.interval is not None:
            due.append(self._sign_of_life)
        if self._drained is not None:
            due.append(self._drained)
        return max(0.0, min(due) - time.monotonic()) if due else None


def describe_status(returncode: int) -> str:
    """What a return code of :mod:`subprocess` means, in words."""
    if returncode >= 0:
        return f"ended with status {returncode}"
    try:
        return f"was ended by {signal.Signals(-returncode).name}"
    except ValueError:
        return f"was ended by signal {-returncode}"
