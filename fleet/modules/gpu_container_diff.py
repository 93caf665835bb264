"""How a slot's container differs from what it should be, in the fields people care for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from fleet.docker.answers import Container, Port
from fleet.gpu.container import ContainerSpec
from fleet.model.slot import Slot

_SECRET = re.compile(r"PASS|TOKEN|SECRET|KEY|CREDENTIAL|AUTH|DSN", re.IGNORECASE)
_NONE = "(none)"

NOT_APPLIED = (
    "leave that option out where the host's kernel or engine has no means for it (`docker info` there ends "
    "with its warnings); where somebody changed the container (`docker update`), `docker rm -f {name}` there "
    "has the next run make it anew"
)
"""What to do about what `not_applied` finds."""


def wanted_port(spec: ContainerSpec, slot: Slot, port: int | None = None) -> Port:
    """What the slot's container publishes: `port`, by default the slot's usual one."""
    address = "" if spec.bind in ("0.0.0.0", "::") else spec.bind
    return Port(slot.port if port is None else port, f"{spec.container_port}/tcp", address)


def wanted_fields(spec: ContainerSpec, slot: Slot, digest: str, port: int | None = None) -> dict[str, str]:
    """The comparable fields of the container that should be, as text."""
    log = f"json-file max-file={spec.log_max_file}, max-size={spec.log_max_size}"
    found = {
        "image": spec.image,
        "digest": digest,
        "gpu": slot.uuid,
        "port": show_port(wanted_port(spec, slot, port)),
        **{f"env.{key}": value for key, value in sorted(spec.env.items())},
        "mounts": ", ".join(sorted(spec.volumes)),
        "restart": spec.restart,
        "init": str(spec.init).lower(),
        "stop_timeout": str(spec.stop_timeout),
        "log": log,
        "read_only": str(spec.read_only).lower(),
        "network": spec.network,
    }
    found |= _limits(spec)
    if spec.shm_size is not None:
        found["shm_size"] = str(spec.shm_size)
    if spec.user:
        found["user"] = spec.user
    if spec.command:
        found["command"] = " ".join(spec.command)
    return found


def not_applied(spec: ContainerSpec, container: Container) -> tuple[str, ...]:
    """What was asked for the container's safety and is not so, each as `pids_limit: 512, it has (none)`.

    An engine may leave a limit out with a mere warning, and `docker update` changes some of them later.
    """
    wanted = {name: text for name, text in _limits(spec).items() if text and name != "tmpfs"}
    if spec.read_only:
        wanted["read_only"] = "true"
    if spec.user:
        wanted["user"] = spec.user
    return tuple(
        f"{name}: {text}, it has {container.settings.get(name) or _NONE}"
        for name, text in wanted.items()
        if container.settings.get(name, "") != text
    )


def actual_fields(container: Container, names: tuple[str, ...]) -> dict[str, str]:
    """The same fields of the container that is."""
    found = {
        "image": container.labels.get("fleet.image") or container.image,
        "digest": container.labels.get("fleet.digest") or container.image_id,
        "gpu": ", ".join(container.gpus),
        "port": ", ".join(show_port(port) for port in container.ports),
        "mounts": ", ".join(container.mounts),
        **container.settings,
    }
    env = {f"env.{key}": value for key, value in container.env.items()}
    return {name: env.get(name, "") if name.startswith("env.") else found.get(name, "") for name in names}


def removed_env(container: Container, after: Mapping[str, str]) -> list[str]:
    """The fields of variables that the container was given and that nobody asks for any more."""
    given = (f"env.{name}" for name in container.labels.get("fleet.env", "").split(",") if name)
    return [field for field in given if field not in after]


def show_diff(name: str, before: dict[str, str], after: dict[str, str], release: tuple[str, str]) -> str:
    """One line a field that differs, before -> after; values of secrets are never shown."""
    lines = [f"{key:<12} {line}" for key, line in _differences(before, after)]
    if before and not lines:
        # A container tells its value either way, and nobody asked the image for its own.
        lines = [
            f"{'release':<12} {release[0] or _NONE} -> {release[1]}: a setting (shm_size, user, command) is "
            "left to its default now, or is written out and was that already"
        ]
    return "\n".join((name, *(f"  {line}" for line in lines)))


def changed_names(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """The fields that differ."""
    return [key for key, new in after.items() if before.get(key, "") != new]


def show_port(port: Port) -> str:
    """`7861:7860/tcp`, with the address where it is not every one."""
    host = f"{port.host_ip}:{port.host_port}" if port.host_ip else str(port.host_port)
    return f"{host}:{port.container_port}"


def _limits(spec: ContainerSpec) -> dict[str, str]:
    folders = (f"{path}:{how}".rstrip(":") for path, how in sorted(spec.memory_folders.items()))
    return {
        "tmpfs": ", ".join(folders),
        "cap_drop": ", ".join(spec.cap_drop),
        "cap_add": ", ".join(spec.cap_add),
        "no_new_privileges": "true" if spec.no_new_privileges else "",
        "pids_limit": str(spec.pids_limit or ""),
        "memory": str(spec.memory or ""),
    }


def _differences(before: dict[str, str], after: dict[str, str]) -> Iterator[tuple[str, str]]:
    for key, new in after.items():
        old = before.get(key, "")
        if old == new:
            continue
        if key.startswith("env.") and _SECRET.search(key):
            old, new = "(hidden)" if old else "", "(hidden)" if new else ""
        if before:
            yield key, f"{old or _NONE} -> {new or _NONE}"
        else:
            yield key, new
