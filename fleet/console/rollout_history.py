"""`fleet history` and `fleet release show` on the screen."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from fleet.console.table import Column, show_table
from fleet.control.spans import in_words
from fleet.rollout.history import Row
from fleet.rollout.operate import ReleaseDetail
from fleet.rollout.report.entry_words import clean, short_digest
from fleet.rollout.report.files import data_file, found_page

if TYPE_CHECKING:
    from rich.console import Console

_STYLES = {"finished": "green", "rolled-back": "bold red", "stopped": "yellow", "interrupted": "yellow"}
_COLUMNS = (
    Column("rollout"),
    Column("ended"),
    Column("kind", drop=4),
    Column("image"),
    Column("digest", drop=1),
    Column("when (UTC)"),
    Column("by", drop=2),
    Column("took", right=True, drop=3),
)


def show_history(rows: Sequence[Row], console: Console | None = None) -> None:
    """Print the rollouts, and why those that did not finish did not."""
    from rich.console import Console
    from rich.text import Text

    console = console or Console(highlight=False)
    if not rows:
        console.print("Nothing was rolled out yet: `fleet upgrade IMAGE` does")
        return
    show_table(console, "Rollouts", _COLUMNS, [_cells(row) for row in rows])
    for row in rows:
        if row.reason:
            console.print(Text.assemble((row.id, "bold"), f": {clean(row.reason)}"), soft_wrap=True)


def history_json(rows: Sequence[Row]) -> dict[str, Any]:
    """The document of `fleet history --json`."""
    return {"rollouts": [asdict(row) for row in rows]}


def show_release(detail: ReleaseDetail, console: Console | None = None) -> None:
    """Print one rollout."""
    from rich.console import Console
    from rich.text import Text

    console = console or Console(highlight=False)
    row, header = detail.row, detail.header
    before = f"{row.before_image} ({short_digest(row.before_digest)})" if row.before_digest else "not known"
    facts = (
        ("image", row.image),
        ("digest", row.digest),
        ("rollout", f"{row.id}, {row.kind}, by {row.by}, {_when(row.when)} UTC"),
        ("ended", row.state + (f": {clean(row.reason)}" if row.reason else "")),
        ("took", in_words(row.seconds)),
        ("before", before),
        ("waves", "; ".join(f"{number}: {', '.join(wave)}" for number, wave in enumerate(header.waves, 1))),
        ("runs now on", ", ".join(detail.runs_on) or "no slot"),
        ("kept on", ", ".join(detail.kept_on) or "no slot"),
        ("report", _report(row)),
    )
    for name, value in facts:
        console.print(Text.assemble((f"{name:<12}", "bold"), clean(value)), soft_wrap=True)


def release_json(detail: ReleaseDetail) -> dict[str, Any]:
    """The document of `fleet release show --json`."""
    return {
        **asdict(detail.row),
        "waves": [list(wave) for wave in detail.header.waves],
        "options": dict(detail.header.options),
        "runs_on": list(detail.runs_on),
        "kept_on": list(detail.kept_on),
        "report": str(page) if (page := found_page(detail.row.id)) else None,
        "result": detail.result,
    }


def _report(row: Row) -> str:
    page = found_page(row.id)
    if page is None:
        return f"not among the reports of this machine; {row.by} ran it, and --report may have named a place"
    data = data_file(page)
    return f"{page}" + (f", and {data.name} beside it" if data.is_file() else "")


def _cells(row: Row) -> list[tuple[str, str]]:
    return [
        (row.id, "bold"),
        (row.state, _STYLES.get(row.state, "")),
        (row.kind, ""),
        (clean(row.image), ""),
        (short_digest(row.digest), "dim"),
        (_when(row.when), ""),
        (clean(row.by), ""),
        (in_words(row.seconds), ""),
    ]


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(seconds))
