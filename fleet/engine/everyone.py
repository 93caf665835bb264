"""The same of many hosts at once: everybody's answer, or the error that it ended with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

from fleet.engine.hostrun import internal
from fleet.errors import FleetError

MAX_FORKS = 64
"""Hosts worked on at once by default; more threads gain nothing on the controllers measured."""

_TICK = 0.5
"""Seconds: a signal that comes just when Python begins to wait is seen only once it wakes up."""

T = TypeVar("T")


def ask_all(
    names: Iterable[str], ask: Callable[[str], T], what: str, *, at_once: int = 0, see_through: bool = False
) -> dict[str, T | FleetError]:
    """By name, in the order of the names, what `ask` returned or the FleetError it raised.

    Anything else that it raises is a bug, told as one that happened while `what` ("looking at the host").
    `at_once` names at the same time at most; 0 means MAX_FORKS. Ctrl-C is raised at once, and who is
    still asked is left alone; with `see_through` (for changes that must not be cut) when all have ended.
    """

    def one(name: str) -> T | FleetError:
        try:
            return ask(name)
        except FleetError as error:
            return error
        except Exception as bug:
            return internal(what, bug)

    names = list(names)
    pool = ThreadPoolExecutor(max_workers=at_once or max(1, min(len(names), MAX_FORKS)))
    try:
        asked = {name: pool.submit(one, name) for name in names}
        while wait(asked.values(), _TICK).not_done:
            pass
        return {name: future.result() for name, future in asked.items()}
    finally:
        pool.shutdown(wait=see_through, cancel_futures=True)


def parted(answers: Mapping[str, T | FleetError]) -> tuple[dict[str, T], dict[str, FleetError]]:
    """The answers of those that answered, and the errors of the others."""
    failed = {name: each for name, each in answers.items() if isinstance(each, FleetError)}
    return {name: each for name, each in answers.items() if not isinstance(each, FleetError)}, failed
