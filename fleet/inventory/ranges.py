"""Host keys of an inventory: names, ports and ranges such as `gpu-[01:20]`."""

from __future__ import annotations

import re
from collections.abc import Sequence

MOST_HOSTS = 65_536

_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_LABEL = r"\w[\w-]*(?<![_-])"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_RANGE = re.compile(r"\[(?:[0-9]+:[0-9]+|[A-Za-z]:[A-Za-z])(?::[0-9]+)?\]")
_HEX_RANGE = re.compile(r"\[[0-9A-Fa-f]+:[0-9A-Fa-f]+(?::[0-9]+)?\]")
_BRACKETED_PORT = re.compile(r"\[(.+)\]:([0-9]+)")
_PORT = re.compile(r"((?:[^:\[\]]|\[[^\]]*\])*):([0-9]+)")
_USABLE = re.compile(r"[\w.:%-]+")


class RangeError(ValueError):
    """A host key that means nothing; `remedy` says how to write it."""

    def __init__(self, message: str, remedy: str = "write gpu-[01:20], node-[a:f] or gpu-[0:10:2]") -> None:
        super().__init__(message)
        self.remedy = remedy


def expand(key: str) -> tuple[list[str], int | None]:
    """The host names a key stands for, and the port it names (`gpu-01:2222`, `[2001:db8::1]:22`).

    Raises RangeError.
    """
    pattern, port = split_port(key)
    names = _expand(pattern)
    for name in (names[0], names[-1]):
        if not _USABLE.fullmatch(name):
            raise RangeError(
                f"{name!r} is no host name", "use letters, digits, `-`, `_` and `.`, or an IP address"
            )
    return names, port


def split_port(key: str) -> tuple[str, int | None]:
    """A host key without its port, and the port. Only what can be an address can have one."""
    match = _BRACKETED_PORT.fullmatch(key) or _PORT.fullmatch(key)
    if match and is_address(match[1]):
        return match[1], int(match[2])
    return key, None


def is_address(text: str) -> bool:
    """True for a host name or an IP address, ranges allowed, without a port."""
    if _NAME.fullmatch(_RANGE.sub("0", text)):
        return True
    if text.count(":") < 2:
        return False
    from ipaddress import IPv6Address  # rarely needed

    try:
        IPv6Address(_HEX_RANGE.sub("0", text))
    except ValueError:
        return False
    return True


def _expand(pattern: str) -> list[str]:
    if "[" not in pattern and "]" not in pattern:
        return [pattern]
    head, opened, rest = pattern.partition("[")
    inside, closed, tail = rest.partition("]")
    if not opened or not closed or "]" in head:
        raise RangeError(f"the brackets in {pattern!r} do not match")
    if inside.count(":") > 2:
        raise RangeError(
            f"[{inside}] is no range",
            "write an IPv6 address without brackets, or with a port: [ADDRESS]:22",
        )
    tails = _expand(tail)
    items = _items(inside)
    if len(items) * len(tails) > MOST_HOSTS:
        raise RangeError(f"{pattern!r} stands for more than {MOST_HOSTS} hosts", "shorten the range")
    return [head + item + end for item in items for end in tails]


def _items(inside: str) -> Sequence[str]:
    """What stands for `01:20`, `a:c` or `1:10:2`, in order."""
    bounds = inside.split(":")
    if len(bounds) not in (2, 3):
        raise RangeError(f"[{inside}] is no range: it needs a begin and an end")
    begin, end = bounds[0] or "0", bounds[1]
    if not end:
        raise RangeError(f"the range [{inside}] has no end")
    step = _step(bounds[2], inside) if len(bounds) == 3 else 1
    if begin in _LETTERS and end in _LETTERS and len(begin) == len(end) == 1:
        first, last = _LETTERS.index(begin), _LETTERS.index(end)
        _ordered(first, last, inside)
        return _LETTERS[first : last + 1 : step]
    if not (begin.isascii() and begin.isdigit() and end.isascii() and end.isdigit()):
        raise RangeError(f"[{inside}] is no range: begin and end must both be numbers or both one letter")
    width = len(begin) if begin[0] == "0" and len(begin) > 1 else 0
    if width and width != len(end):
        raise RangeError(
            f"begin and end of [{inside}] differ in length",
            f"pad both alike: [{begin}:{end.zfill(width)}]" if len(end) < width else "pad both alike",
        )
    _ordered(int(begin), int(end), inside)
    if (int(end) - int(begin)) // step >= MOST_HOSTS:
        raise RangeError(f"[{inside}] stands for more than {MOST_HOSTS} hosts", "shorten the range")
    return [str(number).zfill(width) for number in range(int(begin), int(end) + 1, step)]


def _step(text: str, inside: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) == 0:
        raise RangeError(f"the step of [{inside}] must be a number from 1 up")
    return int(text)


def _ordered(first: int, last: int, inside: str) -> None:
    if first > last:
        raise RangeError(f"the range [{inside}] ends before it begins", "put the smaller end first")
