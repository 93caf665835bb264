"""The script that ends a driver's installation, run by a real sh with programs that answer as a host's would."""

from __future__ import annotations

import os
import subprocess

import pytest

from fleet.modules._driver_settle import MARK, settle_change

KERNEL = os.uname().release


@pytest.fixture
def host(tmp_path):
    """A folder with programs, a PCI bus of two cards, and the files that the script writes."""
    for name in ("modprobe", "dkms"):
        _program(tmp_path, name, "exit 1")
    _program(tmp_path, "modinfo", "echo 580.95.05")
    _program(tmp_path, "nvidia-smi", "echo 'GPU 0: T4 (UUID: GPU-0)'; echo 'GPU 1: T4 (UUID: GPU-1)'")
    for number in (0, 1):
        folder = tmp_path / "pci" / f"0000:0{number}:00.0"
        folder.mkdir(parents=True)
        (folder / "vendor").write_text("0x10de\n")
        (folder / "class").write_text("0x030200\n")
    return tmp_path


def settle(host):
    """Run it; the process, and the reasons noted for a reboot."""
    (step,) = settle_change().steps
    shell, option, script, name, *_ = step.argv
    script = script.replace("/sys/bus/pci/devices", str(host / "pci")).replace(
        "/sys/module", str(host / "module")
    )
    script = script.replace("/lib/modules", str(host / "kernels"))
    note, tried = host / "run" / "reboot-required", host / "lib" / "tried"
    done = subprocess.run(
        [shell, option, script, name, str(note), str(tried)],
        env={"PATH": f"{host / 'bin'}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    noted = note.read_text().splitlines() if note.exists() else []
    causes = tried.read_text().splitlines() if tried.exists() else []
    return done, noted, [line.partition(" ")[2] for line in causes]


def _program(folder, name, body):
    path = folder / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def test_a_driver_that_lists_every_card_is_done(host):
    done, *left = settle(host)
    assert (done.returncode, left) == (0, [[], []])


def test_debians_own_driver_is_found_by_its_own_name(host):
    _program(host, "modinfo", 'case $* in *" nvidia-current") echo 550.163.01 ;; *) exit 1 ;; esac')
    _program(host, "modprobe", "[ $1 != -D ] || echo 'install modprobe -i nvidia-current $CMDLINE_OPTS '")
    done, *left = settle(host)
    assert (done.returncode, left) == (0, [[], []]), done.stderr


def test_one_that_does_not_answer_waits_for_a_reboot(host):
    _program(host, "nvidia-smi", "echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18")
    done, noted, tried = settle(host)
    assert done.returncode == 0
    assert noted == [f"{MARK}nvidia-smi says: Failed to initialize NVML: Driver/library version mismatch"]
    assert tried == [f"driver 580.95.05 {KERNEL}"]


ONE_OF_TWO = "echo 'GPU 0: T4 (UUID: GPU-0)'"
NO_HANDLE = "echo 'Unable to determine the device handle for GPU0000:3B:00.0: Unknown Error'; exit 15"


@pytest.mark.parametrize(
    ("smi", "reason"),
    [
        (ONE_OF_TWO, "lists 1 of 2 GPUs: one has fallen off the bus"),
        (NO_HANDLE, "says: Unable to determine the device handle"),
    ],
)
def test_a_lost_card_is_a_cause_of_its_own(host, smi, reason):
    _program(host, "nvidia-smi", smi)
    _, noted, tried = settle(host)
    assert f"{MARK}nvidia-smi {reason}" in noted[0]
    assert tried == ["gpus"]


def test_a_card_that_is_passed_through_to_a_virtual_machine_is_not_missed(host):
    _program(host, "nvidia-smi", ONE_OF_TWO)
    (host / "pci" / "0000:01:00.0" / "driver").symlink_to("../../../../bus/pci/drivers/vfio-pci")
    assert settle(host)[1:] == ([], [])


def test_a_card_that_tells_no_uuid_is_not_counted(host):
    _program(host, "nvidia-smi", f"{ONE_OF_TWO}; echo 'GPU 1: Unknown (UUID: [Unknown Error])'")
    assert "lists 1 of 2 GPUs" in settle(host)[1][0]


def test_a_driver_that_lists_no_card_is_not_taken_for_lost_cards(host):
    _program(host, "nvidia-smi", "echo 'No devices were found'")
    _, noted, tried = settle(host)
    assert noted == [f"{MARK}nvidia-smi lists 0 of 2 GPUs"]
    assert tried == [f"driver 580.95.05 {KERNEL}"]


def test_each_cause_is_remembered_once(host):
    for smi in (ONE_OF_TWO, "exit 9", NO_HANDLE):
        _program(host, "nvidia-smi", smi)
        _, _, tried = settle(host)
    assert tried == [f"driver 580.95.05 {KERNEL}", "gpus"]


def test_nouveau_waits_for_a_reboot(host):
    (host / "module" / "nouveau").mkdir(parents=True)
    assert settle(host)[1] == [f"{MARK}nouveau has the GPUs"]


def test_a_module_for_another_kernel_waits_for_a_reboot(host):
    for kernel in ("6.1.0-9-amd64", "6.1.0-40-amd64"):
        (host / "kernels" / kernel).mkdir(parents=True)
    _program(host, "modinfo", '[ "$2" = 6.1.0-40-amd64 ] && echo 580.95.05')
    assert settle(host)[1] == [f"{MARK}its module is built for kernel 6.1.0-40-amd64, and {KERNEL} runs"]


def test_a_module_that_was_not_built_for_the_newer_kernel_is_built_then(host):
    (host / "kernels" / "6.1.0-40-amd64").mkdir(parents=True)
    _program(host, "modinfo", f'[ "$2" = 6.1.0-40-amd64 ] && [ -e {host}/built ] && echo 580.95.05')
    _program(host, "dkms", f'[ "$*" = "autoinstall -k 6.1.0-40-amd64" ] && touch {host}/built')
    assert settle(host)[1] == [f"{MARK}its module is built for kernel 6.1.0-40-amd64, and {KERNEL} runs"]


def test_no_module_at_all_is_a_failure_with_what_dkms_says(host):
    (host / "kernels" / "6.1.0-40-amd64").mkdir(parents=True)
    _program(host, "modinfo", "exit 1")
    _program(host, "dkms", "echo nvidia/580.95.05: added")
    done, noted, _ = settle(host)
    assert (done.returncode, noted) == (1, [])
    assert f"no module nvidia was built for the running kernel {KERNEL}" in done.stderr
    assert "nvidia/580.95.05: added" in done.stderr
