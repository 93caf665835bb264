"""Side by side: green has climbed every rung beside blue before blue is drained, and leaves where it fails."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from fleet.rollout.executor import Rollout
from fleet.rollout.model import Entry, Header, Options, Origin, Strategy
from fleet.rollout.progress import progress_of
from fleet.rollout.world import RungError, ServerNow

QUICK = Options(ramp=(100,), soak=0.0, rehearsals=2)
ORIGINS = tuple(
    Origin(slot, "a", "blue-1", "app:v1", "sha256:1", 10, False, "green-1", Strategy.SIDE_BY_SIDE)
    for slot in ("a-0", "a-1")
)
HEADER = Header("r", "upgrade", "app:v2", "sha256:2", "me", 0.0, 10.0, 20, (("a-0",), ("a-1",)), ORIGINS)


class Cards:
    """Two slots whose cards have room for two containers; every call is written down."""

    def __init__(self, bad: str = "") -> None:
        self.calls: list[str] = []
        self.entries: list[Entry] = []
        self.place_of = {"a-0": "blue-1", "a-1": "blue-1"}
        self.aside: set[str] = set()
        self.weights = {"a-0": 10, "a-1": 10}
        self.bad = bad

    def servers(self) -> Sequence[ServerNow]:
        return [
            ServerNow("lb", slot, 10, weight > 0, True, not weight) for slot, weight in self.weights.items()
        ]

    def drain(
        self, slots: Sequence[str], deadline: float, say: Callable[[str, str], None]
    ) -> Mapping[str, int]:
        self.calls.append(f"drain {' '.join(slots)}")
        self.weights.update(dict.fromkeys(slots, 0))
        return {}

    def admit(self, weights: Mapping[str, int]) -> None:
        self.calls.append(f"admit {weights}")
        self.weights.update(weights)

    def hold(self, slots: Sequence[str]) -> None:
        raise AssertionError("nobody holds here")

    def bring(self, hosts: Sequence[str], say: Callable[[str, str], None]) -> None:
        self.calls.append(f"bring {' '.join(hosts)}")

    def pull(self, host: str, say: Callable[[str, str], None]) -> None:
        self.calls.append(f"pull {host}")

    def beside(self, slot: str, say: Callable[[str, str], None]) -> None:
        self.calls.append(f"beside {slot}")
        assert self.weights[slot], "blue serves on"
        self.aside.add(slot)

    def place(self, slot: str, to: str, say: Callable[[str, str], None]) -> str:
        self.calls.append(f"place {slot} {to}")
        self.aside.discard(slot)
        self.place_of[slot] = f"{to}-1"
        return f"run of {self.place_of[slot]}"

    def running(self, slot: str) -> tuple[str, str] | None:
        return f"run of {self.place_of[slot]}", self.place_of[slot]

    def climb(
        self, slot: str, to: str, deadline: float, say: Callable[[str, str], None], rounds: int = 1
    ) -> float:
        self.calls.append(f"climb {slot} {to} x{rounds}")
        if slot == self.bad and to == "green":
            raise RungError(slot, "golden", "wrong", output="its log")
        return 0.3

    def golden(self, slot: str, to: str = "green", times: int = 1) -> float:
        return 0.3

    def log(self, slot: str) -> str:
        return "its log"

    def prune(self, host: str, retain: int) -> None:
        self.calls.append(f"prune {host}")

    def stage(self, name: str, variables: Mapping[str, Any]) -> None:
        return None

    def record(self, step: str, slots: Sequence[str] = (), wave: int = 0, **detail: Any) -> Entry:
        entry = Entry(len(self.entries) + 1, 0.0, step, tuple(slots), wave, detail)
        self.entries.append(entry)
        return entry

    def pause(self, seconds: float) -> None:
        return None

    def clock(self) -> float:
        return 0.0


def test_green_climbs_beside_blue_before_blue_is_drained_and_rehearses_once():
    cards = Cards()
    outcome = Rollout(cards, HEADER, QUICK, at_once=1).run()
    assert outcome.state == "finished"
    assert [call for call in cards.calls if "a-0" in call] == [
        "beside a-0",
        "climb a-0 green x3",
        "drain a-0",
        "place a-0 green",
        "climb a-0 green x1",
        "admit {'a-0': 10}",
    ]
    assert cards.place_of == {"a-0": "green-1", "a-1": "green-1"}


def test_a_green_that_fails_beside_blue_leaves_and_blue_never_stopped_serving():
    cards = Cards(bad="a-0")
    outcome = Rollout(cards, HEADER, QUICK, at_once=1).run()
    assert (outcome.state, outcome.rung, outcome.failed_slot, outcome.log) == (
        "rolled-back",
        "golden",
        "a-0",
        "its log",
    )
    assert cards.aside == set()
    assert [call for call in cards.calls if call.startswith(("drain", "admit"))] == []
    assert cards.weights == {"a-0": 10, "a-1": 10}


def test_in_a_later_wave_the_accepted_slots_go_back_too():
    cards = Cards(bad="a-1")
    outcome = Rollout(cards, HEADER, QUICK, at_once=1).run()
    assert outcome.state == "rolled-back"
    assert cards.place_of == {"a-0": "blue-1", "a-1": "blue-1"}
    assert "drain a-1" not in cards.calls
    assert cards.aside == set()
    assert cards.weights == {"a-0": 10, "a-1": 10}


@pytest.mark.parametrize("abort", ["", "asked for"])
def test_a_controller_that_died_with_green_beside_blue_is_gone_on_with(abort):
    full = Cards()
    Rollout(full, HEADER, QUICK, at_once=1).run()
    for count in range(1, len(full.entries)):
        before = full.entries[:count]
        if before[-1].step != "beside":
            continue
        cards = Cards()
        cards.entries = list(before)
        slot = before[-1].slots[0]
        cards.aside.add(slot)
        if slot == "a-1":
            cards.place_of["a-0"] = "green-1"
        outcome = Rollout(cards, HEADER, QUICK, progress=progress_of(before), at_once=1).run(abort=abort)
        assert outcome.state == ("rolled-back" if abort else "finished")
        colour = "blue-1" if abort else "green-1"
        assert cards.place_of == {"a-0": colour, "a-1": colour}
        assert cards.aside == set()
        assert cards.weights == {"a-0": 10, "a-1": 10}


def test_a_swapped_slot_of_the_same_wave_is_not_started_beside():
    mixed = replace(HEADER, origins=(ORIGINS[0], replace(ORIGINS[1], strategy=Strategy.SWAP)))
    cards = Cards()
    assert Rollout(cards, mixed, QUICK, at_once=1).run().state == "finished"
    assert "beside a-1" not in cards.calls
    assert "climb a-1 green x3" in cards.calls
