"""A run on the screen: live progress per host for a person, plain lines for a pipe, recap, JSON."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any

from fleet.console.errors import error_json, error_lines
from fleet.engine.results import (
    Event,
    HostEvent,
    PlayStarted,
    RunResult,
    Status,
    Stopping,
    TaskFinished,
    TaskResult,
    TaskStarted,
)

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

_STYLE = {
    "ok": "green",
    "changed": "yellow",
    "failed": "bold red",
    "unreachable": "bold red",
    "skipped": "cyan",
}

_RECAP: tuple[Status, ...] = ("ok", "changed", "failed", "unreachable", "skipped")


class RunView:
    """Listens to a run and shows it. Use as a context manager around the run.

    `quiet` (for --json) moves all of it to stderr, and shows it only where stderr is a terminal.
    """

    def __init__(self, *, check: bool, diff: bool, verbose: bool, quiet: bool) -> None:
        from rich.console import Console

        self._check = check
        self._diff = diff
        self._verbose = verbose
        self.console: Console = Console(stderr=quiet, highlight=False, soft_wrap=True)
        self._silent = quiet and not self.console.is_terminal
        self._live: Progress | None = None
        self._rows: dict[str, TaskID] = {}

    def __enter__(self) -> RunView:
        if self.console.is_terminal and not self._silent:
            self._live = _progress(self.console)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def __call__(self, event: Event) -> None:
        """Show one event."""
        if self._silent:
            return
        if isinstance(event, PlayStarted):
            from rich.text import Text

            self.console.print(Text.assemble(("\n" + event.name, "bold"), f"  {_count(len(event.hosts))}"))
        elif isinstance(event, TaskFinished):
            self._finished(event.result)
        elif isinstance(event, HostEvent):
            self._host(event)
        elif isinstance(event, Stopping):
            self.console.print(
                "stopping after what runs now; press Ctrl-C again to quit at once, the next run goes on"
            )
        elif isinstance(event, TaskStarted):
            self._row(event.host, event.task, 0, None)
        else:
            self._row(event.host, f"{event.task}: {event.text}", event.done, event.total or None)

    def _host(self, event: HostEvent) -> None:
        if event.error is not None:
            first, *rest = error_lines(event.error)
            self._lines(event.host, event.state, [first.removeprefix(f"{event.host}: "), *rest])
        if event.state in ("done", "unreachable", "failed"):
            self._remove(event.host)
        else:
            self._row(event.host, event.state, 0, None)

    def _finished(self, result: TaskResult) -> None:
        self._row(result.host, "", 0, None)
        if result.status in ("ok", "skipped") and not self._verbose:
            return
        word = {"changed": "would change"}.get(result.status, result.status) if self._check else result.status
        summaries = [change.summary for change in result.changes] if result.status == "changed" else []
        details = summaries or ([result.reason] if result.reason else [])
        lines = [f"{result.task}: {details[0]}"] if len(details) == 1 else [result.task]
        lines += [f"- {detail}" for detail in details] if len(details) > 1 else []
        if result.error is not None:
            if result.ignored:
                word = "failed, ignored"
            lines = [result.task, *error_lines(result.error)]
        self._lines(result.host, word, lines, result.status)
        if self._diff:
            for change in result.changes:
                self._show_diff(change.diff)

    def _lines(self, host: str, word: str, lines: list[str], status: str | None = None) -> None:
        from rich.text import Text

        style = _STYLE.get(status or word, "")
        self.console.print(Text.assemble((f"{word:>12}", style), "  ", (host, "bold"), "  ", lines[0]))
        for line in lines[1:]:
            self.console.print(Text(" " * 14 + line))

    def _show_diff(self, diff: str) -> None:
        from rich.text import Text

        for line in diff.splitlines():
            style = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1], "dim")
            self.console.print(Text(" " * 14 + line, style=style))

    def _row(self, host: str, text: str, done: float, total: float | None) -> None:
        if self._live is None:
            return
        if host not in self._rows:
            self._rows[host] = self._live.add_task(host, total=None, text="")
        self._live.update(self._rows[host], completed=done, total=total, text=text)

    def _remove(self, host: str) -> None:
        if self._live is not None and host in self._rows:
            self._live.remove_task(self._rows.pop(host))


def _progress(console: Console) -> Progress:
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.table import Column

    return Progress(
        SpinnerColumn(),
        TextColumn("[bold]{task.description}", table_column=Column(no_wrap=True)),
        BarColumn(bar_width=20, table_column=Column(min_width=20)),
        TimeElapsedColumn(table_column=Column(no_wrap=True, min_width=7)),
        TextColumn("{task.fields[text]}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)),
        console=console,
        expand=True,
        transient=True,
    )


def _count(number: int) -> str:
    return "1 host" if number == 1 else f"{number} hosts"


def show_recap(console: Console, result: RunResult) -> None:
    """The closing table: per host how many tasks were ok, changed, failed, skipped."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2), header_style="bold")
    table.add_column("host")
    for column in _RECAP:
        table.add_column(column, justify="right")
    for name, host in result.hosts.items():
        counts = {status: host.count(status) for status in _RECAP}
        cells = [Text(str(counts[c]), style=_STYLE[c] if counts[c] else "dim") for c in _RECAP]
        table.add_row(Text(name, style=_STYLE[host.status]), *cells)
    console.print()
    console.print(table)
    pending = "would change" if result.check else "changed"
    trouble = [(s, sum(h.status == s for h in result.hosts.values())) for s in ("failed", "unreachable")]
    bad = "".join(f", {_count(number)} {status}" for status, number in trouble if number)
    console.print(
        f"{_count(len(result.hosts))}, {result.changed} {pending}{bad}, in {result.seconds:.1f} s"
        + (" (stopped before the end; the same command goes on)" if result.interrupted else "")
    )
    tasks = (task for host in result.hosts.values() for task in host.tasks)
    felt = [c for task in tasks for c in task.changes if c.throttle is not None and c.throttle.most]
    if result.check and felt:
        what = (
            "1 container that may serve is"
            if len(felt) == 1
            else f"{len(felt)} containers that may serve are"
        )
        console.print(
            f"{what} replaced without draining, a few at a time: jobs in flight there are cut. "
            "`fleet upgrade` with the image that runs drains first."
        )


def run_json(result: RunResult) -> dict[str, Any]:
    """The run as the stable document of `--json`."""
    return {
        "check": result.check,
        "interrupted": result.interrupted,
        "seconds": round(result.seconds, 3),
        "changed": result.changed,
        "exit_code": int(result.exit_code),
        "hosts": {
            name: {
                "status": host.status,
                "error": error_json(host.error) if host.error else None,
                "recap": {s: host.count(s) for s in _RECAP},
                "tasks": [_task_json(task) for task in host.tasks],
            }
            for name, host in result.hosts.items()
        },
    }


def _task_json(task: TaskResult) -> dict[str, Any]:
    return {
        "play": task.play,
        "task": task.task,
        "module": task.module,
        "status": task.status,
        "seconds": round(task.seconds, 3),
        "changes": [{"summary": c.summary, "diff": c.diff, "deferred": c.deferred} for c in task.changes],
        "error": error_json(task.error) if task.error else None,
        "reason": task.reason,
    }
