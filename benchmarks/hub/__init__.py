"""The hub beside what the field uses: memory, CPU, deliveries in a second and latency, in one run.

The server is pinned to one core, the clients (one program in C, the same for all) to another.
Systems take turns, in an order drawn anew in each round; Sidearm takes part twice, and what its two
rows differ by is chance. Sidearm's own figures are of all its processes, as everybody's.

``make bench BENCH=hub`` measures small, in a few minutes; ``python -m benchmarks.hub --whole
--write`` as in the documentation, and writes its table and plot.
"""

from __future__ import annotations

from .driver import main

__all__ = ["main"]
