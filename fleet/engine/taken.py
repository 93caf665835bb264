"""What a plan still has to do once it was carried out, and what it cannot do yet."""

from __future__ import annotations

from collections.abc import Sequence

from fleet.errors import TaskError
from fleet.model.steps import Change


def check_not_deferred(changes: Sequence[Change]) -> None:
    """Raise TaskError where a change waits for what is not there."""
    waiting = [change for change in changes if change.deferred]
    if waiting:
        remedies = dict.fromkeys(change.remedy for change in waiting if change.remedy)
        raise TaskError(
            f"cannot be done yet: {'; '.join(change.summary for change in waiting)}",
            remedy="; ".join(remedies)
            or "what this depends on was not there when the task came; run the tasks before it",
        )


def check_taken(left: Sequence[Change], done: Sequence[Change] | None = None) -> None:
    """Raise TaskError where something is left to do; of what was `done`, where that is told."""
    if done is not None:
        summaries = {change.summary for change in done}
        left = [change for change in left if change.summary in summaries]
    if left:
        raise TaskError(
            f"did not take: still to do after the change: {'; '.join(c.summary for c in left)}",
            output="\n".join(c.diff for c in left if c.diff),
        )
