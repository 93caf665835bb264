"""Package repositories in apt's deb822 form, with their keys; shared by apt_repository and docker_engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fleet.model.facts import Facts, Probe
from fleet.model.steps import Change, Run, Step, Upload
from fleet.modules import _apt
from fleet.modules._files import Wanted, file_probe, file_state, write
from fleet.modules._keys import fetch_key, is_armored
from fleet.modules.base import Context

KEYRINGS = "/etc/apt/keyrings"


@dataclass(frozen=True)
class Source:
    """One repository. The key is given as `key`, or to be fetched from `key_url` with `key_fingerprint`."""

    name: str
    uris: tuple[str, ...]
    suites: tuple[str, ...]
    components: tuple[str, ...] = ()
    types: tuple[str, ...] = ("deb",)
    architectures: tuple[str, ...] = ()
    key: bytes | None = None
    key_url: str | None = None
    key_fingerprint: str = ""
    trusted: bool = False

    @property
    def path(self) -> str:
        """Its file in sources.list.d."""
        return source_path(self.name)

    @property
    def key_path(self) -> str | None:
        """Its key's file; None where it has no key of its own."""
        if self.key is not None:
            return f"{KEYRINGS}/{self.name}.{'asc' if is_armored(self.key) else 'gpg'}"
        return f"{KEYRINGS}/{self.name}.asc" if self.key_url else None

    @property
    def text(self) -> str:
        """The file's content."""
        fields = [
            ("Types", self.types),
            ("URIs", self.uris),
            ("Suites", self.suites),
            ("Components", self.components),
            ("Architectures", self.architectures),
            ("Signed-By", (self.key_path,) if self.key_path else ()),
            ("Trusted", ("yes",) if self.trusted else ()),
        ]
        lines = [f"{name}: {' '.join(values)}" for name, values in fields if values]
        return "\n".join(("# Managed by fleet: changes here are undone by the next run.", *lines, ""))


def source_path(name: str) -> str:
    """The file of a repository by name."""
    return f"/etc/apt/sources.list.d/{name}.sources"


def source_probes(name: str) -> tuple[Probe, ...]:
    """Ask for a repository's file and its key, in either form."""
    return (
        file_probe(source_path(name), "content"),
        *(file_probe(path, "content") for path in _key_paths(name)),
    )


def source_changes(source: Source, facts: Facts, ctx: Context) -> Sequence[Change]:
    """The changes that give the host this repository, its key and its package lists.

    The lists are fetched with the new file before it takes its place: a repository that does not answer or
    is not signed by the key never gets into apt's configuration.
    """
    steps: list[Step] = []
    diff = ""
    if source.key is not None and source.key_path is not None:
        found = file_state(source.key_path, "content", facts, ctx)
        if change := write(Wanted(source.key_path, source.key, "0644", "root", "root"), found, ctx):
            steps += change.steps
            diff += f"{source.key_path}: {found.kind} -> this key\n"
    elif source.key_url and source.key_path is not None:
        found = file_state(source.key_path, "content", facts, ctx)
        if not found.regular or not found.size:
            steps.append(fetch_key(source.key_url, source.key_fingerprint, source.key_path))
            diff += f"{source.key_path}: absent -> key {source.key_fingerprint} from {source.key_url}\n"
    file = file_state(source.path, "content", facts, ctx)
    wanted = Wanted(source.path, source.text.encode(), "0644", "root", "root")
    change = write(wanted, file, ctx)
    if change is None and not steps:
        return ()
    if change is not None:
        diff += change.diff
    waiting = f"/etc/apt/fleet/{source.name}.sources"
    attempt = ("sh", "-c", _TRY, "sources", waiting, source.path, _apt.APT)
    fetch = Run(
        attempt,
        timeout=_apt.TIMEOUT,
        env=_apt.ENVIRONMENT,
        title=f"fetch the package lists of {source.name}",
    )
    steps += [Upload(waiting, wanted.content), fetch]
    verb = "change" if file.exists else "add"
    return (Change(f"{verb} the package repository {source.name}", diff, tuple(steps)),)


def source_removal(name: str, facts: Facts, ctx: Context) -> Sequence[Change]:
    """The change that takes a repository, its key and its lists away."""
    paths = (source_path(name), *_key_paths(name))
    there = [path for path in paths if file_state(path, "content", facts, ctx).exists]
    if not there:
        return ()
    steps = (Run(("rm", "-f", "--", *there)), _apt.apt_get("update", None))
    diff = "".join(f"{path}: file -> absent\n" for path in there)
    return (Change(f"remove the package repository {name}", diff, steps),)


def _key_paths(name: str) -> tuple[str, str]:
    return (f"{KEYRINGS}/{name}.asc", f"{KEYRINGS}/{name}.gpg")


# Only this repository's lists are fetched, and the others' are left alone (List-Cleanup).
_TRY = """\
new=$1 path=$2 apt=$3
sh -c "$apt" apt never update --error-on=any -o "Dir::Etc::sourcelist=$new" \\
  -o Dir::Etc::sourceparts=/dev/null -o APT::Get::List-Cleanup=0 || { rm -f -- "$new"; exit 1; }
mkdir -p "${path%/*}" && mv -fT -- "$new" "$path"
"""
