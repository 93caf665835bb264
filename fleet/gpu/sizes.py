"""Amounts of memory as people write them."""

from __future__ import annotations

import re

_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_DECIMAL = {"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?b)?", re.IGNORECASE)

MIB = 2**20


def parse_size(text: str) -> int:
    """Bytes of "12GiB", "12G" (the same), "12GB" (decimal) or "1048576"; ValueError for anything else."""
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise ValueError(f"{text!r} is not an amount of memory; write it like 12GiB or 512MiB")
    number, unit, suffix = float(match[1]), match[2].lower(), (match[3] or "").lower()
    decimal = suffix == "b" and unit
    return int(number * (_DECIMAL[unit] if decimal else _UNITS[unit]))


def show_mib(mib: int) -> str:
    """Mebibytes for people: "15.0 GiB", "512 MiB"."""
    return f"{mib / 1024:.1f} GiB" if mib >= 1024 else f"{mib} MiB"


def size_text(count: float) -> str:
    """Bytes of disks and networks for people: "12.3 GB", "277 MB", "7 kB" (decimal, as registries count)."""
    if count >= 1e9:
        return f"{count / 1e9:.1f} GB"
    return f"{count / 1e6:.0f} MB" if count >= 1e6 or not count else f"{max(count / 1e3, 1):.0f} kB"
