"""The shapes of the Engine API's answers, as far as they are read."""

# ruff: noqa: D101

from __future__ import annotations

from typing import Any

import msgspec


class Raw(msgspec.Struct, rename="pascal"):
    """An object of the engine's API; unknown fields are ignored."""


class Version(Raw):
    version: str
    api: str = msgspec.field(name="ApiVersion", default="")
    arch: str = ""
    kernel_version: str = ""


class Info(Raw):
    operating_system: str = ""
    docker_root_dir: str = "/var/lib/docker"
    driver: str = ""
    cgroup_version: str = ""
    runtimes: dict[str, Any] | None = None
    cdi_spec_dirs: list[str] | None = msgspec.field(name="CDISpecDirs", default=None)
    live_restore_enabled: bool = False
    system_time: str = ""
    pids_limit: bool = True
    memory_limit: bool = True


class Image(Raw):
    id: str
    repo_tags: list[str] | None = None
    repo_digests: list[str] | None = None
    size: int = 0
    created: int = 0


class Health(Raw):
    status: str = ""


class State(Raw):
    status: str
    running: bool = False
    exit_code: int = 0
    error: str = ""
    oom_killed: bool = msgspec.field(name="OOMKilled", default=False)
    started_at: str = ""
    finished_at: str = ""
    health: Health | None = None


class Config(Raw):
    image: str = ""
    labels: dict[str, str] | None = None
    env: list[str] | None = None
    cmd: list[str] | None = None
    user: str = ""
    stop_timeout: int | None = None


class ImageInspect(Raw):
    config: Config | None = None


class RestartPolicy(Raw):
    name: str = ""


class LogConfig(Raw):
    type: str = ""
    config: dict[str, str] | None = None


class Binding(Raw):
    host_ip: str = ""
    host_port: str = ""


class DeviceRequest(Raw):
    driver: str = ""
    count: int = 0
    device_ids: list[str] | None = msgspec.field(name="DeviceIDs", default=None)
    capabilities: list[list[str]] | None = None


class HostConfig(Raw):
    port_bindings: dict[str, list[Binding] | None] | None = None
    device_requests: list[DeviceRequest] | None = None
    runtime: str = ""
    restart_policy: RestartPolicy = msgspec.field(default_factory=RestartPolicy)
    log_config: LogConfig = msgspec.field(default_factory=LogConfig)
    init: bool | None = None
    shm_size: int = 0
    readonly_rootfs: bool = False
    network_mode: str = ""
    cap_add: list[str] | None = None
    cap_drop: list[str] | None = None
    security_opt: list[str] | None = None
    pids_limit: int | None = None
    memory: int = 0
    tmpfs: dict[str, str] | None = None


class Mount(Raw):
    type: str = ""
    name: str = ""
    source: str = ""
    destination: str = ""
    rw: bool = msgspec.field(name="RW", default=True)


class Network(Raw):
    ports: dict[str, list[Binding] | None] | None = None


class Inspect(Raw):
    id: str
    name: str
    state: State
    config: Config
    host_config: HostConfig
    image: str = ""
    restart_count: int = 0
    mounts: list[Mount] | None = None
    network_settings: Network | None = None
