"""Tables of the inventory's and the lab's hosts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fleet.inventory import HostRow
    from fleet.lab import LabState


def show_inventory(rows: Sequence[HostRow]) -> None:
    """The hosts of `fleet inventory`."""
    _table(
        ("host", "address", "port", "user", "groups"),
        ((row.name, row.address, str(row.port or ""), row.user or "", ", ".join(row.groups)) for row in rows),
    )


def show_lab(state: LabState) -> None:
    """The hosts of `fleet lab status`."""
    _table(
        ("host", "SSH", "in the lab", "OS", "GPUs", "state", "container"),
        (
            (h.name, h.address, h.fleet_address, h.os, str(h.gpus or ""), h.state, h.container)
            for h in state.hosts
        ),
    )
    print(f"\nservice    {state.url}\ninventory  {state.inventory}")


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console(highlight=False).print(table)
