"""nvidia_driver: golden plans of bare hosts, and what it does with every state of a driver."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from fleet.errors import TaskError
from fleet.gpu.architecture import Generation, generation
from fleet.gpu.pci import PCI_PROBE, PciGpu, parse_pci, same_address
from fleet.model.facts import Answer
from fleet.model.slot import Gpu
from fleet.model.steps import Run, Upload
from fleet.modules._driver_seen import DRIVER_PROBE, Driver, parse_driver
from tests.unit.driver_world import (
    BOOT,
    SYSTEMS,
    WORKS,
    bus,
    drive,
    driver,
    golden,
    listed,
    packages,
    show,
)
from tests.unit.modules_world import Machine, steps, typed

FIXTURES = Path(__file__).parents[1] / "fixtures" / "driver"
GOOD = {"seen": driver(*WORKS, *packages(), headers=True), "smi": listed()}
MISMATCH = Answer(
    18, b"Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 580.95\n"
)


def summaries(changes):
    return [change.summary for change in changes]


def commands(changes):
    return [step.title or " ".join(step.argv) for step in steps(changes) if isinstance(step, Run)]


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_plan_of_each_system_and_generation_is_the_reviewed_one(system):
    assert golden(system) == (FIXTURES / f"{system}.txt").read_text()


@pytest.mark.parametrize(
    ("device", "known"),
    [
        (0x102D, Generation.OLDER),
        (0x13F2, Generation.MAXWELL),
        (0x17F0, Generation.MAXWELL),
        (0x15F8, Generation.PASCAL),
        (0x1725, Generation.PASCAL),
        (0x1D01, Generation.PASCAL),
        (0x1DB6, Generation.VOLTA),
        (0x1E30, Generation.TURING),
        (0x2184, Generation.TURING),
        (0x20F1, Generation.AMPERE),
        (0x25B6, Generation.AMPERE),
        (0x26B5, Generation.ADA),
        (0x2331, Generation.HOPPER),
        (0x31C2, Generation.BLACKWELL),
        (0x4000, Generation.NEWER),
    ],
)
def test_a_device_id_tells_its_generation(device, known):
    assert generation(device) is known


def test_a_working_driver_is_left_alone_and_a_second_run_changes_nothing():
    assert drive({}, **GOOD) == []
    assert drive({"min_version": "580.95.05"}, **GOOD) == []
    assert drive({"branch": 590}, **GOOD) == []


@pytest.mark.parametrize("system", ["debian-13", "ubuntu-24.04", "rhel-9"])
def test_one_that_came_without_a_package_is_left_alone_where_it_works(system):
    run_file = driver("smi /usr/bin/nvidia-smi", "module 575.57.08", "loaded 575.57.08")
    assert drive({}, system=system, seen=run_file, smi=listed("575.57.08")) == []


def test_a_working_driver_on_a_system_that_fleet_does_not_install_on_is_left_alone():
    arch = 'ID=arch\nPRETTY_NAME="Arch Linux"\n'
    assert drive({}, **GOOD, os=arch) == []


def test_one_without_a_package_that_must_change_is_refused_with_a_remedy():
    run_file = {"seen": driver("smi /usr/bin/nvidia-smi", "module 550.54.14"), "smi": listed("550.54.14")}
    with pytest.raises(
        TaskError, match=r"550\.54\.14 on this host came without a package.*570 or newer"
    ) as error:
        drive({"min_version": "570"}, **run_file)
    assert "nvidia-uninstall" in error.value.remedy
    without_module = driver("smi /usr/bin/nvidia-smi")
    with pytest.raises(TaskError, match="has no module nvidia"):
        drive({}, seen=without_module, smi=Answer(9, b"NVIDIA-SMI has failed\n"))


def test_a_good_driver_that_is_not_held_is_held():
    (change,) = drive({}, seen=driver(*WORKS, *packages(status="ii-")), smi=listed())
    assert commands([change]) == ["apt-mark hold -- nvidia-driver-cuda nvidia-kernel-open-dkms"]
    assert drive({"hold": None}, seen=driver(*WORKS, *packages(status="ii-")), smi=listed()) == []
    (change,) = drive({"hold": False}, **GOOD)
    assert commands([change]) == ["apt-mark unhold -- nvidia-driver-cuda nvidia-kernel-open-dkms"]


OLD = {
    "seen": driver(
        "smi /usr/bin/nvidia-smi",
        "owner nvidia-driver-cuda",
        "module 570.195.03",
        "loaded 570.195.03",
        *packages("570.195.03-1", pinning="570"),
        headers=True,
    ),
    "smi": listed("570.195.03"),
}


def test_an_older_driver_stays_until_a_newer_one_is_asked_for():
    assert drive({}, **OLD) == []
    assert drive({"min_version": "570.133"}, **OLD) == []
    changes = drive({"min_version": "580.65", "repository": None}, **OLD)
    assert commands(changes) == [
        "apt-mark unhold -- nvidia-driver-cuda nvidia-kernel-open-dkms",
        "apt-get install --no-install-recommends -- nvidia-driver-pinning-580 nvidia-driver-pinning-570-",
        "apt-get install --no-install-recommends --allow-downgrades -- nvidia-driver-cuda=580.* "
        "nvidia-kernel-open-dkms=580.*",
        "apt-mark hold -- nvidia-driver-cuda nvidia-kernel-open-dkms",
        "load the driver",
    ]
    assert "nvidia-driver-cuda: 570.195.03-1 -> 580.*\n" in changes[0].diff
    assert "nvidia-driver-pinning-580: absent -> installed\n" in changes[0].diff
    assert "nvidia-driver-pinning-570: 570-1 -> absent\n" in changes[0].diff
    assert changes[-1].summary == "ask for a reboot: until then 570.195.03 stays in the kernel"


def test_a_part_that_is_missing_of_the_version_that_runs_asks_for_no_reboot():
    there = [line for line in packages() if "kernel-open" not in line]
    state = {"seen": driver(*WORKS, *there, headers=True), "smi": Answer(9, b"NVIDIA-SMI has failed\n")}
    changes = drive({"repository": None}, **state)
    assert "nvidia-kernel-open-dkms" in changes[0].summary
    assert changes[-1].summary == "load the driver, or note that it needs a reboot"


def test_a_newer_one_of_the_same_branch_is_installed_where_it_is_asked_for():
    state = {"seen": driver(*WORKS, *packages(), headers=True), "smi": listed()}
    changes = drive({"min_version": "580.105", "repository": None}, **state)
    assert "nvidia-driver-cuda=580.*" in " ".join(commands(changes))
    assert not any("pinning" in command for command in commands(changes))


def test_another_branch_is_installed_only_with_state_branch():
    changes = drive({"state": "branch", "branch": 580, "repository": None}, **OLD)
    assert "nvidia-driver-pinning-580" in " ".join(commands(changes))
    assert drive({"state": "branch", "branch": 570}, **OLD) == []


def test_an_upgrade_that_waits_for_its_reboot_is_not_done_again():
    upgraded = driver(
        "smi /usr/bin/nvidia-smi",
        "owner nvidia-driver-cuda",
        "module 580.95.05",
        "loaded 570.195.03",
        *packages(),
        "noted nvidia driver: nvidia-smi says: Failed to initialize NVML: Driver/library version mismatch",
        headers=True,
    )
    for args in ({"min_version": "580"}, {"state": "branch", "branch": 580}, {}):
        assert drive(args, seen=upgraded, smi=MISMATCH) == []


def test_a_driver_that_does_not_answer_yet_is_loaded_or_noted_for_a_reboot():
    (change,) = drive({}, seen=driver(*WORKS, *packages(), headers=True), smi=MISMATCH)
    assert commands([change]) == ["load the driver"]


def test_a_reboot_that_did_not_help_is_told_and_not_asked_for_again():
    lines = (*WORKS, *packages())
    kernel = SYSTEMS["debian-13"][3]
    (_,) = drive({}, seen=driver(*lines, f"tried {BOOT} driver 580.95.05 {kernel}"), smi=MISMATCH)
    with pytest.raises(
        TaskError, match="does not work, also after a reboot: nvidia-smi does not answer"
    ) as error:
        drive({}, seen=driver(*lines, f"tried another-boot driver 580.95.05 {kernel}"), smi=MISMATCH)
    assert "mismatch" in error.value.output
    assert "--force` makes one more reboot" in error.value.remedy
    (_,) = drive({}, seen=driver(*lines, f"tried another-boot driver 570.195.03 {kernel}"), smi=MISMATCH)


LOST = Answer(15, b"Unable to determine the device handle for GPU0: 00000000:3C:00.0: GPU is lost.\n")


@pytest.mark.parametrize(
    ("smi", "words"), [(listed(), r"does not list the GPU at 0000:3c:00\.0"), (LOST, "GPU is lost")]
)
def test_a_lost_gpu_is_a_reason_for_one_reboot_and_never_for_a_second(smi, words):
    state = {"smi": smi, "pci": bus("1eb8 1eb8")}
    (change,) = drive({}, seen=driver(*WORKS, *packages()), **state)
    assert re.match(f"ask for a reboot: .*{words}", change.summary)
    installed = driver(*WORKS, *packages(), f"tried old driver 580.95.05 {SYSTEMS['debian-13'][3]}")
    (change,) = drive({}, seen=installed, **state)
    assert change.summary.startswith("ask for a reboot"), "that one was for another cause"

    waits = driver(
        *WORKS, *packages(), f"tried {BOOT} gpus", "noted nvidia driver: nvidia-smi lists 1 of 2 GPUs"
    )
    assert drive({}, seen=waits, **state) == []
    with pytest.raises(
        TaskError, match=f"fallen off the bus: .*{words}.*rebooted for a lost GPU before"
    ) as error:
        drive({}, seen=driver(*WORKS, *packages(), "tried old gpus"), **state)
    assert "fleet reboot gpu-01 --force" in error.value.remedy


@pytest.mark.parametrize("module", ["module 575.57.08", "modinfo there"], ids=["a .run file's", "an image's"])
def test_a_lost_gpu_is_not_laid_to_a_driver_without_a_package(module):
    seen = driver("smi /usr/bin/nvidia-smi", module, "loaded 575.57.08")
    state = {"seen": seen, "smi": listed("575.57.08"), "pci": bus("1eb8 1eb8")}
    for system in ("debian-13", "rhel-9"):
        assert [summary[:16] for summary in summaries(drive({}, system=system, **state))] == [
            "ask for a reboot"
        ]
    with pytest.raises(TaskError, match="came without a package"):
        drive({"min_version": "580"}, **state)


def test_neither_a_lost_gpu_nor_an_upgrade_that_waits_has_other_packages_installed():
    desktop = (
        "package ii- nvidia-driver-580-server 580.95.05-0ubuntu1",
        "package ii- nvidia-utils-580-server 580.95.05-0ubuntu1",
    )
    works = ("smi /usr/bin/nvidia-smi", "owner nvidia-utils-580-server", "module 580.95.05")
    for loaded, smi in (("580.95.05", LOST), ("580.82.07", MISMATCH)):
        seen = driver(*works, f"loaded {loaded}", *desktop, kernel="6.8.0-85-generic")
        changes = drive({}, system="ubuntu-24.04", seen=seen, smi=smi)
        assert "install" not in " ".join(commands(changes))


def test_without_a_module_for_the_running_kernel_it_is_built():
    lines = ("smi /usr/bin/nvidia-smi", "owner nvidia-driver-cuda", *packages())
    kernel = SYSTEMS["debian-13"][3]
    changes = drive({}, seen=driver(*lines), smi=Answer(9, b"NVIDIA-SMI has failed because\n"))
    assert summaries(changes)[0] == f"build the driver's module for kernel {kernel}"
    assert commands(changes) == [
        f"apt-get install --no-install-recommends -- linux-headers-{kernel} linux-headers-cloud-amd64",
        f"dkms autoinstall -k {kernel}",
        "load the driver",
    ]


@pytest.mark.parametrize(
    ("status", "words"),
    [("iF-", "half-configured"), ("iU-", "unpacked only"), ("iHR", "must be installed again")],
)
def test_an_interrupted_installation_is_finished_first(status, words):
    lines = (
        f"package {status} nvidia-driver-cuda 580.95.05-1",
        "package ii- nvidia-kernel-open-dkms 580.95.05-1",
        "package ii- nvidia-driver-pinning-580 580-1",
    )
    changes = drive({"repository": None}, seen=driver(*lines, headers=True))
    assert summaries(changes)[0] == f"finish the installation of nvidia-driver-cuda ({words})"
    found = commands(changes)
    assert found[0] == "dpkg --configure -a --force-confdef --force-confold"
    assert 2 in steps(changes)[0].ok_codes, "dpkg does not wait for another apt's lock; the next step does"
    reinstall = "apt-get install --reinstall --allow-change-held-packages -- nvidia-driver-cuda"
    assert (reinstall in found) == (status == "iHR")
    assert found[-4:] == [
        "apt-get install --fix-broken",
        "apt-get install --no-install-recommends --allow-downgrades -- nvidia-driver-cuda=580.*",
        "apt-mark hold -- nvidia-driver-cuda nvidia-kernel-open-dkms",
        "load the driver",
    ]


def test_a_broken_package_that_is_not_the_drivers_is_not_this_tasks_business():
    lines = (*WORKS, *packages(), "package iF- postfix 3.7.11-0")
    assert drive({}, seen=driver(*lines), smi=listed()) == []


def test_packages_that_others_hold_are_named():
    old = driver(*packages("570.195.03-1", pinning="570"), "package hi- nvidia-persistenced 570.195.03-1")
    with pytest.raises(TaskError, match=r"on hold: nvidia-persistenced 570\.195\.03-1") as error:
        drive({"min_version": "580"}, seen=old)
    assert "apt-mark unhold nvidia-persistenced" in error.value.remedy


def test_the_fabric_manager_is_let_go_to_follow_the_driver():
    old = driver(
        *packages("570.195.03-1", pinning="570"), "package hi- nvidia-fabricmanager-570 570.195.03-1"
    )
    changes = drive({"min_version": "580", "repository": None}, seen=old)
    assert commands(changes)[0].endswith("nvidia-fabricmanager-570")


DEBIANS = driver(
    "smi /usr/lib/nvidia/current/nvidia-smi",
    "owner nvidia-smi",
    "module 550.163.01",
    "loaded 550.163.01",
    "package ii- nvidia-smi 550.163.01-2",
    "package ii- nvidia-kernel-dkms 550.163.01-2",
    "package ii- libcuda1 550.163.01-2",
    "package ii- nvidia-container-toolkit 1.18.0-1",
    headers=True,
)


def test_debians_own_driver_is_kept_where_it_works_and_never_mixed_with():
    assert drive({"hold": None}, seen=DEBIANS, smi=listed("550.163.01")) == []
    with pytest.raises(TaskError, match=r"Debian's own driver is installed \(nvidia-smi\)"):
        drive({"min_version": "580"}, seen=DEBIANS, smi=listed("550.163.01"))
    changes = drive({"min_version": "580", "replace": True, "repository": None}, seen=DEBIANS, smi=listed())
    assert commands(changes)[:2] == [
        "apt-get purge -- libcuda1 nvidia-kernel-dkms nvidia-smi",
        "apt-get install --no-install-recommends -- nvidia-driver-pinning-580",
    ]


def test_no_part_of_debians_own_driver_is_held_alone():
    # Its module's package is tied to no library: held alone, it would stay behind them.
    assert drive({}, seen=DEBIANS, smi=listed("550.163.01"), pci=bus("1b38")) == []


def test_all_that_makes_a_driver_debians_own_leaves_with_it():
    tesla = driver(
        "package ii- nvidia-tesla-470-driver 470.256.02-1",
        "package hi- nvidia-alternative 550.163.01-2",
        "package ii- nvidia-container-toolkit 1.18.0-1",
    )
    changes = drive({"replace": True, "repository": None}, seen=tesla)
    assert commands(changes)[:2] == [
        "apt-mark unhold -- nvidia-alternative",
        "apt-get purge -- nvidia-alternative nvidia-tesla-470-driver",
    ]


def test_the_module_of_debians_own_driver_has_another_name(tmp_path):
    programs = {
        "modinfo": 'case $* in *" nvidia-current") echo 550.163.01 ;; *) exit 1 ;; esac',
        "modprobe": "[ \"$*\" = '-D nvidia' ] && echo 'install modprobe -i nvidia-current $CMDLINE_OPTS '",
    }
    for name, body in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run(["sh", "-c", DRIVER_PROBE.script], env=env, capture_output=True)
    assert parse_driver(Answer(0, done.stdout)).module == "550.163.01"


def test_secure_boot_stops_a_driver_that_is_built_on_the_host():
    with pytest.raises(TaskError, match="Secure Boot is on") as error:
        drive({}, seen=driver("secureboot on"))
    assert "mokutil --import /var/lib/dkms/mok.pub" in error.value.remedy
    with pytest.raises(TaskError, match="Secure Boot is on") as error:
        drive({}, system="ubuntu-24.04", seen=driver("secureboot on", kernel="6.8.0-85-generic"))
    assert "modules: prebuilt" in error.value.remedy
    assert "mokutil --import /var/lib/shim-signed/mok/MOK.der" in error.value.remedy
    assert drive({}, seen=driver("secureboot on", *WORKS, *packages()), smi=listed()) == []
    assert drive({"repository": None}, seen=driver("secureboot on", "enrolled /var/lib/dkms/mok.pub"))
    assert drive({"repository": None}, seen=driver("secureboot off"))


@pytest.mark.parametrize(("key_says", "stops"), [("is already enrolled", False), ("is not enrolled", True)])
def test_an_enrolled_key_of_dkms_is_as_good_as_no_secure_boot(tmp_path, key_says, stops):
    key = tmp_path / "mok.pub"
    key.touch()
    mokutil = tmp_path / "mokutil"
    mokutil.write_text(
        f'#!/bin/sh\n[ "$1" = --sb-state ] && echo "SecureBoot enabled" || echo "$2 {key_says}"\n'
    )
    mokutil.chmod(0o755)
    script = DRIVER_PROBE.script.replace("/var/lib/dkms/mok.pub", str(key))
    env = {"PATH": f"{tmp_path}:/usr/sbin:/usr/bin:/sbin:/bin"}
    done = subprocess.run(["sh", "-c", script], env=env, capture_output=True, text=True)
    seen = parse_driver(Answer(0, done.stdout.encode()))
    assert seen.secure_boot
    assert seen.enrolled != stops


@pytest.mark.parametrize(
    ("line", "version"),
    [
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build  "
            "(dvs-builder@U22-I3-B08-4-3)  Tue Sep 23 09:55:41 UTC 2025",
            "580.95.05",
        ),
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.195.03  Sat Sep  6 00:30:43 UTC 2025",
            "570.195.03",
        ),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  575.57  Release Build", "575.57"),
        ("", ""),
    ],
)
def test_the_version_of_the_loaded_module(tmp_path, line, version):
    file = tmp_path / "version"
    file.write_text(f"{line}\nGCC version:  gcc version 14.2.0 (Debian 14.2.0-19)\n")
    script = DRIVER_PROBE.script.replace("/proc/driver/nvidia/version", str(file))
    done = subprocess.run(["sh", "-c", script], capture_output=True)
    assert parse_driver(Answer(0, done.stdout)).loaded == version


def test_holds_that_were_let_go_come_back_where_fleet_is_not_to_mind_them():
    changes = drive({"min_version": "580.65", "repository": None, "hold": None}, **OLD)
    assert commands(changes)[-2] == "apt-mark hold -- nvidia-driver-cuda nvidia-kernel-open-dkms"


def test_holds_that_were_let_go_come_back_where_the_change_fails():
    let_go, *_, install, _, _ = steps(drive({"min_version": "580.65", "repository": None}, **OLD))
    assert install.env["FLEET_HELD"].split() == list(let_go.argv[3:])


def test_prebuilt_modules_of_ubuntu():
    seen = driver("secureboot on", kernel="6.8.0-1041-aws")
    changes = drive({"modules": "prebuilt"}, system="ubuntu-24.04", seen=seen)
    assert commands(changes) == [
        "apt-get install --no-install-recommends --allow-downgrades -- "
        "linux-modules-nvidia-580-server-open-aws nvidia-headless-no-dkms-580-server-open=580.* "
        "nvidia-utils-580-server=580.*",
        "apt-mark hold -- nvidia-headless-no-dkms-580-server-open nvidia-utils-580-server",
        "load the driver",
    ]
    with pytest.raises(TaskError, match="only Ubuntu has prebuilt"):
        drive({"modules": "prebuilt"})


@pytest.mark.parametrize(
    ("system", "kernel", "flavour"),
    [
        ("ubuntu-24.04", "6.8.0-85-generic", "generic"),
        ("ubuntu-24.04", "6.14.0-33-generic", "generic-hwe-24.04"),
        ("ubuntu-22.04", "6.8.0-85-generic", "generic-hwe-22.04"),
        ("ubuntu-22.04", "5.15.0-157-lowlatency", "lowlatency"),
        ("ubuntu-24.04", "6.8.0-85-generic-64k", "generic-64k"),
        ("ubuntu-22.04", "6.8.0-1039-azure", "azure"),
    ],
)
def test_ubuntus_packages_for_later_kernels_are_those_of_the_running_ones_kind(system, kernel, flavour):
    bare = driver(kernel=kernel)
    assert (
        f"linux-headers-{kernel} linux-headers-{flavour}" in commands(drive({}, system=system, seen=bare))[0]
    )
    changes = drive({"modules": "prebuilt"}, system=system, seen=bare)
    assert f" linux-modules-nvidia-580-server-open-{flavour} " in commands(changes)[0]


UBUNTUS = (
    "nvidia-headless-580-server-open",
    "nvidia-headless-no-dkms-580-server-open",
    "nvidia-dkms-580-server-open",
    "nvidia-utils-580-server",
)


def ubuntus(version="580.82.07"):
    status = dict(zip(UBUNTUS, ("hi-", "ii-", "ii-", "hi-"), strict=True))
    lines = [f"package {status[name]} {name} {version}-0ubuntu0.24.04.1" for name in UBUNTUS]
    works = ("smi /usr/bin/nvidia-smi", "owner nvidia-utils-580-server", f"module {version}")
    return driver(*works, *lines, kernel="6.8.0-85-generic", headers=True)


def test_all_parts_of_ubuntus_driver_move_together_and_are_held():
    # nvidia-headless-580-server-open needs the other two in no version.
    state = {"system": "ubuntu-24.04", "seen": ubuntus(), "smi": listed("580.82.07")}
    assert commands(drive({}, **state)) == [f"apt-mark hold -- {UBUNTUS[1]} {UBUNTUS[2]}"]
    install = commands(drive({"min_version": "580.95"}, **state))[1]
    assert install.split(" -- ")[1].split() == [f"{name}=580.*" for name in UBUNTUS]


def test_a_package_that_only_leads_to_a_newer_branch_is_not_taken_for_the_driver():
    lines = (
        "package ii- nvidia-headless-570-server-open 570.211.01-0ubuntu1.24.04.1",
        "package ii- nvidia-utils-580-server 580.126.09-0ubuntu0.24.04.2",
    )
    works = ("smi /usr/bin/nvidia-smi", "owner nvidia-utils-580-server", "module 580.126.09")
    state = {"seen": driver(*works, *lines, kernel="6.8.0-85-generic"), "smi": listed("580.126.09")}
    assert drive({"min_version": "580", "hold": None}, system="ubuntu-24.04", **state) == []
    changes = drive({"state": "branch", "branch": 570}, system="ubuntu-24.04", **state)
    assert "nvidia-utils-570-server=570.*" in " ".join(commands(changes))


@pytest.mark.parametrize(
    ("args", "cards", "gone"),
    [
        ({}, "1eb8", ""),
        ({"branch": 590}, "1eb8", " ".join(f" {name}-" for name in sorted(UBUNTUS))),
        ({}, "1b38", " ".join(f" {name}-" for name in sorted(UBUNTUS[:3]))),
        ({"modules": "prebuilt"}, "1eb8", f" {UBUNTUS[2]}-  {UBUNTUS[0]}-"),
    ],
    ids=["the same", "another branch", "other modules", "prebuilt modules"],
)
def test_only_what_cannot_stay_leaves_ubuntu_when_the_driver_changes(args, cards, gone):
    state = {"system": "ubuntu-24.04", "seen": ubuntus(), "smi": listed("580.82.07"), "pci": bus(cards)}
    changes = drive({"min_version": "580.95", **args}, **state)
    install = next(command for command in commands(changes) if "--allow-downgrades" in command)
    leaving = [word for word in install.split(" -- ")[1].split() if word.endswith("-")]
    assert leaving == gone.split()


def test_prebuilt_modules_for_the_next_kernel_wait_for_its_boot():
    seen = driver(
        "smi /usr/bin/nvidia-smi",
        "owner nvidia-utils-580-server",
        "package ii- linux-modules-nvidia-580-server-open-generic 6.8.0-86.87",
        "package hi- nvidia-headless-no-dkms-580-server-open 580.95.05-0ubuntu1",
        "package hi- nvidia-utils-580-server 580.95.05-0ubuntu1",
        "noted nvidia driver: its module is built for kernel 6.8.0-86-generic, and 6.8.0-85-generic runs",
        kernel="6.8.0-85-generic",
    )
    silent = Answer(9, b"NVIDIA-SMI has failed because\n")
    assert drive({"modules": "prebuilt"}, system="ubuntu-24.04", seen=seen, smi=silent) == []


def test_prebuilt_modules_for_a_kernel_that_came_without_them_are_installed():
    seen = driver(
        "smi /usr/bin/nvidia-smi",
        "owner nvidia-utils-580-server",
        "package ii- linux-modules-nvidia-580-server-open-generic 6.8.0-85.85",
        "package hi- nvidia-headless-no-dkms-580-server-open 580.95.05-0ubuntu1",
        "package hi- nvidia-utils-580-server 580.95.05-0ubuntu1",
        kernel="6.8.0-86-generic",
    )
    silent = Answer(9, b"NVIDIA-SMI has failed because\n")
    changes = drive({"modules": "prebuilt"}, system="ubuntu-24.04", seen=seen, smi=silent)
    assert summaries(changes)[0] == "install the driver's module for kernel 6.8.0-86-generic"
    assert commands(changes) == [
        "apt-get install --no-install-recommends -- linux-modules-nvidia-580-server-open-generic "
        "linux-modules-nvidia-580-server-open-6.8.0-86-generic",
        "load the driver",
    ]


def test_nouveau_is_kept_away_where_the_host_has_it():
    changes = drive({"repository": None}, seen=driver("nouveau there", "nouveau loaded"))
    assert summaries(changes)[0] == "keep nouveau from the GPUs"
    assert any(isinstance(step, Upload) and b"blacklist nouveau" in step.content for step in steps(changes))
    listed_already = drive({"repository": None}, seen=driver("nouveau there", "nouveau blacklisted"))
    assert "keep nouveau from the GPUs" not in summaries(listed_already)


@pytest.mark.parametrize(
    ("ours", "initramfs", "theirs", "told"),
    [
        (None, 100, None, False),
        (200, 100, None, False),
        (200, 300, None, True),
        (200, None, None, True),
        (200, 100, 50, True),
    ],
    ids=["none", "not in the initramfs yet", "in the initramfs", "no initramfs", "by another"],
)
def test_nouveau_is_kept_away_once_the_initramfs_has_the_file(tmp_path, ours, initramfs, theirs, told):
    files = {
        "modprobe.d/fleet-nouveau.conf": ours,
        "boot/initrd.img-6": initramfs,
        "modprobe.d/x.conf": theirs,
    }
    for folder in ("modprobe.d", "boot"):
        (tmp_path / folder).mkdir()
    for name, time in files.items():
        if time is not None:
            (tmp_path / name).write_text("blacklist nouveau\n")
            os.utime(tmp_path / name, (time, time))
    script = DRIVER_PROBE.script.replace("/usr/lib/modprobe.d", "/nowhere").replace(
        " /lib/modprobe.d", " /nowhere"
    )
    script = script.replace("/etc/modprobe.d", str(tmp_path / "modprobe.d"))
    script = script.replace("/boot/", f"{tmp_path}/boot/")
    done = subprocess.run(["sh", "-c", script], capture_output=True)
    assert ("blacklisted" in parse_driver(Answer(0, done.stdout)).nouveau) == told


def test_a_mirror_of_the_repository():
    changes = drive({"repository": "https://mirror.example/cuda/"}, system="debian-12")
    assert "https://mirror.example/cuda/debian12/x86_64/3bf863cc.pub" in show(changes)
    assert "developer.download" not in show(changes)


def test_nvidias_repository_is_not_added_twice():
    there = (
        "'https://developer.download.nvidia.com/compute/cuda/repos/debian12/x86_64/InRelease' x_InRelease 0\n"
    )
    changes = drive({}, system="debian-12", **{"apt.uris": there})
    assert not any("repository" in summary for summary in summaries(changes))
    other = there.replace("debian12", "debian11")
    assert "add the package repository nvidia-cuda" in summaries(
        drive({}, system="debian-12", **{"apt.uris": other})
    )


def test_a_locked_driver_of_rhel_is_let_go_for_its_upgrade_and_locked_again():
    seen = driver(
        "smi /usr/bin/nvidia-smi",
        "owner nvidia-driver-cuda",
        "module 570.195.03",
        "package ii- nvidia-driver-cuda 570.195.03-1.el9",
        "package ii- kmod-nvidia-open-dkms 570.195.03-1.el9",
        "package ii- epel-release 9-10.el9",
        headers=True,
    )
    locks = "@plugin\nnvidia-driver-cuda-3:570.195.03-1.el9.*\nkmod-nvidia-open-dkms-3:570.195.03-1.el9.*\n"
    state = {"system": "rhel-9", "seen": seen, "smi": listed("570.195.03"), "dnf.locks": locks}
    stream = "file.content:/etc/dnf/modules.d/nvidia-driver.module"
    text = b"[nvidia-driver]\nname=nvidia-driver\nstream=570-open\nstate=enabled\n"
    state[stream] = Answer(0, b"644|root|root|0|0|1.000000|%d|regular file\n" % len(text) + text)
    assert drive({}, **state) == []
    changes = drive({"min_version": "580", "repository": None}, **state)
    assert commands(changes)[:5] == [
        "dnf module reset nvidia-driver",
        "dnf module enable nvidia-driver:580-open",
        "dnf versionlock delete nvidia-driver-cuda kmod-nvidia-open-dkms",
        "dnf install --best nvidia-driver-cuda kmod-nvidia-open-dkms",
        "dnf distro-sync nvidia-driver-cuda kmod-nvidia-open-dkms",
    ]
    assert commands(changes)[-2:] == [
        "dnf versionlock add nvidia-driver-cuda kmod-nvidia-open-dkms",
        "load the driver",
    ]
    unminded = drive({"min_version": "580", "repository": None, "hold": None}, **state)
    assert commands(unminded) == commands(changes), "a lock that was let go comes back"
    free = drive(
        {"min_version": "580", "repository": None, "hold": None}, **{**state, "dnf.locks": "@plugin\n"}
    )
    assert not any("versionlock" in command for command in commands(free))


@pytest.mark.parametrize(
    "rival",
    ["kmod-nvidia-latest-dkms", "kmod-nvidia-580.95.05-5.14.0-570", "kmod-nvidia-open-580.95.05-5.14.0-570"],
)
def test_all_of_rhels_driver_is_installed_where_its_modules_give_way_to_others(rival):
    # nvidia-driver-cuda needs a module's package, and leaves with it.
    seen = driver(
        "package ii- nvidia-driver-cuda 580.95.05-1.el9",
        f"package ii- {rival} 580.95.05-1.el9",
        "package ii- epel-release 9-10.el9",
        headers=True,
    )
    found = commands(drive({"repository": None}, system="rhel-9", seen=seen))
    assert f"dnf remove {rival}" in found
    assert "dnf install --best nvidia-driver-cuda kmod-nvidia-open-dkms" in found


EPEL = "[epel]\nname=Packages of EPEL, mirrored\nbaseurl=https://mirror.example/epel\nenabled = 1\n"


@pytest.mark.parametrize(
    ("rpm", "repository", "seen"),
    [
        ("exit 1", EPEL, True),
        ("exit 1", EPEL.replace("= 1", "= 0"), False),
        ("exit 1", "[baseos]\nenabled=1\n", False),
        ('[ "$*" = "-q dkms" ]', "[baseos]\nenabled=1\n", True),
    ],
    ids=["a mirror", "switched off", "none", "dkms is there"],
)
def test_epel_is_seen_without_its_own_package(tmp_path, rpm, repository, seen):
    for name in ("uname", "cat", "sed", "sort", "tail", "head", "ls", "grep", "awk", "tr", "od", "readlink"):
        (tmp_path / name).symlink_to(shutil.which(name))
    (tmp_path / "rpm").write_text(f"#!/bin/sh\n{rpm}\n")
    (tmp_path / "rpm").chmod(0o755)
    (tmp_path / "some.repo").write_text(repository)
    script = DRIVER_PROBE.script.replace("/etc/yum.repos.d", str(tmp_path))
    done = subprocess.run(["/bin/sh", "-c", script], env={"PATH": str(tmp_path)}, capture_output=True)
    assert ("epel-release" in parse_driver(Answer(0, done.stdout)).packages) == seen


def test_a_host_without_gpus_is_told_so():
    with pytest.raises(TaskError, match="no NVIDIA GPU is on the PCI bus"):
        drive({}, pci="")
    assert drive({}, **GOOD, pci="") == []


def test_an_old_gpu_and_a_newer_branch_are_refused():
    with pytest.raises(TaskError, match="branch 590 has no driver for Pascal: 580 is the last"):
        drive({"branch": 590}, pci=bus("1b38"))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"branch": 58}, "first number"),
        ({"min_version": "new"}, "not a driver's version"),
        ({"branch": 570, "min_version": "580.1"}, "cannot satisfy"),
        ({"state": "branch"}, "needs `branch`"),
        ({"repository": "http://mirror.example"}, "https"),
    ],
)
def test_wrong_arguments(args, message):
    with pytest.raises(ValueError, match=message):
        typed("nvidia_driver", args)


def test_the_bus_as_sysfs_has_it(tmp_path):
    devices = {
        "0000:3b:00.0": ("0x10de", "0x030200", "0x1eb8", "nvidia"),
        "0000:3b:00.1": ("0x10de", "0x040300", "0x10f8", None),
        "0000:90:00.0": ("0x10de", "0x068000", "0x22a3", None),
        "0000:00:1f.0": ("0x8086", "0x060100", "0x7a04", None),
    }
    (tmp_path / "drivers" / "nvidia").mkdir(parents=True)
    for address, (vendor, kind, device, used_by) in devices.items():
        folder = tmp_path / "devices" / address
        folder.mkdir(parents=True)
        for name, value in (("vendor", vendor), ("class", kind), ("device", device)):
            (folder / name).write_text(f"{value}\n")
        if used_by:
            (folder / "driver").symlink_to(f"../../drivers/{used_by}")
    script = PCI_PROBE.script.replace("/sys/bus/pci/devices", str(tmp_path / "devices"))
    done = subprocess.run(["sh", "-c", script], capture_output=True, check=True)
    seen = parse_pci(Answer(0, done.stdout))
    assert seen.gpus == (PciGpu("0000:3b:00.0", 0x1EB8, "nvidia"),)
    assert seen.switches == 1
    assert same_address("00000000:3B:00.0", "0000:3b:00.0")
    assert not same_address("00000000:3B:00.0", "0000:3c:00.0")


def test_the_probe_runs_on_a_real_machine():
    machine = Machine()
    answer = machine.remote.script(DRIVER_PROBE.script, timeout=30)
    assert answer.rc == 0, answer.err
    assert answer.out.startswith(b"kernel ")


def test_a_card_that_is_passed_through_to_a_virtual_machine_is_not_this_hosts():
    cards = bus("1eb8") + "0000:3c:00.0 0x030200 0x1eb8 vfio-pci\n"
    assert drive({}, **GOOD, pci=cards) == []


def test_cards_without_an_address_are_counted():
    seen = parse_pci(Answer(0, bus("1eb8 1eb8").encode()))
    one = Gpu(index=0, uuid="GPU-0", name="T4")
    assert Driver(pci=seen, gpus=(one,)).unlisted == ("an unknown address",)
    assert Driver(pci=seen, gpus=(one, one)).unlisted == ()
