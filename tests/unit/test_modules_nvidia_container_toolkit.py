import os
import subprocess

import pytest

from fleet.errors import TaskError
from fleet.gpu.probe import GPU_PROBE
from fleet.model.facts import Answer
from fleet.model.steps import Run
from fleet.modules import _apt, _dnf
from fleet.modules.nvidia_container_toolkit import PACKAGES, spec_probe
from tests.unit import driver_world as world
from tests.unit.modules_world import plan, steps, typed

ONE, TWO = "GPU-67a8a0c1-d713-478c-acfa-236290fcb0b9", "GPU-289191bd-f78a-4a84-8337-5feb57a961fb"
SPEC = "cdi:/etc/cdi/nvidia.yaml"
DPKG = _apt.packages_probe(PACKAGES, virtual=False).key
GENERATE = Run(("nvidia-ctk", "cdi", "generate", "--output=/etc/cdi/nvidia.yaml"))
ABSENT = "absent\n"


def rows(status="hi", version="1.18.0-1"):
    return "".join(f"{status} \t{name}\tamd64\t{version}\tinstalled\n" for name in PACKAGES)


def cards(*uuids, mig="[N/A]", driver="580.82.07"):
    return "".join(
        f"{index}, {uuid}, Tesla T4, 15360, 3, 0, 38, 9.5, {driver}, 00000000:3B:00.0, {mig}\n"
        for index, uuid in enumerate(uuids)
    )


def toolkit(args, dpkg, gpus, spec):
    return plan("nvidia_container_toolkit", args, {DPKG: dpkg, GPU_PROBE.key: gpus, SPEC: spec})


def test_all_is_installed_held_and_described():
    changes = toolkit({"version": "1.18.*"}, "", cards(ONE), ABSENT)
    assert [change.summary for change in changes] == [
        f"install {', '.join(f'{name} 1.18.*' for name in PACKAGES)}",
        f"hold {', '.join(PACKAGES)}",
        "generate /etc/cdi/nvidia.yaml: it is not there",
    ]
    assert steps(changes)[0].argv[-4:] == tuple(f"{name}=1.18.*" for name in PACKAGES)
    assert steps(changes)[-1] == GENERATE


RPM = _dnf.rpm_probe(PACKAGES).key
LOCKS = "@plugin\n" + "".join(f"{name}-0:1.17.8-1.*\n" for name in PACKAGES)


def on_rhel(args, version="", locks="@plugin\n"):
    rpms = "".join(
        f"{name} {version}\n" if version else f"package {name} is not installed\n" for name in PACKAGES
    )
    facts = {DPKG: Answer(127), RPM: rpms, "dnf.locks": locks}
    changes = plan("nvidia_container_toolkit", args, {**facts, GPU_PROBE.key: cards(ONE), SPEC: f"{ONE}\n"})
    return [step.title or " ".join(step.argv[3:]) for step in steps(changes)]


def test_on_rhel_dnf_installs_and_locks_it():
    names = " ".join(PACKAGES)
    assert on_rhel({}) == [f"dnf install {names}", f"dnf versionlock add {names}"]
    assert on_rhel({}, "1.17.8", LOCKS) == []
    assert on_rhel({"hold": None}, "1.17.8") == []
    assert on_rhel({}, "1.17.8") == [f"dnf versionlock add {names}"]
    assert on_rhel({"hold": False}, "1.17.8", LOCKS) == [f"dnf versionlock delete {names}"]


def test_on_rhel_another_version_comes_where_it_is_asked_for():
    names, wishes = " ".join(PACKAGES), " ".join(f"{name}-1.18.*" for name in PACKAGES)
    for args in ({"version": "1.18.*"}, {"version": "1.18.*", "hold": None}):
        assert on_rhel(args, "1.17.8", LOCKS) == [
            f"dnf versionlock delete {names}",
            f"dnf upgrade {wishes}",
            f"dnf versionlock add {names}",
        ]
    assert on_rhel({"version": "1.18.*", "allow_downgrade": True, "hold": None}, "1.19.0") == [
        f"dnf install {wishes}"
    ]
    assert on_rhel({"version": "1.17.8-1"}, "1.17.8", LOCKS) == []


def test_a_host_with_neither_dpkg_nor_rpm_is_told_so():
    facts = {DPKG: Answer(127), RPM: Answer(127), "dnf.locks": Answer(127)}
    with pytest.raises(TaskError, match="neither dpkg nor rpm"):
        plan("nvidia_container_toolkit", {}, {**facts, GPU_PROBE.key: cards(ONE), SPEC: ABSENT})


def test_what_is_right_is_left_alone():
    assert toolkit({}, rows(), cards(ONE, TWO), f"{ONE}\n{TWO}\n") == []
    assert toolkit({}, rows(), cards(ONE), f"{ONE}\nlibcuda.so.580.82.07\n") == []
    assert toolkit({"hold": None}, rows("ii"), cards(ONE), f"{ONE}\n") == []


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (f"{ONE}\n", f"it does not name {TWO}"),
        ("", f"it does not name {TWO}, {ONE}"),
        (f"{ONE}\n{TWO}\nGPU-00000000-0000-0000-0000-000000000000\n", "it names GPU-00000000"),
        (f"{ONE}\n{TWO}\nlibcuda.so.570.195.03\n", "it mounts driver 570.195.03, and 580.82.07 runs"),
    ],
)
def test_a_stale_description_is_made_anew(spec, reason):
    (change,) = toolkit({}, rows(), cards(ONE, TWO), spec)
    assert reason in change.summary
    assert change.steps == (GENERATE,)


def test_a_card_in_mig_mode_need_not_be_named():
    assert toolkit({}, rows(), cards(ONE, mig="Enabled"), "") == []


def test_without_a_driver_the_description_waits():
    missing = Answer(127, b"sh: 1: nvidia-smi: not found\n")
    (change,) = toolkit({}, rows(), missing, ABSENT)
    assert change.deferred
    assert "nvidia-smi is not installed" in change.summary
    assert change.remedy.startswith("`fleet doctor --only driver --limit gpu-01`")


@pytest.mark.parametrize(
    ("noted", "remedy"),
    [
        (
            ("noted nvidia driver: another version is loaded",),
            "the driver waits for a reboot: `fleet reboot gpu-01`",
        ),
        ((), "`fleet doctor --only driver"),
    ],
)
def test_what_waits_for_a_driver_that_waits_for_a_reboot_says_so(noted, remedy):
    broken = Answer(18, b"Failed to initialize NVML: Driver/library version mismatch\n")
    seen = world.answers("debian-13", world.driver(*world.packages(), *noted), world.bus(), broken)
    (change,) = plan("nvidia_container_toolkit", {}, {**seen, DPKG: rows(), SPEC: ABSENT})
    assert "version mismatch" in change.summary
    assert change.remedy.startswith(remedy)


def test_a_driver_without_cards_still_gets_a_description():
    (change,) = toolkit({}, rows(), "No devices were found\n", ABSENT)
    assert change.steps == (GENERATE,)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"packages": []}, "`packages` is empty"),
        ({"packages": ["nvidia-container-toolkit=1"]}, "give the version by `version`"),
        ({"version": "a b"}, "not a package version"),
        ({"cdi_spec": "/etc/cdi/nvidia"}, r"end with \.yaml or \.json"),
        ({"cdi_spec": "cdi.yaml"}, "absolute path"),
    ],
)
def test_wrong_arguments(args, message):
    with pytest.raises(ValueError, match=message):
        typed("nvidia_container_toolkit", args)


def test_the_probe_reads_a_real_description(tmp_path):
    path = tmp_path / "nvidia.yaml"
    path.write_text(
        f'devices:\n  - name: "0"\n  - name: {ONE}\n  - name: all\n'
        "  mounts:\n  - hostPath: /usr/lib/x86_64-linux-gnu/libcuda.so.580.82.07\n"
        "    containerPath: /usr/lib/x86_64-linux-gnu/libcuda.so.580.82.07\n"
        "  - hostPath: /usr/lib/x86_64-linux-gnu/libnvidia-egl-gbm.so.1.1.2\n"
    )

    def ask():
        env = {**os.environ, "LC_ALL": "C"}
        return subprocess.run(
            ["sh", "-c", spec_probe(str(path)).script], capture_output=True, text=True, env=env
        )

    assert ask().stdout == f"{ONE}\nlibcuda.so.580.82.07\n"
    path.unlink()
    assert ask().stdout == ABSENT
