"""HAProxy asked about a configuration: `haproxy -c`, with the files beside it that are not deployed yet."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from fleet.balancer.deploy import EMPTY_STATE
from fleet.balancer.paths import KEYS_FILE, STATE_FILE
from fleet.lb.survey import Planned
from fleet.lb.verdict import FOLDER, Message, Question

# Files that hold what happens at run time, not what the configuration says: HAProxy would warn of servers
# that are down, or miss a file that the first key makes.
_STAND_INS = {STATE_FILE: EMPTY_STATE, KEYS_FILE: b""}

_CHECK = (
    FOLDER
    + """\
tar -x -C "$d" || exit 90
rc=0
for script in "$@"; do
  said=$(sh -n "$script" 2>&1) || { printf '[ALERT] script [%s] %s\\n' "$script" "$said"; rc=1; }
done
haproxy -c -f "$d/haproxy.cfg" 2>&1 || rc=1
exit $rc
"""
)


def question(planned: Planned, folder: str) -> Question:
    """What to ask; `folder` is the folder's path on the host, since the configuration names files in it."""
    contents = {f"{number}{file.path}": file.content for number, file in enumerate(planned.uploads)}
    places = {f"{folder}/{number}{file.path}": file.path for number, file in enumerate(planned.uploads)}
    for number, (path, content) in enumerate(_STAND_INS.items()):
        places[f"{folder}/stand-in-{number}"] = path
        contents[f"stand-in-{number}"] = content
    text = _moved(planned.rendered or "", places)
    scripts = (f"{folder}/{name}" for name, content in contents.items() if content.startswith(b"#!/bin/sh"))
    return Question(
        _CHECK,
        tuple(scripts),
        {**contents, "haproxy.cfg": text.encode()},
        {**places, f"{folder}/haproxy.cfg": planned.path},
        parse_messages,
    )


def _moved(text: str, places: Mapping[str, str]) -> str:
    """The configuration with the files that are not deployed yet where they lie for the check."""
    for there, path in places.items():
        text = re.sub(rf"{re.escape(path)}(?![\w./-])", there, text)
    return text


_START = re.compile(r"\[(NOTICE|WARNING|ALERT)\]\s+(?:\(\d+\) : )?(?:config : )?(?:parsing )?(.*)")
_AT = re.compile(r"(?:script )?\[(/[^\]]*?)(?::(\d+))?\] ?(?:: )?(.*)", re.DOTALL)
_SUMS = ("Error(s) found in configuration file", "Fatal errors found in configuration")


def parse_messages(said: str) -> tuple[Message, ...]:
    """HAProxy's warnings and errors, in its order; what only sums them up is left out."""
    return tuple(_messages(said))


def _messages(said: str) -> Iterator[Message]:
    blocks: list[tuple[str, list[str]]] = []
    for line in said.splitlines():
        if found := _START.match(line):
            blocks.append((found[1], [found[2]]))
        elif blocks and line[:1].isspace() and line.strip():
            blocks[-1][1].append(line.strip().removeprefix("| "))
    for level, lines in blocks:
        text = " ".join(lines).strip()
        if level == "NOTICE" or text.startswith(_SUMS):
            continue
        word = "warning" if level == "WARNING" else "error"
        if found := _AT.match(text):
            yield Message(word, found[3].strip(), found[1], int(found[2]) if found[2] else None)
        else:
            yield Message(word, text)
