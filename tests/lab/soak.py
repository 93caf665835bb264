"""What a soak measured: tests write it down line by line, and `python -m tests.lab.soak` makes a page of it."""

from __future__ import annotations

import json
import os
import statistics
import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.lab.jobs import Tally

RESULTS = "FLEET_SOAK_RESULTS"


def record(case: str, balancer: str, tally: Tally, spread: float | None, note: str = "") -> None:
    """Write one row down, where `make soak` asked for it."""
    if not (path := os.environ.get(RESULTS)):
        return
    waited = sorted(seconds for seconds in tally.seconds if seconds)
    row = {
        "case": case,
        "balancer": balancer,
        "jobs": tally.jobs,
        "failed": len(tally.failed),
        "refused": len(tally.refused),
        "spread": spread,
        "median": statistics.median(waited) if waited else None,
        "p99": waited[int(len(waited) * 0.99)] if waited else None,
        "note": note,
        "reasons": dict(Counter(failure.reason for failure in tally.failed)),
    }
    with Path(path).open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def about(**facts: str) -> None:
    """Write down what was tested, such as versions."""
    if path := os.environ.get(RESULTS):
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"about": facts}) + "\n")


def page(rows: list[dict[str, Any]], when: datetime) -> str:
    """The rows as docs/soak.md."""
    facts = {key: value for row in rows if "about" in row for key, value in row["about"].items()}
    lines = [
        "# The last soak",
        "",
        "Written by `make soak`: the acceptance tests of the balancer and of upgrades at full length, on a lab of their own.",
        "docs/balancer.md says how the balancer works; test_matrix.py, test_disturbed.py, test_overload.py and",
        "test_spread.py in tests/lab say what each row does. *Spread* is how far the slot that is farthest off is",
        "from its share by weight. A killed container takes the jobs in flight in it along: those are its failures,",
        "and each must have ended within 2 s. *Refused* are jobs told at once to come back (503).",
        "",
        "Rows of upgrades are those of test_upgrade.py, test_upgrade_faults.py, test_upgrade_resume.py and",
        "test_upgrade_crowd.py: the jobs of all kinds of clients while `fleet upgrade` worked, through both balancers",
        "at once. Jobs in flight on a host that died, or through a balancer that was restarted by hand, are failures",
        "there, and no others. *Ready* is the least weight that took jobs, as HAProxy told ten times a second.",
        "",
        f"{when:%d %B %Y}; " + "; ".join(f"{key} {value}" for key, value in sorted(facts.items())) + ".",
        "",
        "| case | balancer | jobs | failed | refused | spread | median s | 99th percentile s |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        if "about" not in row:
            lines.append(_line(row))
    return "\n".join(lines) + "\n"


def _line(row: dict[str, Any]) -> str:
    def number(key: str, form: str) -> str:
        return "" if row[key] is None else format(row[key], form)

    note = f" ({row['note']})" if row["note"] else ""
    return (
        f"| {row['case']}{note} | {row['balancer']} | {row['jobs']} | {row['failed']} | {row['refused']} "
        f"| {number('spread', '.1%')} | {number('median', '.2f')} | {number('p99', '.2f')} |"
    )


def main() -> None:
    """RESULTS PAGE: make the page of the results."""
    results, target = sys.argv[1:]
    rows = [json.loads(line) for line in Path(results).read_text(encoding="utf-8").splitlines()]
    text = page(rows, datetime.now(tz=UTC))
    Path(target).write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
