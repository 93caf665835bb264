"""The group `driver`: the cards, and whether module, library and kernel fit each other."""

from __future__ import annotations

import re
from collections.abc import Mapping

from fleet.docker.probe import CONTAINERS_PROBE
from fleet.doctor.model import Check, Trouble, Verdict, bad, judged, skipped, well
from fleet.doctor.patient import ABSENT, Patient
from fleet.gpu.pci import PCI_PROBE, parse_pci
from fleet.gpu.probe import GPU_PROBE, driver_problem, faulty_gpus, tells_of_lost_gpu
from fleet.gpu.sizes import MIB, parse_size, show_mib
from fleet.modules._driver_seen import DRIVER_PROBE, Driver, parse_driver

PROVISION = "`fleet provision --limit {host}`"
REBOOT = "`fleet reboot {host} --force`, which drains its slots first"


def check_gpus(patient: Patient) -> Verdict:
    """GPUs are there, whole, and the driver lists each card of the PCI bus."""
    answer = patient.facts.get(PCI_PROBE.key, ABSENT)
    cards = len(parse_pci(answer).gpus) if answer.ok else None
    gpus = patient.gpus
    if gpus is None:
        if cards == 0:
            return bad("no NVIDIA GPU is on its PCI bus", _NO_CARD)
        return skipped("no driver answers")
    faulty = faulty_gpus(patient.facts.get(GPU_PROBE.key, ABSENT))
    if not gpus and not faulty:
        return bad("the driver finds no GPU", _LOST if cards else _NO_CARD)
    troubles = [
        Trouble(
            "a GPU is in MIG mode, which cuts it into parts",
            f"`nvidia-smi -i {gpu.index} -mig 0` on {{host}}, or take the host out of the group",
            gpu.name,
            patient.slot_name(gpu),
        )
        for gpu in gpus
        if gpu.mig
    ]
    troubles += [Trouble("a GPU does not tell its UUID", _LOST, each) for each in faulty]
    if cards and len(gpus) + len(faulty) < cards:
        detail = f"{len(gpus)} of {cards}"
        troubles.append(Trouble("the driver does not list every GPU of the PCI bus", _LOST, detail))
    names = sorted({gpu.name for gpu in gpus})
    return judged(f"{len(gpus)} x {', '.join(names)}", troubles)


def check_memory(patient: Patient) -> Verdict:
    """Each GPU has the memory that the image needs."""
    wanted = str(patient.host.vars.get("gpu_memory_min") or "12GiB")
    if not patient.gpus:
        return skipped("no GPU is known")
    try:
        needed = parse_size(wanted) // MIB
    except ValueError:
        return skipped(f"gpu_memory_min is {wanted}")
    small = [gpu for gpu in patient.gpus if gpu.memory_total is not None and gpu.memory_total < needed]
    troubles = [
        Trouble(
            "a GPU has less memory than the image needs",
            "use a quantised image with a lower gpu_memory_min, or take {host} out of the group",
            f"{gpu.name}, {show_mib(gpu.memory_total or 0)} of {show_mib(needed)}",
            patient.slot_name(gpu),
        )
        for gpu in small
    ]
    return judged(f"at least {show_mib(needed)} each", troubles)


def check_versions(patient: Patient) -> Verdict:
    """The driver answers; module, library and the kernel to come fit."""
    seen = _driver(patient)
    if patient.gpus is None:
        return _silent(patient, seen)
    speaks = next((gpu.driver_version for gpu in patient.gpus if gpu.driver_version), None) or seen.loaded
    troubles = []
    if seen.upgraded:
        detail = f"{seen.loaded} runs, {seen.module} is on disk"
        troubles.append(Trouble("another driver is installed than runs", REBOOT, detail))
    elif seen.loaded and seen.modinfo and not seen.module:
        troubles.append(
            Trouble(
                "the running kernel has no driver module on disk",
                f"{_BUILD}: the next restart finds no driver otherwise",
                seen.kernel,
            )
        )
    if speaks and seen.libraries and speaks not in seen.libraries:
        troubles.append(
            Trouble(
                "the driver's library is of another version than its module",
                REBOOT,
                f"module {speaks}, library {', '.join(seen.libraries)}",
            )
        )
    if seen.module and seen.next and not seen.next_module:
        troubles.append(
            Trouble(
                "the kernel that the next restart brings has no driver module",
                f"install linux-headers-{seen.next} on {{host}}, then `dkms autoinstall -k {seen.next}`",
                seen.next,
            )
        )
    return judged(speaks or "it answers", troubles)


def _silent(patient: Patient, seen: Driver) -> Verdict:
    """Why nvidia-smi fails, by its own words and by what is there."""
    answer = patient.facts.get(GPU_PROBE.key, ABSENT)
    said = driver_problem(answer) or ""
    first = said.splitlines()[0] if said else ""
    if answer.rc == 127:
        return bad("the NVIDIA driver is not installed", PROVISION)
    if "version mismatch" in said.lower():
        libraries = ", ".join(seen.libraries) or ", ".join(re.findall(r"library version: (\S+)", said))
        detail = f"module {seen.loaded or '?'}, library {libraries or '?'}"
        return bad("the driver's library is of another version than its module", REBOOT, detail)
    if tells_of_lost_gpu(said):
        return bad("a GPU has fallen off the bus", _LOST, first)
    if seen.modinfo and not seen.module and not seen.loaded:
        return bad("the running kernel has no driver module", _BUILD, seen.kernel)
    if seen.module and not seen.loaded:
        return bad(
            "the driver's module is not loaded",
            "`modprobe nvidia` on {host}; `dmesg | tail` there says why it does not load",
            first,
        )
    return bad("the NVIDIA driver does not answer", _LOST, first)


def check_nouveau(patient: Patient) -> Verdict:
    """The free driver does not hold the cards."""
    if "loaded" not in _driver(patient).nouveau:
        return well("not loaded")
    return bad(
        "the module nouveau holds the GPUs",
        "on {host}: `printf 'blacklist nouveau\\noptions nouveau modeset=0\\n' >"
        "/etc/modprobe.d/fleet-nouveau.conf`, `update-initramfs -u` (RHEL: `dracut -f`), then restart it",
    )


def check_secure_boot(patient: Patient) -> Verdict:
    """Secure Boot lets the module in."""
    seen = _driver(patient)
    if not seen.secure_boot:
        return well("not there" if seen.secure_boot is None else "off")
    if seen.loaded:
        return well("on, and the module is let in")
    if seen.enrolled:
        return well("on, DKMS' key is enrolled")
    if seen.signer and "DKMS" not in seen.signer.upper() and not seen.dkms:
        return well(f"on, the module is signed by {seen.signer}")
    if not seen.module and not seen.dkms and not dkms_wanted(patient):
        return well("on")
    return bad(
        "Secure Boot refuses a driver that DKMS builds",
        "switch it off in the firmware of {host}; or `mokutil --import /var/lib/dkms/mok.pub` there "
        "(Ubuntu: /var/lib/shim-signed/mok/MOK.der), restart, enrol the key at its console; "
        "or use a signed driver (Ubuntu: linux-modules-nvidia-...)",
    )


def dkms_wanted(patient: Patient) -> bool:
    """True where the inventory's driver is one that the host builds itself, as it is by default."""
    wanted = patient.host.vars.get("nvidia_driver_packages") or ()
    names = [str(each) for each in wanted] if isinstance(wanted, list | tuple) else []
    driver = patient.host.vars.get("nvidia_driver") or {}
    prebuilt = isinstance(driver, Mapping) and driver.get("modules") == "prebuilt"
    return not prebuilt and not any("linux-modules-nvidia" in name for name in names)


def _driver(patient: Patient) -> Driver:
    return parse_driver(patient.facts.get(DRIVER_PROBE.key, ABSENT))


_NO_CARD = "take {host} out of the group `gpu`; or look at `lspci -d 10de:` there and seat the card anew"
_LOST = (
    "look at `dmesg | grep -i -e nvrm -e xid` on {host}; then `nvidia-smi --gpu-reset` there, or "
    f"{REBOOT} (a lost card comes back only so); does it go away again, look at heat, seat and power"
)
_BUILD = "install its kernel's headers on {host} (linux-headers-$(uname -r)), then `dkms autoinstall` there"

CHECKS = (
    Check(
        "driver",
        "gpus",
        "one container runs on each whole GPU",
        check_gpus,
        lambda host: (PCI_PROBE, GPU_PROBE, CONTAINERS_PROBE),
    ),
    Check(
        "driver",
        "memory",
        "a model that does not fit ends at its start, again and again",
        check_memory,
        lambda host: (GPU_PROBE,),
    ),
    Check(
        "driver",
        "versions",
        "where kernel, module, library and card do not fit together, no container starts",
        check_versions,
        lambda host: (DRIVER_PROBE, GPU_PROBE),
    ),
    Check(
        "driver",
        "nouveau",
        "NVIDIA's driver gets no card that another one holds",
        check_nouveau,
        lambda host: (DRIVER_PROBE,),
    ),
    Check(
        "driver",
        "secure-boot",
        "the kernel loads no module whose key it does not know, and only somebody at the console enrols one",
        check_secure_boot,
        lambda host: (DRIVER_PROBE,),
    ),
)
