"""Tables that fit: on a narrow terminal the least important columns go; a pipe gets them all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

_GAP = 2

Cell = tuple[str, str]
"""A cell's text and its style."""


@dataclass(frozen=True)
class Column:
    """A column. Where the table is too wide, columns go in the order of `drop`; 0 always stays."""

    name: str
    right: bool = False
    drop: int = 0


def show_table(
    console: Console, title: str, columns: Sequence[Column], rows: Sequence[Sequence[Cell]]
) -> None:
    """Print a table and an empty line. A person's is fitted to the terminal; a pipe's is never cut."""
    from rich.text import Text

    people = console.is_terminal
    widths = [
        max(len(column.name), *(len(row[place][0]) for row in rows)) for place, column in enumerate(columns)
    ]
    kept = _fitting(columns, widths, console.width) if people else list(range(len(columns)))
    header = [(columns[place].name, "") for place in range(len(columns))]
    console.print(Text(title, style="bold"), soft_wrap=not people)
    for number, row in enumerate((header, *rows)):
        line = Text("  " if people else "", style="dim" if number == 0 else "")
        for place in kept:
            text, style = row[place]
            padding = " " * (widths[place] - len(text))
            line.append(padding + text if columns[place].right else text, style=style)
            line.append(" " * _GAP if columns[place].right else padding + " " * _GAP)
        line.rstrip()
        if people:
            line.truncate(console.width, overflow="ellipsis")
        console.print(line, soft_wrap=True)
    console.print()


def _fitting(columns: Sequence[Column], widths: Sequence[int], room: int) -> list[int]:
    """The columns to show: those that always stay, then the others by importance while they fit."""
    kept = {place for place, column in enumerate(columns) if not column.drop}
    left = room - sum(widths[place] + _GAP for place in kept)
    others = (place for place, column in enumerate(columns) if column.drop)
    for place in sorted(others, key=lambda place: -columns[place].drop):
        if widths[place] + _GAP <= left:
            kept.add(place)
            left -= widths[place] + _GAP
    return sorted(kept)
