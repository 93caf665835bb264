"""The nvidia_driver module: a driver for the host's GPUs, or the working one that is there."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar, Literal

from fleet.gpu.architecture import Generation
from fleet.model.facts import Facts, Probe
from fleet.model.steps import Change
from fleet.modules import _driver_install as install
from fleet.modules._driver_mend import build, mend
from fleet.modules._driver_packages import (
    DEFAULT_BRANCH,
    SUPPORTED,
    Recipe,
    UnsupportedError,
    is_driver,
    recipe,
)
from fleet.modules._driver_seen import DRIVER_PROBES, Driver, at_least, see_driver, version_parts
from fleet.modules._driver_settle import settle, settle_change, waits_for_reboot
from fleet.modules._os import OS_PROBE, System, system
from fleet.modules.base import Args, Context


class NvidiaDriverArgs(Args, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Arguments of `nvidia_driver`."""

    state: Literal["present", "branch"] = "present"
    branch: int | None = None
    min_version: str = ""
    modules: Literal["dkms", "prebuilt"] = "dkms"
    repository: str | None = install.NVIDIA
    hold: bool | None = True
    replace: bool = False

    def __post_init__(self) -> None:
        if self.branch is not None and not 400 <= self.branch <= 9999:
            raise ValueError(f"`branch` is a driver's first number, such as 580, not {self.branch}")
        if self.min_version and not re.fullmatch(r"[0-9]{3,4}(\.[0-9]+){0,2}", self.min_version):
            raise ValueError(f"`min_version` is not a driver's version: {self.min_version!r}")
        if self.branch is not None and version_parts(self.min_version)[:1] > (self.branch,):
            raise ValueError(f"`branch` {self.branch} cannot satisfy `min_version` {self.min_version}")
        if self.state == "branch" and self.branch is None:
            raise ValueError("`state: branch` needs `branch`")
        if self.repository is not None and not self.repository.startswith("https://"):
            raise ValueError("`repository` must start with https://, or be null")


class NvidiaDriver:
    """Give the host an NVIDIA driver that fits its GPUs, and leave a working one alone.

    A driver works where the running kernel has its module and `nvidia-smi` lists every GPU of the PCI bus.
    One that works and satisfies `min_version` is left alone, wherever it came from. Else the driver of
    `branch` is installed: from Ubuntu's archive on Ubuntu, from NVIDIA's repository on Debian and RHEL,
    with the open kernel modules from Turing on and the proprietary ones for older GPUs. An installation
    that was interrupted is finished first. Where the driver only works after a reboot, the task ends well
    and says so in /run/fleet/reboot-required, which the module `reboot` reads. docs/drivers.md tells all.

    It stops, and says what to do: with Secure Boot where modules are built on the host; where a driver must
    be changed that came without a package; where Debian's own driver is installed; where a package that
    somebody else holds stands in the way; where no driver fits.

    Arguments:
        state: `present` (default) accepts any working driver, `branch` only one of `branch`.
        branch: the driver's branch. Default: 580, or that of `min_version` where it is newer.
        min_version: the oldest driver to accept, such as `570.133.20`; `"580"` needs quotes. Default: any.
        modules: `dkms` (default) builds kernel modules on the host; `prebuilt`, for Ubuntu's own kernels,
            installs signed ones, which Secure Boot accepts.
        repository: where NVIDIA's repositories are, or a mirror of them; null uses what apt has already.
            Default: https://developer.download.nvidia.com/compute/cuda/repos.
        hold: true (default) keeps apt and dnf from changing the driver; null leaves holds as they are.
        replace: true removes a driver of Debian's own packages where it must give way; default false.

    Example:
        - name: NVIDIA driver
          nvidia_driver:
            min_version: 570.133.20
    """

    name: ClassVar[str] = "nvidia_driver"
    args: ClassVar[type[Args]] = NvidiaDriverArgs

    def probes(self, args: NvidiaDriverArgs, ctx: Context) -> Sequence[Probe]:
        """Ask for the system, the PCI bus, nvidia-smi, kernel modules, packages and the repository."""
        return (OS_PROBE, *DRIVER_PROBES, *install.probes())

    def plan(self, args: NvidiaDriverArgs, facts: Facts, ctx: Context) -> Sequence[Change]:
        """What is broken first, then packages, holds, and the module's loading; nothing for a good driver."""
        seen, host = see_driver(facts), system(facts, ctx)
        if not seen.pci.gpus and not seen.gpus:
            raise ctx.fail(
                "no NVIDIA GPU is on the PCI bus of this host",
                remedy="check that the card is seated, powered and passed through (`lspci -d 10de:`), "
                "or take the host out of this group",
            )
        accepted = _accepted(args, seen)
        if accepted and not seen.fault and not any(map(is_driver, seen.broken)):
            return _holds(args, host, seen, facts)
        wanted = _wanted(args, host, seen, accepted, ctx)
        changes = mend(seen, wanted)
        if seen.foreign and (not accepted or (seen.fault and not seen.lost)):
            raise _refuse_foreign(seen, args, ctx)
        missing = install.missing(wanted, seen, upgrade=not accepted and bool(seen.packages))
        if missing and (not accepted or (seen.fault and not seen.lost and not seen.upgraded)):
            if not wanted.prebuilt and seen.secure_boot and not seen.enrolled:
                raise _refuse_secure_boot(wanted, ctx)
            changes += install.changes(wanted, missing, seen, host, facts, ctx, args.repository, args.replace)
            changes += install.hold(wanted, facts, seen, args.hold, installing=missing)
            other = seen.loaded and not accepted
            return [*changes, settle_change(_REBOOTS.format(seen.loaded) if other else "")]
        unbuilt = seen.fault and not seen.module and not seen.lost
        if unbuilt and not waits_for_reboot(seen):
            changes += build(wanted, seen)
        changes += install.hold(wanted, facts, seen, args.hold)
        return [*changes, *settle(seen, ctx)]


_REBOOTS = "ask for a reboot: until then {} stays in the kernel"


def _accepted(args: NvidiaDriverArgs, seen: Driver) -> bool:
    """Whether the driver's version, as far as there is one, is one to keep.

    What packages brought counts before what is loaded: after a reboot it is the truth.
    """
    version = install.packaged_version(seen) or seen.version
    if not version or not at_least(version, args.min_version):
        return False
    return args.state == "present" or version_parts(version)[:1] == (args.branch,)


def _wanted(args: NvidiaDriverArgs, host: System, seen: Driver, accepted: bool, ctx: Context) -> Recipe:
    """The packages to have: of the branch that is there where it is to be kept."""
    kept = version_parts(install.packaged_version(seen))[:1] if accepted else ()
    least = version_parts(args.min_version)[:1]
    branch = kept[0] if kept else args.branch or max((DEFAULT_BRANCH, *least))
    generations = [gpu.generation for gpu in seen.pci.gpus] or [Generation.TURING]
    try:
        return recipe(host, generations, branch, seen.kernel, prebuilt=args.modules == "prebuilt")
    except UnsupportedError as error:
        raise ctx.fail(
            f"{error}",
            remedy=f"fleet installs drivers on {SUPPORTED}; one that you install by hand is used as it is",
        ) from None


def _holds(args: NvidiaDriverArgs, host: System, seen: Driver, facts: Facts) -> list[Change]:
    """A good driver's packages are held, if it has any that fleet would install."""
    version = version_parts(install.packaged_version(seen))
    if not version:
        return []
    generations = [gpu.generation for gpu in seen.pci.gpus] or [Generation.TURING]
    try:
        wanted = recipe(host, generations, version[0], seen.kernel, prebuilt=args.modules == "prebuilt")
    except UnsupportedError:
        return []
    return install.hold(wanted, facts, seen, args.hold)


def _refuse_foreign(seen: Driver, args: NvidiaDriverArgs, ctx: Context) -> Exception:
    why = seen.fault or f"it is {seen.version}, and {_asked(args)} is asked for"
    return ctx.fail(
        f"the NVIDIA driver {seen.version} on this host came without a package, and must change: {why}",
        remedy="remove it with `nvidia-uninstall` (a .run file's driver) and run fleet again, which then "
        "installs packages; or bring it in order by hand",
    )


def _refuse_secure_boot(wanted: Recipe, ctx: Context) -> Exception:
    ubuntu = wanted.family == "ubuntu"
    prebuilt = " or say `modules: prebuilt`, which Ubuntu signs;" if ubuntu else ""
    make, key = "`dkms generate_mok` (Debian 12: the first module that dkms builds)", "/var/lib/dkms/mok.pub"
    if ubuntu:
        make, key = "`update-secureboot-policy --new-key`", "/var/lib/shim-signed/mok/MOK.der"
    return ctx.fail(
        "Secure Boot is on: the kernel would refuse a driver module built on this host",
        remedy=f"switch Secure Boot off in the firmware;{prebuilt} or install dkms and enroll its key, which "
        f"{make} makes: `mokutil --import {key}`, reboot, and confirm at the machine's console",
    )


def _asked(args: NvidiaDriverArgs) -> str:
    return f"branch {args.branch}" if args.state == "branch" else f"{args.min_version} or newer"
