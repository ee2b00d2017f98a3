"""Contract T1 for the command line: a command's task takes its outcome from its exit status."""

from __future__ import annotations

import importlib.util
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from flasks import own

if TYPE_CHECKING:
    from collections.abc import Callable

COMMANDS = Path(__file__).parents[1] / "apps" / "commands.py"

#: A command line, its exit status, and whether its work is kept.
ENDS = [
    pytest.param(["succeed"], 0, True, id="returns"),
    pytest.param(["value"], 0, True, id="returns a value"),
    pytest.param(["raise"], 1, False, id="raises"),
    pytest.param(["sys-exit", "0"], 0, True, id="sys.exit(0)"),
    pytest.param(["sys-exit", "none"], 0, True, id="sys.exit()"),
    pytest.param(["sys-exit", "3"], 3, False, id="sys.exit(3)"),
    pytest.param(["sys-exit", "text"], 1, False, id="sys.exit('text')"),
    pytest.param(["ctx-exit", "0"], 0, True, id="ctx.exit(0)"),
    pytest.param(["ctx-exit", "2"], 2, False, id="ctx.exit(2)"),
    pytest.param(["abort"], 1, False, id="click.Abort"),
    pytest.param(["interrupt"], 1, False, id="Ctrl-C"),
    pytest.param(["usage"], 2, False, id="click.UsageError"),
    pytest.param(["fail"], 2, False, id="ctx.fail"),
    pytest.param(["caught"], 0, True, id="an exit that is caught"),
    pytest.param(["reraise"], 1, False, id="claims while it handles, and raises"),
    pytest.param(["nested", "write"], 0, True, id="in a group"),
    pytest.param(["nested", "write", "--fail"], 1, False, id="in a group, sys.exit(1)"),
]


class Notes:
    """The database of ``tests/apps/commands.py``, and the callbacks that it marked."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with closing(sqlite3.connect(path)) as connection:
            connection.executescript(
                "CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT);"
                "CREATE TABLE entries (note INTEGER REFERENCES notes"
                " DEFERRABLE INITIALLY DEFERRED);"
            )

    def saved(self) -> list[str]:
        with closing(sqlite3.connect(self.path)) as connection:
            return [text for (text,) in connection.execute("SELECT text FROM notes ORDER BY id")]

    def marks(self) -> list[str]:
        marks = Path(f"{self.path}.marks")
        return marks.read_text().splitlines() if marks.exists() else []


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Notes:
    notes = Notes(tmp_path / "notes.db")
    monkeypatch.setenv("NOTES", str(notes.path))
    return notes


@pytest.fixture
def commands() -> Any:
    """The module of ``tests/apps/commands.py``, anew."""
    spec = importlib.util.spec_from_file_location("commands", COMMANDS)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def flask() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run ``python -m flask --app tests/apps/commands.py ...`` to its end."""

    def flask(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "flask", "--app", str(COMMANDS), *arguments]
        return subprocess.run(
            command,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=110,  # seconds; the suite may share its machine
            check=False,
            env=dict(os.environ),
        )

    return flask


@pytest.mark.parametrize(("arguments", "status", "kept"), ENDS)
def test_t1_a_command_commits_by_its_exit_status(
    database: Notes, commands: Any, arguments: list[str], status: int, kept: bool
) -> None:
    """Exit status 0 commits, any other rolls back, whatever click does to the context before."""
    result = commands.app.test_cli_runner().invoke(args=arguments)
    assert result.exit_code == status
    assert bool(database.saved()) is kept
    assert database.marks() == ["committed" if kept else "rolled back"]
    (record,) = [
        each for each in commands.app.extensions["sidearm"].records if each.round == "work"
    ]
    assert (record.kind, record.committed) == ("command", kept)


@pytest.mark.parametrize(
    ("arguments", "status", "kept"),
    [
        each
        for each in ENDS
        if each.id
        in {
            "returns",
            "raises",
            "sys.exit(0)",
            "sys.exit(3)",
            "ctx.exit(0)",
            "ctx.exit(2)",
            "click.Abort",
        }
    ],
)
def test_t1_a_command_of_a_real_process_commits_by_its_exit_status(
    database: Notes,
    flask: Callable[..., subprocess.CompletedProcess[str]],
    arguments: list[str],
    status: int,
    kept: bool,
) -> None:
    """The same for ``python -m flask --app ...``, where the interpreter ends with it."""
    result = flask(*arguments)
    assert result.returncode == status, result.stderr
    assert bool(database.saved()) is kept
    assert database.marks() == ["committed" if kept else "rolled back"]


def test_t1_a_commit_that_fails_fails_the_command(
    database: Notes, flask: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """A command whose work was not saved does not end with status 0, and says why."""
    result = flask("broken")
    assert result.returncode != 0
    assert "FOREIGN KEY constraint failed" in result.stderr
    assert database.saved() == []
    assert database.marks() == ["rolled back"]


def test_t1_a_commit_that_fails_fails_the_command_of_a_runner(
    database: Notes, commands: Any
) -> None:
    """The same in a test's runner."""
    result = commands.app.test_cli_runner().invoke(args=["broken"])
    assert result.exit_code != 0
    assert isinstance(own(result.exception), sqlite3.IntegrityError)
    assert database.marks() == ["rolled back"]


def test_t1_a_command_that_invokes_another_is_one_task(database: Notes, commands: Any) -> None:
    """``ctx.invoke`` runs inside the same task, and the outer one's status decides for both."""
    result = commands.app.test_cli_runner().invoke(args=["invoking"])
    assert result.exit_code == 4
    assert database.saved() == []
    assert database.marks() == ["rolled back"] * 2


def test_t1_commands_in_turn_are_tasks_of_their_own(database: Notes, commands: Any) -> None:
    """A failed command leaves nothing to the next one of the same process."""
    runner = commands.app.test_cli_runner()
    for arguments in (["raise"], ["succeed"], ["sys-exit", "3"], ["nested", "write"]):
        runner.invoke(args=arguments)
    assert database.saved() == ["succeed", "nested"]


def test_t1_a_command_run_in_an_except_block_is_judged_by_itself(
    database: Notes, commands: Any
) -> None:
    """An exception that the runner's caller handles is not the command's."""
    try:
        raise LookupError
    except LookupError:
        assert commands.app.test_cli_runner().invoke(args=["succeed"]).exit_code == 0
        assert commands.app.test_cli_runner().invoke(args=["ctx-exit", "0"]).exit_code == 0
    assert database.saved() == ["succeed", "ctx-exit"]


def test_t1_a_command_run_inside_a_pushed_context_settles_there(
    database: Notes, commands: Any
) -> None:
    """Under a fixture's context, which Flask lends to the command, its work is not lost."""
    with commands.app.app_context():
        assert commands.app.test_cli_runner().invoke(args=["succeed"]).exit_code == 0
        assert database.saved() == ["succeed"]
        assert commands.app.test_cli_runner().invoke(args=["raise"]).exit_code == 1
        assert database.saved() == ["succeed"]
        assert commands.app.test_cli_runner().invoke(args=["ctx-exit", "2"]).exit_code == 2
        assert database.marks() == ["committed", "rolled back", "rolled back"]
    assert database.saved() == ["succeed"]


def test_t1_a_command_leaves_the_work_of_a_lent_context_alone(
    database: Notes, commands: Any
) -> None:
    """The fixture's own task goes on around a command that fails, and around one that succeeds."""
    with commands.app.app_context():
        names = []
        for arguments in (["raise"], ["succeed"]):
            task = commands.current_task._get_current_object()
            commands.app.test_cli_runner().invoke(args=arguments)
            assert commands.current_task._get_current_object() is task
            names.append((task.kind, task.round.state))
        assert names == [("context", "open")] * 2
    assert database.saved() == ["succeed"]


def test_t1_a_context_pushed_after_a_command_that_could_not_commit_is_no_command(
    database: Notes, commands: Any
) -> None:
    """Click keeps a context on its stack if closing it fails; nothing may be taken for its task."""
    assert commands.app.test_cli_runner().invoke(args=["broken"]).exit_code != 0
    with commands.app.app_context():
        assert commands.current_task.kind == "context"


def test_t1_contexts_pushed_in_turn_by_a_long_command_leave_nothing_behind(
    database: Notes, commands: Any
) -> None:
    """A command that pushes a context for each job keeps none of them, and each commits."""
    assert commands.app.test_cli_runner().invoke(args=["jobs", "1200"]).exit_code == 0
    assert len(database.saved()) == 1200


def test_t1_a_block_in_a_command_is_independent(database: Notes, commands: Any) -> None:
    """``arm.task()`` inside a command that fails has its own outcome."""

    @commands.app.cli.command("batches")
    def batches() -> None:
        for number in range(3):
            with commands.arm.task("batch"):
                commands.write(f"batch {number}")
        commands.write("summary")
        sys.exit(1)

    assert commands.app.test_cli_runner().invoke(args=["batches"]).exit_code == 1
    assert database.saved() == ["batch 0", "batch 1", "batch 2"]


def shell_lines(*lines: str) -> str:
    """What is typed at the prompt; the first line finds the application's ``get_db``."""
    find = (
        "import sys; get_db = next(m.get_db for m in list(sys.modules.values())"
        " if getattr(m, 'app', None) is app)"
    )
    return "\n".join([find, *lines, ""])


INSERT_ROW = "_ = get_db().execute(\"INSERT INTO notes (text) VALUES ('typed')\")"


@pytest.mark.parametrize(
    ("lines", "kept"),
    [
        pytest.param([INSERT_ROW], False, id="Ctrl-D"),
        pytest.param([INSERT_ROW, "exit()"], False, id="exit()"),
        pytest.param([INSERT_ROW, "1/0"], False, id="Ctrl-D after an error"),
        pytest.param([INSERT_ROW, "get_db().commit()"], True, id="a commit by hand"),
        pytest.param([INSERT_ROW, "get_db().commit()", "exit()"], True, id="a commit, exit()"),
    ],
)
def test_t1_flask_shell_commits_only_what_the_user_commits(
    database: Notes,
    flask: Callable[..., subprocess.CompletedProcess[str]],
    lines: list[str],
    kept: bool,
) -> None:
    """However the shell is left: what was typed is kept only if its commit was typed too."""
    result = flask("shell", stdin=shell_lines(*lines))
    assert "Error" not in result.stderr.replace("ZeroDivisionError", "")
    assert database.saved() == (["typed"] if kept else [])


@pytest.mark.parametrize("program", [["flask"], ["-m", "flask"]], ids=" ".join)
def test_t11_a_commands_record_has_its_name(
    database: Notes, commands: Any, monkeypatch: pytest.MonkeyPatch, program: list[str]
) -> None:
    """Not that of the program, however that was started."""
    prog_name = " ".join(["python", *program]) if program[0] == "-m" else program[0]
    runner = commands.app.test_cli_runner()
    runner.invoke(args=["nested", "write"], prog_name=prog_name)
    (record,) = commands.app.extensions["sidearm"].records
    assert (record.kind, record.task) == ("command", "nested write")
