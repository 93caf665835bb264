"""`fleet doctor` on the screen: a line for each group that is well, and every problem once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from fleet.doctor.fold import Folded, fold
from fleet.doctor.model import GROUPS, Check, Finding, Mended, Report, Result
from fleet.doctor.rollout import note

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_GOOD, _BAD, _DIM, _NAME = "green", "bold red", "dim", "bold"
_PLACES = 8
"""So many places of one problem are told; `--json` has all."""

_WIDTH = max(map(len, GROUPS))


def show_report(report: Report, console: Console | None = None) -> None:
    """Print the groups in order, then one line that sums it up."""
    from rich.console import Console
    from rich.text import Text

    console = console or Console(highlight=False)
    folded = fold(report.findings)
    for group in GROUPS:
        results = [each for each in report.results if each.check.group == group]
        if results:
            _show_group(console, group, results, [each for each in folded if each.check.group == group])
    for mended in report.mended:
        _say(console, Text(), _mended(mended))
    if report.findings or report.mended:
        console.print()
    if word := note(report):
        _say(console, Text(), Text(word, style="yellow"))
    _say(console, Text(), Text(_summary(report, folded), style=_BAD if folded else _GOOD))


def show_checks(checks: Sequence[Check], console: Console | None = None) -> None:
    """Print all checks with why they matter, for `--list`."""
    from rich.console import Console
    from rich.text import Text

    console = console or Console(highlight=False)
    width = max(len(check.id) for check in checks)
    for check in checks:
        _say(console, Text.assemble((check.id.ljust(width), _NAME), "  "), Text(check.why))


def show_fixes(findings: Iterable[Finding], console: Console | None = None) -> None:
    """Print what `--fix` would do, on stderr."""
    from rich.console import Console
    from rich.text import Text

    console = console or Console(stderr=True, highlight=False)
    for each in findings:
        if each.trouble.fix is not None:
            line = Text.assemble((each.host, _NAME), f": {each.trouble.fix.what}  ({each.trouble.what})")
            console.print(line, soft_wrap=not console.is_terminal)


def report_json(report: Report) -> dict[str, Any]:
    """The stable document of `fleet doctor --json`, described in docs/doctor.md."""
    return {
        "ok": report.ok,
        "hosts": list(report.hosts),
        "unreachable": list(report.unreachable),
        "results": [
            {
                "check": each.check.id,
                "host": each.host,
                "state": _state(each),
                "found": each.verdict.found or each.verdict.skipped,
            }
            for each in report.results
        ],
        "problems": [_problem(each) for each in report.findings],
        "mended": [
            {"host": each.host, "check": each.check, "what": each.what, "error": each.error or None}
            for each in report.mended
        ],
        "note": note(report) or None,
    }


def _problem(finding: Finding) -> dict[str, Any]:
    trouble = finding.trouble
    return {
        "check": finding.check.id,
        "host": finding.host,
        "place": finding.place,
        "what": trouble.what,
        "detail": trouble.detail,
        "why": finding.check.why,
        "remedy": finding.remedy,
        "fix": trouble.fix.what if trouble.fix else None,
    }


def _state(result: Result) -> str:
    if result.verdict.troubles:
        return "problem"
    return "skipped" if result.verdict.skipped else "ok"


def _show_group(console: Console, group: str, results: Sequence[Result], troubles: Sequence[Folded]) -> None:
    from rich.text import Text

    hosts = _count(len({each.host for each in results}), "host")
    passed = _passed(results)
    head = Text.assemble((group.ljust(_WIDTH), _NAME), "  ")
    if not troubles:
        rest = f"  {hosts}: {', '.join(passed) or 'nothing to look at'}"
        _say(console, head, Text.assemble(("ok", _GOOD), rest))
    else:
        told = _count(len(troubles), "problem")
        also = f"; ok: {', '.join(passed)}" if passed else ""
        _say(console, head, Text.assemble((told, _BAD), (f"  {hosts}{also}", _DIM)))
    for each in troubles:
        _show_trouble(console, each)
    for left_out in _left_out(results):
        _say(console, Text("  "), Text(left_out, style=_DIM))


def _show_trouble(console: Console, each: Folded) -> None:
    from rich.text import Text

    _say(console, Text("  "), Text.assemble((each.check.id, _NAME), ": ", (each.what, _BAD)))
    shown = [f"{place} ({detail})" if detail else place for place, detail in each.places[:_PLACES]]
    left = len(each.places) - len(shown)
    more = f", and {left} more (all in --json)" if left else ""
    _say(console, Text("    on:  "), Text(f"{', '.join(shown)}{more}"))
    _say(console, Text("    why: ", style=_DIM), Text(each.check.why, style=_DIM))
    fix = "  [--fix does it]" if each.fixable == len(each.hosts) else ""
    _say(console, Text("    try: "), Text(f"{each.remedy}{fix}"))


def _say(console: Console, head: Text, body: Text) -> None:
    """One line; on a terminal that is too narrow for it, several, the later ones indented as the body is."""
    from rich.text import Text

    if not console.is_terminal:
        console.print(Text.assemble(head, body), soft_wrap=True)
        return
    lines = body.wrap(console, max(20, console.width - head.cell_len))
    for place, line in enumerate(lines):
        start = head if place == 0 else Text(" " * head.cell_len)
        console.print(Text.assemble(start, line), soft_wrap=True)


def _passed(results: Sequence[Result]) -> list[str]:
    """The names of checks that are well on every host that could be looked at, and on how many that was."""
    by_check: dict[str, list[Result]] = {}
    for each in results:
        by_check.setdefault(each.check.name, []).append(each)
    said = []
    for name, rows in by_check.items():
        looked = [row for row in rows if not row.verdict.skipped]
        if looked and not any(row.verdict.troubles for row in rows):
            part = f" (on {len(looked)} of {len(rows)})" if len(looked) < len(rows) else ""
            said.append(f"{name}{part}")
    return said


def _left_out(results: Sequence[Result]) -> list[str]:
    """What could not be looked at, and why, once for all hosts."""
    why: dict[tuple[str, str], list[str]] = {}
    for each in results:
        if each.verdict.skipped:
            why.setdefault((each.verdict.skipped, each.host), []).append(each.check.name)
    places: dict[tuple[str, str], list[str]] = {}
    for (reason, host), names in why.items():
        places.setdefault((reason, ", ".join(names)), []).append(host)
    return [f"not looked at: {names}: {reason} ({_some(hosts)})" for (reason, names), hosts in places.items()]


def _some(names: Sequence[str]) -> str:
    left = len(names) - _PLACES
    return ", ".join(names[:_PLACES]) + (f" and {left} more" if left > 0 else "")


def _mended(each: Mended) -> Any:
    from rich.text import Text

    if each.error:
        return Text.assemble((each.host, _NAME), ": ", (f"could not {each.what}: {each.error}", _BAD))
    return Text.assemble((each.host, _NAME), ": ", (f"done: {each.what}", _GOOD))


def _summary(report: Report, folded: Sequence[Folded]) -> str:
    checks = len({each.check.id for each in report.results})
    looked = f"{_count(len(report.hosts), 'host')}, {_count(checks, 'check')}"
    if not folded:
        return f"{looked}: all well"
    sick = {host for each in folded for host in each.hosts}
    text = f"{looked}: {_count(len(folded), 'problem')} on {_count(len(sick), 'host')}"
    if report.unreachable:
        text += f", {len(report.unreachable)} unreachable"
    tried = {(each.check, each.host) for each in report.mended if each.error}
    fixable = sum(
        1
        for each in folded
        if each.fixable and not any((each.check.id, host) in tried for host in each.hosts)
    )
    if fixable:
        text += f"; `fleet doctor --fix` mends {fixable} of them"
    return text


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
