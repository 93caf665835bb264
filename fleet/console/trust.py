"""Host keys as a table, to compare with what the hosts' consoles show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fleet.trust import Scan

_STYLE = {"new": "yellow", "pinned": "green", "changed": "bold red"}


def show_keys(scans: Sequence[Scan]) -> None:
    """Every host's keys with fingerprint and status."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("host", no_wrap=True)
    table.add_column("address", no_wrap=True)
    table.add_column("key", no_wrap=True)
    table.add_column("fingerprint", overflow="fold")
    table.add_column("status", no_wrap=True)
    console = Console(highlight=False)
    for scan in scans:
        for number, key in enumerate(scan.keys):
            first = number == 0
            table.add_row(
                scan.host.name if first else "",
                key.name if first else "",
                key.type,
                key.fingerprint,
                Text(key.status, style=_STYLE[key.status]),
            )
        if scan.error is not None:
            table.add_row(
                scan.host.name,
                "",
                "",
                Text(scan.error.message.removeprefix(f"{scan.host.name}: "), style="red"),
                "unreachable",
            )
    console.print(table)
