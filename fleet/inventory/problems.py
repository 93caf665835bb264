"""Collects every mistake of the inventory, so that a user mends them in one go."""

from __future__ import annotations

from dataclasses import dataclass

from fleet.errors import InputError, Place

MOST_SHOWN = 10


@dataclass(frozen=True)
class Problem:
    """One mistake: where, what, and what to do."""

    place: Place
    message: str
    remedy: str


class Problems:
    """The mistakes found so far; `check` raises them as one error."""

    def __init__(self) -> None:
        self._found: list[Problem] = []
        self._files: dict[str, int] = {}

    def add(self, place: Place, message: str, remedy: str) -> None:
        """Note a mistake. One that is noted twice (a YAML alias used twice) is shown once."""
        problem = Problem(place, message, remedy)
        if problem not in self._found:
            self._found.append(problem)
            self._files.setdefault(place.file, len(self._files))

    def check(self) -> None:
        """Raise the first mistake as InputError, the others in its output; do nothing where all is well."""
        if not self._found:
            return
        first, *others = sorted(self._found, key=self._position)
        lines = [f"{p.place}: {p.message} ({p.remedy})" for p in others[: MOST_SHOWN - 1]]
        if len(others) >= MOST_SHOWN:
            lines.append(f"and {len(others) - MOST_SHOWN + 1} more")
        raise InputError(first.message, place=first.place, output="\n".join(lines), remedy=first.remedy)

    def _position(self, problem: Problem) -> tuple[int, int, int]:
        place = problem.place
        return self._files[place.file], place.line or 0, place.column or 0
