"""A change that fails in its middle: what it had begun is taken back, as far as its steps know how."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from fleet.engine.runner import Runner
from fleet.errors import FleetError, UnreachableError
from fleet.model.steps import EngineCall, Run, Step


@contextmanager
def taken_back(runner: Callable[[], Runner | None]) -> Iterator[list[Step]]:
    """Gives a list for the steps that were begun; where the body fails they are undone, the last one first.

    The failed one is among them: it may have been done in part. The error says what came of it. A host that
    cannot be reached has nothing undone.
    """
    begun: list[Step] = []
    try:
        yield begun
    except UnreachableError:
        raise
    except Exception as error:
        steps = (step for step in reversed(begun) if isinstance(step, Run | EngineCall))
        if ways := [step.undo for step in steps if step.undo]:
            said = _undo(ways, runner())
            if isinstance(error, FleetError):
                error.message += f"; {said}"
            else:
                error.add_note(said)
        raise


def _undo(ways: Sequence[Run | EngineCall], runner: Runner | None) -> str:
    """Go these ways back, each whatever becomes of the others, and say what came of it."""
    if runner is None:
        return "nothing was undone: the connection is closed"
    problems = []
    for way in ways:
        try:
            runner.execute(way, lambda *_: None)
        except FleetError as error:
            problems.append(f"{error.message} {error.output.strip()}".strip())
        except Exception as bug:
            problems.append(repr(bug))
    if problems:
        return f"undoing it failed as well: {', '.join(problems)}"
    again = [
        str(way.arguments["name"]) for way in ways if isinstance(way, EngineCall) and way.operation == "start"
    ]
    return f"{' and '.join(again)} runs again as before" if again else "it was undone"
