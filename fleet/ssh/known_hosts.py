"""The known_hosts files: which keys a host may show.

Paramiko's own reader knows neither markers (`@revoked`, `@cert-authority`) nor patterns, and takes time
that grows with the square of the file. Here lines are indexed by name, and a key is only decoded for the
host it is needed for.
"""

from __future__ import annotations

import base64
import binascii
import fnmatch
import hmac
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class KnownKey:
    """One key of one line: its type ("ssh-ed25519"), its base64 text, and where it stands."""

    type: str
    base64: str
    file: str = field(default="", compare=False)
    line: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Pinned:
    """What the files say of one name: keys to accept, keys never to accept, and authorities named."""

    keys: tuple[KnownKey, ...] = ()
    revoked: tuple[KnownKey, ...] = ()
    authorities: tuple[KnownKey, ...] = ()

    @property
    def types(self) -> tuple[str, ...]:
        """The pinned key types, each once."""
        return tuple(dict.fromkeys(key.type for key in self.keys))


@dataclass(frozen=True)
class Line:
    """One line of a known_hosts file; `marker` is empty, "@revoked" or "@cert-authority"."""

    marker: str
    names: tuple[str, ...]
    key: KnownKey

    def matches(self, name: str) -> bool:
        """OpenSSH's rule: any pattern matches and no negated one does."""
        hit = False
        for pattern in self.names:
            if pattern.startswith("!"):
                if _glob(name, pattern[1:]):
                    return False
            elif not hit:
                hit = _hashed(name, pattern) if pattern.startswith("|1|") else _glob(name, pattern)
        return hit


class KnownHosts:
    """The lines of several files, later looked up by name; shared by all connections of a run."""

    def __init__(self, files: Iterable[Path] = ()) -> None:
        self._exact: dict[str, list[Line]] = {}
        self._others: list[Line] = []
        for file in dict.fromkeys(files):
            self._read(file)

    def lookup(self, name: str) -> Pinned:
        """Everything known of a name as `known_name` writes it."""
        name = name.lower()
        lines = self._exact.get(name, []) + [line for line in self._others if line.matches(name)]
        revoked = tuple(line.key for line in lines if line.marker == "@revoked")
        keys = tuple(line.key for line in lines if not line.marker and line.key not in revoked)
        authorities = tuple(line.key for line in lines if line.marker == "@cert-authority")
        return Pinned(tuple(dict.fromkeys(keys)), revoked, authorities)

    def _read(self, file: Path) -> None:
        try:
            text = file.read_text(encoding="utf-8", errors="replace")
        except OSError:  # a file that is not there pins nothing
            return
        for number, raw in enumerate(text.splitlines(), 1):
            line = parse_line(raw, str(file), number)
            if line is None:
                continue
            if any(c in name for name in line.names for c in "|*?!"):
                self._others.append(line)
            else:
                for name in line.names:
                    self._exact.setdefault(name, []).append(line)


def parse_line(raw: str, file: str = "", number: int = 0) -> Line | None:
    """One line of a known_hosts file, or None where it holds no key."""
    words = raw.split()
    marker = words.pop(0) if words and words[0].startswith("@") else ""
    if len(words) < 3 or words[0].startswith("#"):
        return None
    try:
        binascii.a2b_base64(words[2].encode(), strict_mode=True)
    except (binascii.Error, UnicodeEncodeError):
        return None
    names = tuple(n if n.startswith("|1|") else n.lower() for n in words[0].split(",") if n)
    return Line(marker, names, KnownKey(words[1], words[2], file, number))


def known_name(host: str, port: int) -> str:
    """The name of a host in known_hosts: plain on port 22, else `[host]:port`."""
    return host.lower() if port == 22 else f"[{host.lower()}]:{port}"


def stands_for(pattern: str, name: str) -> bool:
    """True where a name in a line means this one host alone, in plain or hashed."""
    return pattern == name.lower() or (pattern.startswith("|1|") and _hashed(name, pattern))


def _glob(name: str, pattern: str) -> bool:
    # OpenSSH's patterns know only * and ?; brackets are literal ([host]:port).
    return fnmatch.fnmatchcase(name, pattern.replace("[", "[[]"))


def _hashed(name: str, pattern: str) -> bool:
    try:
        _, _, salt, digest = pattern.split("|")
        wanted = base64.b64decode(digest)
        return hmac.compare_digest(hmac.digest(base64.b64decode(salt), name.encode(), "sha1"), wanted)
    except (ValueError, binascii.Error):
        return False
