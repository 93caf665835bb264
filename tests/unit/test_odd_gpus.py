"""What nvidia-smi really says of GPUs that are odd, sick or gone: the right words in status and plans, no crash.

The lines are nvidia-smi's own, with --format=csv,noheader,nounits.
"""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from fleet.console.status import show_status
from fleet.errors import TaskError
from fleet.gpu.agent import CONFIG_FILE
from fleet.gpu.container import ContainerSpec
from fleet.gpu.probe import faulty_gpus, parse_gpus
from fleet.model.facts import Answer
from fleet.model.steps import Change
from fleet.modules.base import Context
from fleet.modules.gpu_containers import GpuContainers, GpuContainersArgs
from fleet.status import Status, summarise
from tests.unit.gpu_world import HOST, IMAGE, facts, inspected, slot, uuid
from tests.unit.test_gpu_agent_module import plan as agent_plan
from tests.unit.test_gpu_agent_module import uploads
from tests.unit.test_status import SYSTEM

SPEC = ContainerSpec(IMAGE)
RUNNING = (inspected(SPEC, slot(0)), inspected(SPEC, slot(1)))
WELL = f"1, {uuid(1)}, Tesla T4, 15360, 3, 0, 38, 9.50, 580.95.05, 00000000:3C:00.0, [N/A]\n"
LOST = (
    "Unable to determine the device handle for GPU0: 00000000:3B:00.0: GPU is lost.  "
    "Reboot the system to recover this GPU\n"
)


def first(rest: str) -> Answer:
    """GPU 0 as given, beside a second one that is well."""
    return Answer(0, f"0, {rest}\n{WELL}".encode())


def status(gpu: Answer, *ran: dict[str, object]) -> Status:
    return summarise([HOST], {"gpu-01": facts(*(ran or RUNNING), gpu=gpu, host=SYSTEM)})


def shown(found: Status) -> str:
    out = io.StringIO()
    show_status(found, Console(file=out, width=200))
    json.dumps(found.as_json())
    return out.getvalue()


def plan(gpu: Answer, *ran: dict[str, object], **args: object) -> list[Change]:
    wanted = GpuContainersArgs(image=IMAGE, **args)  # type: ignore[arg-type]
    return list(GpuContainers().plan(wanted, facts(*(ran or RUNNING), gpu=gpu), Context(HOST)))


def problems(found: Status) -> list[str]:
    return [problem.what for problem in found.problems if problem.place.startswith("gpu-01")]


@pytest.mark.parametrize("word", ["[N/A]", "[Not Supported]", "[Unknown Error]", "N/A", "ERR!"])
def test_values_that_a_card_does_not_tell_are_shown_as_unknown_and_stop_nothing(word: str) -> None:
    gpu = first(f"{uuid(0)}, Tesla T4, 15360, {word}, {word}, {word}, {word}, 580.95.05, {word}, {word}")
    found = status(gpu)
    row = next(line for line in shown(found).splitlines() if "gpu-01-0" in line)
    assert row.split()[:6] == ["gpu-01-0", "Tesla", "T4", "-/15.0", "-", "-"]
    assert problems(found) == []
    assert plan(gpu) == []
    config = uploads(agent_plan(gpus=gpu))[CONFIG_FILE].content.decode()
    assert f"slot gpu-01-0 {uuid(0)}" in config


def test_memory_that_is_the_machines_own_is_unknown_and_no_reason_to_refuse() -> None:
    gpu = first(f"{uuid(0)}, NVIDIA GB10, [N/A], [N/A], 0, 41, 4.61, 580.95.05, 0000000F:01:00.0, [N/A]")
    assert "gpu-01-0  GB10             -" in shown(status(gpu))
    assert plan(gpu, memory_min="12GiB") == []


def test_a_card_that_is_cut_into_instances_is_told_and_refused_with_what_to_do() -> None:
    gpu = first(
        f"{uuid(0)}, NVIDIA A100-SXM4-80GB, 81920, 612, [N/A], 33, 61.02, 580.95.05, 00000000:07:00.0, Enabled"
    )
    found = status(gpu)
    assert problems(found) == [
        "GPU 0 (NVIDIA A100-SXM4-80GB) is cut into MIG instances and cannot be used whole"
    ]
    assert found.problems[0].remedy == f"`nvidia-smi -i {uuid(0)} -mig 0` there"
    with pytest.raises(TaskError, match="is cut into MIG instances") as caught:
        plan(gpu)
    assert f"nvidia-smi -i {uuid(0)} -mig 0" in caught.value.remedy


def test_a_card_that_does_not_tell_its_uuid_is_named_and_gets_nothing() -> None:
    gpu = first(
        "[Unknown Error], [Unknown Error], [Unknown Error], [Unknown Error], [Unknown Error], [Unknown Error], "
        "[Unknown Error], 580.95.05, 00000000:3B:00.0, [Unknown Error]"
    )
    assert [each.uuid for each in parse_gpus(gpu) or ()] == [uuid(1)]
    assert faulty_gpus(gpu) == ("GPU 0 (00000000:3B:00.0) tells no UUID: [Unknown Error]",)
    found = status(gpu)
    assert "GPU 0 (00000000:3B:00.0) tells no UUID: [Unknown Error]" in problems(found)
    assert "gpu-01-1" in shown(found)
    assert not any(f"start fleet-gpu-01-{n}" in change.summary for change in plan(gpu) for n in range(3))


def test_cards_that_are_well_are_not_faulty() -> None:
    assert faulty_gpus(Answer(0, WELL.encode())) == ()
    assert faulty_gpus(Answer(6, b"No devices were found\n")) == ()


def test_no_card_at_all_is_told_and_refused() -> None:
    none = Answer(6, b"No devices were found\n")
    assert "the NVIDIA driver finds no GPU" in problems(status(none))
    with pytest.raises(TaskError, match="the NVIDIA driver works but finds no GPU"):
        plan(none)


def test_a_card_that_fell_off_leaves_all_slots_shown_and_nothing_touched() -> None:
    gone = Answer(15, LOST.encode())
    found = status(gone)
    assert problems(found) == [f"the NVIDIA driver does not answer: {LOST.strip()}"]
    text = shown(found)
    assert "gpu-01-0" in text
    assert "gpu-01-1" in text
    (change,) = plan(gone)
    assert change.deferred
    assert "GPU is lost" in change.summary
