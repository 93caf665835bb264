"""What a balancer's own program says about a configuration, and what it is asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fleet.errors import FleetError, Place


@dataclass(frozen=True)
class Message:
    """What the program said. `level` is "error" or "warning"; `line` counts in `file`, `text` is that line.

    `template` is where the user wrote it, in the file on this machine, where that can be told.
    """

    level: str
    message: str
    file: str = ""
    line: int | None = None
    text: str = ""
    template: Place | None = None


@dataclass(frozen=True)
class Verdict:
    """The answer about one balancer's configuration; `error` where it could not be asked."""

    host: str
    software: str
    accepted: bool
    version: str | None = None
    hash: str | None = None
    lines: int = 0
    messages: tuple[Message, ...] = ()
    error: FleetError | None = None


@dataclass(frozen=True)
class Question:
    """How the program is asked: a script with arguments, which makes a folder and removes it.

    `files` are put into the folder, by their paths in it. `places` are what stands in the answer for paths
    of the host. `parse` reads the answer.
    """

    script: str
    arguments: tuple[str, ...]
    files: Mapping[str, bytes]
    places: Mapping[str, str]
    parse: Callable[[str], tuple[Message, ...]]


# A program that was refused says 1. Anything else is the script's own trouble.
FOLDER = """\
set -u
d=$1; shift
umask 077
mkdir "$d" || exit 90
trap 'rm -rf "$d"' EXIT
trap 'exit 91' HUP INT TERM
"""
"""Every question's beginning: the folder, named by the first argument, and its end."""
