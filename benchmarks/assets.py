"""What hashed static files cost, beside plain Flask's.

``url_for`` is called inside of one request, as a template does. A file is asked for as a WSGI
server asks, whole, and read to its end. Ten thousand files (a tenth each CSS and JavaScript, which
refer to others) are hashed by a process that has seen none of them, all at once.

"ratio" is the median of all turns; "A/A" is plain Flask against itself.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flask import Flask

from sidearm import Sidearm

from .measure import in_turns, ratio, requester

ROUNDS = 200
REPEAT = 50
CALLS = 500  # of url_for in one request
FILES = 10_000
URL_GOAL = 1.15  # times Flask's
FILE_GOAL = 1.0  # times Flask's
COLD_GOAL = 5.0  # seconds


def compare(name: str, goal: float, *contestants: Callable[[], Any], repeat: int = REPEAT) -> str:
    """Measure one line of the table: Sidearm, Flask, Flask again."""
    names = ("Sidearm", "Flask", "again")
    named = {each: (lambda run=run: run()) for each, run in zip(names, contestants, strict=True)}
    in_turns(named, rounds=10, repeat=repeat)  # to warm up
    times = in_turns(named, rounds=ROUNDS, repeat=repeat)
    shown = ratio(times["Sidearm"], times["Flask"])
    return (
        f"  {name:<24}{statistics.median(times['Flask']):8.2f}"
        f"{statistics.median(times['Sidearm']):9.2f}{shown:8.2f}"
        f"{ratio(times['again'], times['Flask']):8.3f}"
        f"   at most {goal}: {'yes' if shown <= goal else 'NO'}"
    )


def application(root: Path, name: str, **config: Any) -> Flask:
    """An application over the same files."""
    app = Flask(name, root_path=str(root), instance_path=str(root / name))
    app.config.update(config)
    if config:
        Sidearm(app)
    return app


def write_files(folder: Path, count: int) -> None:
    """Files as a large application has them."""
    folder.mkdir(parents=True)
    each = count // 10
    for number in range(each):
        (folder / f"{number}.css").write_text(
            "".join(f".a{line} {{ color: red; margin: {line}px }}\n" for line in range(20))
            + f"b {{ background: url({number}.png) }}\n"
        )
        follow = f'import "./{number - 1}.js";\n' if number % 100 else ""
        (folder / f"{number}.js").write_text(follow + "export const a = () => 1;\n" * 20)
    for number in range(count - 2 * each):
        (folder / f"{number}.png").write_bytes(number.to_bytes(4, "big") * 512)


def cold(root: Path) -> float:
    """Seconds of CPU until every file has its URL, in an application that has seen none."""
    app = application(root, "cold", SIDEARM_ASSETS=True)
    names = [path.name for path in (root / "static").iterdir()]
    with app.test_request_context():
        began = time.process_time()
        for name in names:
            app.url_for("static", filename=name)
        return time.process_time() - began


def main() -> None:
    """Print the tables."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_files(root / "static", 100)
        hashed = application(root, "hashed", SIDEARM_ASSETS=True)
        plain, again = application(root, "plain"), application(root, "again")
        print(f"CPU in microseconds (medians of {ROUNDS} turns)")
        print("  {:<24}{:>8}{:>9}{:>8}{:>8}   goal".format("", "Flask", "Sidearm", "ratio", "A/A"))
        with hashed.test_request_context(), plain.test_request_context():
            url = hashed.url_for("static", filename="1.css")
        calls: list[Callable[[], Any]] = []
        for app in (hashed, plain, again):
            context = app.test_request_context()

            def call(app: Flask = app, context: Any = context) -> None:
                with context:
                    for _ in range(CALLS):
                        app.url_for("static", filename="1.css")

            calls.append(call)
        print(compare(f"url_for, {CALLS} times", URL_GOAL, *calls, repeat=1))
        files = (requester(hashed, url), requester(plain, "/static/1.css"))
        print(compare("a file", FILE_GOAL, *files, requester(again, "/static/1.css")))
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder, "static"), FILES)
        taken = cold(Path(folder))
    print(
        f"  {FILES:,} files, cold: {taken:.2f} s of CPU   at most {COLD_GOAL:g}:"
        f" {'yes' if taken <= COLD_GOAL else 'NO'}"
    )


if __name__ == "__main__":
    main()
