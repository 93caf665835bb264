"""Before provision begins: hosts whose work cannot end are refused, at no exchange of its own."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from fleet.doctor.disk import DISK_PROBE
from fleet.doctor.preflight import preflight, refusal
from fleet.engine.hostrun import HostRun, Settings
from fleet.gpu.pci import PCI_PROBE
from fleet.gpu.probe import GPU_PROBE
from fleet.model.facts import Answer
from fleet.model.host import Host
from fleet.modules._driver_seen import DRIVER_PROBE
from fleet.modules._os import OS_PROBE
from tests.local import LocalRemote, LocalRunner
from tests.unit import gpu_world
from tests.unit.doctor_world import GPU, HEALTHY, REGISTRY_KEY, patient, text

NO_DRIVER = {GPU_PROBE.key: Answer(127, b"sh: 1: nvidia-smi: not found\n")}
NO_IMAGE = {"docker.images": Answer(7), "docker.engine": Answer(7)}
FULL = {DISK_PROBE.key: text("root=/\ndisk=264212084 900000\ninodes=16777216 16191321\n")}
SECURE = {
    DRIVER_PROBE.key: text("kernel 6.12.43\nmodinfo there\nsecureboot on\n"),
}


def test_a_bare_host_and_a_healthy_one_may_begin():
    assert refusal(patient()) is None
    assert refusal(patient({**NO_DRIVER, **NO_IMAGE})) is None


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({OS_PROBE.key: text('ID=debian\nVERSION_ID="11"\n')}, "its release is not supported"),
        ({**NO_DRIVER, **NO_IMAGE, **FULL}, "there is no room for the image: 922 MB are free"),
        ({GPU_PROBE.key: text(gpu_world.gpu_line(0, mig="Enabled"))}, "MIG mode"),
        ({GPU_PROBE.key: text(gpu_world.gpu_line(0, total="8192"))}, "less memory than the image needs"),
        ({**NO_DRIVER, PCI_PROBE.key: text("")}, "no NVIDIA GPU is on its PCI bus"),
        ({**NO_DRIVER, **SECURE}, "Secure Boot refuses"),
    ],
)
def test_what_cannot_end_is_not_begun(changed, words):
    error = refusal(patient(changed))
    assert error is not None
    assert words in error.message
    assert "--skip-preflight" in error.remedy


@pytest.mark.parametrize(
    "changed",
    [
        FULL,  # the image is there
        {DRIVER_PROBE.key: text(HEALTHY[DRIVER_PROBE.key].text.replace("secureboot off", "secureboot on"))},
        {GPU_PROBE.key: text("No devices were found\n")},  # for nvidia_driver to tell
    ],
)
def test_what_is_there_already_stops_nobody(changed):
    assert refusal(patient(changed)) is None


def test_a_small_image_by_its_registrys_word_needs_little_room():
    tight = {**NO_IMAGE, DISK_PROBE.key: text("root=/\ndisk=264212084 2100000\ninodes=16777216 16191321\n")}
    layer = {"digest": "sha256:" + "c" * 64, "size": 300_000_000}
    manifest = {"schemaVersion": 2, "config": {"digest": "sha256:" + "b" * 64, "size": 1}, "layers": [layer]}
    told = text(f"{HEALTHY[REGISTRY_KEY].text}\nmanifest\n{json.dumps(manifest)}")
    assert refusal(patient({**tight, REGISTRY_KEY: told})) is None
    unknown = refusal(patient({**tight, REGISTRY_KEY: Answer(127)}))
    assert unknown is not None
    assert "a guess: set image_size" in unknown.message


def test_a_balancer_needs_no_gpu():
    balancer = replace(GPU, name="lb-01", groups=("balancer",))
    assert refusal(patient({**NO_DRIVER, **FULL}, host=balancer)) is None


def observed(host: Host, gate) -> tuple[HostRun, LocalRemote]:
    remote = LocalRemote(host.name)
    settings = Settings(False, lambda event: None, lambda: False, gate=gate)
    run = HostRun(host.name, [], lambda name: (remote, LocalRunner(remote)), settings)
    run.observe()
    return run, remote


def test_the_questions_ride_in_the_first_look():
    gate = preflight({GPU.name: GPU})
    run, remote = observed(GPU, gate)
    assert remote.exchanges == 1
    assert {probe.key for probe in gate.probes(GPU.name)} <= set(run.facts)


def test_a_host_that_is_refused_has_failed_and_no_task_runs_there():
    # This machine has no GPU: what is refused is a host as it is.
    gate = preflight({GPU.name: GPU})
    run, remote = observed(
        GPU, replace(gate, refuse=lambda name, facts: refusal(patient(NO_DRIVER | FULL | NO_IMAGE)))
    )
    assert run.result.status == "failed"
    assert not run.alive
    assert "there is no room for the image" in str(run.result.error)
    assert remote.exchanges == 1
