"""The unit that starts lost slots: whether a host has it, and what puts it there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from fleet.docker.boot import SCRIPT_FILE, SCRIPT_TEXT, UNIT, UNIT_FILE, UNIT_TEXT, WANTS_LINK
from fleet.model.facts import Facts, Probe
from fleet.model.steps import Change, Run
from fleet.modules._files import FileState, Wanted, write
from fleet.modules.base import Context

# One process for both files: grep names the file each line is from. A missing file has no lines.
BOOT_UNIT_PROBE = Probe(
    "slots.boot",
    f"[ {WANTS_LINK} -ef {UNIT_FILE} ] && echo enabled\ngrep -asH '' -- {UNIT_FILE} {SCRIPT_FILE}\n",
)

_ENABLE = Run(("systemctl", "reenable", UNIT))  # reads changed unit files too


def boot_unit(facts: Facts, ctx: Context) -> Iterator[Change]:
    """The changes that install the unit and its script and have the unit started with Docker."""
    lines = facts[BOOT_UNIT_PROBE.key].text.splitlines(keepends=True)
    script = write(_wanted(SCRIPT_FILE, SCRIPT_TEXT), _found(SCRIPT_FILE, lines), ctx)
    unit = write(_wanted(UNIT_FILE, UNIT_TEXT), _found(UNIT_FILE, lines), ctx)
    if script:
        yield script
    if unit:
        yield replace(unit, steps=(*unit.steps, _ENABLE))
    elif "enabled\n" not in lines:
        yield Change(f"enable {UNIT}", f"{UNIT}: disabled -> enabled\n", (_ENABLE,))


def _wanted(path: str, text: str) -> Wanted:
    return Wanted(path, text.encode())


def _found(path: str, lines: list[str]) -> FileState:
    """The file as its lines tell; attributes are not asked for and count as they should be."""
    mine = [line.removeprefix(f"{path}:") for line in lines if line.startswith(f"{path}:")]
    content = "".join(mine).encode()
    if not mine:
        return FileState()
    return FileState("regular file", "644", "root", "root", "0", "0", len(content), content=content)
