"""The apt module (also called package): Debian packages present or absent, pinned and held."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from fleet.model.facts import Facts, Probe
from fleet.model.steps import Change
from fleet.modules import _apt
from fleet.modules.base import Args, Context


class AptArgs(Args, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Arguments of `apt`."""

    name: str | list[str]
    state: Literal["present", "absent"] = "present"
    hold: bool | None = None
    install_recommends: bool = False
    allow_downgrade: bool = False
    cache_valid_time: int = 86_400
    purge: bool = False
    autoremove: bool = False

    def __post_init__(self) -> None:
        found = wishes(self)
        if not found:
            raise ValueError("`name` is empty")
        if len({wish.name for wish in found}) != len(found):
            raise ValueError("`name` lists a package twice")
        if self.state == "absent" and (self.hold is not None or any(wish.version for wish in found)):
            raise ValueError("`hold` and versions mean nothing with `state: absent`")
        if self.state == "present" and (self.purge or self.autoremove):
            raise ValueError("`purge` and `autoremove` go with `state: absent`")
        if self.cache_valid_time < 0:
            raise ValueError("`cache_valid_time` must not be negative")


class Apt:
    """Install or remove Debian packages. `package` is another name of this module.

    Installed packages are never upgraded, unless a version is asked for. The package lists are fetched
    only where something has to be installed and they are absent, old, or do not know it. A package that
    is half installed, such as after a lost connection, is finished first. A name that another installed
    package provides (a virtual package) counts as installed. Configuration files that were changed on the
    host are kept.

    Arguments:
        name: a package, or a list of them; `name=version` asks for one version, in which `*` stands for
            anything.
        state: `present` (default) or `absent`.
        hold: true keeps apt from ever changing the packages (`apt-mark hold`), false lets it again.
            Default: as it is; a hold of a package that changes here is kept.
        install_recommends: install recommended packages too; default false.
        allow_downgrade: accept a version older than the installed one; default false.
        cache_valid_time: seconds for which package lists count as new; default 86400.
        purge: with `state: absent`, remove the configuration too.
        autoremove: with `state: absent`, remove packages that nothing needs any more.

    Example:
        - name: Install tools, keep this version of one
          apt:
            name:
              - jq
              - htop=3.*
            hold: true
    """

    name: ClassVar[str] = "apt"
    args: ClassVar[type[Args]] = AptArgs

    def probes(self, args: AptArgs, ctx: Context) -> Sequence[Probe]:
        """One dpkg-query for these names."""
        return (_apt.packages_probe(_names(args), virtual=args.state == "present"),)

    def plan(self, args: AptArgs, facts: Facts, ctx: Context) -> Sequence[Change]:
        """One change for the packages, one for their holds."""
        known = _apt.packages(_names(args), facts, ctx, virtual=args.state == "present")
        if args.state == "absent":
            return _apt.remove(wishes(args), known, purge=args.purge, autoremove=args.autoremove)
        return _apt.install(
            wishes(args),
            known,
            hold=args.hold,
            recommends=args.install_recommends,
            allow_downgrade=args.allow_downgrade,
            cache_valid_time=args.cache_valid_time,
        )


def wishes(args: AptArgs) -> tuple[_apt.Wish, ...]:
    """The packages asked for. Raises ValueError for text that is not a package."""
    names = [args.name] if isinstance(args.name, str) else args.name
    return tuple(_apt.parse_wish(name.strip()) for name in names)


def _names(args: AptArgs) -> tuple[str, ...]:
    return tuple(wish.name for wish in wishes(args))
