"""What reports find wrong."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """Something that is not as it should be: where (a host or a slot), what, and what to do."""

    place: str
    what: str
    remedy: str = ""
