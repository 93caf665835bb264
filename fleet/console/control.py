"""`fleet drain`, `ready` and `weight` on the screen: what is in flight meanwhile, and how it ended."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from fleet.balancer.stats import ServerState
from fleet.console.errors import error_json, error_lines
from fleet.console.table import Column, show_table
from fleet.control.model import Drained, SlotDrain, Told
from fleet.control.spans import in_words

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table

    from fleet.control.model import BalancerReport

_GOOD, _WARN, _BAD, _DIM, _NAME = "green", "yellow", "bold red", "dim", "bold"
_STATES = {"ready": _GOOD, "drained": _GOOD, "drain": _WARN, "draining": _WARN, "maint": _WARN}
_LINE_EVERY = 30.0


def control_json(result: Drained | Told) -> dict[str, Any]:
    """The document of `--json`, with the balancers' errors."""
    document = result.as_json()
    for row, report in zip(document["balancers"], result.balancers, strict=True):
        row["error"] = error_json(report.error) if report.error else None
    return document


class _View:
    """Prints for a person or a pipe; `quiet` (for --json) moves it to stderr, if a person is there."""

    def __init__(self, *, quiet: bool, console: Console | None = None) -> None:
        from rich.console import Console

        self.console = console or Console(stderr=quiet, highlight=False)
        self._silent = quiet and not self.console.is_terminal

    def line(self, place: str, text: str, style: str = "", remedy: str = "") -> None:
        """`PLACE: text`, and below it what to do."""
        from rich.text import Text

        if self._silent:
            return
        soft = not self.console.is_terminal
        self.console.print(Text.assemble((place, _NAME), ": ", (text, style)), soft_wrap=soft)
        if remedy:
            self.console.print(Text(f"  try: {remedy}", style=_DIM), soft_wrap=soft)

    def balancers(self, reports: Sequence[BalancerReport], again: str) -> None:
        """What went wrong at balancers, and how they catch up. `again` is the command to run again."""
        for report in reports:
            name = report.name
            if report.error is not None:
                self._error(report, [each.name for each in reports if each.told], again)
            if report.missing:
                self.line(
                    name,
                    f"has no server for {_listed(report.missing)}",
                    _WARN,
                    "run `fleet provision`; nothing was to be told there",
                )
            if report.maint:
                self.line(name, f"has {_listed(report.maint)} in maintenance, and keeps it there")
            if report.mute:
                self.line(
                    name,
                    f"nothing is known of {_count(report.mute, 'older HAProxy process', 'es')}, which may "
                    "still have jobs: its master process does not answer",
                    _WARN,
                )

    def _error(self, report: BalancerReport, told: Sequence[str], again: str) -> None:
        first, *rest = error_lines(report.error) if report.error else [""]
        first = first.removeprefix(f"{report.name}: ")
        then = f"once {report.name} is back, run `{again}` again"
        if report.told:
            self.line(report.name, f"was told, then lost: {first}", _BAD)
            then = f"what it still has in flight is not known; {then}"
        elif told:
            self.line(report.name, f"was not told: {first}", _BAD)
            then = f"{_listed(told)} {'was' if len(told) == 1 else 'were'} told; {then}"
        else:
            self.line(report.name, first, _BAD)
        for text in (*rest, f"  {then}"):
            self._dim(text)

    def _dim(self, text: str) -> None:
        from rich.text import Text

        if not self._silent:
            self.console.print(Text(text, style=_DIM), soft_wrap=not self.console.is_terminal)


class DrainView(_View):
    """Shows a drain while it goes on: call it with the slots' states. Use as a context manager around it."""

    def __init__(self, *, quiet: bool, console: Console | None = None) -> None:
        super().__init__(quiet=quiet, console=console)
        self._live: Live | None = None
        self._told: dict[str, tuple[str, float]] = {}

    def __enter__(self) -> DrainView:
        if self.console.is_terminal and not self._silent:
            from rich.live import Live

            self._live = Live(console=self.console, transient=True, refresh_per_second=8)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def __call__(self, slots: Sequence[SlotDrain]) -> None:
        """Show how far the slots are. On a pipe: at first, and then every half minute while jobs are left."""
        if self._live is not None:
            self._live.update(_progress(slots))
            return
        for slot in slots:
            text = _held(slot)
            before, at = self._told.get(slot.name, ("", -_LINE_EVERY))
            if slot.state == "draining" and text != before and slot.seconds - at >= _LINE_EVERY:
                self._told[slot.name] = (text, slot.seconds)
                self.line(slot.name, f"takes no new jobs; {text}")

    def result(self, drained: Drained, targets: Sequence[str]) -> None:
        """How it ended, slot by slot, and what to do where it did not."""
        again = f"fleet drain {' '.join(targets)}"
        for slot in drained.slots:
            self._slot(slot, drained)
        self.balancers(drained.balancers, again)
        back = f"`fleet ready {' '.join(targets)}`"
        if drained.interrupted:
            self.line(
                "interrupted", f"nobody waits any more; what was told to drain stays drained until {back}"
            )
        elif drained.left:
            self._dim(f"  no new jobs go there. Wait again: `{again}`")
            self._dim(f"  End the jobs: `{again} --deadline 0`")
            self._dim(f"  Go back: {back}")

    def _slot(self, slot: SlotDrain, drained: Drained) -> None:
        pages = f"; {_count(slot.pages, 'open page')}" if slot.pages else ""
        cut = f", cut {_count(slot.cut, 'job')}" if slot.cut else ""
        if slot.state == "drained":
            self.line(slot.name, f"drained after {in_words(slot.seconds)}{cut}{pages}", _GOOD)
        elif slot.state == "in flight":
            verb = "is" if slot.jobs == 1 else "are"
            left = f"{_count(slot.jobs, 'job')} {verb} still in flight after {in_words(slot.seconds)}"
            self.line(slot.name, f"{left}{cut}{pages}", _BAD)
        elif drained.waited and not drained.interrupted:
            self.line(slot.name, "it is not known what is still in flight", _BAD)
        else:
            self.line(slot.name, f"takes no new jobs; {_held(slot)}", _WARN)


class ReadyView(_View):
    """The end of `fleet ready`."""

    def result(self, told: Told, targets: Sequence[str]) -> None:
        """Slot by slot: ready and where, or why it takes no jobs."""
        wrong = {problem.place for problem in told.problems}
        for slot in told.slots:
            if slot not in wrong and told.servers[slot]:
                weights = {server.weight for server in told.servers[slot].values()}
                weight = f", weight {weights.pop()}" if len(weights) == 1 else ""
                self.line(slot, f"ready on {_listed(told.servers[slot])}{weight}", _GOOD)
        for problem in told.problems:
            self.line(problem.place, problem.what, _BAD, problem.remedy)
        self.balancers(told.balancers, f"fleet ready {' '.join(targets)}")


class WeightView(_View):
    """The end of `fleet weight`."""

    def result(self, told: Told, targets: Sequence[str]) -> None:
        """The new weights and how to keep them, or a table of those in use."""
        if told.wanted is None:
            self._table(told)
        else:
            self._changes(told)
        again = " ".join(["fleet weight", *targets, *([str(told.wanted)] if told.wanted is not None else [])])
        self.balancers(told.balancers, again)

    def _changes(self, told: Told) -> None:
        wrong = {problem.place for problem in told.problems}
        for slot in told.slots:
            if slot in wrong or not told.servers[slot]:
                continue
            before = {server.weight for server in told.before[slot].values()}
            was = "/".join(str(number) for number in sorted(before))
            note = "" if any(s.takes_jobs for s in told.servers[slot].values()) else "; it takes no jobs now"
            change = f"is {told.wanted} already" if before == {told.wanted} else f"{was} -> {told.wanted}"
            self.line(slot, f"weight {change} on {_listed(told.servers[slot])}{note}", _GOOD)
        for problem in told.problems:
            self.line(problem.place, problem.what, _BAD, problem.remedy)
        if any(s.weight != s.configured_weight for by in told.servers.values() for s in by.values()):
            self._dim("the next `fleet provision` sets the inventory's weight again")
            if told.wanted:
                self._dim(f"to keep this one, set `weight: {told.wanted}` for the host there")
            else:
                self._dim("to keep a slot out of service, drain it: `fleet drain`")

    def _table(self, told: Told) -> None:
        if self._silent:
            return
        columns = (
            Column("slot"),
            Column("balancer", drop=3),
            Column("weight", right=True),
            Column("configured", right=True, drop=2),
            Column("state", drop=1),
        )
        rows = [
            [
                (slot, _NAME),
                (balancer, ""),
                (str(server.weight), "" if server.weight == server.configured_weight else _WARN),
                (str(server.configured_weight), ""),
                _state(server),
            ]
            for slot in told.slots
            for balancer, server in told.servers[slot].items()
        ]
        show_table(self.console, "Weights", columns, rows)


def _state(server: ServerState) -> tuple[str, str]:
    word = server.word
    if server.down and word != "down":
        return f"{word}, down", _BAD
    return word, _STATES.get(word, _BAD)


def _progress(slots: Sequence[SlotDrain]) -> Table:
    """The live table; of many slots those that are drained make one line."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("slot", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for name in ("jobs", "open pages", "for"):
        table.add_column(name, justify="right", no_wrap=True)
    waiting = [slot for slot in slots if slot.state != "drained"]
    shown = slots if len(slots) <= 12 else waiting[:12]
    for slot in shown:
        table.add_row(
            Text(slot.name, style=_NAME),
            Text(slot.state, style=_STATES.get(slot.state, "")),
            str(slot.jobs),
            str(slot.pages),
            f"{slot.seconds:.0f} s",
        )
    if len(shown) < len(slots):
        jobs = sum(slot.jobs for slot in slots)
        table.add_row(
            Text(f"{len(slots)} in all", style=_DIM), f"{len(slots) - len(waiting)} drained", str(jobs)
        )
    return table


def _held(slot: SlotDrain) -> str:
    return f"{_count(slot.jobs, 'job')} in flight, {_count(slot.pages, 'open page')}"


def _count(number: int, what: str, plural: str = "s") -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}{plural}"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "nobody"
