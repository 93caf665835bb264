"""Showing things to somebody who may be gone: a lost terminal, or a pipe whose reader has ended."""

from __future__ import annotations

from collections.abc import Callable


def shown(show: Callable[[], object]) -> bool:
    """Show it; False where nobody is left to see it. For work that must go on all the same.

    rich itself would leave the process where the reader of a pipe is gone.
    """
    try:
        show()
    except (OSError, SystemExit):
        return False
    return True
