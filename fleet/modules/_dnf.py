"""dnf: what installs, switches module streams and locks versions on RHEL and its kin."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from fleet.model.facts import Facts, Probe
from fleet.model.steps import Change, Run, Upload
from fleet.modules._files import Wanted, file_probe, file_state, write
from fleet.modules._keys import fetch_key
from fleet.modules.base import Context

TIMEOUT = 1800.0
LOCK_PACKAGE = "python3-dnf-plugin-versionlock"

LOCKS_PROBE = Probe(
    "dnf.locks",
    "command -v dnf >/dev/null || exit 127\n"
    "rpm -q python3-dnf-plugin-versionlock >/dev/null && echo @plugin\n"
    "cat /etc/dnf/plugins/versionlock.list 2>/dev/null\nexit 0\n",
)


def dnf(*arguments: str) -> Run:
    """The step `dnf -y ARGUMENTS`."""
    return Run(("dnf", "-y", "-q", *arguments), timeout=TIMEOUT, title=" ".join(("dnf", *arguments)))


def rpm_probe(names: Sequence[str]) -> Probe:
    """Ask rpm which of these packages are installed."""
    words = " ".join(sorted(names))
    script = (
        f"command -v rpm >/dev/null || exit 127\nrpm -q --qf '%{{NAME}} %{{VERSION}}\\n' {words}\nexit 0\n"
    )
    return Probe(f"rpm:{words}", script)


def rpms(names: Sequence[str], facts: Facts) -> dict[str, str]:
    """The installed ones of these packages with their versions; empty on a host without rpm."""
    lines = facts[rpm_probe(names).key].text.splitlines()
    pairs = (line.split(" ") for line in lines if not line.endswith("is not installed"))
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2 and pair[0] in names}


def install(
    wishes: Mapping[str, str | None],
    facts: Facts,
    *,
    hold: bool | None = None,
    allow_downgrade: bool = False,
) -> list[Change]:
    """The changes that bring these packages, and their locks: name -> version (`*` is anything), or None.

    `rpm_probe` of the names and LOCKS_PROBE must have been asked. `hold` None leaves locks as they are.
    """
    known, held = rpms(list(wishes), facts), locked(facts, list(wishes))
    absent = [name for name in wishes if name not in known]
    other = [
        name
        for name, version in known.items()
        if not fnmatchcase(version, (wishes[name] or "*").partition("-")[0])
    ]
    missing = [*absent, *other]
    loose = [name for name in missing if name in held]
    specs = {name: f"{name}-{version}" if version else name for name, version in wishes.items()}
    steps = [dnf("versionlock", "delete", *loose)] if loose else []
    changes: list[Change] = []
    if allow_downgrade or not other:
        steps += [dnf("install", *map(specs.__getitem__, missing))] if missing else []
    else:  # `install` would also go back
        steps += [dnf("install", *map(specs.__getitem__, absent))] if absent else []
        steps.append(dnf("upgrade", *map(specs.__getitem__, other)))
    if missing:
        diff = "".join(f"{n}: {known.get(n, 'absent')} -> {wishes[n] or 'installed'}\n" for n in missing)
        summary = f"install {', '.join(' '.join(filter(None, (n, wishes[n]))) for n in missing)}"
        changes.append(Change(summary, diff, tuple(steps)))
    if hold is False:
        if rest := [name for name in held if name not in loose]:
            step = dnf("versionlock", "delete", *rest)
            changes.append(Change(f"release the hold of {', '.join(rest)}", steps=(step,)))
        return changes
    new = [name for name in wishes if name in missing or name not in held] if hold else loose
    return [*changes, *(lock_changes(new, facts, anew=True) if new else [])]


def locked(facts: Facts, names: Sequence[str]) -> tuple[str, ...]:
    """Those of these packages whose version is locked; dnf writes `NAME-EPOCH:VERSION-RELEASE.*`."""
    lines = [line.strip() for line in facts[LOCKS_PROBE.key].text.splitlines()]
    locks = [line for line in lines if not line.startswith(("#", "!", "@"))]
    return tuple(
        name
        for name in names
        if any(re.fullmatch(rf"{re.escape(name)}(-([0-9]+:)?[0-9].*)?", lock) for lock in locks)
    )


def lock_changes(names: Sequence[str], facts: Facts, *, anew: bool = False) -> list[Change]:
    """The change that locks these packages at the versions they then have; `anew`: whether locked or not."""
    held = () if anew else locked(facts, names)
    new = [name for name in names if name not in held]
    if not new:
        return []
    has_plugin = "@plugin" in facts[LOCKS_PROBE.key].text
    steps = [] if has_plugin else [dnf("install", LOCK_PACKAGE)]
    return [Change(f"hold {', '.join(new)}", steps=(*steps, dnf("versionlock", "add", *new)))]


def repository_probes(name: str) -> tuple[Probe, ...]:
    """Ask for a repository's file and its key."""
    return (file_probe(_repository_path(name), "content"), file_probe(_key_path(name), "attributes"))


def repository_changes(
    name: str, title: str, url: str, key_url: str, fingerprint: str, facts: Facts, ctx: Context
) -> list[Change]:
    """The change that adds a repository with its key, taken only with that fingerprint."""
    steps: list[Run | Upload] = []
    diff = ""
    if not file_state(_key_path(name), "attributes", facts, ctx).exists:
        steps.append(fetch_key(key_url, fingerprint, _key_path(name)))
        diff = f"{_key_path(name)}: key {fingerprint}\n"
    text = (
        "# Managed by fleet: changes here are undone by the next run.\n"
        f"[{name}]\nname={title}\nbaseurl={url}\nenabled=1\ngpgcheck=1\ngpgkey=file://{_key_path(name)}\n"
    )
    file = file_state(_repository_path(name), "content", facts, ctx)
    change = write(Wanted(_repository_path(name), text.encode(), "0644", "root", "root"), file, ctx)
    if change is None and not steps:
        return []
    more = change.steps if change else ()
    return [
        Change(f"add the package repository {name}", diff + (change.diff if change else ""), (*steps, *more))
    ]


def _repository_path(name: str) -> str:
    return f"/etc/yum.repos.d/{name}.repo"


def _key_path(name: str) -> str:
    return f"/etc/pki/rpm-gpg/RPM-GPG-KEY-{name}"
