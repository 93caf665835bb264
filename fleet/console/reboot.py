"""`fleet reboot` on the screen: a line for each step of each host, and how it ended."""

from __future__ import annotations

import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

from fleet.console.errors import error_json, error_lines
from fleet.console.lost import shown
from fleet.control.spans import in_words
from fleet.reboot.model import HostOutcome, Rebooted

if TYPE_CHECKING:
    from rich.console import Console

_STYLES = {
    "rebooted": "green",
    "finished": "green",
    "not needed": "dim",
    "due": "yellow",
    "untouched": "yellow",
}
_COUNTED = {"not needed": "without need", "untouched": "not touched"}


def reboot_json(result: Rebooted) -> dict[str, Any]:
    """The document of `--json`, with the hosts' errors."""
    document = result.as_json()
    for row, host in zip(document["hosts"], result.hosts, strict=True):
        row["error"] = error_json(host.error) if host.error else None
    return document


class RebootView:
    """Prints for a person or a pipe; `quiet` (for --json) moves it to stderr, if a person is there."""

    def __init__(self, *, quiet: bool, console: Console | None = None) -> None:
        from rich.console import Console

        self.console = console or Console(stderr=quiet, highlight=False)
        self._silent = quiet and not self.console.is_terminal
        self._last: dict[str, str] = {}
        self._lock = threading.Lock()

    def __call__(self, place: str, text: str) -> None:
        """How far a host or slot is; the same word twice is one line."""
        with self._lock:
            if self._last.get(place) != text:
                self._last[place] = text
                self._line(place, text)

    def result(self, result: Rebooted, again: str = "") -> None:
        """How each host ended and what to do about it; `again` is the command for those that are left."""
        for host in result.hosts:
            self._line(host.host, _words(host, result), _STYLES.get(host.state, "bold red"))
            if host.error is not None:
                for line in error_lines(host.error):
                    self._line("", f"  {line}", "dim")
        if result.left and len(result.hosts) > 1:
            self._line("", _counted(result), "bold")
        if result.left and again:
            self._line("", f"to go on: {again}")

    def _line(self, place: str, text: str, style: str = "") -> None:
        from rich.text import Text

        parts = ((place, "bold"), ": ") if place else ()
        said, wrap = Text.assemble(*parts, (text, style)), not self.console.is_terminal
        # A lost terminal or reader must not keep a host drained.
        self._silent = self._silent or not shown(lambda: self.console.print(said, soft_wrap=wrap))


def _counted(result: Rebooted) -> str:
    """`2 rebooted, 1 not back, 3 untouched`."""
    counts = Counter(each.state for each in result.hosts)
    return ", ".join(f"{count} {_COUNTED.get(state, state)}" for state, count in counts.items())


def _words(host: HostOutcome, result: Rebooted) -> str:
    stays = "stays" if len(host.slots) == 1 else "stay"
    names = ", ".join(host.slots)
    slots = f"; {names} {stays} drained" if host.drained and names else ""
    match host.state:
        case "due":
            return host.reason
        case "not needed":
            return "nothing asks for a reboot"
        case "rebooted":
            return f"rebooted in {in_words(host.seconds)}"
        case "finished":
            return "the reboot that was begun before is finished"
        case "untouched":
            why = "the run was interrupted" if result.interrupted else "another host did not end well"
            return f"not touched, since {why}"
        case "interrupted":
            takes = "takes" if len(host.slots) == 1 else "take"
            return f"interrupted{slots or (f'; {names} {takes} jobs as before' if names else '')}"
        case "not reached":
            return "cannot be reached; no host was rebooted"
        case "not back":
            return f"has not come back{slots}"
        case _:
            return f"failed{slots}"
