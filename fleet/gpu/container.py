"""The one container of a slot: what it is made of, its identity, and the engine's words for it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from fleet.docker.answers import Container
from fleet.model.slot import Slot

CDI_KIND = "nvidia.com/gpu"

_UNORDERED = ("volumes", "tmpfs", "cap_drop", "cap_add")


@dataclass(frozen=True)
class ContainerSpec:
    """What every slot of a release runs.

    `volumes` are `source:destination[:ro]`, `tmpfs` folders in memory, `folder[:options]`, `command` replaces
    the image's own. `bind` is the host address its port is published on. `stop_timeout` in seconds;
    `shm_size` and `memory` in bytes. `cap_drop` and `cap_add` are as `capabilities` writes them. `non_root`
    refuses an image that would run as root. None, and the other defaults, mean that nothing is asked for.
    """

    image: str
    container_port: int = 7860
    bind: str = "0.0.0.0"
    command: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    volumes: tuple[str, ...] = ()
    tmpfs: tuple[str, ...] = ()
    restart: str = "unless-stopped"
    init: bool = True
    stop_timeout: int = 120
    shm_size: int | None = None
    log_max_size: str = "50m"
    log_max_file: int = 3
    user: str = ""
    read_only: bool = False
    network: str = "bridge"
    gpu_driver: str = "cdi"
    cap_drop: tuple[str, ...] = ()
    cap_add: tuple[str, ...] = ()
    no_new_privileges: bool = False
    pids_limit: int | None = None
    memory: int | None = None
    non_root: bool = False

    @property
    def memory_folders(self) -> Mapping[str, str]:
        """The folders in memory with their mount options; on a read-only root `/tmp` is always one."""
        found = dict(sorted(_options(each) for each in self.tmpfs))
        mounted = {volume.split(":")[1].rstrip("/") for volume in self.volumes}
        if self.read_only and "/tmp" not in {*(path.rstrip("/") for path in found), *mounted}:
            found["/tmp"] = ""
        return found


def capabilities(names: Iterable[str]) -> tuple[str, ...]:
    """Capabilities as Linux calls them, without `CAP_`, sorted, each once; `ALL` stands for every one."""
    return tuple(sorted({name.strip().upper().removeprefix("CAP_") for name in names}))


def release_of(spec: ContainerSpec, digest: str) -> str:
    """The identity of a release: one hash for the same bytes run in the same way.

    Order and values that are defaults have no meaning, nor has the tag the bytes were found under.
    """
    meant: dict[str, Any] = {"digest": digest}
    for each in fields(spec):
        value = getattr(spec, each.name)
        # What is refused is no part of what runs: asking for it replaces no container that is right.
        if each.name in ("image", "non_root") or value == _default(each):
            continue
        meant[each.name] = sorted(value) if each.name in _UNORDERED else value
    text = json.dumps(meant, sort_keys=True, separators=(",", ":"), default=dict)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


_NEXT = ".next"


def container_name(slot: Slot) -> str:
    """The name of a slot's container."""
    return f"fleet-{slot.name}"


def next_name(slot: Slot) -> str:
    """The name of a container that is about to have the slot's own."""
    return f"{container_name(slot)}{_NEXT}"


def is_next(container: Container) -> bool:
    """True for one that is about to have its slot's own name."""
    return container.slot is not None and container.name == f"fleet-{container.slot}{_NEXT}"


def kept_name(slot: Slot, release: str) -> str:
    """The name of a container of the slot that does not serve, such as one kept for a rollback."""
    return f"{container_name(slot)}.{release[:8]}"


def labels_for(spec: ContainerSpec, slot: Slot, digest: str, port: int | None = None) -> dict[str, str]:
    """The labels by which the slot's container is known again; `port` as in `create_body`."""
    labels = {
        "fleet.slot": slot.name,
        "fleet.release": release_of(spec, digest),
        "fleet.image": spec.image,
        "fleet.digest": digest,
        "fleet.gpu": slot.uuid,
    }
    if spec.env:
        # A container's environment holds its image's as well: what of it was asked for is not seen.
        labels["fleet.env"] = ",".join(sorted(spec.env))
    if port not in (None, slot.port):
        labels["fleet.port"] = str(port)
    return labels


def create_body(spec: ContainerSpec, slot: Slot, digest: str, port: int | None = None) -> dict[str, Any]:
    """The Engine API's ContainerCreate body for the slot's container.

    `port` is the host port it publishes, by default the slot's usual one; it is no part of the release.
    """
    exposed = f"{spec.container_port}/tcp"
    published = slot.port if port is None else port
    host: dict[str, Any] = {
        "PortBindings": {exposed: [{"HostIp": spec.bind, "HostPort": str(published)}]},
        "DeviceRequests": [_device_request(spec, slot)],
        "RestartPolicy": {"Name": spec.restart},
        "Init": spec.init,
        "LogConfig": {
            "Type": "json-file",
            "Config": {"max-size": spec.log_max_size, "max-file": str(spec.log_max_file)},
        },
        "NetworkMode": spec.network,
    }
    if spec.volumes:
        host["Binds"] = sorted(spec.volumes)
    if spec.memory_folders:
        host["Tmpfs"] = dict(spec.memory_folders)
    if spec.shm_size is not None:
        host["ShmSize"] = spec.shm_size
    if spec.read_only:
        host["ReadonlyRootfs"] = True
    host |= _limits(spec)
    body: dict[str, Any] = {
        "Image": spec.image,
        "Labels": labels_for(spec, slot, digest, port),
        "Env": [f"{key}={value}" for key, value in sorted(spec.env.items())],
        "ExposedPorts": {exposed: {}},
        "StopTimeout": spec.stop_timeout,
        "HostConfig": host,
    }
    if spec.command:
        body["Cmd"] = list(spec.command)
    if spec.user:
        body["User"] = spec.user
    return body


def _limits(spec: ContainerSpec) -> dict[str, Any]:
    host: dict[str, Any] = {}
    if spec.cap_drop:
        host["CapDrop"] = list(spec.cap_drop)
    if spec.cap_add:
        host["CapAdd"] = list(spec.cap_add)
    if spec.no_new_privileges:
        host["SecurityOpt"] = ["no-new-privileges:true"]
    if spec.pids_limit is not None:
        host["PidsLimit"] = spec.pids_limit
    if spec.memory is not None:
        # Without a word on swap the engine allows as much of it again.
        host |= {"Memory": spec.memory, "MemorySwap": spec.memory}
    return host


def _options(folder: str) -> tuple[str, str]:
    path, _, options = folder.partition(":")
    return path, options


def _device_request(spec: ContainerSpec, slot: Slot) -> dict[str, Any]:
    if spec.gpu_driver == "cdi":
        return {"Driver": "cdi", "DeviceIDs": [f"{CDI_KIND}={slot.uuid}"]}
    return {"Driver": "nvidia", "DeviceIDs": [slot.uuid], "Capabilities": [["gpu"]]}


def _default(each: Any) -> Any:
    return each.default if each.default_factory is MISSING else each.default_factory()
