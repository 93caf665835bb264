"""`fleet image` on the screen and as JSON: what is there, the plan and the progress of a pull, what went."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import asdict
from types import TracebackType
from typing import TYPE_CHECKING, Any

from fleet.console.errors import error_json, error_lines
from fleet.console.table import Cell, Column, show_table
from fleet.control.spans import in_words
from fleet.docker.references import repository
from fleet.errors import FleetError
from fleet.gpu.sizes import size_text
from fleet.images.listing import Listing, Row
from fleet.images.plan import NAME, THERE, HostPlan, PullPlan
from fleet.images.prune import Pruned
from fleet.images.pull import Outcome

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

_LIST = (
    Column("host"),
    Column("tag"),
    Column("digest", drop=3),
    Column("on disk", right=True, drop=2),
    Column("used by"),
    Column("kept by release", drop=1),
)
_PLAN = (
    Column("host"),
    Column("plan"),
    Column("has layers", right=True, drop=1),
    Column("to fetch", right=True),
    Column("needs", right=True, drop=2),
    Column("free", right=True, drop=2),
)
_PRUNE = (
    Column("host"),
    Column("image"),
    Column("digest", drop=1),
    Column("on disk", right=True),
    Column(""),
)


def show_listing(found: Listing) -> None:
    """The table, and below it what is wrong."""
    console = _console()
    rows = [
        (
            (row.host, ""),
            (_tags(row), "bold" if row.wanted else ""),
            (_short(row.digest) or "none", ""),
            (size_text(row.size), ""),
            (", ".join(row.used) or "-", "green" if row.used else "dim"),
            (", ".join(row.kept) or "-", "" if row.kept else "dim"),
        )
        for row in found.rows
    ]
    if rows:
        show_table(console, f"Images of {repository(found.image)}", _LIST, rows)
    else:
        console.print(f"no host has an image of {repository(found.image)}\n")
    for problem in found.problems:
        remedy = f"  ({problem.remedy})" if problem.remedy else ""
        console.print(f"{problem.place}: {problem.what}{remedy}", style="yellow", markup=False)


def show_plan(plan: PullPlan) -> None:
    """What a pull would bring where."""
    console = _console()
    weight = (
        f", {size_text(plan.size)} in {plan.layers} {'layer' if plan.layers == 1 else 'layers'}"
        if plan.size
        else ""
    )
    console.print(f"{plan.image} is {_short(plan.digest)}{weight}\n", markup=False)
    rows: list[tuple[Cell, ...]] = []
    for name, host in plan.hosts.items():
        held = host.held if host.needs not in (THERE, NAME) else None
        rows.append(
            (
                (name, ""),
                (_words(plan, host), "dim" if host.needs == THERE else ""),
                (f"{held.present} of {plan.layers}" if held else "-", ""),
                (size_text(max(0, held.to_fetch - host.stored)) if held else "-", ""),
                (size_text(held.needed) if held else "-", ""),
                (size_text(held.free) if held and held.free is not None else "-", ""),
            )
        )
    if rows:
        show_table(console, "Plan", _PLAN, rows)
    _show_errors(plan.failed)


def show_pulled(plan: PullPlan, outcome: Outcome) -> None:
    """How it ended."""
    console = _console()
    _show_errors({name: error for name, error in outcome.errors.items() if name not in plan.failed})
    states = list(outcome.states.values())
    said = ", ".join(
        f"{states.count(state)} {word}"
        for state, word in (("pulled", "pulled"), ("there", "had it"), ("failed", "failed"))
        if state in states
    )
    console.print(f"{plan.image} at {_short(plan.digest)}: {said}", markup=False)


def show_pruned(done: Mapping[str, Pruned], failed: Mapping[str, FleetError], *, check: bool) -> None:
    """What goes and what stays."""
    console = _console()
    rows = []
    for name, found in done.items():
        word = "would go" if check else "removed"
        for row in found.gone:
            rows.append((*_pruned(name, row), (word, "yellow")))
        if found.leftovers:
            cells = ((name, ""), ("unfinished pulls", ""), ("-", ""), (size_text(found.leftovers), ""))
            rows.append((*cells, (word, "yellow")))
        for row in found.stay:
            rows.append((*_pruned(name, row), (_why(row), "dim")))
    if rows:
        show_table(console, "Images", _PRUNE, rows)
    if not any(found.changes for found in done.values()) and not failed:
        console.print("nothing to remove")
    _show_errors(failed)


def listing_json(found: Listing) -> dict[str, Any]:
    """The document of `list --json`."""
    return {
        "image": found.image,
        "images": [asdict(row) for row in found.rows],
        "problems": [asdict(problem) for problem in found.problems],
        "failed": {name: error_json(error) for name, error in found.failed.items()},
    }


def plan_json(plan: PullPlan) -> dict[str, Any]:
    """The document of `pull --check --json`; size and layers are null where the registry was not asked."""
    return {
        "image": plan.image,
        "digest": plan.digest,
        "size": plan.size or None,
        "layers": plan.layers or None,
        "hosts": {name: _host_json(host) for name, host in plan.hosts.items()},
        "failed": {name: error_json(error) for name, error in plan.failed.items()},
    }


def pull_json(plan: PullPlan, outcome: Outcome) -> dict[str, Any]:
    """The document of `pull --json`: the plan, each host's state, and the errors."""
    errors = {name: error_json(error) for name, error in outcome.errors.items()}
    return {**plan_json(plan), "states": dict(outcome.states), "failed": errors}


def prune_json(
    done: Mapping[str, Pruned], failed: Mapping[str, FleetError], *, check: bool
) -> dict[str, Any]:
    """The document of `prune --json`."""
    return {
        "check": check,
        "hosts": {
            name: {
                "gone": [asdict(row) for row in found.gone],
                "stay": [asdict(row) for row in found.stay],
                "leftovers": found.leftovers,
            }
            for name, found in done.items()
        },
        "failed": {name: error_json(error) for name, error in failed.items()},
    }


class PullView:
    """Listens to a pull: a bar for each host for a person, a line for each step for a pipe.

    A context manager. `quiet` (for --json) shows nothing but bars on a terminal's stderr.
    """

    def __init__(self, *, quiet: bool) -> None:
        self._console = _console(stderr=quiet)
        self._silent = quiet and not self._console.is_terminal
        self._live: Progress | None = None
        self._rows: dict[str, TaskID] = {}
        self._last: dict[str, str] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> PullView:
        if self._console.is_terminal:
            self._live = _bars(self._console)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, host: str, words: str, done: int, total: int) -> None:
        """Take one report."""
        with self._lock:
            if self._live is not None:
                self._draw(self._live, host, words, done, total)
            elif not self._silent and self._last.get(host) != words:
                size = f" {size_text(total)}" if total > 1 else ""
                self._console.print(f"{host}: {words}{size}", markup=False)
            self._last[host] = words

    def _draw(self, live: Progress, host: str, words: str, done: int, total: int) -> None:
        """Its bar: bytes where there are any to count, moving where nobody knows how long, still at last."""
        row = self._rows.get(host)
        if row is None:
            row = self._rows[host] = live.add_task(host, words=words, amount="", total=None)
        if words == "failed":
            live.update(row, words=words, completed=0, total=1)
        elif total > 1:
            live.update(row, words=words, completed=done, total=total)
            task = next(each for each in live.tasks if each.id == row)
            pace = f", {size_text(task.speed)}/s" if task.speed and not task.finished else ""
            left = f", {in_words(task.time_remaining)} left" if pace and task.time_remaining else ""
            live.update(row, amount=f"{size_text(done)} of {size_text(total)}{pace}{left}")
        else:
            live.update(row, words=words, completed=done, total=total or None)


def _bars(console: Console) -> Progress:
    from rich.progress import BarColumn, Progress, TextColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[amount]}"),
        TextColumn("{task.fields[words]}"),
        console=console,
    )


def _words(plan: PullPlan, host: HostPlan) -> str:
    served = len(plan.served_by(host.host.name))
    seeds = f", seeds {served} of its site" if served else ""
    if host.needs == THERE:
        return f"has it{seeds}"
    if host.needs == NAME:
        return f"gets the name{seeds}"
    return f"from {host.seed}" if host.seed else f"from the registry{seeds}"


def _host_json(host: HostPlan) -> dict[str, Any]:
    held = host.held
    return {
        "needs": host.needs,
        "seed": host.seed or None,
        "stored": host.stored,
        "layers_present": held.present if held else None,
        "to_fetch": held.to_fetch if held else 0,
        "needed": held.needed if held else 0,
        "free": held.free if held else None,
    }


def _pruned(name: str, row: Row) -> tuple[Cell, ...]:
    return ((name, ""), (_tags(row), ""), (_short(row.digest) or "none", ""), (size_text(row.size), ""))


def _why(row: Row) -> str:
    if row.used:
        return f"runs on {', '.join(row.used)}"
    if row.kept:
        return f"kept by release {', '.join(row.kept)}"
    return "the named image" if row.wanted else "stays"


def _tags(row: Row) -> str:
    return ", ".join(name.rpartition("/")[2].partition(":")[2] for name in row.names) or "none"


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]


def _show_errors(errors: Mapping[str, FleetError]) -> None:
    console = _console(stderr=True)
    for name, error in errors.items():
        first, *rest = error_lines(error)
        console.print(f"{name}: {first.removeprefix(f'{name}: ')}", style="red", markup=False)
        for line in rest:
            console.print(line, markup=False)


def _console(stderr: bool = False) -> Console:
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, soft_wrap=True)
