"""HAProxy's configuration read by the manual's rules (section 2.2) alone, to judge what fleet writes.

Stricter than HAProxy: control characters, characters beyond ASCII, open quotes and variables are errors here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

SECTIONS = frozenset(
    (
        *("global", "defaults", "frontend", "backend", "listen", "peers", "resolvers", "userlist", "mailers"),
        *("program", "http-errors", "cache", "ring", "log-forward", "log-profile", "crt-store", "crt-list"),
        *("fcgi-app", "traces", "acme", "healthcheck"),
    )
)

# Bare characters, an escaped one, strong quotes, weak quotes; in weak ones `$` would name a variable.
_WORD = re.compile(r"""(?:[^ '"\\\#]|\\.|'[^']*'|"(?:[^"\\$]|\\.)*")+""")
_FOREIGN = re.compile(r"[^\n\x20-\x7e]")


class ParseError(Exception):
    """A line that could be read in more than one way."""


@dataclass
class Section:
    """A section: its own line's words, then those of every other line, as written (with their quotes)."""

    head: tuple[str, ...]
    lines: list[tuple[str, ...]] = field(default_factory=list)


def parse(text: str) -> list[Section]:
    """The sections of a configuration, without comments and empty lines; ParseError where one is doubtful."""
    if found := _FOREIGN.search(text):
        raise ParseError(f"character {found[0]!r} at {found.start()}")
    sections: list[Section] = []
    for line in text.split("\n"):
        words = _words(line)
        if not words:
            continue
        if words[0] in SECTIONS:
            sections.append(Section(words))
        elif not sections:
            raise ParseError(f"before any section: {line!r}")
        else:
            sections[-1].lines.append(words)
    return sections


def _words(line: str) -> tuple[str, ...]:
    words: list[str] = []
    at = 0
    while at < len(line):
        if line[at] == " ":
            at += 1
        elif line[at] == "#":
            break
        else:
            found = _WORD.match(line, at)
            if not found or line[found.end() : found.end() + 1] not in ("", " ", "#"):
                raise ParseError(f"word at {at} of {line!r}")
            words.append(found[0])
            at = found.end()
    return tuple(words)
