"""The hold module: packages that nothing may change."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar, Literal

from fleet.model.facts import Facts, Probe
from fleet.model.steps import Change
from fleet.modules import _apt, _dnf
from fleet.modules.base import Args, Context

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9+._-]+(:[a-z0-9-]+)?")
"""Of either system: rpm's names have capitals and _, dpkg's may have an architecture."""


class HoldArgs(Args, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Arguments of `hold`."""

    name: str | list[str]
    state: Literal["held", "unheld"] = "held"

    def __post_init__(self) -> None:
        found = names(self)
        if not found:
            raise ValueError("`name` is empty")
        for name in found:
            if "=" in name:
                raise ValueError(f"a hold keeps the installed version; leave it out: {name}")
            if not _NAME.fullmatch(name):
                raise ValueError(f"not a package name: {name!r}")
        if len(set(found)) != len(found):
            raise ValueError("`name` lists a package twice")


class Hold:
    """Keep packages at the version they have, or let them go again.

    By `apt-mark hold` on Debian and Ubuntu, by `dnf versionlock` on RHEL and its kin, whose plugin is
    installed where it is missing. Nothing is installed or removed: a package to hold must be there.

    Arguments:
        name: a package, or a list of them.
        state: `held` (default) or `unheld`.

    Example:
        - name: This kernel stays
          hold:
            name: linux-image-amd64
    """

    name: ClassVar[str] = "hold"
    args: ClassVar[type[Args]] = HoldArgs

    def probes(self, args: HoldArgs, ctx: Context) -> Sequence[Probe]:
        """Ask dpkg, or rpm and dnf; the host has one of them."""
        wanted = names(args)
        return (_apt.packages_probe(wanted, virtual=False), _dnf.rpm_probe(wanted), _dnf.LOCKS_PROBE)

    def plan(self, args: HoldArgs, facts: Facts, ctx: Context) -> Sequence[Change]:
        """One change for all holds that differ."""
        wanted = names(args)
        has_dpkg = facts[_apt.packages_probe(wanted, virtual=False).key].ok
        if has_dpkg:
            known = _apt.packages(wanted, facts, ctx, virtual=False)
            there = [name for name in wanted if known[name].installed]
            held = [name for name in wanted if known[name].held]
        elif facts[_dnf.rpm_probe(wanted).key].ok:
            there = list(_dnf.rpms(wanted, facts))
            held = list(_dnf.locked(facts, wanted))
        else:
            raise ctx.fail(
                "the host has neither dpkg nor rpm", remedy="fleet knows apt's and dnf's holds only"
            )
        if args.state == "held":
            if absent := [name for name in wanted if name not in there]:
                raise ctx.fail(
                    f"cannot hold what is not installed: {', '.join(absent)}",
                    remedy="install it before (module `apt` can hold it, too), or take it from the list",
                )
            if not has_dpkg:
                return _dnf.lock_changes(wanted, facts)
            new = [name for name in wanted if name not in held]
            return [Change(f"hold {', '.join(new)}", steps=(_apt.mark("hold", new),))] if new else []
        if not held:
            return []
        release = _apt.mark("unhold", held) if has_dpkg else _dnf.dnf("versionlock", "delete", *held)
        return [Change(f"release the hold of {', '.join(held)}", steps=(release,))]


def names(args: HoldArgs) -> tuple[str, ...]:
    """The packages' names."""
    return (args.name,) if isinstance(args.name, str) else tuple(args.name)
