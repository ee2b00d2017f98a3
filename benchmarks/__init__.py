"""What Sidearm costs, beside the same thing written by hand: ``python -m benchmarks``."""
