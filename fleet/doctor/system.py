"""The group `system`: what the host is, and what it may do to the service by itself."""

from __future__ import annotations

from fleet.control.spans import in_words
from fleet.doctor.model import BALANCER_GROUP, GPU_GROUP, Check, Trouble, Verdict, bad, judged, skipped, well
from fleet.doctor.patient import ABSENT, Patient
from fleet.errors import FleetError
from fleet.model.facts import Probe
from fleet.modules._os import OS_PROBE, System, system
from fleet.modules._reboot import REBOOT_PROBE, parse_reboot
from fleet.modules.base import Context

EVERYWHERE = (GPU_GROUP, BALANCER_GROUP)
SUPPORTED = {"debian": ("12", "13"), "ubuntu": ("22.04", "24.04")}
"""Systems on which fleet itself is tried; RHEL and its kin are named by `RED_HAT`."""

RED_HAT = ("rhel", "rocky", "almalinux")
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
SKEW = 5.0
"""Seconds that a host's clock may be off: leases, certificates and the order of logs bear no more."""

SYSTEM_PROBE = Probe(
    "doctor.system",
    """\
date +now=%s.%N
printf 'machine=%s\\nkernel=%s\\n' "$(uname -m)" "$(uname -r)"
exit 0
""",
)


def check_system(patient: Patient) -> Verdict:
    """The operating system and the architecture."""
    found = os_of(patient)
    if found is None:
        return bad("the host does not say which system it runs", "look at /etc/os-release on {host}")
    machine = patient.pairs(SYSTEM_PROBE.key).get("machine", "")
    said = f"{found.title}, {ARCHITECTURES.get(machine, machine)}"
    troubles = []
    if reason := unsupported(found):
        troubles.append(Trouble(reason, _OTHER_SYSTEM, found.title))
    if machine and machine not in ARCHITECTURES:
        troubles.append(
            Trouble(
                "its architecture is not supported",
                "take {host} out of the group, or use a host with x86_64 or aarch64",
                machine,
            )
        )
    return judged(said, troubles)


def os_of(patient: Patient) -> System | None:
    """The system; None where the host does not say."""
    try:
        return system(patient.facts, Context(patient.host))
    except (FleetError, KeyError, ValueError):
        return None


def unsupported(found: System) -> str:
    """Why fleet cannot set this system up; empty where it can."""
    if found.id in RED_HAT:
        return "" if found.major == 9 else "its release is not supported"
    if found.id not in SUPPORTED:
        return "its system is not supported"
    # A release without a number is one that is not out yet, with newer packages than the last.
    if not found.version or found.version in SUPPORTED[found.id]:
        return ""
    return "its release is not supported"


def check_clock(patient: Patient) -> Verdict:
    """The host's clock against the controller's."""
    pairs = patient.pairs(SYSTEM_PROBE.key)
    try:
        now = float(pairs["now"])
    except (KeyError, ValueError):
        return skipped("the host does not tell the time")
    # It told the time somewhere between: only what lies outside is surely off.
    off = now - patient.after if now > patient.after else min(0.0, now - patient.before)
    if abs(off) <= SKEW:
        return well("right")
    way = "ahead of" if off > 0 else "behind"
    return bad(
        "its clock is off",
        "run `timedatectl set-ntp true` on {host}, with chrony or systemd-timesyncd installed there; then "
        "`timedatectl` shows it",
        f"{in_words(abs(off))} {way} this machine's",
    )


def check_reboot(patient: Patient) -> Verdict:
    """Whether the host waits for a restart, or for the end of one."""
    answer = patient.facts.get(REBOOT_PROBE.key, ABSENT)
    own, every = parse_reboot(answer, system=False), parse_reboot(answer)
    if own.begun is not None:
        by = f"begun by {own.begun.by}" if own.begun.by else ""
        return bad("a reboot of it was begun and has not ended", _GO_ON, by)
    # `fleet reboot` drains slots first; a balancer has none.
    remedy = _REBOOT if GPU_GROUP in patient.host.groups else _REBOOT_BALANCER
    if own.reasons:
        return bad("it waits for a reboot", remedy, "; ".join(own.reasons))
    # Without the driver's own word the system's is advice: new libraries, another kernel for the next time.
    if every.reasons:
        return bad("the system asks for a reboot", remedy, "; ".join(every.reasons))
    return well("none pending")


_OTHER_SYSTEM = (
    "install one that is: Debian 12 or 13, Ubuntu 22.04 or 24.04, RHEL or Rocky 9; "
    "`--skip-preflight` tries anyway"
)
_REBOOT = "`fleet reboot {host}`: it drains the slots first and gives them back once all is there again"
_GO_ON = "`fleet reboot {host}` goes on with it, and gives back the slots that it drained"
_REBOOT_BALANCER = "`systemctl reboot` on {host}, while another balancer serves or nobody works"

CHECKS = (
    Check(
        "system",
        "os",
        "fleet's packages and NVIDIA's are for these systems only",
        check_system,
        lambda host: (OS_PROBE, SYSTEM_PROBE),
        EVERYWHERE,
    ),
    Check(
        "system",
        "clock",
        "leases, certificates and logs are compared by the time",
        check_clock,
        lambda host: (SYSTEM_PROBE,),
        EVERYWHERE,
    ),
    Check(
        "system",
        "reboot",
        "until then what is installed is not what runs, and it may come up differently at a bad time",
        check_reboot,
        lambda host: (REBOOT_PROBE,),
        EVERYWHERE,
    ),
)
