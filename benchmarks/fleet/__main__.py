"""Runs the benchmark of the fleet alone, with arguments."""

from __future__ import annotations

from .driver import parse_and_run

if __name__ == "__main__":
    parse_and_run()
