"""A rollout's journal: lines of JSON, the header first, and what they say about each slot. No I/O."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, TypeVar

from fleet.balancer.rollouts import plain
from fleet.errors import TaskError
from fleet.rollout.model import Entry, Header

ENDS = ("finished", "rolled-back")
"""Steps after which nothing follows."""

FORM = 1
"""How the lines are to be read; a fleet that reads them in another way counts it up."""

T = TypeVar("T", Header, Entry)


class JournalError(TaskError):
    """A journal that cannot be read."""


@dataclass(frozen=True)
class Journal:
    """A journal's lines as they are kept (without line breaks), and what they say."""

    lines: tuple[bytes, ...]
    header: Header
    entries: tuple[Entry, ...] = ()


def encode_header(header: Header, fence: int) -> bytes:
    """The journal's first line, without a line break."""
    return plain({"journal": FORM, "fence": fence, **_builtins(header)})


def encode_entry(entry: Entry, fence: int) -> bytes:
    """An entry's line, without a line break. The balancers' scripts read its first three keys."""
    said = _builtins(entry)
    first = {"number": entry.number, "fence": fence, "step": entry.step}
    return plain({**first, **{key: value for key, value in said.items() if key not in first}})


def decode_header(line: bytes, where: str) -> Header:
    """The header in a line; `where` names the balancer and line in a JournalError."""
    said = _json(line, where)
    if int(said.get("journal", FORM)) > FORM:
        raise JournalError(
            f"{where}: a newer fleet wrote this journal", remedy="go on with that version of fleet"
        )
    return _value(said, Header, where)


def decode_entry(line: bytes, where: str) -> Entry:
    """The entry in a line; `where` names the balancer and line in a JournalError."""
    return _value(_json(line, where), Entry, where)


def decode(data: bytes, where: str) -> Journal:
    """A whole journal, as kept. A last line that is not whole (a power cut) is passed over.

    Raises JournalError, which names the balancer (`where`) and line, for what is no journal.
    """
    lines = data.split(b"\n")[:-1]
    if not lines:
        raise JournalError(f"{where}: the journal is empty")
    header = decode_header(lines[0], f"{where}, line 1")
    entries = []
    for number, line in enumerate(lines[1:], 1):
        place = f"{where}, line {number + 1}"
        entry = decode_entry(line, place)
        if entry.number != number:
            raise JournalError(f"{place}: this is entry {entry.number} where {number} belongs")
        entries.append(entry)
    return Journal(tuple(lines), header, tuple(entries))


def fence_of(line: bytes) -> int:
    """The number under which a line was written; 0 where it does not say."""
    try:
        return int(json.loads(line)["fence"])
    except (ValueError, KeyError, TypeError):
        return 0


def differences(best: str, found: Mapping[str, Journal]) -> tuple[str, ...]:
    """In words: which balancers have another journal than `best`, and in what."""
    whole = found[best].lines
    said = []
    for name, other in found.items():
        shared = sum(
            1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(whole, other.lines, strict=False))
        )
        if other.lines == whole:
            continue
        if shared == len(other.lines):
            said.append(f"{name} lacks the last entries that {best} has ({len(whole) - shared})")
        else:
            said.append(f"{name} and {best} differ from entry {shared} on; what {best} has is the newer")
    return tuple(said)


def _builtins(value: Header | Entry) -> dict[str, Any]:
    import msgspec

    said: dict[str, Any] = msgspec.to_builtins(value)
    return said


def _json(line: bytes, where: str) -> dict[str, Any]:
    try:
        said = json.loads(line)
    except ValueError as error:
        raise _garbage(where, line) from error
    if not isinstance(said, dict):
        raise _garbage(where, line)
    return said


def _value(said: dict[str, Any], kind: type[T], where: str) -> T:
    import msgspec

    from fleet.model.decode import from_plain

    try:
        return from_plain(said, kind)
    except msgspec.ValidationError as error:
        raise JournalError(
            f"{where}: no {kind.__name__.lower()} of a journal: {error}", remedy=_REMEDY
        ) from error


_REMEDY = "somebody has changed the file; remove it there if another balancer has the journal whole"


def _garbage(where: str, line: bytes) -> JournalError:
    return JournalError(
        f"{where}: this is no line of a journal",
        output=line[:200].decode("utf-8", "backslashreplace"),
        remedy=_REMEDY,
    )
