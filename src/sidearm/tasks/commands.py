"""Commands of a command line: how they end, which Flask's contexts do not tell."""

from __future__ import annotations

import sys
from importlib.metadata import version
from types import TracebackType
from typing import Any

import click

from . import outcome
from .outcome import Decision
from .state import state_of
from .task import Task, combine

#: Where a command's task hangs on its application context, for threads that carry it along.
COMMAND = "_sidearm_command"

#: click before 8.3 closes a context without the exception that ends it.
_CLICK_HIDES_ERRORS = tuple(map(int, version("click").split(".")[:2])) < (8, 3)


class CommandLine:
    """One run of a command line: its tasks, and how it ends, which teardown does not tell reliably.

    click 8.1 and 8.2 close a context without the exception that ends it, newer ones with it;
    ``ctx.exit(3)`` closes first and raises then. And a test's fixture may lend the command an
    application context, which is not torn down when the command ends: so its tasks settle when
    the application context does or when the outermost click context closes, whichever is first.

    Attributes:
        tasks: The tasks that have not settled, by their application contexts.
    """

    def __init__(self) -> None:
        self.tasks: dict[Any, Task] = {}
        self._outer: dict[Any, Task | None] = {}
        self._waits = False
        self._exit_code: int | None = None
        self._is_shell = False

    def begin(self, app_context: Any) -> Task:
        """Begin the task of a command in an application context that it pushed or was lent."""
        app = app_context.app
        state = state_of(app)
        state.place_hooks(app)
        click_context = click.get_current_context()
        program = click_context.find_root().command_path  # "flask", or "python -m flask"
        name = click_context.command_path.removeprefix(program).lstrip()
        task = Task(app, state, [None, name or program, "command", None, None])
        root = self._watch(click_context)
        if not self._waits:
            root.with_resource(self)
            self._waits = True
        begun = self.tasks.setdefault(app_context, task)  # two threads may both be here
        if begun is task:
            self._outer[app_context] = getattr(app_context, COMMAND, None)
            setattr(app_context, COMMAND, task)
        return begun

    def forget(self, app_context: Any) -> None:
        """Let go of the task of an application context, which has settled."""
        del self.tasks[app_context]
        # One command can invoke another in its own application context.
        outer = self._outer.pop(app_context, None)
        if outer is None:
            delattr(app_context, COMMAND)
        else:
            setattr(app_context, COMMAND, outer)

    def _watch(self, click_context: click.Context) -> click.Context:
        """Remember the codes that contexts are left with; returns the outermost context."""
        while True:
            self._is_shell = self._is_shell or click_context.command.name == "shell"
            if "exit" not in click_context.__dict__:
                self._watch_exit(click_context)
            if click_context.parent is None:
                return click_context
            click_context = click_context.parent

    def _watch_exit(self, click_context: click.Context) -> None:
        leave = click_context.exit

        def exit_(code: int = 0) -> Any:
            self._exit_code = code
            return leave(code)

        click_context.exit = exit_  # type: ignore[method-assign]

    def __enter__(self) -> None: ...

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._waits = False
        errors: list[BaseException] = []
        for app_context in reversed(list(self.tasks)):
            task = self.tasks[app_context]
            try:
                errors += task.round.settle(self.decide(task, exc))
                task.state.run_late(task)
            except BaseException as fatal:  # the other tasks settle all the same
                errors.append(fatal)
                task.state.run_late(task)
            self.forget(app_context)
        if errors:
            raise combine(errors)

    def decide(self, task: Task, exc: BaseException | None) -> Decision:
        """The outcome: exit status 0 commits, anything else and the shell roll back."""
        if self._is_shell:
            return Decision(False, "flask shell: only what you commit by hand is kept")
        if task.doomed is not None:
            return Decision(False, f"doomed: {task.doomed}")
        if exc is None and _CLICK_HIDES_ERRORS:
            exc = _exception_of_command()
        code = self._code(exc)
        if code is None:
            return outcome.by_leaving(exc, task)
        if code == 0 or task.kept:
            return Decision(True, "kept" if code else "exit status 0")
        return Decision(False, f"exit status {code}")

    def _code(self, exc: BaseException | None) -> Any:
        if isinstance(exc, SystemExit):
            return exc.code or 0
        if isinstance(exc, click.exceptions.Exit):
            return exc.exit_code
        if exc is None:
            return self._exit_code or 0
        return None


def _exception_of_command() -> BaseException | None:
    """The exception that is ending the command, where click does not pass it on.

    One that the caller of a test's runner is handling is none of the command's: it was caught in
    a frame that is outside of click's ``main``.
    """
    exc = sys.exc_info()[1]
    if exc is None or exc.__traceback__ is None:
        return exc
    outermost, frame = exc.__traceback__.tb_frame, sys._getframe()
    main = click.Command.main.__code__
    while frame is not outermost and frame.f_back is not None:
        if frame.f_code is main:
            return None
        frame = frame.f_back
    return exc


def command_line() -> CommandLine | None:
    """The run of the command that is under way in this thread, if there is one."""
    click_context = click.get_current_context(silent=True)
    if click_context is None:
        return None
    line: CommandLine = click_context.meta.setdefault("sidearm", CommandLine())
    # click leaves a context on its stack if closing it fails, although that command is over.
    under_way = line.tasks or getattr(click_context, "_depth", 1) > 0
    return line if under_way else None
