"""Hosts with drivers in every state, as nvidia_driver's probes tell them; the golden plans are made here.

`python -m tests.unit.driver_world OS` prints the plans of one system as the files in tests/fixtures/driver have them.
"""

from __future__ import annotations

import shlex
import sys

from fleet.gpu.pci import PCI_PROBE
from fleet.gpu.probe import GPU_PROBE
from fleet.model.facts import Answer
from fleet.model.steps import Run, Upload
from fleet.modules import _driver_install
from fleet.modules._driver_seen import DRIVER_PROBE
from fleet.modules._os import OS_PROBE
from tests.unit.modules_world import ABSENT, plan

SYSTEMS = {
    "debian-12": ("debian", "12", "bookworm", "6.1.0-40-amd64"),
    "debian-13": ("debian", "13", "trixie", "6.12.48+deb13-cloud-amd64"),
    "ubuntu-22.04": ("ubuntu", "22.04", "jammy", "5.15.0-157-generic"),
    "ubuntu-24.04": ("ubuntu", "24.04", "noble", "6.8.0-85-generic"),
    "rhel-9": ("rhel", "9.6", "", "5.14.0-570.el9.x86_64"),
    "rocky-9": ("rocky", "9.6", "", "5.14.0-570.el9.x86_64"),
}
CARDS = {
    "Maxwell (Tesla M60)": "13f2",
    "Pascal (Tesla P100)": "15f8",
    "Pascal (Tesla P40)": "1b38",
    "Volta (Tesla V100)": "1db4",
    "Turing (Tesla T4)": "1eb8",
    "Ampere (A100)": "20b5",
    "Ampere (A10)": "2236",
    "Ada (L4)": "27b8",
    "Hopper (H100)": "2330",
    "Blackwell (B200)": "2901",
    "Blackwell (RTX PRO 6000)": "2bb5",
    "newer (unknown id)": "3500",
    "Pascal and Turing": "1b38 1eb8",
    "Volta and Blackwell": "1db4 2901",
    "Kepler (Tesla K80)": "102d",
}
BOOT = "3f0c9c1e-1d1c-4a0c-9a8e-000000000001"
NO_SMI = Answer(127, b"sh: 1: nvidia-smi: not found\n")


def os_release(name):
    kind, version, codename, _ = SYSTEMS[name]
    return f'ID={kind}\nVERSION_ID="{version}"\nVERSION_CODENAME={codename}\nPRETTY_NAME="{kind} {version}"\n'


def bus(devices="1eb8", switches=0):
    cards = [f"0000:{0x3B + n:02x}:00.0 0x030200 0x{device} -" for n, device in enumerate(devices.split())]
    bridges = [f"0000:{0x90 + n:02x}:00.0 0x068000 0x22a3 -" for n in range(switches)]
    return "".join(f"{line}\n" for line in (*cards, *bridges))


def listed(version="580.95.05", count=1, first=0x3B):
    return "".join(
        f"{n}, GPU-{n}, Tesla T4, 15360, 3, 0, 38, 9.5, {version}, 00000000:{first + n:02X}:00.0, [N/A]\n"
        for n in range(count)
    )


def driver(*lines, kernel="6.12.48+deb13-cloud-amd64", headers=False):
    known = [f"kernel {kernel}", "machine x86_64", f"boot {BOOT}", *(["headers there"] if headers else [])]
    return "".join(f"{line}\n" for line in (*known, *lines))


def packages(version="580.95.05-1", status="hi-", kernel="open-", pinning="580"):
    return (
        f"package {status} nvidia-driver-cuda {version}",
        f"package {status} nvidia-kernel-{kernel}dkms {version}",
        f"package ii- nvidia-persistenced {version}",
        f"package ii- nvidia-driver-pinning-{pinning} {pinning}-1",
    )


WORKS = ("smi /usr/bin/nvidia-smi", "owner nvidia-driver-cuda", "module 580.95.05", "loaded 580.95.05")


def answers(system="debian-13", seen=None, pci=None, smi=NO_SMI, **more):
    kernel = SYSTEMS[system][3]
    found = dict.fromkeys((probe.key for probe in _driver_install.probes()), ABSENT)
    return {
        **found,
        "dnf.locks": Answer(0) if system.startswith(("rhel", "rocky")) else Answer(127),
        OS_PROBE.key: os_release(system),
        DRIVER_PROBE.key: driver(kernel=kernel) if seen is None else seen,
        PCI_PROBE.key: bus() if pci is None else pci,
        GPU_PROBE.key: smi,
        **more,
    }


def drive(args, **state):
    return plan("nvidia_driver", args, answers(**state))


def show(changes):
    """A plan as text: each change, and what it does."""
    lines = []
    for change in changes:
        lines.append(f"  {change.summary}")
        for step in change.steps:
            if isinstance(step, Upload):
                lines.append(f"    write {step.path}")
                if step.path.startswith(("/etc/apt/sources", "/etc/yum")):
                    lines += [f"      {line}" for line in step.content.decode().splitlines()[1:]]
            elif isinstance(step, Run) and step.title.startswith("fetch https:"):
                lines += [f"    {step.title}", f"      only with the fingerprint {step.argv[-2]}"]
            elif isinstance(step, Run) and step.argv[:2] == ("sh", "-c"):
                lines.append(f"    {step.title}")
            elif isinstance(step, Run):
                lines.append(f"    {shlex.join(step.argv)}")
    return "\n".join(lines)


def golden(system):
    """The plans of one system on bare hosts, for each generation of GPUs."""
    from fleet.errors import TaskError

    parts = []
    for title, devices in CARDS.items():
        epel = ("package ii- epel-release 9-10.el9",) if system == "rhel-9" else ()
        seen = driver(*epel, kernel=SYSTEMS[system][3])
        try:
            text = show(drive({}, system=system, seen=seen, pci=bus(devices)))
        except TaskError as error:
            text = f"  error: {error.message}\n  remedy: {error.remedy}"
        parts.append(f"{title}\n{text}\n")
    return "\n".join(parts)


if __name__ == "__main__":
    print(golden(sys.argv[1]), end="")
