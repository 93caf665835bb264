"""`fleet lb` on the screen and as JSON: configurations, differences, verdicts, what a push did."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from fleet.console.errors import error_json, error_lines
from fleet.errors import FleetError
from fleet.lb.diff import Difference
from fleet.lb.push import Outcome
from fleet.lb.verdict import Message, Verdict

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_STATES = {"changed": "yellow", "unchanged": "green", "untouched": "dim"}
_FOREIGN = "nothing that fleet wrote"
_DIFF = {"+": "green", "-": "red", "@": "cyan"}


def _console(stderr: bool = False) -> Console:
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, soft_wrap=True)


def show_trouble(host: str, error: FleetError, note: str = "") -> None:
    """A host that could not be asked, on stderr."""
    from rich.text import Text

    console = _console(stderr=True)
    first, *rest = error_lines(error)
    console.print(Text.assemble((f"{host}: ", "bold red"), first.removeprefix(f"{host}: ")))
    for line in (*rest, *([f"  {note}"] if note else [])):
        console.print(Text(line))


def show_header(host: str, path: str, word: str) -> None:
    """Whose configuration comes next, as a comment on stderr: stdout has nothing but configurations."""
    from rich.text import Text

    _console(stderr=True).print(Text(f"# {host}:{path} ({word})", style="bold"))


def show_warning(text: str) -> None:
    """A remark on stderr."""
    from rich.text import Text

    _console(stderr=True).print(Text.assemble(("note: ", "yellow"), text))


def show_difference(difference: Difference, running: str | None) -> None:
    """One balancer's differences; in one line where there is none."""
    from rich.text import Text

    console = _console()
    name = (difference.host, "bold")
    if not difference.any:
        console.print(Text.assemble(name, ("  no difference", "green"), f", runs {running or 'nothing'}"))
    for line in difference.config.splitlines():
        console.print(_diff_line(line))
    for summary, diff in difference.others:
        console.print(Text.assemble(name, "  ", ("to do", "yellow"), f"  {summary}"))
        for line in diff.splitlines():
            console.print(_diff_line(line, "  "))
    for remark in difference.remarks:
        console.print(Text.assemble(name, "  ", ("note", "cyan"), f"   {remark}"))


def _diff_line(line: str, indent: str = "") -> Text:
    from rich.text import Text

    bold = line.startswith(("--- ", "+++ "))
    return Text(indent + line, style="bold" if bold else _DIFF.get(line[:1], ""))


def difference_json(difference: Difference) -> dict[str, Any]:
    """One balancer of `lb diff --json`."""
    return {
        "differs": difference.any,
        "diff": difference.config,
        "changes": [{"summary": summary, "diff": diff} for summary, diff in difference.others],
        "remarks": list(difference.remarks),
        "error": None,
    }


def show_verdict(verdict: Verdict) -> None:
    """One balancer's answer, then its messages with the lines they are about."""
    from rich.text import Text

    console = _console()
    if verdict.error is not None:
        first, *rest = error_lines(verdict.error)
        console.print(Text.assemble(("    failed  ", "bold red"), (verdict.host, "bold"), f"  {first}"))
        for line in rest:
            console.print(Text(" " * 10 + line))
        return
    counts = _counts(verdict.messages)
    word = ("  accepted", "green") if verdict.accepted else ("   refused", "bold red")
    what = f"{verdict.hash or 'configuration'}, {verdict.lines} lines"
    by = f"by {verdict.software} {verdict.version}{counts}"
    console.print(Text.assemble(word, "  ", (verdict.host, "bold"), f"  {what}, {by}"))
    for message in verdict.messages:
        _show_message(console, message)


def _counts(messages: Iterable[Message]) -> str:
    levels = [message.level for message in messages]
    parts = [
        f"{levels.count(level)} {level}{'s' if levels.count(level) > 1 else ''}"
        for level in ("error", "warning")
        if level in levels
    ]
    return f": {', '.join(parts)}" if parts else ""


def _show_message(console: Console, message: Message) -> None:
    from rich.text import Text

    style = "bold red" if message.level == "error" else "yellow"
    place = message.file + (f":{message.line}" if message.line else "")
    where = f"{place}: " if place else ""
    console.print(Text.assemble(" " * 12, (message.level, style), f"  {where}{message.message}"))
    if message.text:
        console.print(Text(f"{' ' * 14}| {message.text}"))
    if message.template:
        console.print(Text(f"{' ' * 14}from {message.template}", style="dim"))


def verdict_json(verdict: Verdict) -> dict[str, Any]:
    """One balancer of `lb check --json`."""
    return {
        "accepted": verdict.accepted,
        "hash": verdict.hash,
        "version": verdict.version,
        "messages": [
            {
                "level": message.level,
                "message": message.message,
                "file": message.file or None,
                "line": message.line,
                "text": message.text or None,
                "template": str(message.template) if message.template else None,
            }
            for message in verdict.messages
        ],
        "error": error_json(verdict.error) if verdict.error else None,
    }


def show_outcomes(outcomes: Iterable[Outcome], *, check: bool = False) -> None:
    """What each balancer runs after a push, and how it came to it; with `check`, what it would run."""
    from rich.text import Text

    console = _console()
    console.print()
    for outcome in outcomes:
        style = _STATES.get(outcome.state, "bold red")
        word = "would change" if check and outcome.state == "changed" else outcome.state
        told = _expected(outcome) if check else _told(outcome)
        console.print(Text.assemble((f"{word:>12}", style), "  ", (outcome.host, "bold"), f"  {told}"))


def _expected(outcome: Outcome) -> str:
    if outcome.state == "unreachable":
        return "could not be reached"
    new = outcome.wanted is not None and outcome.wanted != outcome.before
    return f"runs {outcome.before or _FOREIGN}" + (f", would run {outcome.wanted}" if new else "")


def _told(outcome: Outcome) -> str:
    if outcome.state == "unreachable":
        return "could not be reached; what it runs is not known"
    if not outcome.answers:
        unit = outcome.software.lower()
        return f"{outcome.software} does not answer: look at `journalctl -u {unit}` there, then push again"
    runs = f"runs {outcome.after or _FOREIGN}"
    if outcome.rolled_back:
        return f"{runs} again: {outcome.rolled_back} did not start and was rolled back"
    if outcome.state == "untouched" or (outcome.state == "failed" and outcome.before == outcome.after):
        return f"{runs} as before"
    if outcome.before != outcome.after:
        runs += f" instead of {outcome.before or _FOREIGN}"
    done = "reloaded" if outcome.reloaded else "not reloaded"
    return f"{runs}, {done if outcome.ran else 'started'}"


def outcomes_json(outcomes: Iterable[Outcome]) -> dict[str, Any]:
    """`balancers` of `lb push --json`."""
    return {
        outcome.host: {
            "state": outcome.state,
            "wanted": outcome.wanted,
            "before": outcome.before,
            "after": outcome.after,
            "reloaded": outcome.reloaded,
            "rolled_back": outcome.rolled_back,
            "error": error_json(outcome.error) if outcome.error else None,
        }
        for outcome in outcomes
    }


def troubles_json(troubles: Mapping[str, FleetError]) -> dict[str, Any]:
    """The hosts whose GPUs could not be looked at."""
    return {name: error_json(error) for name, error in troubles.items()}
