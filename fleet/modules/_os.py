"""Which system a host runs, and names that follow from it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from fleet.model.facts import Facts, Probe
from fleet.modules.base import Context

OS_PROBE = Probe("os", "cat /etc/os-release\n")


@dataclass(frozen=True)
class System:
    """What /etc/os-release says: `debian`, `13`, `trixie`, `Debian GNU/Linux 13 (trixie)`."""

    id: str
    version: str = ""
    codename: str = ""
    title: str = ""

    @property
    def major(self) -> int | None:
        """The release's first number; None for one that is not released yet."""
        head = self.version.partition(".")[0]
        return int(head) if head.isdigit() else None

    @property
    def release(self) -> str:
        """The name NVIDIA and others give it in addresses: `debian13`, `ubuntu2404`."""
        return self.id + self.version.replace(".", "")

    def fill(self, text: str) -> str:
        """`text` with `$(ID)`, `$(CODENAME)`, `$(VERSION)` and `$(RELEASE)` filled in; `$(ARCH)` is apt's."""
        values = {
            "ID": self.id,
            "CODENAME": self.codename,
            "VERSION": self.version,
            "RELEASE": self.release,
        }
        for key, value in values.items():
            text = text.replace(f"$({key})", value)
        return text


def system(facts: Facts, ctx: Context) -> System:
    """The host's system. Raises TaskError where it does not say."""
    answer = facts[OS_PROBE.key]
    values = {}
    for line in answer.text.splitlines():
        key, equals, value = line.partition("=")
        if equals and not key.startswith("#"):
            values[key.strip()] = "".join(shlex.split(value)[:1])
    if not answer.ok or "ID" not in values:
        raise ctx.fail("the host does not say which system it runs", remedy="check /etc/os-release on it")
    return System(
        id=values["ID"],
        version=values.get("VERSION_ID", ""),
        codename=values.get("VERSION_CODENAME", ""),
        title=values.get("PRETTY_NAME", values["ID"]),
    )
