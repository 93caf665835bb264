"""Snapshots: a lab's hosts as they are, kept as images and volumes, to start from in seconds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fleet.errors import InputError
from fleet.lab import hosts
from fleet.lab.files import Folder
from fleet.lab.images import IMAGE_LABEL
from fleet.lab.spec import HostSpec, LabState, Report

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container

SNAPSHOT_LABEL = "fleet.lab.snapshot"
"""Label of a snapshot's images and volumes; its value is the snapshot's name."""

_REPOSITORY = "fleet-lab-snapshot"
_FILES = "files"
_SUBNET_LABEL = "fleet.lab.subnet"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,60}")


@dataclass(frozen=True)
class Snapshot:
    """A snapshot that exists: where its hosts' network was, and the lab's files."""

    tag: str
    subnet: str
    files: bytes

    def image(self, host: str) -> str:
        """The image of one host."""
        return image_name(self.tag, host)


def image_name(tag: str, host: str) -> str:
    """The name of a snapshot's image of one host."""
    return f"{_REPOSITORY}:{tag}.{host}"


def save(client: DockerClient, state: LabState, tag: str, subnet: str, report: Report) -> None:
    """Stop the lab's hosts, keep them as `tag`, and start them again."""
    if not _NAME.fullmatch(tag):
        raise InputError(
            f"a snapshot cannot be named {tag!r}",
            remedy="Use lower-case letters, digits, dashes and underscores.",
        )
    assert state.inventory is not None
    containers = [client.containers.get(host.container) for host in state.hosts]
    report(f"stopping {len(containers)} hosts")
    try:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda container: container.stop(timeout=60), containers))
            report(f"keeping them as {tag}")
            remove(client, tag, report)
            list(pool.map(lambda container: _keep(client, container, state.name, tag), containers))
        _import(client, Folder(state.inventory).pack(), tag, subnet)
    finally:
        report("starting them again")
        for container in containers:
            hosts.start(container)
    for host in state.hosts:
        hosts.wait(client, host, report)


def find(client: DockerClient, tag: str, wanted: Mapping[str, HostSpec]) -> Snapshot:
    """The snapshot of that name, which must hold each host wanted, with its release and GPUs."""
    import docker

    try:
        image = client.images.get(image_name(tag, _FILES))
    except (docker.errors.ImageNotFound, docker.errors.APIError):
        raise InputError(
            f"there is no snapshot {tag!r}",
            remedy="Make one with `fleet lab snapshot TAG`, or bring the lab up without one.",
        ) from None
    for name, host in wanted.items():
        try:
            labels = client.images.get(image_name(tag, name)).labels
        except docker.errors.ImageNotFound:
            raise InputError(
                f"the snapshot {tag} has no host {name}",
                remedy="Ask for the hosts it was made of, or make another.",
            ) from None
        found = (labels.get("fleet.lab.debian"), labels.get("fleet.lab.gpus"))
        if found != (host.debian, str(host.gpus)):
            raise InputError(
                f"in the snapshot {tag} host {name} has debian {found[0]} and {found[1]} GPUs, "
                f"not debian {host.debian} and {host.gpus}",
                remedy="Ask for the hosts it was made of, or make another.",
            )
    return Snapshot(tag, image.labels[_SUBNET_LABEL], _export(client, image_name(tag, _FILES)))


def restore_volume(client: DockerClient, snapshot: Snapshot, lab: str, host: str) -> None:
    """Fill a new host's volume with what the snapshot kept of it."""
    target = hosts.volume_name(lab, host)
    client.volumes.create(target, labels={hosts.LAB_LABEL: lab})
    _copy(client, snapshot.image(host), _volume(snapshot.tag, host), target)


def remove(client: DockerClient, tag: str, report: Report) -> None:
    """Remove a snapshot's images and volumes."""
    import docker

    label = {"label": f"{SNAPSHOT_LABEL}={tag}"}
    for image in client.images.list(filters=label):
        for name in image.tags:
            try:
                client.images.remove(name)
            except docker.errors.APIError:
                report(f"kept {name}, which a lab uses")
    for volume in client.volumes.list(filters=label):
        volume.remove(force=True)


def tags(client: DockerClient) -> list[str]:
    """The names of all snapshots."""
    labels = [volume.attrs["Labels"] for volume in client.volumes.list(filters={"label": SNAPSHOT_LABEL})]
    labels += [image.labels for image in client.images.list(filters={"label": SNAPSHOT_LABEL})]
    return sorted({each[SNAPSHOT_LABEL] for each in labels})


def _keep(client: DockerClient, container: Container, lab: str, tag: str) -> None:
    host = container.labels["fleet.lab.host"]
    repository, version = image_name(tag, host).split(":")
    container.commit(repository, version, changes=f"LABEL {SNAPSHOT_LABEL}={tag} {IMAGE_LABEL}=snapshot")
    if container.labels["fleet.lab.kind"] == "registry":
        return
    client.volumes.create(_volume(tag, host), labels={SNAPSHOT_LABEL: tag})
    _copy(client, image_name(tag, host), hosts.volume_name(lab, host), _volume(tag, host))


def _volume(tag: str, host: str) -> str:
    return f"{_REPOSITORY}-{tag}-{host}"


def _copy(client: DockerClient, image: str, source: str, target: str) -> None:
    """Copy a volume whole: layers of a Docker Engine have device nodes and trusted attributes."""
    client.containers.run(
        image,
        ["cp", "--archive", "/from/.", "/to/"],
        remove=True,
        cap_add=["ALL"],
        cap_drop=["SYS_RESOURCE"],
        network_mode="none",
        # The image has the labels of the host it was; this is no host of that lab.
        labels={hosts.LAB_LABEL: "", SNAPSHOT_LABEL: ""},
        volumes={source: {"bind": "/from", "mode": "ro"}, target: {"bind": "/to", "mode": "rw"}},
    )


def _import(client: DockerClient, packed: bytes, tag: str, subnet: str) -> None:
    repository, version = image_name(tag, _FILES).split(":")
    client.api.import_image_from_data(
        packed,
        repository=repository,
        tag=version,
        changes=[
            f"LABEL {SNAPSHOT_LABEL}={tag}",
            f"LABEL {IMAGE_LABEL}=snapshot",
            f"LABEL {_SUBNET_LABEL}={subnet}",
        ],
    )


def _export(client: DockerClient, image: str) -> bytes:
    """The files in an image, as an archive; the image is never run."""
    container = client.containers.create(image, ["none"])
    try:
        stream, _ = container.get_archive("/")
        return b"".join(stream)
    finally:
        container.remove()
