"""Rates of transfer, as people write them."""

from __future__ import annotations

import re

from fleet.errors import InputError

_RATE = re.compile(r"(\d+(?:\.\d+)?)([kKmMgG]?)(?:i?[bB])?(?:/s)?")
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}


def parse_rate(text: str) -> int:
    """Bytes a second in a text such as 500K, 20M or 1.5G; 0, no limit, for none. Raises InputError."""
    if not text:
        return 0
    found = _RATE.fullmatch(text)
    rate = int(float(found[1]) * _UNITS[found[2].lower()]) if found else 0
    if rate < 1000:
        raise InputError(
            f"{text!r} is no rate: bytes a second, at least 1K", remedy="such as 500K, 20M or 1G"
        )
    return rate
