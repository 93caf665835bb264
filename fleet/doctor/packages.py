"""What may change the driver behind everybody's back: unattended upgrades, and packages not held."""

from __future__ import annotations

import re
import shlex

from fleet.doctor.model import Check, Fix, Verdict, bad, skipped, well
from fleet.doctor.patient import ABSENT, Patient
from fleet.model.facts import Probe
from fleet.modules._apt import mark

_DRIVER = re.compile(r"nvidia-(driver|headless|open|utils)(?!-pinning)(-|$)")
_TOOLKIT = re.compile(r"nvidia-container-toolkit$")
SAMPLE = ("nvidia-driver-cuda", "libnvidia-compute-580-server", "nvidia-container-toolkit")
"""Packages whose change breaks what runs: each must be kept from unattended upgrades."""

PACKAGES_PROBE = Probe(
    "doctor.packages",
    """\
command -v dpkg-query >/dev/null || exit 127
dpkg-query -W -f='package ${db:Status-Abbrev} ${Package} ${Version}\\n' |
  grep -E '^package .. +(lib)?nvidia-|^package .. +linux-(modules|objects|signatures)-nvidia-'
ls /etc/apt/preferences.d 2>/dev/null | sed -n 's/^nvidia-driver-pinning.*/pinned/p'
[ -x /usr/bin/unattended-upgrade ] || exit 0
echo unattended
apt-config dump APT::Periodic::Unattended-Upgrade Unattended-Upgrade::Package-Blacklist
exit 0
""",
)


def check_updates(patient: Patient) -> Verdict:
    """Unattended upgrades keep their hands off the driver; prebuilt modules come with their kernels."""
    answer = patient.facts.get(PACKAGES_PROBE.key, ABSENT)
    if not answer.ok:
        return skipped("the host has no dpkg")
    lines = answer.text.splitlines()
    if "unattended" not in lines:
        return well("not installed")
    if not any(
        re.fullmatch(r'APT::Periodic::Unattended-Upgrade "([1-9]\d*|always)\w?";', line) for line in lines
    ):
        return well("switched off")
    patterns = re.findall(r'^Unattended-Upgrade::Package-Blacklist:: "(.*)";$', answer.text, re.MULTILINE)
    held = {name for name, status in _packages(lines).items() if status[:1] == "h"}
    others = (name for name in _packages(lines) if name not in held and not name.startswith("linux-"))
    driver = [*SAMPLE, *others]
    if all(any(_matches(pattern, name) for pattern in patterns) for name in driver):
        return well("the driver is left out")
    return bad(
        "unattended upgrades may change the driver",
        '`fleet provision --limit {host}`; or put "nvidia-" and "libnvidia-" into '
        "Unattended-Upgrade::Package-Blacklist, in a file in /etc/apt/apt.conf.d on {host}",
        f"left out are: {', '.join(patterns)}" if patterns else "nothing is left out",
    )


def check_holds(patient: Patient) -> Verdict:
    """The driver's and the toolkit's packages are held at their version."""
    answer = patient.facts.get(PACKAGES_PROBE.key, ABSENT)
    if not answer.ok:
        return skipped("the host has no dpkg")
    lines = answer.text.splitlines()
    installed = {name: status for name, status in _packages(lines).items() if status[1:2] in ("i", "W", "t")}
    if not installed:
        return skipped("no package of NVIDIA's is installed")
    pinned = "pinned" in lines
    loose = [
        name
        for heads in (_DRIVER, _TOOLKIT)
        for name in _loose({name: at for name, at in installed.items() if heads.match(name)})
        if not (pinned and heads is _DRIVER)
    ]
    if not loose:
        return well("held")
    return bad(
        "packages of the driver or the toolkit are not held",
        f"`apt-mark hold {shlex.join(loose)}` on {{host}}, or `fleet provision --limit {{host}}`",
        ", ".join(loose),
        fix=Fix(f"hold {', '.join(loose)}", (mark("hold", loose),)),
    )


def _loose(heads: dict[str, str]) -> list[str]:
    """The packages that pull the others along, where none is held: one that is keeps its twins."""
    return [] if any(status[:1] == "h" for status in heads.values()) else list(heads)


def _packages(lines: list[str]) -> dict[str, str]:
    """Package -> dpkg's letters."""
    rows = (line.split() for line in lines if line.startswith("package "))
    return {row[2]: row[1] for row in rows if len(row) >= 3}


def _matches(pattern: str, name: str) -> bool:
    """As unattended-upgrades matches: a regular expression from the name's start."""
    try:
        return re.match(pattern, name) is not None
    except re.error:
        return False


CHECKS = (
    Check(
        "system",
        "updates",
        "a driver changed at night lets no container start until the host is restarted",
        check_updates,
        lambda host: (PACKAGES_PROBE,),
    ),
    Check(
        "system",
        "holds",
        "the next `apt upgrade` changes the driver under the running containers",
        check_holds,
        lambda host: (PACKAGES_PROBE,),
    ),
)
