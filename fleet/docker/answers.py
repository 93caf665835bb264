"""The Docker Engine's answers as frozen values."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

import msgspec

from fleet.docker import api
from fleet.model.decode import from_json
from fleet.model.facts import Answer


@dataclass(frozen=True)
class Engine:
    """A Docker Engine that answers.

    `cdi` is true where it takes CDI device requests; `time` is the host's clock when it was asked. `lacks`
    are limits, by their arguments' names, that its kernel has no means for (`docker info` warns of them).
    """

    version: str
    api_version: str
    os: str = ""
    architecture: str = ""
    kernel: str = ""
    root_dir: str = "/var/lib/docker"
    storage_driver: str = ""
    cgroup_version: str = ""
    runtimes: tuple[str, ...] = ()
    cdi: bool = False
    live_restore: bool = False
    time: datetime | None = None
    lacks: frozenset[str] = frozenset()

    @property
    def major(self) -> int:
        """The first number of the version, 0 where it has none."""
        match = re.match(r"\d+", self.version)
        return int(match[0]) if match else 0


@dataclass(frozen=True)
class Image:
    """A local image. `digests` are `repository@sha256:...` as registries know it; `size` in bytes.

    `created` is when it was built, in seconds since the epoch, as its builder says.
    """

    id: str
    tags: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()
    size: int = 0
    created: int = 0


@dataclass(frozen=True, order=True)
class Port:
    """A published port; `host_ip` is empty where it is published on every address."""

    host_port: int
    container_port: str
    host_ip: str = ""

    @property
    def local(self) -> str:
        """The address at which the host itself reaches it."""
        return {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host_ip, self.host_ip)


@dataclass(frozen=True)
class Container:
    """A container as inspected.

    `image` is the reference it was created from, `image_id` what that meant then. `state` is the engine's
    word (created, running, paused, restarting, exited, dead). `gpus` are the GPUs asked for: UUIDs, indexes
    or "all". `mounts` are `source:destination[:ro]`. `settings` are restart, init, stop_timeout, shm_size,
    log, user, read_only, network and command, as text, and where it has them cap_drop, cap_add,
    no_new_privileges, pids_limit, memory (bytes) and tmpfs. `log` holds the last lines of a container that is
    ours and does not run.
    """

    id: str
    name: str
    image: str = ""
    image_id: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    state: str = "created"
    health: str | None = None
    exit_code: int = 0
    error: str = ""
    oom_killed: bool = False
    restarts: int = 0
    started: datetime | None = None
    finished: datetime | None = None
    ports: tuple[Port, ...] = ()
    gpus: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    mounts: tuple[str, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    log: str = ""

    @property
    def slot(self) -> str | None:
        """The slot it is for; None for a container that is not ours."""
        return self.labels.get("fleet.slot")

    @property
    def running(self) -> bool:
        """True where its process is up (a crash loop is not)."""
        return self.state == "running"

    @property
    def holds(self) -> bool:
        """True where it has its GPU and port, or will have them again by itself."""
        return self.state in ("running", "paused", "restarting")


def parse_engine(answer: Answer) -> Engine | None:
    """The engine; None where none answers."""
    bodies = dict(_ok_bodies(answer))
    try:
        version = from_json(bodies["/version"], api.Version)
        info = from_json(bodies["/info"], api.Info)
    except (KeyError, msgspec.MsgspecError):
        return None
    return Engine(
        version=version.version,
        api_version=version.api,
        os=info.operating_system,
        architecture=version.arch,
        kernel=version.kernel_version,
        root_dir=info.docker_root_dir,
        storage_driver=info.driver,
        cgroup_version=info.cgroup_version,
        runtimes=tuple(sorted(info.runtimes or ())),
        cdi=bool(info.cdi_spec_dirs),
        live_restore=info.live_restore_enabled,
        time=_time(info.system_time),
        lacks=frozenset(
            name
            for name, there in (("pids_limit", info.pids_limit), ("memory", info.memory_limit))
            if not there
        ),
    )


def parse_images(answer: Answer) -> tuple[Image, ...] | None:
    """The local images; None where no engine answers."""
    images = _decode(dict(_ok_bodies(answer)).get("/images/json"), list[api.Image])
    if images is None:
        return None
    return tuple(
        Image(each.id, _names(each.repo_tags), _names(each.repo_digests), each.size, each.created)
        for each in images
    )


def _names(names: list[str] | None) -> tuple[str, ...]:
    """Engines before 24 write `<none>:<none>` where an image has none."""
    return tuple(name for name in names or () if not name.startswith("<none>"))


def parse_image_user(answer: Answer) -> str | None:
    """The user an image runs as, empty for root by default; None where the image is not there."""
    for _, body in _ok_bodies(answer):
        if (image := _decode(body, api.ImageInspect)) is not None:
            return image.config.user if image.config else ""
    return None


def parse_containers(answer: Answer) -> tuple[Container, ...] | None:
    """What runs and what is ours, ordered by name; None where no engine answers."""
    if not answer.ok:
        return None
    inspected: dict[str, api.Inspect] = {}
    logs: dict[str, str] = {}
    for path, body in _ok_bodies(answer):
        _, _, id_, what = path.split("/", 3)
        if what.startswith("logs"):
            logs[id_] = log_text(body)
        elif (container := _decode(body, api.Inspect)) is not None:
            inspected[id_] = container
    found = (_container(raw, logs.get(id_, "")) for id_, raw in inspected.items())
    return tuple(sorted(found, key=lambda container: container.name))


def _ok_bodies(answer: Answer) -> Iterator[tuple[str, bytes]]:
    """The path and body of every question that was answered with 200."""
    out = answer.out
    end = len(out)
    while (match := _last_frame(out, end)) is not None:
        size = int(match[2])
        body = out[match.start() - size : match.start()]
        if match[1] == b"200":
            yield match[3].decode(), body
        end = match.start() - size


_FRAME = re.compile(rb"\nfleet (\d{3}) (\d+) http://d(/\S*)\s*\Z")


def _last_frame(out: bytes, end: int) -> re.Match[bytes] | None:
    start = out.rfind(b"\nfleet ", 0, end)
    return None if start < 0 else _FRAME.match(out, start, end)


def _container(raw: api.Inspect, log: str) -> Container:
    state, config, host = raw.state, raw.config, raw.host_config
    return Container(
        id=raw.id,
        name=raw.name.lstrip("/"),
        image=config.image,
        image_id=raw.image,
        labels=config.labels or {},
        state=state.status,
        health=state.health.status if state.health else None,
        exit_code=state.exit_code,
        error=state.error,
        oom_killed=state.oom_killed,
        restarts=raw.restart_count,
        started=_time(state.started_at),
        finished=_time(state.finished_at),
        ports=_ports(raw),
        gpus=_gpus(host, config.env or ()),
        env=dict(item.partition("=")[::2] for item in config.env or ()),
        mounts=tuple(sorted(_mount(mount) for mount in raw.mounts or ())),
        settings=_settings(config, host),
        log=log,
    )


def _ports(raw: api.Inspect) -> tuple[Port, ...]:
    """The ports asked for, and of a running container those it was given."""
    found = set()
    given = raw.network_settings.ports if raw.network_settings and raw.state.running else None
    for bindings in (raw.host_config.port_bindings, given):
        for container_port, hosts in (bindings or {}).items():
            for binding in hosts or ():
                if binding.host_port.isdecimal():
                    address = "" if binding.host_ip in ("0.0.0.0", "::") else binding.host_ip
                    found.add(Port(int(binding.host_port), container_port, address))
    return tuple(sorted(found))


def _gpus(host: api.HostConfig, env: list[str] | tuple[()]) -> tuple[str, ...]:
    found: list[str] = []
    for request in host.device_requests or ():
        is_gpu = request.driver in ("nvidia", "cdi") or any(
            "gpu" in any_of for any_of in request.capabilities or ()
        )
        if not is_gpu:
            continue
        if request.count < 0:
            found.append("all")
        ids = (id_.removeprefix("nvidia.com/gpu=") for id_ in request.device_ids or ())
        found += [id_ for id_ in ids if "=" not in id_]
    if host.runtime == "nvidia" and not found:
        visible = next((e.partition("=")[2] for e in env if e.startswith("NVIDIA_VISIBLE_DEVICES=")), "")
        found += [id_ for id_ in visible.split(",") if id_ not in ("", "none", "void")]
    return tuple(found)


def _mount(mount: api.Mount) -> str:
    source = mount.name if mount.type == "volume" else mount.source
    return f"{source}:{mount.destination}" + ("" if mount.rw else ":ro")


def _settings(config: api.Config, host: api.HostConfig) -> dict[str, str]:
    log = host.log_config
    options = ", ".join(f"{key}={value}" for key, value in sorted((log.config or {}).items()))
    return {
        "restart": host.restart_policy.name or "no",
        "init": str(bool(host.init)).lower(),
        "stop_timeout": str(config.stop_timeout or 10),
        "shm_size": str(host.shm_size),
        "log": f"{log.type} {options}".strip(),
        "user": config.user,
        "read_only": str(host.readonly_rootfs).lower(),
        "network": host.network_mode,
        "command": " ".join(config.cmd or ()),
        **{name: text for name, text in _limits(host).items() if text},
    }


def _limits(host: api.HostConfig) -> dict[str, str]:
    pids = host.pids_limit or 0
    return {
        "cap_drop": _capabilities(host.cap_drop),
        "cap_add": _capabilities(host.cap_add),
        "no_new_privileges": "true" if _NO_NEW.intersection(host.security_opt or ()) else "",
        "pids_limit": str(pids) if pids > 0 else "",
        "memory": str(host.memory) if host.memory > 0 else "",
        "tmpfs": ", ".join(f"{path}:{how}".rstrip(":") for path, how in sorted((host.tmpfs or {}).items())),
    }


# Engines differ in whether they hand back what they were given or the kernel's own name.
_NO_NEW = frozenset(("no-new-privileges", "no-new-privileges:true", "no-new-privileges=true"))


def _capabilities(names: list[str] | None) -> str:
    return ", ".join(sorted({name.upper().removeprefix("CAP_") for name in names or ()}))


def log_text(body: bytes) -> str:
    """The text of a log; without a terminal the engine frames it: stream, three zeros, length."""
    if body[1:4] != b"\0\0\0":
        return body.decode("utf-8", "replace")
    parts = []
    while len(body) >= 8:
        size = int.from_bytes(body[4:8], "big")
        parts.append(body[8 : 8 + size])
        body = body[8 + size :]
    return b"".join(parts).decode("utf-8", "replace")


def _time(text: str) -> datetime | None:
    """A time of the engine's; None for its zero time, which means never."""
    match = re.match(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d+)?(Z|[+-]\d\d:\d\d)$", text)
    if not match or text.startswith("0001"):
        return None
    fraction = (match[2] or ".0")[:7]
    return datetime.fromisoformat(match[1] + fraction + match[3].replace("Z", "+00:00"))


_T = TypeVar("_T")


def _decode(body: bytes | None, type_: type[_T]) -> _T | None:
    try:
        return None if body is None else from_json(body, type_)
    except msgspec.MsgspecError:
        return None
