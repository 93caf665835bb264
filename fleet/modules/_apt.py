"""apt and dpkg: which packages a host has, and the scripts that change that.

Shared by apt, apt_repository, docker_engine and nvidia_container_toolkit.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from types import MappingProxyType

from fleet.model.facts import Facts, Probe
from fleet.model.steps import Change, Run, Step
from fleet.modules.base import Context

TIMEOUT = 1800.0
"""Seconds for one apt step: up to 600 waiting for locks, the rest for downloads and maintainer scripts."""

ENVIRONMENT: Mapping[str, str] = MappingProxyType(
    {
        "DEBIAN_FRONTEND": "noninteractive",
        "NEEDRESTART_MODE": "l",  # list what should be restarted; restart nothing behind our back
        "NEEDRESTART_SUSPEND": "1",
        "APT_LISTCHANGES_FRONTEND": "none",
        "UCF_FORCE_CONFFOLD": "1",
        "LC_ALL": "C.UTF-8",
    }
)

_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]+(:[a-z0-9-]+)?")
_VERSION = re.compile(r"[A-Za-z0-9.+~:*-]+")
_VIRTUAL = "@provides"
_INSTALLED = ("i", "W", "t")
"""dpkg's letters for configured, and for configured with triggers still to run."""


@dataclass(frozen=True)
class Wish:
    """A package asked for: its name, perhaps `:architecture`, perhaps a version (`*` matches anything)."""

    name: str
    version: str | None = None

    def __str__(self) -> str:
        return f"{self.name}={self.version}" if self.version else self.name


@dataclass(frozen=True)
class Package:
    """A package by the name asked for. `status` and `version` are its provider's where it has one."""

    name: str
    version: str = ""
    status: str = "un"
    provided_by: str = ""

    @property
    def installed(self) -> bool:
        """True where it, or the package that provides it, is configured."""
        return self.status[1:2] in _INSTALLED

    @property
    def real(self) -> str:
        """The name to hold: the package's own, or its provider's."""
        return self.provided_by or self.name

    @property
    def held(self) -> bool:
        """True where apt must not change it."""
        return self.status[:1] == "h"

    def satisfies(self, wish: Wish) -> bool:
        """True where it is installed in the wished version."""
        return self.installed and (wish.version is None or fnmatchcase(self.version, wish.version))


def parse_wish(text: str) -> Wish:
    """`name` or `name=version`. Raises ValueError for what apt would take for something else."""
    name, _, version = text.partition("=")
    if not _NAME.fullmatch(name):
        raise ValueError(f"not a package name: {text!r}")
    if "=" in text and not _VERSION.fullmatch(version):
        raise ValueError(f"not a package version: {text!r}")
    return Wish(name, version or None)


def packages_probe(names: Sequence[str], *, virtual: bool = True) -> Probe:
    """Ask dpkg about these names; where one is unknown, also who provides it (if `virtual`)."""
    ordered = sorted(set(names))
    words = shlex.join(ordered)
    lines = [
        r"f='${db:Status-Abbrev}\t${Package}\t${Architecture}\t${Version}\t${db:Status-Status}\n'",
        "command -v dpkg-query >/dev/null || exit 127",
        f'o=$(dpkg-query -W -f="$f" -- {words} 2>/dev/null); rc=$?',
        "printf '%s\\n' \"$o\"",
    ]
    if virtual:
        provides = r"'${db:Status-Abbrev}\t${Package}\t${Version}\t${Provides}\n'"
        pattern = "|".join(re.sub(r"([.+])", r"\\\1", name.partition(":")[0]) for name in ordered)
        provided = f"(\t|, )({pattern})(:| |,|$)"
        lines += [
            "case $rc$o in 0*not-installed* | 0*config-files*) ;; 0*) exit 0 ;; esac",
            f"echo {_VIRTUAL}",
            f"dpkg-query -W -f={provides} | grep -E {shlex.quote(provided)}",
        ]
    lines.append("exit 0")
    return Probe(f"dpkg:{'+' if virtual else '-'}{words}", "\n".join(lines) + "\n")


def packages(
    names: Sequence[str], facts: Facts, ctx: Context, *, virtual: bool = True
) -> Mapping[str, Package]:
    """Every name with what dpkg says of it. Raises TaskError on a host without dpkg."""
    answer = facts[packages_probe(names, virtual=virtual).key]
    if not answer.ok:
        raise ctx.fail(
            "the host has no dpkg",
            output=answer.text,
            remedy="fleet installs packages on Debian and Ubuntu only",
        )
    own, _, providers = answer.text.partition(f"{_VIRTUAL}\n")
    rows = [line.split("\t") for line in own.splitlines()]
    provided = _provided(providers)
    found: dict[str, Package] = {}
    for asked in names:
        name, _, architecture = asked.partition(":")
        states = [
            Package(asked, row[3], row[0].strip())
            for row in rows
            if len(row) == 5 and row[1] == name and architecture in ("", row[2])
        ]
        best = max(states, key=lambda state: state.installed, default=Package(asked))
        if not best.installed and (provider := provided.get(name)):
            best = Package(asked, provider.version, provider.status, provider.name)
        found[asked] = best
    return found


def _provided(text: str) -> Mapping[str, Package]:
    """Virtual package -> the installed package that provides it, with the version it provides."""
    found: dict[str, Package] = {}
    for line in text.splitlines():
        status, name, version, provides = [*line.split("\t"), "", "", ""][:4]
        if status[1:2] not in _INSTALLED:
            continue
        for entry in provides.split(", "):
            virtual, _, constraint = entry.partition(" ")
            found[virtual.partition(":")[0]] = Package(name, constraint.strip("(= )") or version, status)
    return found


def install(
    wishes: Sequence[Wish],
    known: Mapping[str, Package],
    *,
    hold: bool | None = None,
    recommends: bool = False,
    allow_downgrade: bool = False,
    cache_valid_time: int = 86_400,
) -> list[Change]:
    """The changes that bring the wished packages, and their holds (None: as they are)."""
    missing = [wish for wish in wishes if not known[wish.name].satisfies(wish)]
    held = [wish.name for wish in missing if known[wish.name].held]
    changes: list[Change] = []
    if missing:
        options = ["--no-install-recommends"] if not recommends else ["--install-recommends"]
        if allow_downgrade:
            options.append("--allow-downgrades")
        steps: list[Step] = [mark("unhold", held)] if held else []
        arguments = (*options, "--", *map(str, missing))
        steps.append(apt_get("install", cache_valid_time, *arguments, held=held))
        if held and hold is None:
            steps.append(mark("hold", held))
        before_after = [_before_after(known[wish.name], wish) for wish in missing]
        summary = f"install {', '.join(str(wish).replace('=', ' ') for wish in missing)}"
        changes.append(Change(summary, "".join(before_after), tuple(steps)))
    installing = {wish.name for wish in missing}
    if hold:
        new = [
            wish.name if wish.name in installing else known[wish.name].real
            for wish in wishes
            if wish.name in installing or not known[wish.name].held
        ]
        if new:
            changes.append(Change(f"hold {', '.join(new)}", steps=(mark("hold", new),)))
    elif hold is False:
        old = [
            known[wish.name].real for wish in wishes if known[wish.name].held and wish.name not in installing
        ]
        if old:
            changes.append(Change(f"release the hold of {', '.join(old)}", steps=(mark("unhold", old),)))
    return changes


def remove(
    wishes: Sequence[Wish], known: Mapping[str, Package], *, purge: bool, autoremove: bool
) -> list[Change]:
    """The change that removes what is there of the packages (with `purge` their configuration too)."""
    there = [
        wish.name
        for wish in wishes
        if known[wish.name].installed or (known[wish.name].version and known[wish.name].status[1:2] != "c")
    ]
    left = [wish.name for wish in wishes if purge and known[wish.name].status[1:2] == "c"]
    if not there and not left:
        return []
    names = [*there, *left]
    steps: list[Step] = []
    if held := [name for name in names if known[name].held]:
        steps.append(mark("unhold", held))
    options = ["--autoremove"] if autoremove else []
    steps.append(apt_get("purge" if purge else "remove", None, *options, "--", *names, held=held))
    diff = "".join(f"{name}: {known[name].version or 'configuration'} -> absent\n" for name in names)
    return [Change(f"{'purge' if purge else 'remove'} {', '.join(names)}", diff, tuple(steps))]


def mark(verb: str, names: Sequence[str]) -> Run:
    """The step that sets or releases holds."""
    return Run(("apt-mark", verb, "--", *names), env=ENVIRONMENT)


def apt_get(verb: str, max_age: int | None, *arguments: str, held: Sequence[str] = ()) -> Run:
    """The step `apt-get VERB ARGUMENTS`.

    The package lists are fetched first where they are older than `max_age` seconds, and once more where a
    package or a version is not known (None: never). Where it fails, `held`, which were let go for it, are
    held again: the next run could not tell that they were.
    """
    age = "never" if max_age is None else str(max_age)
    argv = ("sh", "-c", APT, "apt", age, verb, *arguments)
    title = " ".join(("apt-get", verb, *arguments))
    env = {**ENVIRONMENT, "FLEET_HELD": " ".join(held)} if held else ENVIRONMENT
    return Run(argv, timeout=TIMEOUT, env=env, title=title)


def _before_after(package: Package, wish: Wish) -> str:
    before = package.version if package.installed else "absent"
    return f"{wish.name}: {before} -> {wish.version or 'installed'}\n"


# DPkg::Lock::Timeout covers dpkg's own lock only; those of the lists and of the archive need the loop.
APT = r"""
max_age=$1; shift
until=$(($(date +%s) + 600)); fresh=no; repaired=no; lists=/var/lib/apt/lists
apt() {
  while :; do
    out=$(apt-get -q -y -o DPkg::Lock::Timeout=600 -o Dpkg::Options::=--force-confdef \
      -o Dpkg::Options::=--force-confold "$@" 2>&1 </dev/null) && return 0
    case $out in
      *"Could not get lock "* | *"Unable to lock "*) [ "$(date +%s)" -lt "$until" ] || return 1; sleep 3 ;;
      *) return 1 ;;
    esac
  done
}
held() { apt-mark showhold 2>/dev/null | tr '\n' ' ' | sed 's/ $//;s/./; on hold: &/'; }
says() { case $out in *"$1"*) return 0 ;; esac; return 1; }
stop() {
  printf '%s\n' "$out" | tail -n 40 >&2
  case $out in
    *"Could not get lock "* | *"Unable to lock "*)
      reason="another program held the package lock for 10 minutes: $(printf '%s\n' "$out" |
        sed -n 's/.*[Hh]eld by process \([0-9]* ([^)]*)\).*/process \1/p' | tail -n 1)" ;;
    *"Unable to locate package"* | *"has no installation candidate"* | *"was not found"*)
      reason="no repository of this host has that package or version" ;;
    *"Held packages were changed"*)
      reason="another package is on hold: see apt-mark showhold$(held)" ;;
    *"Packages were downgraded"*)
      reason="the version asked for is older than the installed one: say allow_downgrade: true" ;;
    *"remove is disabled"*)
      reason="it would remove the packages that are named above" ;;
    *"unmet dependencies"* | *"broken packages"*)
      reason="packages on this host contradict each other: try apt-get -f install on it$(held)" ;;
    *"No space left on device"* | *"You don't have enough free space"*)
      reason="the disk is full" ;;
    *"is not signed"* | *NO_PUBKEY* | *"invalid signature"* | *"OpenPGP signature"*)
      reason="a repository's signature cannot be verified with the keys on this host" ;;
    *"Temporary failure resolving"* | *"Could not resolve"* | *"Failed to fetch"* | *"Could not connect"*)
      reason="a repository cannot be reached from this host" ;;
    *"error processing package"* | *"dpkg was interrupted"*)
      reason="a package's own script failed; its output is above" ;;
    *) reason= ;;
  esac
  [ -z "$reason" ] || printf 'reason: %s\n' "$reason" >&2
  [ -z "$FLEET_HELD" ] || apt-mark hold -- $FLEET_HELD >/dev/null
  exit 1
}
update() { fresh=yes; apt update || stop; }
stale() {
  set -- "$lists"/*Release
  [ -e "$1" ] || return 0
  [ $(($(date +%s) - $(stat -c %Y "$lists"))) -gt "$max_age" ]
}
[ "$max_age" = never ] || { stale && update; }
unknown() {
  says "Unable to locate package" || says "no installation candidate" || says "was not found" ||
    says "404 " || says "Unable to fetch some archives"
}
while ! apt "$@"; do
  if [ "$repaired" = no ] && says "dpkg was interrupted"; then
    repaired=yes
    out=$(dpkg --configure -a --force-confdef --force-confold 2>&1 </dev/null) || stop
  elif [ "$fresh" = no ] && [ "$max_age" != never ] && unknown; then
    update
  else
    stop
  fi
done
exit 0
"""
"""A sh script: update the lists where needed, run apt-get, wait for locks, and name the reason of a failure.

Its arguments: how many seconds old the lists may be (or `never`), then apt-get's.
"""
