"""The unattended_upgrades module: packages that apt's nightly upgrades must leave alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar, Literal

import msgspec

from fleet.model.facts import Facts, Probe
from fleet.model.steps import Change, Run
from fleet.modules import _apt
from fleet.modules._files import Wanted, file_probe, file_state, write
from fleet.modules.base import Args, Context

PATH = "/etc/apt/apt.conf.d/52fleet-nvidia"
"""After 50unattended-upgrades, whose list it adds to."""

DRIVER = ("nvidia-", "libnvidia-", "libcuda1$", "cuda-drivers")
"""Not `linux-modules-nvidia-`: an upgrade that brings the next kernel must bring its prebuilt modules."""

_PACKAGES = ("unattended-upgrades",)


class UnattendedUpgradesArgs(Args, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Arguments of `unattended_upgrades`."""

    blacklist: list[str] = msgspec.field(default_factory=lambda: list(DRIVER))
    state: Literal["present", "absent"] = "present"

    def __post_init__(self) -> None:
        if not self.blacklist:
            raise ValueError("`blacklist` is empty; say `state: absent` to have none")
        for pattern in self.blacklist:
            if '"' in pattern or ";" in pattern or not pattern.isprintable() or not pattern.strip():
                raise ValueError(f"`blacklist` has no regular expression in {pattern!r}")
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"`blacklist`: {pattern!r} is no regular expression: {error}") from None


class UnattendedUpgrades:
    """Have apt's unattended upgrades leave the NVIDIA driver alone.

    A driver that changes under running containers fails at the next start of one: its library and the
    loaded kernel module then differ. A file of its own in /etc/apt/apt.conf.d adds to the list that the
    package unattended-upgrades heeds; other settings stay as they are. Where that package is not installed,
    and on systems without apt, there is nothing to do.

    Arguments:
        blacklist: regular expressions of packages' names, as they begin. Default: those of the driver.
        state: `present` (default) or `absent`, which removes the file.

    Example:
        - name: The driver changes when fleet says so
          unattended_upgrades:
            blacklist: [nvidia-, libnvidia-]
    """

    name: ClassVar[str] = "unattended_upgrades"
    args: ClassVar[type[Args]] = UnattendedUpgradesArgs

    def probes(self, args: UnattendedUpgradesArgs, ctx: Context) -> Sequence[Probe]:
        """Ask whether the package is there, and for the file."""
        return (_apt.packages_probe(_PACKAGES, virtual=False), file_probe(PATH, "content"))

    def plan(self, args: UnattendedUpgradesArgs, facts: Facts, ctx: Context) -> Sequence[Change]:
        """The file, or none."""
        file = file_state(PATH, "content", facts, ctx)
        if args.state == "absent":
            removal = Change(f"remove {PATH}", f"{PATH}: file -> absent\n", (Run(("rm", "-f", "--", PATH)),))
            return [removal] if file.exists else []
        if not facts[_apt.packages_probe(_PACKAGES, virtual=False).key].ok:
            return []
        if not _apt.packages(_PACKAGES, facts, ctx, virtual=False)[_PACKAGES[0]].installed:
            return []
        change = write(Wanted(PATH, _text(args.blacklist).encode(), "0644", "root", "root"), file, ctx)
        return [change] if change else []


def _text(patterns: Sequence[str]) -> str:
    lines = "".join(f'    "{pattern}";\n' for pattern in patterns)
    return (
        "// Managed by fleet: changes here are undone by the next run.\n"
        f"Unattended-Upgrade::Package-Blacklist {{\n{lines}}};\n"
    )
