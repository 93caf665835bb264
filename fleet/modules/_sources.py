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
_STAGE = "/etc/apt/fleet"

URIS_PROBE = Probe(
    "apt.uris",
    "command -v apt-get >/dev/null || exit 0\n"
    "apt-get update --print-uris 2>/dev/null | grep Release\nexit 0\n",
)
"""Which repositories apt has, from whichever file: what it would fetch, without fetching it."""


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

    def text(self, key_path: str | None) -> str:
        """The file's content, with the key at `key_path`."""
        fields = [
            ("Types", self.types),
            ("URIs", self.uris),
            ("Suites", self.suites),
            ("Components", self.components),
            ("Architectures", self.architectures),
            ("Signed-By", (key_path,) if key_path else ()),
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


def has_repository(uri: str, facts: Facts) -> bool:
    """Whether apt has a flat repository at this address already."""
    return f"'{uri.rstrip('/')}/" in facts[URIS_PROBE.key].text


def source_changes(source: Source, facts: Facts, ctx: Context) -> Sequence[Change]:
    """The changes that give the host this repository, its key and its package lists.

    The lists are fetched with copies of the new files first: a repository that does not answer or is not
    signed by the key changes nothing in apt's configuration.
    """
    key_path = source.key_path
    key_there = key_path is None or _has_key(source, key_path, facts, ctx)
    file = file_state(source.path, "content", facts, ctx)
    final = Wanted(source.path, source.text(key_path).encode(), "0644", "root", "root")
    change = write(final, file, ctx)
    if change is None and key_there:
        return ()
    steps: list[Step] = []
    tried_key = key_path
    diff = ""
    if not key_there and key_path is not None:
        tried_key = f"{_STAGE}/{key_path.rpartition('/')[2]}"
        if source.key is not None:
            steps.append(Upload(tried_key, source.key))
        else:
            steps.append(fetch_key(source.key_url or "", source.key_fingerprint, tried_key))
        diff = f"{key_path}: key {source.key_fingerprint or source.name}\n"
    tried = f"{_STAGE}/{source.name}.sources"
    moves = (tried_key, key_path) if tried_key and key_path and tried_key != key_path else ()
    steps += [
        Upload(tried, source.text(tried_key).encode()),
        Run(
            ("sh", "-c", _TRY, "sources", _apt.APT, tried, *moves),
            timeout=_apt.TIMEOUT,
            env=_apt.ENVIRONMENT,
            title=f"fetch the package lists of {source.name}",
        ),
    ]
    if change is not None:
        steps += change.steps
        diff += change.diff
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


def _has_key(source: Source, path: str, facts: Facts, ctx: Context) -> bool:
    """Whether the key's file is right. One that was fetched was checked then, and is not asked for again."""
    found = file_state(path, "content", facts, ctx)
    if source.key is not None:
        return found.same_content(source.key) and int(found.mode, 8) & 0o444 == 0o444
    return found.regular and found.size > 0


# With one repository in two files under two keys apt reads no source at all: so all are read together first.
# Then only this repository's lists are fetched, and the others' are left alone (List-Cleanup).
_TRY = """\
apt=$1 tried=$2 key=$3 final=$4
all=$(mktemp -d) || exit 1
cp -- /etc/apt/sources.list.d/* "$all" 2>/dev/null
cp -- "$tried" "$all"
said=$(apt-get update --print-uris -o "Dir::Etc::sourceparts=$all" 2>&1 >/dev/null); rc=$?
rm -rf -- "$all"
if [ $rc -eq 0 ]; then
  sh -c "$apt" apt never update --error-on=any -o "Dir::Etc::sourcelist=$tried" \\
    -o Dir::Etc::sourceparts=/dev/null -o APT::Get::List-Cleanup=0
  rc=$?
else
  printf '%s\\n' "$said" >&2
  case $said in *"Conflicting values set"*)
    echo "reason: this host has that repository already, with another key: remove the file in" \\
      "/etc/apt/sources.list.d that has it, or leave the repository out" >&2 ;;
  esac
fi
if [ -n "$key" ] && [ $rc -eq 0 ]; then mkdir -p "${final%/*}" && mv -fT -- "$key" "$final"; rc=$?; fi
rm -f -- "$tried" ${key:+"$key"}
rmdir -- "${tried%/*}" 2>/dev/null
exit $rc
"""
