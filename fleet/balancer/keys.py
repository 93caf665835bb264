"""API keys as balancers keep them: a file each, whose union is the truth; a key once revoked stays so.

The file is the map HAProxy loads: `SHA256 NAME ID CREATED` for a key that is accepted. A key that was
revoked is a comment to HAProxy, `#revoked SHA256 NAME ID CREATED REVOKED`, and wins where the two meet.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from fleet.balancer.keys_script import END, HEADER, REPORT, SYNC
from fleet.balancer.paths import KEYS_FILE
from fleet.model.facts import Answer, Probe
from fleet.model.steps import Change, Run

NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_HASH = re.compile(r"[0-9a-f]{64}")
_ID = re.compile(r"[0-9a-f]{8}")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
_BLANKS = re.compile(r"[ \t\r\v\f]+")
_REVOKED = "#revoked"

KEYS_PROBE = Probe("haproxy.keys", f"{REPORT}report\n")


@dataclass(frozen=True)
class Key:
    """One API key: its hex SHA-256, whose it is, its ID (8 hex digits), and when it was made and revoked.

    Times are UTC, as `2026-01-31T12:00:00Z`; `revoked` is None for a key that is accepted.
    """

    sha256: str
    name: str
    id: str
    created: str
    revoked: str | None = None

    @property
    def value(self) -> str:
        """What the map gives for the key."""
        return f"{self.name} {self.id} {self.created}"

    def __str__(self) -> str:
        return f"{self.name} {self.id}"

    def line(self) -> str:
        """The key's line in the file."""
        if self.revoked is None:
            return f"{self.sha256} {self.value}"
        return f"{_REVOKED} {self.sha256} {self.value} {self.revoked}"


@dataclass(frozen=True)
class KeySet:
    """Keys, each hash once, in the file's order; made by `of`."""

    keys: tuple[Key, ...] = ()

    @classmethod
    def of(cls, keys: Iterable[Key]) -> KeySet:
        """The keys joined: of several with one hash the lesser text counts, and one revoked is revoked."""
        joined: dict[str, Key] = {}
        for key in keys:
            known = joined.get(key.sha256)
            joined[key.sha256] = key if known is None else _join(known, key)
        return cls(tuple(sorted(joined.values(), key=_order)))

    @property
    def active(self) -> tuple[Key, ...]:
        """Those that are accepted."""
        return tuple(key for key in self.keys if key.revoked is None)

    @property
    def revoked(self) -> tuple[Key, ...]:
        """Those that were revoked."""
        return tuple(key for key in self.keys if key.revoked is not None)

    def get(self, sha256: str) -> Key | None:
        """The key with this hash; None where there is none."""
        return next((key for key in self.keys if key.sha256 == sha256), None)

    def text(self) -> str:
        """The file's content."""
        return "".join(f"{line}\n" for line in (HEADER, *(key.line() for key in self.keys)))


@dataclass(frozen=True)
class KeysFound:
    """What a balancer has.

    `keys` are its file's and `strange` the lines of it that are no keys; `mode` is the file's (None: there
    is no file). `gateway` is on where the running HAProxy asks for keys, off where it does not, down where
    none answers; `running` the pairs of hash and value that HAProxy has, sorted.
    """

    keys: KeySet = field(default_factory=KeySet)
    mode: str | None = None
    gateway: Literal["on", "off", "down"] = "down"
    running: tuple[tuple[str, str], ...] = ()
    strange: tuple[str, ...] = ()

    @property
    def running_is_file(self) -> bool:
        """True where HAProxy accepts what the file says, or does not ask for keys."""
        wanted = sorted((key.sha256, key.value) for key in self.keys.active)
        return self.gateway != "on" or list(self.running) == wanted

    def accepts(self, key: Key) -> bool:
        """True where the running HAProxy lets the key in."""
        return self.gateway == "on" and any(sha256 == key.sha256 for sha256, _ in self.running)


def parse_keys(answer: Answer) -> KeysFound | None:
    """What KEYS_PROBE, or a change, answered; None where that is no answer."""
    lines = answer.text.split("\n")
    if not answer.ok or not lines[0].startswith("file "):
        return None
    mode = lines[0].removeprefix("file ")
    keys: list[Key] = []
    strange: list[str] = []
    for line in (line.removeprefix("f ") for line in lines if line.startswith("f ")):
        key = parse_line(line)
        if key is not None:
            keys.append(key)
        elif _says_something(line):
            strange.append(line)
    pairs = (line.removeprefix("m ").partition(" ") for line in lines if line.startswith("m "))
    return KeysFound(
        keys=KeySet.of(keys),
        mode=None if mode == "absent" else mode,
        gateway="on" if "map on" in lines else "off" if "map off" in lines else "down",
        running=tuple(sorted((sha256, value) for sha256, _, value in pairs)),
        strange=tuple(strange),
    )


def parse_line(line: str) -> Key | None:
    """The key a line of the file stands for; None for any other line."""
    words = _BLANKS.split(line.strip(" \t\r\v\f"))
    revoked = None
    if words[0] == _REVOKED and len(words) == 6 and _DATE.fullmatch(words[5]):
        revoked = words[5]
        words = words[1:5]
    if len(words) != 4:
        return None
    sha256, name, key_id, created = words
    fits = _HASH.fullmatch(sha256) and NAME.fullmatch(name) and _ID.fullmatch(key_id)
    return Key(sha256, name, key_id, created, revoked) if fits and _DATE.fullmatch(created) else None


def merge(sets: Iterable[KeySet]) -> KeySet:
    """All keys of all balancers. A key that one of them knows as revoked is revoked."""
    return KeySet.of(key for keys in sets for key in keys.keys)


def sync(keys: KeySet) -> Run:
    """Join these keys into a balancer's file, and have the running HAProxy accept what the file then says.

    Nothing that others changed meanwhile is lost: the balancer merges, under a lock. Its answer is of
    KEYS_PROBE's form.
    """
    return Run(
        ("sh", "-c", SYNC),
        stdin=f"{keys.text()}{END}\n".encode(),
        timeout=90,
        title="bring the API keys up to date",
    )


def mend(found: KeysFound, wanted: KeySet) -> tuple[Change, ...]:
    """The change that gives a balancer what it lacks, in its file and in the running HAProxy; () for none."""
    goal = merge((found.keys, wanted))
    diff = "".join(_differences(found.keys, goal))
    if found.mode is None:
        summary = f"create {KEYS_FILE}"
    elif diff:
        summary = f"bring {KEYS_FILE} up to date"
    elif found.strange:
        summary = f"remove {len(found.strange)} lines that are no keys from {KEYS_FILE}"
    elif found.mode != "600":
        summary = f"let only root read {KEYS_FILE}"
        diff = f"mode: {found.mode} -> 600\n"
    elif not found.running_is_file:
        summary = f"have HAProxy accept the keys of {KEYS_FILE}"
    else:
        return ()
    return (Change(summary, diff, (sync(goal),)),)


def _differences(old: KeySet, new: KeySet) -> Iterator[str]:
    for key in new.keys:
        before = old.get(key.sha256)
        if key == before:
            continue
        if key.revoked is None:
            yield f"+ {key.name} {key.id}\n"
        else:
            yield f"- {key.name} {key.id} (revoked {key.revoked})\n"


def _join(one: Key, other: Key) -> Key:
    # Joined text sorts as its words do, since every character of a word comes after the blank.
    first = min(one, other, key=lambda key: key.value)
    revoked = min((key.revoked for key in (one, other) if key.revoked is not None), default=None)
    return Key(first.sha256, first.name, first.id, first.created, revoked)


def _order(key: Key) -> tuple[bool, str, str, str, str]:
    return (key.revoked is not None, key.created, key.name, key.id, key.sha256)


def _says_something(line: str) -> bool:
    return bool(line.strip()) and (not line.startswith("#") or line.startswith(_REVOKED))
