"""A change that fails in its middle: what it had begun is taken back, as far as its steps know how."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fleet.engine.runner import Runner
from fleet.errors import FleetError, UnreachableError
from fleet.model.steps import EngineCall, Run, Step


@contextmanager
def taken_back(runner: Callable[[], Runner | None]) -> Iterator[list[Step]]:
    """Gives a list for the steps that were begun; where the body fails they are undone, the last one first.

    The failed one is among them: it may have been done in part. The error says whether that succeeded. A
    host that cannot be reached has nothing taken back.
    """
    begun: list[Step] = []
    try:
        yield begun
    except UnreachableError:
        raise
    except FleetError as error:
        steps = (step for step in reversed(begun) if isinstance(step, Run | EngineCall))
        if ways := [step.undo for step in steps if step.undo]:
            error.message += f"; {_undo(ways, runner())}"
        raise


def _undo(ways: list[Run | EngineCall], runner: Runner | None) -> str:
    problems = []
    for way in ways:
        try:
            if runner is not None:
                runner.execute(way, lambda *_: None)
        except FleetError as error:
            problems.append(f"{error.message} {error.output.strip()}".strip())
    if not problems:
        return "it was undone: all is as before this change"
    return f"undoing it failed as well: {', '.join(problems)}"
