"""What a break is, and the words of shell that the breaks share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Break:
    """One thing broken, and what `fleet doctor` must say of it.

    `do` and `undo` are shell scripts for the host `on` (else `host`); `undo` is run even where `do` came only
    half way. `host` is where the doctor finds it and `place` what it names, else the host. `remedy` are words
    that its remedy must have. `stand_in` says what is not the real thing.
    """

    check: str
    what: str
    host: str
    do: str
    undo: str
    remedy: str
    place: str = ""
    on: str = ""
    stand_in: str = ""

    @property
    def told(self) -> tuple[str, str, str]:
        """What must be found: check, host and place."""
        return self.check, self.host, self.place or self.host


@dataclass(frozen=True)
class Round:
    """Breaks that do not hide each other, looked at together.

    `vars` are what a second inventory file says of the hosts. `code` is the exit code of `fleet doctor`;
    `long` is for one that is left to the soak.
    """

    name: str
    breaks: tuple[Break, ...]
    vars: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    code: int = 1
    long: bool = False


PRELUDE = r"""
set -e
# A hidden name, for some folders are read by the endings or beginnings of names.
hidden() { echo "${1%/*}/.doctor.${1##*/}"; }
away() { [ -e "$(hidden "$1")" ] || mv "$1" "$(hidden "$1")"; }
back() { [ ! -e "$(hidden "$1")" ] || { rm -rf "$1"; mv "$(hidden "$1")" "$1"; }; }
keep() { [ -e "$(hidden "$1")" ] || cp -aL "$1" "$(hidden "$1")"; }
restore() { [ ! -e "$(hidden "$1")" ] || { cat "$(hidden "$1")" >"$1"; touch -r "$(hidden "$1")" "$1"; rm "$(hidden "$1")"; }; }
cards=/etc/fleet-lab/gpus.json
# card INDEX KEY VALUE: a later key counts.
card() { perl -0pi -e 's/("index": '"$1"',[^}]*?"lost": \w+)/$1\n, "'"$2"'": '"$3"'/' $cards; }
cards_well() { sed -i -e '/^, "/d' -e '/^"fault"/d' $cards; }
fault() { sed -i "1a \"fault\": \"$1\"," $cards; }
uuid() { sed -n 's/.*"uuid": "\(.*\)".*/\1/p' $cards | sed -n "$(($1 + 1))p"; }
daemon() { keep /etc/docker/daemon.json; sed -i "$1" /etc/docker/daemon.json; }
"""
