"""A rollout on the screen: live for a person, plain lines for a pipe, and how it ended.

Where the live picture was, the journal's more important lines are left in its place.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from types import TracebackType
from typing import TYPE_CHECKING

from fleet.console.lost import shown
from fleet.rollout.events import Began, Event, Recorded, Stopping
from fleet.rollout.model import Entry
from fleet.rollout.report.data import Report
from fleet.rollout.report.entry_words import clean, cut_of, short_digest
from fleet.rollout.report.timeline import Timeline
from fleet.rollout.report.verdict import facts, serving, verdict

if TYPE_CHECKING:
    from rich.console import Console, Group
    from rich.live import Live
    from rich.text import Text

    from fleet.errors import Place

_GOOD, _WARN, _BAD, _DIM, _NAME = "green", "yellow", "bold red", "dim", "bold"
_LOG_LINES = 40


class RolloutView:
    """Listens to a rollout, from any thread, and shows it. Use as a context manager around the rollout.

    The events go on to `timeline`, of which the report is made. `quiet` (for --json) moves all of it to
    stderr, and shows it only where stderr is a terminal.
    """

    def __init__(self, timeline: Timeline, *, quiet: bool, console: Console | None = None) -> None:
        from rich.console import Console

        self.console = console or Console(stderr=quiet, highlight=False)
        self._silent = quiet and not self.console.is_terminal
        self._timeline = timeline
        self._live: Live | None = None
        self._kept: list[tuple[str, str]] = []
        self._stopping = ""
        # Lines are printed in the order of the journal. The picture does not take this lock: rich draws it
        # from its own thread while it holds the terminal's.
        self._printing = Lock()

    def __enter__(self) -> RolloutView:
        if self.console.is_terminal and not self._silent:
            from rich.live import Live

            self._live = Live(
                get_renderable=self._frame, console=self.console, transient=True, refresh_per_second=4
            )
            self._try(self._live.start)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            live, self._live = self._live, None
            self._try(live.stop)
            with self._printing:
                for text, style in self._kept:
                    self._print(text, style)
                self._kept.clear()

    def __call__(self, event: Event) -> None:
        """Take one event in, and print a line: at once, or once the picture has ended."""
        with self._printing:
            text = self._timeline(event)
            if self._silent:
                return
            if isinstance(event, Began):
                header = event.header
                image = f"{header.image} ({short_digest(header.digest)})"
                self._say(f"{header.kind} {header.id} to {image}, begun by {header.by}", _NAME)
            elif isinstance(event, Recorded) and text and (self._live is None or _kept(event.entry)):
                # That it stopped, and why, is the first line of the result.
                if event.entry.step != "stopped":
                    self._say(text, _WARN if event.entry.step == "rolling-back" else "")
            elif isinstance(event, Stopping) and event.to != self._stopping:
                self._stopping = event.to
                self._say(_STOPPING.get(event.to, event.to), _WARN)

    def result(self, report: Report, *, saved: str = "", repeat: str = "") -> None:
        """How it ended. `saved` is the report's file, `repeat` the command whose `--resume` goes on."""
        if self._silent:
            return
        state = report.outcome.state
        if state == "finished":
            self._print(f"{verdict(report)}; {facts(report)}", _GOOD)
        elif state == "unchanged":
            self._print(verdict(report), _GOOD)
        else:
            self._failed(report)
        if state == "stopped":
            again = report.outcome.resume or f"{repeat or 'fleet upgrade'} --resume"
            self._hint(f"go on: `{again}`")
            self._hint(f"or go back to blue: `{again.replace('--resume', '--abort')}`")
        for slot, why in report.outcome.lost.items():
            self._line(slot, f"could not be brought back: {why}", _BAD)
        if report.outcome.lost and state != "stopped":
            slots = " ".join(report.outcome.lost)
            self._hint(f"try: mend that, then `fleet provision`, then `fleet ready {slots}` (it is drained)")
        for note in report.outcome.notes:
            self._print(f"note: {note}", _WARN)
        if saved:
            self._print(f"report: {saved}", _DIM)

    def inventory(self, place: Place, says: str, runs: str) -> None:
        """The inventory still names another image than the slots run."""
        if not self._silent:
            self._line(str(place), f"says image {says}; the slots run {runs}", _WARN)
            self._hint(f"try: write {runs} there, or `fleet provision` will refuse to touch these slots")

    def _failed(self, report: Report) -> None:
        outcome = report.outcome
        self._print(verdict(report), _BAD)
        if outcome.rung or outcome.failed_slot:
            what = f"failed: {outcome.rung}" if outcome.rung else "failed"
            self._line(outcome.failed_slot or "gate", what, _BAD)
        log = clean(outcome.log).strip("\n").splitlines()
        if len(log) > _LOG_LINES:
            log = [f"[{len(log) - _LOG_LINES} earlier lines left out]", *log[-_LOG_LINES:]]
        for line in log:
            self._print(f"  | {line}", _DIM)
        if outcome.remedy:
            self._hint(f"try: {outcome.remedy}")
        self._print(serving(report))
        self._print(facts(report), _DIM)

    def _frame(self) -> Group:
        from rich.console import Group

        from fleet.console.rollout_live import frame

        moment = self._timeline.moment()
        if moment is None:
            return Group()
        options = self.console.options
        ascii_only = options.ascii_only or options.legacy_windows
        return Group(
            *frame(moment, self.console.width, max(8, self.console.height - 1), ascii_only=ascii_only)
        )

    def _line(self, place: str, text: str, style: str = "") -> None:
        from rich.text import Text

        self._show(Text.assemble((clean(place), _NAME), ": ", (clean(text), style)))

    def _hint(self, text: str) -> None:
        self._print(f"  {text}", _DIM)

    def _say(self, text: str, style: str) -> None:
        if self._live is None:
            self._print(text, style)
        else:
            self._kept.append((text, style))

    def _print(self, text: str, style: str = "") -> None:
        from rich.text import Text

        self._show(Text(clean(text), style=style))

    def _show(self, text: Text) -> None:
        self._try(lambda: self.console.print(text, soft_wrap=not self.console.is_terminal))

    def _try(self, show: Callable[[], object]) -> None:
        """Show it, where anybody is left to see it: a lost terminal or reader must not end a rollout."""
        self._silent = self._silent or not shown(show)


_STEPS_KEPT = (
    "pulled",
    "soaked",
    "accepted",
    "rolling-back",
    "restored",
    "finished",
    "rolled-back",
)


def _kept(entry: Entry) -> bool:
    """True for what is left on a terminal: how each wave ended, and jobs that were cut."""
    return entry.step in _STEPS_KEPT or bool(cut_of(entry.detail))


_STOPPING = {
    "stop": "stopping after this step; press Ctrl-C again to go back to blue",
    "abort": "going back to blue",
}
