"""How much is tried: a sample in the plain run, all of it with FLEET_SOAK=1."""

from __future__ import annotations

import os

SOAK = bool(os.environ.get("FLEET_SOAK"))


def examples(sample: int, full: int) -> int:
    """How many cases a property is tried on."""
    return full if SOAK else sample
