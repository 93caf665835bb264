"""What `fleet status` tells: one frozen picture of hosts, slots and balancers."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from fleet.model.problem import Problem

UP = "up"
UNREACHABLE = "unreachable"
FAILED = "failed"


@dataclass(frozen=True)
class HostStatus:
    """One inventory host. `state` is up, unreachable, or failed (reached, but it could not be looked at).

    `disk_free` and `disk_total` in bytes, of the file system that holds Docker's images; `uptime` in
    seconds; `load` the one-minute load; `engine`, `driver` and `haproxy` are versions. None: not known, or
    not there.
    """

    name: str
    groups: tuple[str, ...]
    address: str
    state: str
    reason: str | None = None
    os: str | None = None
    kernel: str | None = None
    cpus: int | None = None
    load: float | None = None
    uptime: int | None = None
    disk_free: int | None = None
    disk_total: int | None = None
    reboot_required: bool = False
    reboot_begun: bool = False
    engine: str | None = None
    driver: str | None = None
    haproxy: str | None = None


@dataclass(frozen=True)
class SlotStatus:
    """One slot. `state` is the container's (running, restarting, exited, ...), or none without one.

    Memory in MiB, `utilization` in percent, `temperature` in degrees Celsius, `age` in seconds since its
    start or end; `weight` is the inventory's. `health` is the image's own health check's
    word, None where it has none.
    """

    name: str
    host: str
    index: int
    uuid: str
    gpu: str
    address: str
    port: int
    weight: int | None
    state: str
    memory_used: int | None = None
    memory_total: int | None = None
    utilization: int | None = None
    temperature: int | None = None
    container: str | None = None
    health: str | None = None
    exit_code: int | None = None
    image: str | None = None
    digest: str | None = None
    release: str | None = None
    age: int | None = None
    restarts: int = 0


@dataclass(frozen=True)
class ServerStatus:
    """One slot as one balancer sees it.

    `state` is ready, drain, maint (set by an operator) or down (its health checks fail, and nobody took it
    out); `down` is true where its health checks fail, of a drained one too. `jobs` are
    requests in flight, `queued` those waiting; errors count since its process started; `response_time` is the
    average of the last 1024 responses in milliseconds, None before the first; `check` what the last health
    check found, `agent` what the GPU host's agent says: ok, what is wrong, or "no answer"; None where none is
    asked.
    """

    balancer: str
    server: str
    state: str
    weight: int
    down: bool = False
    jobs: int = 0
    queued: int = 0
    errors_5xx: int = 0
    errors_connection: int = 0
    response_time: int | None = None
    check: str | None = None
    agent: str | None = None


@dataclass(frozen=True)
class Status:
    """The fleet at one moment."""

    hosts: tuple[HostStatus, ...] = ()
    slots: tuple[SlotStatus, ...] = ()
    servers: tuple[ServerStatus, ...] = ()
    problems: tuple[Problem, ...] = ()

    @property
    def ok(self) -> bool:
        """True where nothing is down."""
        return not self.problems

    @property
    def unreachable(self) -> bool:
        """True where a host could not be reached."""
        return any(host.state == UNREACHABLE for host in self.hosts)

    def as_json(self) -> dict[str, Any]:
        """The stable document of `fleet status --json`, described in docs/status.md."""
        return {"ok": self.ok, **asdict(self)}
