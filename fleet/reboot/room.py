"""How many hosts may be away together: as many as wished, and as the others can carry."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from math import floor
from typing import Protocol

from fleet.control.targets import host_of
from fleet.errors import InputError
from fleet.reboot.batch import Work
from fleet.reboot.model import Say, Wish
from fleet.rollout.model import Share

PATIENCE = 60.0
"""Seconds for slots to come back before the floor that was asked for ends the run."""

DEFAULT_FLOOR = Share(50, percent=True)
"""What stays ready while more than one host is away; one alone goes below it, unless a floor is asked for."""

_PAUSE = 1.0


class Weighs(Protocol):
    """`fleet.reboot.service.Service` is it."""

    def weights(self) -> Mapping[str, Mapping[str, int]]:
        """By balancer and slot: the weight of those that take jobs."""
        ...


class Room:
    """The floor over a whole run: a percentage is of the most that was ready at any time in it."""

    def __init__(self, service: Weighs, wish: Wish, say: Say) -> None:
        self._service = service
        self._wish = wish
        self._say = say
        self._most: dict[str, int] = {}

    def choose(self, works: Sequence[Work]) -> list[Work]:
        """The hosts to go next, in order; at least one.

        Those that an earlier run left come first, by themselves: they may bring back what the others need.
        Raises InputError where a floor was asked for and no host can go, and what the service raises.
        """
        if back := [work for work in works if work.back]:
            return back[: self._wish.together]
        if self._wish.floor is None and (self._wish.together == 1 or self._wish.allow_down):
            return list(works[: self._wish.together])
        until = time.monotonic() + PATIENCE
        while True:
            chosen, short = self._fitting(works)
            if chosen:
                return chosen
            if self._wish.floor is None:
                return list(works[:1])
            if time.monotonic() >= until:
                raise short
            self._say(works[0].name, f"waiting: {short.message}")
            time.sleep(_PAUSE)

    def _fitting(self, works: Sequence[Work]) -> tuple[list[Work], InputError]:
        """Those that can go together, and why the first one cannot where there are none."""
        weights = self._service.weights() if any(work.serves for work in works) else {}
        chosen: list[Work] = []
        refused: list[InputError] = []
        for work in works:
            if len(chosen) == self._wish.together:
                break
            error = self._short([*chosen, work], weights)
            if error is None:
                chosen.append(work)
            else:
                refused.append(error)
        return chosen, refused[0] if refused else InputError("no host can go")

    def _short(self, works: Sequence[Work], weights: Mapping[str, Mapping[str, int]]) -> InputError | None:
        """Why these cannot be away together; None where they can."""
        share = self._wish.floor or DEFAULT_FLOOR
        away = [work.name for work in works if work.serves]
        for balancer, slots in weights.items():
            ready = sum(slots.values())
            left = sum(weight for slot, weight in slots.items() if host_of(slot) not in away)
            most = self._most[balancer] = max(ready, self._most.get(balancer, 0))
            least = share.of(most)
            if left < ready and left < least:
                told = f"{least:g}" + (f" ({share})" if share.percent else "")
                return InputError(
                    f"rebooting {', '.join(away)} leaves {balancer} weight {left} of {most}, "
                    f"the floor is {told}",
                    remedy="bring more slots into service first, or lower --floor to "
                    f"{floor(100 * left / most)}%",
                )
        return None
