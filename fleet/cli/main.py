"""The `fleet` command: one sub-command per use case."""

from __future__ import annotations


def main() -> None:
    """Entry point of the console script."""
    raise SystemExit(2)
