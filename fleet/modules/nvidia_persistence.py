"""The nvidia_persistence module: the daemon that keeps the driver loaded."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar

from fleet.model.facts import Facts, Probe
from fleet.model.steps import Change, Run, Upload
from fleet.modules import _apt, _dnf
from fleet.modules._driver_packages import UnsupportedError, family
from fleet.modules._driver_seen import DRIVER_PROBES, Driver, see_driver
from fleet.modules._driver_settle import waits_for_reboot
from fleet.modules._os import OS_PROBE, system
from fleet.modules._systemd import SYSTEMCTL, unit_probe, unit_state
from fleet.modules.base import Args, Context
from fleet.modules.systemd import Systemd, SystemdArgs

UNIT = "nvidia-persistenced.service"
_DROP_IN = f"/etc/systemd/system/{UNIT}.d/fleet.conf"
_OFF = "--no-persistence-mode"
_UBUNTUS = f"/usr/bin/nvidia-persistenced --user nvidia-persistenced {_OFF} --verbose"

_DAEMON_PROBE = Probe("nvidia.persistenced", f"systemctl show -p ExecStart --value -- {UNIT}\nexit 0\n")


class NvidiaPersistenceArgs(Args, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Arguments of `nvidia_persistence`."""


class NvidiaPersistence:
    """Keep the driver loaded: nvidia-persistenced runs, now and after each boot.

    Without it the driver lets go of a GPU that nobody uses: the next container's start takes seconds more,
    and `nvidia-smi` tens of seconds on a host with eight GPUs. Where the driver came without the daemon, its
    package is installed at the driver's version; a driver that came without a package is left without it. A
    driver that waits for a reboot is waited for.

    Example:
        - name: Keep the driver loaded
          nvidia_persistence: {}
    """

    name: ClassVar[str] = "nvidia_persistence"
    args: ClassVar[type[Args]] = NvidiaPersistenceArgs

    def probes(self, args: NvidiaPersistenceArgs, ctx: Context) -> Sequence[Probe]:
        """Ask for the driver and the unit."""
        return (OS_PROBE, *DRIVER_PROBES, unit_probe(UNIT), _DAEMON_PROBE)

    def plan(self, args: NvidiaPersistenceArgs, facts: Facts, ctx: Context) -> Sequence[Change]:
        """The package where there is no unit, then the unit."""
        seen = see_driver(facts)
        if not seen.version:
            return [Change(f"start {UNIT} once there is a driver ({seen.fault})")]
        unit = unit_state(UNIT, facts, ctx)
        if waits_for_reboot(seen) and not unit.running:
            return []
        changes = []
        command = re.search(r" argv\[\]=(.*?) ; ", facts[_DAEMON_PROBE.key].text)
        daemon = command[1] if command else ""
        if not unit.exists:
            if seen.foreign:
                return []
            name = _package(seen, facts, ctx)
            step = (
                _dnf.dnf("install", name)
                if system(facts, ctx).id not in ("debian", "ubuntu")
                else _apt.apt_get("install", 86_400, "--no-install-recommends", "--no-remove", "--", name)
            )
            changes.append(Change(f"install {name.replace('=', ' ')}", steps=(step,)))
            daemon = _UBUNTUS if system(facts, ctx).id == "ubuntu" else ""
        if _OFF in daemon.split():
            changes.append(_switched_on(daemon))
        # A driver's own package may have started it meanwhile: then these steps change nothing.
        wish = SystemdArgs(name=UNIT, state="started", enabled=True, masked=False)
        return [*changes, *Systemd().plan(wish, facts, ctx)]


def _switched_on(daemon: str) -> Change:
    """Ubuntu's unit starts the daemon with persistence off, and may end it where nothing needs it."""
    command = " ".join(word for word in daemon.split() if word != _OFF)
    text = (
        f"# Managed by fleet.\n[Unit]\nStopWhenUnneeded=false\n[Service]\nExecStart=\nExecStart={command}\n"
    )
    steps = (
        Upload(_DROP_IN, text.encode()),
        Run(
            ("sh", "-c", _RESTART, "persistence", SYSTEMCTL, UNIT, _DROP_IN),
            timeout=300.0,
            title=f"restart {UNIT} with persistence mode",
        ),
    )
    return Change("switch persistence mode on", f"{_DROP_IN}: absent -> without {_OFF}\n", steps)


# Where it does not start so, the next run must see the unit as it was.
_RESTART = """\
systemctl daemon-reload && sh -c "$1" systemctl restart "$2" && exit 0
rm -f -- "$3"
systemctl daemon-reload
exit 1
"""


def _package(seen: Driver, facts: Facts, ctx: Context) -> str:
    """The package that has the daemon, at exactly the driver's version."""
    try:
        kind = family(system(facts, ctx))
    except UnsupportedError as error:
        raise ctx.fail(
            f"{error}, and {UNIT} is not there",
            remedy="install nvidia-persistenced of the driver's version by hand, or leave this task out",
        ) from None
    if kind == "redhat":
        return f"nvidia-persistenced-{seen.version}"
    if "nvidia-smi" in seen.packages:  # Debian's own driver, whose daemon has versions of its own
        return "nvidia-persistenced"
    name = "nvidia-persistenced"
    if kind == "ubuntu" and (flavour := re.fullmatch(r"nvidia-utils(-[0-9].*)", seen.owner)):
        name = f"nvidia-compute-utils{flavour[1]}"  # another flavour's would remove the driver
    return f"{name}={seen.version}-*"
