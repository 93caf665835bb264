"""`fleet key` on the screen: the keys, where they work, and what is wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from fleet.console.table import Cell, Column, show_table
from fleet.keys.model import ACTIVE, MISSING, REVOKED, STORED, UNKNOWN, UP, Added, KeyReport, KeyRow, Revoked

if TYPE_CHECKING:
    from rich.console import Console

_GOOD, _WARN, _BAD, _DIM, _NAME = "green", "yellow", "bold red", "dim", "bold"
_STATES = {ACTIVE: _GOOD, STORED: _WARN, REVOKED: _DIM, UNKNOWN: _DIM}
_COLUMNS = (Column("name"), Column("id"), Column("created (UTC)", drop=1), Column("state"))
_REVOKED = Column("revoked (UTC)", drop=2)


def show_keys(report: KeyReport, *, revoked: bool, console: Console | None = None) -> None:
    """Print the keys, those revoked only where asked for, then what is wrong."""
    from rich.console import Console
    from rich.text import Text

    console = console or Console(highlight=False)
    rows = [row for row in report.keys if revoked or row.revoked is None or _matters(row)]
    names = _and([row.name for row in report.balancers])
    if rows:
        columns = (*_COLUMNS[:3], _REVOKED, _COLUMNS[3]) if any(row.revoked for row in rows) else _COLUMNS
        show_table(console, f"API keys on {names}", columns, [_row(row, len(columns)) for row in rows])
    else:
        console.print(Text(f"No API keys on {names}: `fleet key add NAME` makes one"), soft_wrap=True)
    _print_report(console, report)


def show_added(added: Added, where: str) -> None:
    """Tell on stderr what was added, and what is to be known. `where` says where the key itself is."""
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, highlight=False)
    (row,) = added.report.keys
    line = Text.assemble("added key ", (row.id, _NAME), " for ", (row.name, _NAME))
    line.append(f" on {_and(_reached(added.report))}; {where}")
    console.print(line, soft_wrap=True)
    if added.same_name:
        each = _and([f"{key.id} (of {key.created[:10]})" for key in added.same_name])
        console.print(
            f"{row.name} had {each} before: `fleet key revoke ID` ends an old one once the new one is in use",
            soft_wrap=True,
        )
    _print_report(console, added.report)
    for name in _lost(added.report):
        console.print(Text.assemble((name, _NAME), ": the new key does not work there yet"), soft_wrap=True)


def show_revoked(revoked: Revoked) -> None:
    """Tell which keys are refused now, and where they may still work."""
    from rich.console import Console
    from rich.text import Text

    report = revoked.report
    console = Console(highlight=False)
    for row in report.keys:
        line = Text.assemble("revoked key ", (row.id, _NAME), " of ", (row.name, _NAME))
        before = f" ({_minute(row.revoked or '')} UTC)" if revoked.already else ""
        console.print(line.append(f" on {_and(_reached(report))}{before}"), soft_wrap=True)
    _print_report(console, report)
    keys = "the key" if len(report.keys) == 1 else "the keys"
    for name in _lost(report):
        warning = (f"{keys} may still work there", _BAD)
        console.print(Text.assemble((name, _NAME), ": ", warning), soft_wrap=True)


def _print_report(console: Console, report: KeyReport) -> None:
    from rich.text import Text

    for text in _notes(report):
        console.print(Text(text, style=_DIM), soft_wrap=True)
    for problem in report.problems:
        console.print(Text.assemble((problem.place, _NAME), ": ", (problem.what, _BAD)), soft_wrap=True)
        if problem.remedy:
            console.print(Text(f"  try: {problem.remedy}", style=_DIM), soft_wrap=True)


def _notes(report: KeyReport) -> Iterator[str]:
    off = [row.name for row in report.balancers if row.gateway == "off"]
    down = [row.name for row in report.balancers if row.gateway == "down"]
    if report.mended:
        lacked = "lacked changes made earlier; it has them now"
        if len(report.mended) > 1:
            lacked = "lacked changes made earlier; they have them now"
        yield f"{_and(report.mended)} {lacked}"
    if off:
        yield f"{_and(off)}: HAProxy does not ask for keys; keys take effect when the gateway is on"
    if down:
        yield f"{_and(down)}: HAProxy does not answer; it reads the keys when it starts"


def _row(row: KeyRow, columns: int) -> list[Cell]:
    text, style = _where(row)
    cells = [(row.name, _NAME), (row.id, ""), (_minute(row.created), ""), (text, style)]
    if columns > len(cells):
        cells.insert(3, (_minute(row.revoked) if row.revoked else "-", ""))
    return cells


def _where(row: KeyRow) -> Cell:
    """What the balancers do with the key: one word where they agree."""
    places: dict[str, list[str]] = {}
    for name, state in row.balancers.items():
        places.setdefault(state, []).append(name)
    known = [state for state in places if state != UNKNOWN]
    if len(known) == 1 and len(places) == 1:
        return known[0], _STATES.get(known[0], _BAD)
    # A balancer that never knew a key does not accept it, which is all that counts once it is revoked.
    if row.revoked and set(known) <= {REVOKED, MISSING} and UNKNOWN not in places:
        return REVOKED, _DIM
    style = max((_STATES.get(state, _BAD) for state in places), key=(_DIM, _GOOD, _WARN, _BAD).index)
    return ", ".join(f"{state} on {_and(names)}" for state, names in places.items()), style


def _matters(row: KeyRow) -> bool:
    """True for a revoked key that still works somewhere."""
    return any(state not in (REVOKED, MISSING, UNKNOWN) for state in row.balancers.values())


def _reached(report: KeyReport) -> list[str]:
    return [row.name for row in report.balancers if row.state == UP]


def _lost(report: KeyReport) -> list[str]:
    return [row.name for row in report.balancers if row.state != UP]


def _minute(date: str) -> str:
    return date[:16].replace("T", " ")


def _and(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))
