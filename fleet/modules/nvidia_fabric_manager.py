"""The nvidia_fabric_manager module: what makes the NVSwitches of a host work."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar

from fleet.model.facts import Facts, Probe
from fleet.model.steps import Change, Run
from fleet.modules import _apt, _dnf
from fleet.modules._driver_packages import UnsupportedError, family
from fleet.modules._driver_seen import DRIVER_PROBES, Driver, see_driver
from fleet.modules._driver_settle import waits_for_reboot
from fleet.modules._os import OS_PROBE, system
from fleet.modules._systemd import SYSTEMCTL, unit_probe, unit_state
from fleet.modules.base import Args, Context
from fleet.modules.systemd import Systemd, SystemdArgs

UNIT = "nvidia-fabricmanager.service"
_ANY = re.compile(r"nvidia-fabric-?manager(-[0-9]+)?")
_NAMELESS_FROM = 580
"""From this branch on NVIDIA's own packages have the branch no more in their name; Ubuntu's do."""


class NvidiaFabricManagerArgs(Args, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Arguments of `nvidia_fabric_manager`."""

    needed: bool | None = None
    package: str | None = None

    def __post_init__(self) -> None:
        if self.package is not None and _apt.parse_wish(self.package).version:
            raise ValueError("`package` is a name; its version is always the driver's")


class NvidiaFabricManager:
    """Run NVIDIA's Fabric Manager, at exactly the driver's version, where GPUs are joined by NVSwitches.

    Without it `nvidia-smi` looks healthy, and every CUDA program fails. A host has NVSwitches where they are
    on its PCI bus (HGX and DGX up to H200). On others nothing is done. When the driver changes, the next run
    brings the fabric manager to its version. A driver that waits for a reboot is waited for.

    Arguments:
        needed: true for machines whose switches are not on the PCI bus (HGX B200 and later, which need
            `nvlsm` besides); false never. Default: by the PCI bus.
        package: the package's name. Default: nvidia-fabricmanager, with the branch where its name has it.

    Example:
        - name: NVSwitch
          nvidia_fabric_manager: {}
    """

    name: ClassVar[str] = "nvidia_fabric_manager"
    args: ClassVar[type[Args]] = NvidiaFabricManagerArgs

    def probes(self, args: NvidiaFabricManagerArgs, ctx: Context) -> Sequence[Probe]:
        """Ask for the driver with its packages, and the unit."""
        return (OS_PROBE, *DRIVER_PROBES, unit_probe(UNIT), _dnf.LOCKS_PROBE)

    def plan(self, args: NvidiaFabricManagerArgs, facts: Facts, ctx: Context) -> Sequence[Change]:
        """The package at the driver's version, held, then the unit."""
        seen = see_driver(facts)
        if not (seen.pci.switches > 0 if args.needed is None else args.needed):
            return []
        if not seen.version:
            return [Change(f"install the fabric manager once there is a driver ({seen.fault})")]
        if waits_for_reboot(seen):
            return []
        try:
            kind = family(system(facts, ctx))
        except UnsupportedError as error:
            raise ctx.fail(
                str(error), remedy="install the fabric manager of the driver's version by hand"
            ) from None
        name = args.package or _package(kind, seen.version)
        there = seen.packages.get(name)
        changes: list[Change] = []
        is_locked = kind == "redhat" and name in _dnf.locked(facts, (name,))
        held = is_locked or (there is not None and there.held)
        right = there is not None and there.there and there.version.partition("-")[0] == seen.version
        others = [other for other in seen.packages if _ANY.fullmatch(other) and other != name]
        if others and not right:
            changes.append(_removal(kind, others, seen, facts))
        if not right:
            before = there.version if there is not None else "absent"
            changes.append(
                Change(
                    f"install {name} {seen.version}, the driver's version",
                    f"{name}: {before} -> {seen.version}\n",
                    _install(kind, name, seen.version, held=held),
                )
            )
        if kind == "redhat":
            changes += _dnf.lock_changes((name,), facts, anew=not right)
        elif not right or not held:
            changes.append(Change(f"hold {name}", steps=(_apt.mark("hold", (name,)),)))
        unit = unit_state(UNIT, facts, ctx)
        wish = SystemdArgs(name=UNIT, state="started", enabled=True, masked=False)
        changes += Systemd().plan(wish, facts, ctx)
        if not right and unit.running:
            # Enabled as well: the removal of another branch's may have undone that.
            steps = [
                Run(("sh", "-c", SYSTEMCTL, "systemctl", verb, UNIT), timeout=300.0)
                for verb in ("enable", "restart")
            ]
            changes.append(Change(f"restart {UNIT}", steps=tuple(steps)))
        return changes


def _package(kind: str, version: str) -> str:
    branch = version.partition(".")[0]
    if kind == "ubuntu" or (kind == "debian" and int(branch) < _NAMELESS_FROM):
        return f"nvidia-fabricmanager-{branch}"
    return "nvidia-fabricmanager" if int(branch) >= _NAMELESS_FROM else "nvidia-fabric-manager"


def _removal(kind: str, others: Sequence[str], seen: Driver, facts: Facts) -> Change:
    """Those of other branches, which cannot stay beside it, also where fleet holds them."""
    if kind == "redhat":
        locked = _dnf.locked(facts, others)
        free = (_dnf.dnf("versionlock", "delete", *locked),) if locked else ()
        remove = _dnf.dnf("remove", *others)
    else:
        held = [other for other in others if seen.packages[other].held]
        free = (_apt.mark("unhold", held),) if held else ()
        remove = _apt.apt_get("remove", None, "--", *others, held=held)
    diff = "".join(f"{other}: {seen.packages[other].version} -> absent\n" for other in others)
    return Change(f"remove {', '.join(others)}", diff, (*free, remove))


def _install(kind: str, name: str, version: str, *, held: bool) -> tuple[Run, ...]:
    if kind == "redhat":
        install = _dnf.dnf("install", f"{name}-{version}")
        return (_dnf.dnf("versionlock", "delete", name), install) if held else (install,)
    # Ubuntu's needs its -server driver: beside another one apt would remove that.
    options = ("--no-install-recommends", "--no-remove", "--allow-downgrades", "--")
    fetch = _apt.apt_get("install", 86_400, *options, f"{name}={version}-*", held=(name,) if held else ())
    return (_apt.mark("unhold", (name,)), fetch) if held else (fetch,)
