"""From JSON and plain values to typed ones, by msgspec, for many threads at once.

msgspec keeps what it knows of a type on the type, and makes it with the type's first use. Two threads that do
so at the same time can end the process with a segmentation fault (seen with 0.22.0 and Python 3.11; see
docs/decisions/0018-types-are-met-one-at-a-time.md). So here one thread at a time meets a type.
"""

from __future__ import annotations

import threading
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")

_meeting = threading.Lock()
_met: dict[Any, msgspec.json.Decoder[Any]] = {}


def from_json(body: bytes | str, kind: type[T]) -> T:
    """What a JSON document says. Raises msgspec.MsgspecError where it is none, or none of this kind."""
    value: T = _decoder(kind).decode(body)
    return value


def from_plain(value: Any, kind: type[T]) -> T:
    """A value of mappings, lists, texts and numbers as this kind. Raises msgspec.ValidationError."""
    _decoder(kind)
    return msgspec.convert(value, kind)


def _decoder(kind: type[T]) -> msgspec.json.Decoder[T]:
    """The type's decoder; to make it makes all that msgspec needs of the type and of those in it."""
    with _meeting:
        if kind not in _met:
            _met[kind] = msgspec.json.Decoder(kind)
        return _met[kind]
