"""The changes that install an NVIDIA driver: repository, nouveau, packages in their order, holds."""

from __future__ import annotations

from collections.abc import Sequence

from fleet.model.facts import Facts, Probe
from fleet.model.steps import Change, Run, Step, Upload
from fleet.modules import _apt, _dnf
from fleet.modules._driver_packages import Recipe, debians_own, is_driver, is_modules, other_branches
from fleet.modules._driver_seen import NOUVEAU_FILE, Driver, version_parts
from fleet.modules._files import file_probe, file_state
from fleet.modules._os import System
from fleet.modules._sources import (
    URIS_PROBE,
    Source,
    has_repository,
    source_changes,
    source_path,
    source_probes,
)
from fleet.modules.base import Context

NVIDIA = "https://developer.download.nvidia.com/compute/cuda/repos"
SOURCE = "nvidia-cuda"
KEYS = {
    "debian13": ("8793F200.pub", "02182E60104FCDC26EAE1B8597A5D4CB8793F200"),
    "deb": ("3bf863cc.pub", "EB693B3035CD5710E231E123A4B469963BF863CC"),
    "rpm": ("D42D0685.pub", "610C7B14E068A878070DA4E99CD0A493D42D0685"),
}
"""NVIDIA's signing keys: the file beside each repository, and its fingerprint."""

_STREAM = file_probe("/etc/dnf/modules.d/nvidia-driver.module", "content")
_MOVES_ALONG = ("nvidia-fabricmanager",)
"""Packages that a module of fleet holds and that must be free to follow the driver."""


def probes() -> tuple[Probe, ...]:
    """What installing needs to know besides the driver itself."""
    return (
        *source_probes(SOURCE),
        URIS_PROBE,
        *_dnf.repository_probes(SOURCE),
        _STREAM,
        _dnf.LOCKS_PROBE,
    )


def packaged_version(seen: Driver) -> str:
    """The version of the driver that packages brought, also of one whose installation did not end.

    The one that has nvidia-smi counts first: on Ubuntu, one of a branch that ended may only lead to another.
    """
    for name in (seen.owner, "nvidia-driver-cuda", *sorted(seen.packages)):
        if name in (seen.owner, "nvidia-driver-cuda") or name.startswith(
            ("nvidia-utils-", "nvidia-smi", "nvidia-headless-")
        ):
            package = seen.packages.get(name)
            if package and version_parts(package.version):
                return ".".join(map(str, package_numbers(package.version)))
    return ""


def package_numbers(version: str) -> tuple[str, ...]:
    """A package's version without epoch and revision, in parts that keep their zeros: ("580", "95", "05")."""
    return tuple(version.rpartition(":")[2].partition("-")[0].split("."))


def missing(wanted: Recipe, seen: Driver, *, upgrade: bool) -> tuple[str, ...]:
    """Of the driver's packages, those to install; all of them for an `upgrade`."""
    if upgrade:
        return wanted.packages

    def right(name: str) -> bool:
        package = seen.packages.get(name)
        if package is None or not package.there:
            return False
        return is_modules(name) or _of_branch(package.version, wanted.branch)

    return tuple(name for name in wanted.packages if not right(name))


def changes(
    wanted: Recipe,
    names: Sequence[str],
    seen: Driver,
    host: System,
    facts: Facts,
    ctx: Context,
    repository: str | None,
    replace: bool,
) -> list[Change]:
    """Everything up to the driver's packages. Raises TaskError for what must not be touched or mixed."""
    found = _repository(wanted, seen, host, facts, ctx, repository)
    found += _nouveau(seen)
    if wanted.family == "redhat":
        return [*found, *_redhat(wanted, names, seen, host, facts, ctx)]
    own = debians_own(seen.packages) if wanted.family == "debian" else ()
    if own and not replace:
        raise ctx.fail(
            f"Debian's own driver is installed ({', '.join(own)}): NVIDIA's must not be mixed with it",
            remedy="say `replace: true`, which removes it first, or `apt-get purge` it",
        )
    _refuse_holds(wanted, seen, ctx)
    if own:
        gone = tuple(name for name in sorted(seen.packages) if is_driver(name) or name in own)
        held = [name for name in gone if seen.packages[name].held]
        purge = _apt.apt_get("purge", None, "--", *gone, held=held)
        steps = (*((_apt.mark("unhold", held),) if held else ()), purge)
        found.append(Change("remove Debian's own driver", f"{', '.join(gone)} -> absent\n", steps))
    return [*found, _debs(wanted, names, seen, own)]


def hold(
    wanted: Recipe, facts: Facts, seen: Driver, wish: bool | None, *, installing: Sequence[str] = ()
) -> list[Change]:
    """The change that holds the driver's packages, or lets them go."""
    there = [n for n in wanted.held if n in installing or (n in seen.packages and seen.packages[n].there)]
    if not there or (not installing and wanted.family == "debian" and debians_own(seen.packages)):
        return []
    if wish is None:  # what had to be let go is held again
        if wanted.family == "redhat":
            return _dnf.lock_changes(_dnf.locked(facts, installing), facts, anew=True)
        again = [name for name in installing if name in seen.packages and seen.packages[name].held]
        return [Change(f"hold {', '.join(again)}", steps=(_apt.mark("hold", again),))] if again else []
    if wanted.family == "redhat":
        if wish:
            return _dnf.lock_changes(there, facts, anew=bool(installing))
        locked = _dnf.locked(facts, there)
        step = _dnf.dnf("versionlock", "delete", *locked)
        return [Change(f"release the hold of {', '.join(locked)}", steps=(step,))] if locked else []
    held = [
        name
        for name in there
        if name in seen.packages and seen.packages[name].held and name not in installing
    ]
    if wish and (new := [name for name in there if name not in held]):
        return [Change(f"hold {', '.join(new)}", steps=(_apt.mark("hold", new),))]
    if not wish and held:
        return [Change(f"release the hold of {', '.join(held)}", steps=(_apt.mark("unhold", held),))]
    return []


def _repository(
    wanted: Recipe, seen: Driver, host: System, facts: Facts, ctx: Context, repository: str | None
) -> list[Change]:
    if repository is None or wanted.family == "ubuntu":
        return []
    machine = {"aarch64": "sbsa"}.get(seen.machine, seen.machine)
    release = "rhel9" if wanted.family == "redhat" else host.release
    url = f"{repository.rstrip('/')}/{release}/{machine}"
    kind = "rpm" if wanted.family == "redhat" else "deb"
    file, fingerprint = KEYS.get(release, KEYS[kind])
    if kind == "rpm":
        title = "NVIDIA's CUDA repository"
        return _dnf.repository_changes(SOURCE, title, url, f"{url}/{file}", fingerprint, facts, ctx)
    own = file_state(source_path(SOURCE), "content", facts, ctx)
    if has_repository(url, facts) and not own.exists:
        return []  # by NVIDIA's cuda-keyring, say: apt reads nothing where one has two keys
    source = Source(
        SOURCE, uris=(f"{url}/",), suites=("/",), key_url=f"{url}/{file}", key_fingerprint=fingerprint
    )
    return list(source_changes(source, facts, ctx))


def _nouveau(seen: Driver) -> list[Change]:
    """nouveau kept away from the next boot on, also from the initramfs, where the host has it at all."""
    if "blacklisted" in seen.nouveau or not seen.nouveau:
        return []
    steps = (
        Upload(NOUVEAU_FILE, b"# Managed by fleet.\nblacklist nouveau\noptions nouveau modeset=0\n"),
        Run(("sh", "-c", _INITRAMFS), timeout=600.0, title="rebuild the initramfs"),
    )
    return [Change("keep nouveau from the GPUs", f"{NOUVEAU_FILE}: absent -> blacklist nouveau\n", steps)]


_INITRAMFS = """\
if command -v update-initramfs >/dev/null; then exec update-initramfs -u; fi
if command -v dracut >/dev/null; then exec dracut --force; fi
"""


def _refuse_holds(wanted: Recipe, seen: Driver, ctx: Context) -> None:
    ours = {*wanted.packages, *wanted.first, *other_branches(seen.packages, wanted)}
    held = [
        f"{name} {package.version}"
        for name, package in sorted(seen.packages.items())
        if package.held and is_driver(name) and name not in ours and not name.startswith(_MOVES_ALONG)
    ]
    if held:
        names = " ".join(entry.partition(" ")[0] for entry in held)
        raise ctx.fail(
            f"the driver must change, and packages of it are on hold: {', '.join(held)}",
            remedy=f"`apt-mark unhold {names}` on the host, if they need not stay as they are",
        )


def _debs(wanted: Recipe, names: Sequence[str], seen: Driver, gone: Sequence[str]) -> Change:
    """Headers, then the pinning package, then the driver; other branches leave with the same step."""
    rivals = [name for name in other_branches(seen.packages, wanted) if not gone]
    along = [name for name in seen.packages if name.startswith(_MOVES_ALONG)]
    held = [
        n for n in (*wanted.first, *names, *rivals, *along) if n in seen.packages and seen.packages[n].held
    ]
    pinnings = [f"{name}-" for name in rivals if name.startswith("nvidia-driver-pinning-")]
    others = [f"{name}-" for name in rivals if not name.startswith("nvidia-driver-pinning-")]
    options: tuple[str, ...] = ("--no-install-recommends", "--")
    steps: list[Step] = [_apt.mark("unhold", held)] if held else []
    if wanted.headers and not seen.headers:
        steps.append(_apt.apt_get("install", 86_400, *options, *wanted.headers, held=held))
    new_first = [n for n in wanted.first if n not in seen.packages or not seen.packages[n].there]
    if new_first or pinnings:
        steps.append(_apt.apt_get("install", 86_400, *options, *wanted.first, *pinnings, held=held))
    wishes = [wanted.wish(name) for name in names]
    options = ("--no-install-recommends", "--allow-downgrades", "--")
    steps.append(_apt.apt_get("install", 86_400, *options, *wishes, *others, held=held))
    targets = (wish.partition("=")[2] or "installed" for wish in wishes)
    diff = "".join(
        f"{name}: {_version(seen, name)} -> {target}\n" for name, target in zip(names, targets, strict=True)
    )
    diff += "".join(f"{name}: absent -> installed\n" for name in new_first)
    diff += "".join(f"{name}: {_version(seen, name)} -> absent\n" for name in rivals)
    return Change(f"install {', '.join(wishes).replace('=', ' ')}", diff, tuple(steps))


def _redhat(
    wanted: Recipe, names: Sequence[str], seen: Driver, host: System, facts: Facts, ctx: Context
) -> list[Change]:
    steps: list[Step] = []
    if "epel-release" not in seen.packages:
        if host.id == "rhel":
            raise ctx.fail(
                "EPEL is not enabled on this host: it has dkms, which builds the driver's module",
                remedy="enable EPEL and CodeReady Builder as https://docs.fedoraproject.org/en-US/epel/ "
                "says, or mirrors of them",
            )
        steps.append(_dnf.dnf("install", "epel-release", "dnf-plugins-core"))
        steps.append(_dnf.dnf("config-manager", "--set-enabled", "crb"))  # EPEL builds upon it
    stream = file_state("/etc/dnf/modules.d/nvidia-driver.module", "content", facts, ctx).content or b""
    if f"stream={wanted.stream}\n".encode() not in stream + b"\n":
        if b"stream=" in stream:
            steps.append(_dnf.dnf("module", "reset", "nvidia-driver"))
        steps.append(_dnf.dnf("module", "enable", f"nvidia-driver:{wanted.stream}"))
    if locked := _dnf.locked(facts, names):
        steps.append(_dnf.dnf("versionlock", "delete", *locked))
    if not seen.headers:
        steps.append(_dnf.dnf("install", *wanted.headers))
    if rivals := other_branches(seen.packages, wanted):
        steps.append(_dnf.dnf("remove", *rivals))  # which takes along what needs them
        names = wanted.packages
    there = any(name in seen.packages for name in names)
    steps.append(_dnf.dnf("install", "--best", *names))
    if there:
        steps.append(_dnf.dnf("distro-sync", *names))
    diff = "".join(f"{name}: {_version(seen, name)} -> {wanted.branch}.*\n" for name in names)
    return [Change(f"install {', '.join(names)} of nvidia-driver:{wanted.stream}", diff, tuple(steps))]


def _of_branch(version: str, branch: int) -> bool:
    return version_parts(version)[:1] == (branch,)


def _version(seen: Driver, name: str) -> str:
    return seen.packages[name].version if name in seen.packages else "absent"
