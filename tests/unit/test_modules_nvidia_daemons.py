"""nvidia_persistence and nvidia_fabric_manager: the daemons beside the driver, at its version."""

from __future__ import annotations

import pytest

from fleet.errors import TaskError
from fleet.model.facts import Answer
from fleet.model.steps import Run, Upload
from tests.unit.driver_world import NO_SMI, WORKS, answers, bus, driver, listed, packages
from tests.unit.modules_world import NO_UNIT, RUNNING_UNIT, plan, steps, typed

PERSISTENCE = "unit:nvidia-persistenced.service"
FABRIC = "unit:nvidia-fabricmanager.service"
SEEN = driver(*WORKS, *packages(), headers=True)
STOPPED = RUNNING_UNIT.replace("active\n", "inactive\n").replace("=running", "=dead")
WAITING = "noted nvidia driver: nouveau has the GPUs"
MISMATCH = Answer(18, b"Failed to initialize NVML: Driver/library version mismatch\n")


# As systemd shows it for Ubuntu's nvidia-compute-utils-580-server.
UBUNTUS = (
    "{ path=/usr/bin/nvidia-persistenced ; argv[]=/usr/bin/nvidia-persistenced --user nvidia-persistenced "
    "--no-persistence-mode --verbose ; ignore_errors=no ; start_time=[n/a] ; stop_time=[n/a] ; pid=0 }\n"
)
STATIC = RUNNING_UNIT.replace("=enabled", "=static")
UBUNTU_SEEN = driver("smi /usr/bin/nvidia-smi", "owner nvidia-utils-580-server", "module 580.95.05")


def persistence(unit=RUNNING_UNIT, seen=SEEN, smi=None, system="debian-13", daemon="", **more):
    state = answers(system=system, seen=seen, smi=listed() if smi is None else smi, **more)
    return plan("nvidia_persistence", {}, {**state, PERSISTENCE: unit, "nvidia.persistenced": daemon})


def fabric(*lines, args=None, unit=RUNNING_UNIT, switches=4, system="debian-13", smi=None, **more):
    seen = driver(*WORKS, *packages(), *lines, headers=True)
    state = answers(
        system=system, seen=seen, smi=listed() if smi is None else smi, pci=bus("2330", switches), **more
    )
    return plan("nvidia_fabric_manager", args or {}, {**state, FABRIC: unit})


def commands(changes):
    return [step.title or " ".join(step.argv) for step in steps(changes) if isinstance(step, Run)]


def test_a_daemon_that_runs_is_left_alone():
    assert persistence() == []


def test_one_that_does_not_run_is_started_and_enabled():
    assert commands(persistence(STOPPED.replace("=enabled", "=disabled"))) == [
        "systemctl enable nvidia-persistenced.service",
        "systemctl start nvidia-persistenced.service",
    ]


@pytest.mark.parametrize(
    ("system", "install"),
    [
        (
            "debian-12",
            "apt-get install --no-install-recommends --no-remove -- nvidia-persistenced=580.95.05-*",
        ),
        (
            "ubuntu-24.04",
            "apt-get install --no-install-recommends --no-remove -- nvidia-compute-utils-580-server=580.95.05-*",
        ),
        ("rocky-9", "dnf install nvidia-persistenced-580.95.05"),
    ],
)
def test_a_driver_without_the_daemon_gets_it_at_its_own_version(system, install):
    seen = UBUNTU_SEEN if system == "ubuntu-24.04" else SEEN
    found = commands(persistence(NO_UNIT, system=system, seen=seen))
    assert [command for command in found if "persistence mode" not in command] == [
        install,
        "systemctl enable nvidia-persistenced.service",
        "systemctl start nvidia-persistenced.service",
    ]


def test_ubuntus_daemon_which_keeps_nothing_is_told_to():
    ubuntu = {"system": "ubuntu-24.04", "seen": UBUNTU_SEEN}
    (change,) = persistence(STATIC, daemon=UBUNTUS, **ubuntu)
    drop_in, restart = change.steps
    assert drop_in.path == "/etc/systemd/system/nvidia-persistenced.service.d/fleet.conf"
    assert drop_in.content.decode().splitlines()[1:] == [
        "[Unit]",
        "StopWhenUnneeded=false",
        "[Service]",
        "ExecStart=",
        "ExecStart=/usr/bin/nvidia-persistenced --user nvidia-persistenced --verbose",
    ]
    assert restart.title == "restart nvidia-persistenced.service with persistence mode"
    assert persistence(STATIC, daemon=UBUNTUS.replace(" --no-persistence-mode", ""), **ubuntu) == []
    fresh = [step for step in steps(persistence(NO_UNIT, **ubuntu)) if isinstance(step, Upload)]
    assert fresh == [drop_in], "the daemon that is about to be installed keeps nothing either"
    assert not any(isinstance(step, Upload) for step in steps(persistence(NO_UNIT)))


@pytest.mark.parametrize(
    ("owner", "package"),
    [("nvidia-utils-580", "nvidia-compute-utils-580"), ("nvidia-utils", "nvidia-persistenced")],
)
def test_a_driver_that_is_not_ubuntus_server_driver_gets_the_daemon_of_its_own_kind(owner, package):
    seen = driver("smi /usr/bin/nvidia-smi", f"owner {owner}", "module 580.95.05")
    assert commands(persistence(NO_UNIT, seen=seen, system="ubuntu-24.04"))[0] == (
        f"apt-get install --no-install-recommends --no-remove -- {package}=580.95.05-*"
    )


def test_a_driver_that_came_without_a_package_gets_no_package():
    run_file = driver("smi /usr/bin/nvidia-smi", "module 580.95.05")
    assert persistence(seen=run_file) == []
    assert persistence(NO_UNIT, seen=run_file) == []


def test_the_daemon_of_debians_own_driver_is_debians():
    own = driver(
        "smi /usr/lib/nvidia/current/nvidia-smi", "owner nvidia-smi", "package ii- nvidia-smi 550.163.01-2"
    )
    assert commands(persistence(NO_UNIT, seen=own))[0].endswith(" -- nvidia-persistenced")


def test_a_system_without_a_known_package_is_told_so():
    with pytest.raises(TaskError, match=r"nvidia-persistenced\.service is not there"):
        persistence(NO_UNIT, os='ID=arch\nPRETTY_NAME="Arch Linux"\n')


def test_the_daemon_waits_for_a_driver_and_for_its_reboot():
    (change,) = persistence(NO_UNIT, seen=driver(), smi=NO_SMI)
    assert change.deferred
    assert persistence(STOPPED, seen=driver(*WORKS, *packages(), WAITING), smi=MISMATCH) == []


def test_nothing_is_done_without_nvswitches():
    assert fabric(switches=0, unit=NO_UNIT) == []
    assert fabric(args={"needed": False}, unit=NO_UNIT) == []


def test_the_fabric_manager_comes_at_exactly_the_drivers_version():
    changes = fabric(unit=NO_UNIT)
    assert commands(changes) == [
        "apt-get install --no-install-recommends --no-remove --allow-downgrades -- nvidia-fabricmanager=580.95.05-*",
        "apt-mark hold -- nvidia-fabricmanager",
        "systemctl enable nvidia-fabricmanager.service",
        "systemctl start nvidia-fabricmanager.service",
    ]
    assert fabric("package hi- nvidia-fabricmanager 580.95.05-1") == []


@pytest.mark.parametrize(
    ("system", "version", "name"),
    [
        ("ubuntu-24.04", "580.95.05", "nvidia-fabricmanager-580="),
        ("debian-12", "570.195.03", "nvidia-fabricmanager-570="),
        ("debian-12", "590.44.01", "nvidia-fabricmanager="),
        ("rocky-9", "580.95.05", "nvidia-fabricmanager-580.95.05"),
        ("rhel-9", "570.195.03", "nvidia-fabric-manager-570.195.03"),
    ],
)
def test_its_package_by_system_and_branch(system, version, name):
    assert name in commands(fabric(system=system, smi=listed(version), unit=NO_UNIT))[0]


def test_one_of_another_version_follows_the_driver_and_is_restarted():
    changes = fabric("package hi- nvidia-fabricmanager 580.82.07-1")
    assert [" ".join(step.argv[-2:]) for step in steps(changes)][-1] == "restart nvidia-fabricmanager.service"
    assert commands(changes)[0] == "apt-mark unhold -- nvidia-fabricmanager"
    assert changes[0].diff == "nvidia-fabricmanager: 580.82.07-1 -> 580.95.05\n"


def test_that_of_another_branch_gives_way_also_where_it_is_held():
    changes = fabric("package hi- nvidia-fabricmanager-570 570.195.03-1")
    assert commands(changes)[:4] == [
        "apt-mark unhold -- nvidia-fabricmanager-570",
        "apt-get remove -- nvidia-fabricmanager-570",
        "apt-get install --no-install-recommends --no-remove --allow-downgrades -- nvidia-fabricmanager=580.95.05-*",
        "apt-mark hold -- nvidia-fabricmanager",
    ]
    locks = {"dnf.locks": "@plugin\nnvidia-fabric-manager-0:570.195.03-1.*\n"}
    changes = fabric("package ii- nvidia-fabric-manager 570.195.03-1", system="rhel-9", **locks)
    assert commands(changes)[:4] == [
        "dnf versionlock delete nvidia-fabric-manager",
        "dnf remove nvidia-fabric-manager",
        "dnf install nvidia-fabricmanager-580.95.05",
        "dnf versionlock add nvidia-fabricmanager",
    ]
    assert (
        fabric("package hi- nvidia-fabricmanager 580.95.05-1", "package ii- nvidia-fabricmanager-dev 580-1")
        == []
    )


def test_switches_that_are_not_on_the_bus_are_told_by_hand():
    assert "nvidia-fabricmanager=580.95.05-*" in commands(fabric(args={"needed": True}, switches=0))[0]


def test_it_waits_for_a_driver_and_for_its_reboot():
    assert fabric(WAITING, unit=NO_UNIT) == []
    state = answers(pci=bus("2330", 4))
    (change,) = plan("nvidia_fabric_manager", {}, {**state, FABRIC: NO_UNIT})
    assert change.deferred


def test_its_package_has_no_version_of_its_own():
    with pytest.raises(ValueError, match="always the driver's"):
        typed("nvidia_fabric_manager", {"package": "nvidia-fabricmanager=580"})
