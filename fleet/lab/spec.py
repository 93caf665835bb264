"""What a lab is asked to be, and what it is."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fleet.errors import InputError
from fleet.model.secret import Secret

Report = Callable[[str], None]
"""Takes one line of progress."""

SUITES: Mapping[str, str] = {"12": "bookworm", "13": "trixie"}
"""The Debian releases a lab host can run."""

REGISTRY = "registry-01"
"""The name of the host that is the outside world: image registry and apt repository."""

_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")


@dataclass(frozen=True)
class LabSpec:
    """A lab to bring up.

    `debian` is the release of every host, `debian_of` overrides it by host name; `inventory` is where the
    inventory is written (default `inventories/NAME.yml` under the current folder; keys and certificates go
    to a folder of the same name beside it); `snapshot` starts the hosts from a snapshot's images.
    """

    name: str = "lab"
    gpu_hosts: int = 2
    gpus: int = 2
    balancers: int = 1
    registry: bool = True
    debian: str = "13"
    debian_of: Mapping[str, str] = field(default_factory=dict)
    inventory: Path | None = None
    snapshot: str | None = None

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise InputError(
                f"a lab cannot be named {self.name!r}",
                remedy="Use lower-case letters, digits and dashes, a letter first, at most 31 in all.",
            )
        for least, what, count in (
            (0, "gpu_hosts", self.gpu_hosts),
            (0, "gpus", self.gpus),
            (0, "balancers", self.balancers),
        ):
            if not least <= count <= 99:
                raise InputError(f"{what} is {count}", remedy=f"Give {what} a value from {least} to 99.")
        names = {host.name for host in self.hosts()}
        for host, release in {"": self.debian, **self.debian_of}.items():
            if release not in SUITES:
                raise InputError(
                    f"lab hosts cannot run Debian {release!r}",
                    remedy=f"Choose one of: {', '.join(SUITES)}.",
                )
            if host and host not in names:
                raise InputError(
                    f"the lab has no host {host!r} to run Debian {release} on",
                    remedy=f"Its hosts are: {', '.join(sorted(names))}.",
                )

    def hosts(self) -> tuple[HostSpec, ...]:
        """Every host the lab has, GPU hosts first."""
        wanted = [("gpu", f"gpu-{n:02}") for n in range(1, self.gpu_hosts + 1)]
        wanted += [("balancer", f"lb-{n:02}") for n in range(1, self.balancers + 1)]
        wanted += [("registry", REGISTRY)] if self.registry else []
        return tuple(
            HostSpec(
                name=name,
                kind=kind,
                # The outside world is one ready-made image, whatever the fleet runs.
                debian="13" if kind == "registry" else self.debian_of.get(name, self.debian),
                gpus=self.gpus if kind == "gpu" else 0,
            )
            for kind, name in wanted
        )

    def inventory_path(self) -> Path:
        """Where the inventory is written, absolute."""
        return (self.inventory or Path("inventories") / f"{self.name}.yml").absolute()


@dataclass(frozen=True)
class HostSpec:
    """One host to create; `kind` is "gpu", "balancer" or "registry"."""

    name: str
    kind: str
    debian: str
    gpus: int = 0


@dataclass(frozen=True)
class LabHost:
    """One host of a lab that exists.

    `address` and `port` are its sshd on this machine's loopback, `fleet_address` where the other hosts reach
    it, `service` the loopback address of a balancer's published ports (else empty), `ports` the port there
    (or at `address`) of each port of the host that is published, `container` its container's name on the
    outer engine, `state` that container's state ("running", "exited", ...).
    """

    name: str
    kind: str
    address: str
    fleet_address: str
    service: str
    container: str
    state: str
    os: str
    gpus: int = 0
    port: int = 22
    ports: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class LabState:
    """A lab as found on the engine; `hosts` is empty when there is none of that name.

    `url` is the service's (empty without a balancer), `asks_password` the sudo password of the user `asks`.
    """

    name: str
    url: str = ""
    inventory: Path | None = None
    hosts: tuple[LabHost, ...] = ()
    asks_password: Secret = field(default_factory=lambda: Secret(""))

    @property
    def folder(self) -> Path | None:
        """The folder of the lab's keys, certificates and passwords, beside its inventory."""
        return self.inventory.with_suffix("") if self.inventory else None

    def host(self, name: str) -> LabHost:
        """The host of that name; KeyError when there is none."""
        for host in self.hosts:
            if host.name == name:
                return host
        raise KeyError(name)

    def as_json(self) -> dict[str, object]:
        """The documented form of `fleet lab status --json`; it holds no secret."""
        return {
            "name": self.name,
            "url": self.url,
            "inventory": str(self.inventory) if self.inventory else "",
            "hosts": [
                {name: getattr(host, name) for name in LabHost.__dataclass_fields__} for host in self.hosts
            ],
        }
