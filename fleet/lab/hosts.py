"""Hosts: containers that boot systemd, with an sshd, addresses and files of their own."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fleet.errors import FleetError
from fleet.lab.cgroups import Hybrid, Unified
from fleet.lab.files import Entry, Folder, archive
from fleet.lab.gpus import GPUS_FILE, describe
from fleet.lab.keys import Certificate, hash_htpasswd, make_certificate, make_key_pair
from fleet.lab.spec import HostSpec, LabHost, Report

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container

LAB_LABEL = "fleet.lab"
"""Label of every container, volume and network of a lab; its value is the lab's name."""

SSH_PORT = 22
SERVICE_PORT = 80
BALANCER_PORTS = (SERVICE_PORT, 443, 8404)
REGISTRY_PORTS = (80, 5000)

_USERS = {"fleet": 1000, "asks": 1001, "nosudo": 1002}
_BOOT_DEADLINE = 180.0


@dataclass(frozen=True)
class Placement:
    """Where a host goes: its network and addresses, and the image it starts from.

    `published` has the loopback address and port at which each of its ports is reached from this machine.
    """

    lab: str
    network: str
    image: str
    address: str
    fleet_address: str
    service: str = ""
    published: Mapping[int, tuple[str, int]] = field(default_factory=dict)


def container_name(lab: str, host: str) -> str:
    """The host's container on the outer engine."""
    return f"fleet-lab-{lab}-{host}"


def volume_name(lab: str, host: str) -> str:
    """The volume that is the host's /var/lib/docker."""
    return f"{container_name(lab, host)}-docker"


def create(
    client: DockerClient, host: HostSpec, place: Placement, cgroups: Unified | Hybrid, folder: Folder
) -> None:
    """Create a host's container, not started, with all its files in place."""
    key = make_key_pair(host.name)
    labels = {
        LAB_LABEL: place.lab,
        "fleet.lab.host": host.name,
        "fleet.lab.kind": host.kind,
        "fleet.lab.debian": host.debian,
        "fleet.lab.gpus": str(host.gpus),
        "fleet.lab.address": place.address,
        "fleet.lab.fleet-address": place.fleet_address,
        "fleet.lab.service": place.service,
        "fleet.lab.ports": json.dumps({port: at for port, (_, at) in place.published.items()}),
        "fleet.lab.host-key": key.public,
    }
    volumes = []
    if host.kind != "registry":
        volume = volume_name(place.lab, host.name)
        client.volumes.create(volume, labels={LAB_LABEL: place.lab})
        volumes.append(f"{volume}:/var/lib/docker")
    bind = cgroups.bind(place.lab, host.name)
    api = client.api
    settings: dict[str, Any] = api.create_host_config(
        cap_add=["ALL"],
        cap_drop=["SYS_RESOURCE"],
        security_opt=["seccomp=unconfined", "apparmor=unconfined"],
        tmpfs={"/run": "", "/tmp": "exec"},
        binds=[*volumes, *([bind] if bind else [])],
        port_bindings=dict(place.published.items()),
        # A host that reboots itself is started again, as a machine is; the engine's own `stop` and `kill` are
        # its power switch.
        restart_policy={"Name": "unless-stopped"},
    )
    # What the docker command calls systempaths=unconfined; the SDK has no word for it.
    settings |= {"MaskedPaths": [], "ReadonlyPaths": [], "CgroupnsMode": cgroups.namespace}
    endpoint = api.create_endpoint_config(ipv4_address=place.fleet_address, aliases=[host.name])
    made = api.create_container(
        image=place.image,
        command=list(cgroups.entry),
        name=container_name(place.lab, host.name),
        hostname=host.name,
        labels=labels,
        environment={"container": "docker"},
        stop_signal="SIGRTMIN+3",
        ports=list(place.published),
        host_config=settings,
        networking_config={"EndpointsConfig": {place.network: endpoint}},
    )
    try:
        api.put_archive(made["Id"], "/", archive(_files(host, place, folder, key.private, key.public)))
    except BaseException:
        # Without its keys the host would be of no use, yet look complete to the next `up`.
        api.remove_container(made["Id"], v=True, force=True)
        raise


def start(container: Container) -> None:
    """Start a host that may be running already."""
    import docker

    try:
        container.start()
    except docker.errors.APIError as error:
        raise FleetError(
            f"the lab host {container.name} did not start",
            output=str(error.explanation or error),
            remedy="See whether something else listens on the lab's loopback addresses (`ss -ltn`).",
        ) from None


def wait(client: DockerClient, host: LabHost, report: Report) -> None:
    """Wait until a host has booted and its sshd greets."""
    container = client.containers.get(host.container)
    deadline = time.monotonic() + _BOOT_DEADLINE
    state = ""
    while time.monotonic() < deadline:
        container.reload()
        if container.status != "running":
            raise FleetError(
                f"the lab host {host.name} ended while booting",
                output=last_words(container),
                remedy="Check that the engine may give all capabilities but SYS_RESOURCE to containers, and "
                "that fs.inotify.max_user_instances suffices: a host takes some six, and 128 are usual.",
            )
        state = _shell(container, "systemctl is-system-running").strip()
        if state in ("running", "degraded") and _greets(host.address, host.port):
            break
        time.sleep(0.2)
    else:
        raise FleetError(
            f"the lab host {host.name} did not boot within {_BOOT_DEADLINE:.0f} s (it says {state!r})",
            output=_shell(container, "systemctl --no-pager list-jobs; journalctl -n 20 --no-pager"),
            remedy="Run `fleet lab down` and try again; a host needs about 220 MB of memory.",
        )
    if state == "degraded":
        failed = _shell(container, "systemctl --failed --plain --no-legend").strip()
        report(f"{host.name}: booted, but units failed: {failed}")


def last_words(container: Container) -> str:
    """The end of what a container printed."""
    return _text(container.logs(tail=20))


def _shell(container: Container, script: str) -> str:
    return _text(container.exec_run(["sh", "-c", script]).output)


def _text(printed: bytes | Iterable[bytes]) -> str:
    return (printed if isinstance(printed, bytes) else b"".join(printed)).decode("utf-8", "replace")


def _greets(address: str, port: int) -> bool:
    try:
        with socket.create_connection((address, port), timeout=2) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def _files(host: HostSpec, place: Placement, folder: Folder, key: bytes, public: str) -> Sequence[Entry]:
    authorized = folder.file("id_ed25519.pub").read_bytes()
    asks = f"asks:{folder.text('asks_password')}\n".encode()
    entries = [
        Entry("etc/ssh/ssh_host_ed25519_key", key, mode=0o600),
        Entry("etc/ssh/ssh_host_ed25519_key.pub", f"{public}\n".encode()),
        Entry("var/lib/fleet-lab", None, mode=0o700),
        Entry("var/lib/fleet-lab/password", asks, mode=0o600),
    ]
    for user, number in _USERS.items():
        entries += [
            Entry(f"home/{user}/.ssh", None, mode=0o700, owner=number),
            Entry(f"home/{user}/.ssh/authorized_keys", authorized, mode=0o600, owner=number),
        ]
    if host.kind == "gpu":
        described = describe(host.name, host.gpus)
        entries.append(Entry(GPUS_FILE.lstrip("/"), described.encode()))
    if host.kind == "registry":
        entries += _registry_files(host, place, folder)
    return entries


def _registry_files(host: HostSpec, place: Placement, folder: Folder) -> list[Entry]:
    authority = Certificate(folder.file("ca.crt").read_bytes(), folder.file("ca.key").read_bytes())
    names = (host.name, "localhost", place.fleet_address, place.address, "127.0.0.1")
    server = make_certificate(authority, names)
    login = hash_htpasswd("fleet", folder.text("registry_password"))
    return [
        Entry("etc/fleet-lab-registry", None, mode=0o755),
        Entry("etc/fleet-lab-registry/server.crt", server.certificate),
        # The registry runs as a user of its own, whose number the lab does not know.
        Entry("etc/fleet-lab-registry/server.key", server.key),
        Entry("etc/fleet-lab-registry/htpasswd", login.encode()),
    ]
