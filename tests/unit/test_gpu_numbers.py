"""A GPU's number is its container's, whatever the driver counts after a boot."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from fleet.docker.answers import Container
from fleet.gpu.numbers import numbers
from fleet.gpu.slots import slots_of
from fleet.model.facts import Answer
from fleet.model.slot import Gpu
from fleet.status.hosts import report
from tests.unit.gpu_world import HOST, containers, facts, gpu_line, inspected, slot, uuid
from tests.unit.reboot_world import SPEC


def cards(*uuids: str) -> list[Gpu]:
    return [Gpu(index, each, "Tesla T4") for index, each in enumerate(uuids)]


def container(name: str, gpu: str, *, running: bool = True, hour: int = 9, host: str = "gpu-01") -> Container:
    return Container(
        id=f"{name} {gpu}",
        name=f"fleet-{host}-{name}",
        labels={"fleet.slot": f"{host}-{name}", "fleet.gpu": gpu},
        state="running" if running else "exited",
        started=datetime(2026, 3, 1, hour, tzinfo=UTC),
    )


@pytest.mark.parametrize(
    ("present", "known", "expected"),
    [
        pytest.param("ab", (), {"a": 0, "b": 1}, id="without containers it is the driver's index"),
        pytest.param("ba", ("0a", "1b"), {"a": 0, "b": 1}, id="two in another order"),
        pytest.param("bc", ("0a", "1b", "2c"), {"b": 1, "c": 2}, id="one is gone"),
        pytest.param("xb", ("0a", "1b"), {"x": 0, "b": 1}, id="one was replaced"),
        pytest.param("bx", ("0a", "1b"), {"x": 0, "b": 1}, id="a new one gets what is free"),
        pytest.param("xab", ("0a", "1b"), {"x": 2, "a": 0, "b": 1}, id="one was added before the others"),
        pytest.param("ab", ("0a",), {"a": 0, "b": 1}, id="one has no container yet"),
    ],
)
def test_the_numbers_of_gpus(present: str, known: tuple[str, ...], expected: dict[str, int]) -> None:
    found = [container(each[0], each[1]) for each in known]
    assert numbers(HOST, cards(*present), found) == expected


def test_of_two_containers_of_a_slot_the_one_that_runs_tells_its_gpu() -> None:
    found = [container("0", "b", hour=1), container("0", "a", running=False, hour=9)]
    assert numbers(HOST, cards("a", "b"), found) == {"b": 0, "a": 1}


def test_of_two_slots_of_a_gpu_the_one_that_runs_is_its_own() -> None:
    found = [container("1", "a", hour=1), container("0", "a", running=False, hour=9)]
    assert numbers(HOST, cards("a", "b"), found) == {"a": 1, "b": 0}


def test_containers_of_others_tell_nothing() -> None:
    strange = Container(id="x", name="x", labels={"fleet.slot": "gpu-01-x", "fleet.gpu": "b"})
    found = [container("0", "b", host="gpu-02"), strange, replace(strange, labels={"fleet.slot": "gpu-01-0"})]
    assert numbers(HOST, cards("a", "b"), found) == {"a": 0, "b": 1}


def swapped() -> Answer:
    """nvidia-smi after a boot that found the cards in the other order."""
    lines = (gpu_line(0).replace(uuid(0), uuid(1)), gpu_line(1).replace(uuid(1), uuid(0)))
    return Answer(0, "".join(lines).encode())


def test_slots_keep_their_names_and_ports_over_a_boot_that_swaps_indices() -> None:
    ran = [inspected(SPEC, slot(index)) for index in range(2)]
    before = slots_of(HOST, facts(*ran))
    assert slots_of(HOST, facts(*ran, gpu=swapped())) == before
    assert [(each.name, each.uuid, each.port) for each in before or ()] == [
        ("gpu-01-0", uuid(0), 7860),
        ("gpu-01-1", uuid(1), 7861),
    ]


def test_where_no_engine_answers_the_driver_alone_counts() -> None:
    found = slots_of(HOST, facts(gpu=swapped(), docker_containers=Answer(7)))
    assert [each.uuid for each in found or ()] == [uuid(1), uuid(0)]


def test_status_shows_each_slot_with_its_own_card_after_a_swap() -> None:
    ran = [inspected(SPEC, slot(index)) for index in range(2)]
    hot = swapped().out.replace(b", 38, ", b", 77, ", 1)
    seen = report(HOST, facts(*ran, gpu=Answer(0, hot), docker_containers=containers(*ran)))
    assert [(each.name, each.uuid, each.temperature, each.state) for each in seen.slots] == [
        ("gpu-01-0", uuid(0), 38, "running"),
        ("gpu-01-1", uuid(1), 77, "running"),
    ]
    assert seen.problems == ()
