"""A rollout at one moment as a picture for the terminal: its slots fill from blue to green, wave by wave."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fleet.control.spans import in_words
from fleet.rollout.report.entry_words import clean, counted
from fleet.rollout.report.moment import Moment, SlotAt, WaveAt

if TYPE_CHECKING:
    from rich.text import Text

_STYLES = {
    "blue": "blue",
    "draining": "cyan",
    "drained": "bright_black",
    "moving": "yellow",
    "checking": "bright_yellow",
    "ramping": "bright_green",
    "green": "green",
    "restoring": "magenta",
    "failed": "bold red",
    "lost": "bold red",
}
_SIGNS = {
    "blue": "○",
    "draining": "◔",
    "drained": "◌",
    "moving": "◑",
    "checking": "◑",
    "ramping": "◕",
    "green": "●",
    "restoring": "◐",
    "failed": "✗",
    "lost": "✗",
}
_LETTERS = {
    "blue": "b",
    "draining": "d",
    "drained": "-",
    "moving": "m",
    "checking": "c",
    "ramping": "r",
    "green": "G",
    "restoring": "<",
    "failed": "x",
    "lost": "x",
}
_REST = 8
"""Lines that are always shown beside the slots: head, bar, legend and a few of what goes on."""


def frame(moment: Moment, width: int, height: int, *, ascii_only: bool = False) -> list[Text]:
    """The lines of the picture, none wider than `width` cells, `height` of them at most."""
    head = [_title(moment), _traffic(moment), _weight(moment, width, ascii_only)]
    room = max(2, height - _REST)
    slots = _slots(moment.waves, width, room, ascii_only)
    left = max(0, height - len(head) - len(slots) - 3)
    doing = _doing(moment, min(left, 6))
    lines = _journal(moment, max(1, min(left - len(doing), 5)))
    whole = [*head, _empty(), *slots, _legend(moment.waves, ascii_only), *doing, *lines]
    for line in whole:
        line.truncate(width, overflow="crop" if ascii_only else "ellipsis")
    return whole[:height]


def _title(moment: Moment) -> Text:
    """The time first: it is what a narrow terminal must not cut."""
    from rich.text import Text

    header = moment.header
    title = Text(in_words(_whole(moment.elapsed)), style="bold")
    if moment.remaining is not None and not moment.back:
        left = f"about {in_words(_whole(moment.remaining))} left" if moment.remaining >= 1 else "almost done"
        title.append(f", {left}", style="dim")
    if moment.back or moment.stopping == "abort":
        title.append("  going back to blue", style="magenta")
    elif moment.stopping:
        title.append("  stopping after this step; Ctrl-C again goes back to blue", style="yellow")
    title.append(f"  {clean(f'{header.kind} to {header.image}')}", style="bold")
    return title


def _traffic(moment: Moment) -> Text:
    from rich.text import Text

    if moment.rate is None:
        return Text("waiting for the balancers' numbers", style="dim")
    line = Text(f"{moment.rate:.1f} requests/s, {counted(moment.jobs, 'job')} in flight, ")
    line.append(counted(moment.errors, "error"), style="bold red" if moment.errors else "")
    return line


def _weight(moment: Moment, width: int, ascii_only: bool) -> Text:
    """The ready weight as a bar of green's and blue's, with a mark at the floor, and in figures."""
    from rich.text import Text

    header = moment.header
    ready = "?" if moment.ready is None else f"{moment.ready:g}"
    figures = f"  ready {ready} of {header.total}, floor {header.floor:g}"
    low = moment.ready is not None and moment.ready < header.floor
    bar = _bar(moment, max(10, min(width - len(figures), 60)), ascii_only)
    return bar.append_text(Text(figures, style="bold red" if low else ""))


def _bar(moment: Moment, cells: int, ascii_only: bool) -> Text:
    from rich.text import Text

    total = max(moment.header.total, moment.weight.sum, 1)
    green = round(moment.weight.green / total * cells)
    ready = max(green, round(moment.weight.sum / total * cells))
    floor = min(cells - 1, round(moment.header.floor / total * cells))
    full, none, mark = ("#", "-", "|") if ascii_only else ("━", "─", "┃")
    bar = Text()
    for cell in range(cells):
        style = "green" if cell < green else "blue" if cell < ready else "bright_black"
        if cell == floor and moment.header.floor:
            bar.append(mark, style="bold")
        else:
            bar.append(full if cell < ready else none, style=style)
    return bar


def _slots(waves: Sequence[WaveAt], width: int, room: int, ascii_only: bool) -> list[Text]:
    """Every slot: with its numbers where there is room, else with its name, else as one sign."""
    for cells, groups in (
        ("full", waves),
        ("short", waves),
        ("sign", waves),
        ("sign", _grouped(waves)),
    ):
        lines = [line for wave in groups for line in _wave(wave, cells, width, ascii_only)]
        if len(lines) <= room:
            return lines
    return [*lines[: room - 1], _dim(f"and {len(lines) - room + 1} more lines")]


def _grouped(waves: Sequence[WaveAt]) -> list[WaveAt]:
    """Waves that are done as one, and so those that have not begun; what goes on stays as it is."""
    done: list[WaveAt] = []
    going: list[WaveAt] = []
    rest: list[WaveAt] = []
    for wave in waves:
        begun = any(slot.phase != "blue" for slot in wave.slots)
        (done if wave.done else going if begun else rest).append(wave)
    parts = ((done, "done"), (going, ""), (rest, "to come"))
    groups = []
    for part, word in parts:
        if word and len(part) > 1:
            slots = tuple(slot for wave in part for slot in wave.slots)
            groups.append(WaveAt(part[0].number, f"{counted(len(part), 'wave')} {word}", slots))
        else:
            groups += part
    return groups


def _wave(wave: WaveAt, cells: str, width: int, ascii_only: bool) -> list[Text]:
    """A wave's lines: its name, then cells in columns."""
    from rich.text import Text

    label = min(22, max(19, width // 5))
    texts = [_cell(slot, cells, ascii_only) for slot in wave.slots]
    widest = max((text.cell_len for text in texts), default=1)
    gap = 1 if cells == "sign" else 2
    columns = max(1, (width - label) // (widest + gap))
    lines = []
    for first in range(0, len(texts), columns):
        line = Text(clean(wave.name)[: label - 1].ljust(label) if first == 0 else " " * label, style="")
        for text in texts[first : first + columns]:
            line.append_text(text)
            line.append(" " * (widest - text.cell_len + gap))
        line.rstrip()
        lines.append(line)
    return lines


def _cell(slot: SlotAt, cells: str, ascii_only: bool) -> Text:
    from rich.text import Text

    style = _STYLES.get(slot.phase, "")
    sign = (_LETTERS if ascii_only else _SIGNS).get(slot.phase, "?")
    if cells == "sign":
        return Text(sign, style=style)
    name = clean(slot.name)
    if cells == "short":
        return Text(f"{sign} {name}", style=style)
    text = Text(f"{sign} {name} {slot.phase:<9}", style=style)
    jobs = counted(slot.jobs, "job") if slot.jobs else ""
    text.append(f" weight {slot.weight:>3.0f}  {jobs:<7}", style="" if slot.weight else "dim")
    return text


def _legend(waves: Sequence[WaveAt], ascii_only: bool) -> Text:
    """How many slots are in which phase."""
    from rich.text import Text

    counts: dict[str, int] = {}
    for wave in waves:
        for slot in wave.slots:
            counts[slot.phase] = counts.get(slot.phase, 0) + 1
    signs = _LETTERS if ascii_only else _SIGNS
    line = Text()
    for phase in [*_STYLES, *(phase for phase in counts if phase not in _STYLES)]:
        if phase in counts:
            line.append(f"{signs.get(phase, '?')} {counts[phase]} {phase}  ", style=_STYLES.get(phase, ""))
    line.rstrip()
    return line


def _doing(moment: Moment, most: int) -> list[Text]:
    """What slots and hosts are at, the latest of each; of many, some and how many more there are."""
    from rich.text import Text

    doing = (*_soak(moment), *moment.doing)
    if most <= 0 or not doing:
        return []
    many = len(doing) > most
    shown = doing[: most - 1] if many else doing
    lines = [Text.assemble("  ", (clean(place), "bold"), f": {clean(text)}") for place, text in shown]
    return [*lines, _dim(f"  and {len(doing) - len(shown)} more")] if many else lines


def _soak(moment: Moment) -> list[tuple[str, str]]:
    if moment.soak_left is None:
        return []
    left = f"{in_words(_whole(moment.soak_left))} left" if moment.soak_left >= 1 else "almost over"
    return [("soak", f"{left}; then the last old containers are replaced")]


def _journal(moment: Moment, most: int) -> list[Text]:
    return [_dim(clean(line).replace("\n", " ")) for line in moment.lines[-most:]]


def _dim(text: str) -> Text:
    from rich.text import Text

    return Text(text, style="dim")


def _empty() -> Text:
    from rich.text import Text

    return Text("")


def _whole(seconds: float) -> float:
    """Whole seconds: tenths that change at every look only distract."""
    return float(int(seconds))
