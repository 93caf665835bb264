"""What a rollout's result says, kept on the balancers: how it ended, and what its steps took."""

from __future__ import annotations

import json
import statistics
from typing import Any

from fleet.rollout.events import Outcome


def summary(outcome: Outcome) -> dict[str, Any]:
    """The result as plain values; times in seconds, `load` and `drain` null where nothing was measured."""
    loads = [
        float(entry.detail["seconds"])
        for entry in outcome.entries
        if entry.step == "ready" and entry.detail.get("to") == "green" and "seconds" in entry.detail
    ]
    drains = [
        float(entry.detail["seconds"])
        for entry in outcome.entries
        if entry.step == "drained" and "seconds" in entry.detail
    ]
    return {
        "state": outcome.state,
        "reason": outcome.reason,
        "rung": outcome.rung,
        "failed_slot": outcome.failed_slot,
        "seconds": round(outcome.seconds, 3),
        "cut": dict(outcome.cut),
        "lost": dict(outcome.lost),
        "load": round(statistics.median(loads), 3) if loads else None,
        "drain": round(statistics.median(drains), 3) if drains else None,
    }


def measured(result: bytes | None) -> tuple[float | None, float | None]:
    """The load's and the drain's seconds out of a result; None where it does not tell them."""
    try:
        said = json.loads(result or b"{}")
        load, drain = said.get("load"), said.get("drain")
        return (None if load is None else float(load)), (None if drain is None else float(drain))
    except (ValueError, TypeError, AttributeError):
        return None, None
