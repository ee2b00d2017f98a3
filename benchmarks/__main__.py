"""Runs the benchmarks one after another: ``python -m benchmarks [NAME ...]``."""

from __future__ import annotations

import argparse
import importlib

NAMES = (
    "tasks",
    "idle_streams",
    "hub",
    "fleet",
    "connect",
    "storm",
    "slow_clients",
    "signing",
    "redirects",
    "webhooks",
    "assets",
)


def main() -> None:
    """Run those that are named, or all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}")
    names = parser.parse_args().names
    for name in names:
        if name not in NAMES:
            parser.error(f"There is no benchmark {name!r}. Give some of {', '.join(NAMES)}.")
    for name in names or NAMES:
        importlib.import_module(f".{name}", __package__).main()
        print(flush=True)


if __name__ == "__main__":
    main()
