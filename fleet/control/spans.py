"""Lengths of time as people write them: `90`, `90s`, `10m`, `1h30m`."""

from __future__ import annotations

import re

from fleet.errors import InputError

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_SPAN = re.compile(r"(?:\d+(?:\.\d+)?[smh])+|\d+(?:\.\d+)?")
_PART = re.compile(r"(\d+(?:\.\d+)?)([smh]?)")


def seconds(text: str, option: str = "") -> float:
    """The length in seconds. Raises InputError, which begins with `option` where there is one."""
    if not _SPAN.fullmatch(text.strip()):
        said = f"{option}: {text!r}" if option else repr(text)
        raise InputError(f"{said} is no length of time", remedy="write it as 90s, 10m or 1h30m")
    return sum(float(number) * _UNITS[unit or "s"] for number, unit in _PART.findall(text))


def in_words(length: float) -> str:
    """A length as one reads it: 3.2 s, 45 s, 15 min, 1 h 05 min."""
    if length < 10:
        return f"{length:.1f}".removesuffix(".0") + " s"
    whole = round(length)
    if whole < 120:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min" + (f" {rest:02} s" if rest else "")
    return f"{minutes // 60} h" + (f" {minutes % 60:02} min" if minutes % 60 else "")
