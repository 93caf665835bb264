"""The outside world's image: a registry that already holds the webui's tags, and the apt repository."""

from __future__ import annotations

import io
import tarfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from fleet.errors import FleetError
from fleet.lab.hosts import last_words
from fleet.lab.images import IMAGE_LABEL, build_on, digest, find_recipe, image_id
from fleet.lab.inventory import IMAGE
from fleet.lab.spec import Report

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container

_PORT = "5000/tcp"
_DEADLINE = 30.0


def empty_registry(client: DockerClient, base: str, assets: Path, report: Report) -> str:
    """The registry host's image, with packages but without images."""
    return build_on(client, "fleet-lab-registry:13", assets / "registry", base, report)


def filled_registry(client: DockerClient, empty: str, tags: Mapping[str, str], report: Report) -> str:
    """The registry host's image with the webui's tags in it, which are pushed once and then kept."""
    filled = "fleet-lab-registry:filled"
    recipe = digest([image_id(client, empty), *(f"{t} {image_id(client, n)}" for t, n in tags.items())])
    if find_recipe(client, filled) != recipe:
        report(f"{filled}: pushing {len(tags)} tags of the webui image")
        _fill(client, empty, filled, tags, recipe)
    return filled


def read_file(container: Container, path: str) -> bytes:
    """A file of a container, running or not."""
    stream, _ = container.get_archive(path)
    with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as tar:
        content = tar.extractfile(tar.getmembers()[0])
        return content.read() if content else b""


def _fill(client: DockerClient, empty: str, filled: str, tags: Mapping[str, str], recipe: str) -> None:
    # Engines push to a registry on loopback without TLS; its port is one that is free.
    container = client.containers.run(
        empty,
        ["docker-registry", "serve", "/etc/fleet-lab-registry/fill.yml"],
        detach=True,
        ports={_PORT: ("127.0.0.1", 0)},
        labels={IMAGE_LABEL: recipe},
    )
    try:
        repository = f"{_address(container)}/{IMAGE}"
        for tag, name in tags.items():
            client.images.get(name).tag(repository, tag)
            try:
                _push(client, repository, tag)
            finally:
                client.images.remove(f"{repository}:{tag}", noprune=True)
        container.stop(timeout=10)
        name, version = filled.split(":")
        container.commit(name, version, changes=f"LABEL {IMAGE_LABEL}={recipe}")
    finally:
        container.remove(force=True, v=True)


def _address(container: Container) -> str:
    """Where the registry listens, once it answers."""
    import httpx

    deadline = time.monotonic() + _DEADLINE
    while time.monotonic() < deadline:
        container.reload()
        published = container.ports.get(_PORT)
        if published:
            address = f"127.0.0.1:{published[0]['HostPort']}"
            try:
                if httpx.get(f"http://{address}/v2/", timeout=2).status_code == 200:
                    return address
            except httpx.HTTPError:
                pass
        time.sleep(0.1)
    raise FleetError(
        "the lab's image registry did not start",
        output=last_words(container),
        remedy="Run `fleet lab down --images` and `fleet lab up` again.",
    )


def _push(client: DockerClient, repository: str, tag: str) -> None:
    for line in client.images.push(repository, tag, stream=True, decode=True):
        if "error" in line:
            raise FleetError(
                f"the tag {tag} of the webui image could not be pushed to the lab's registry",
                output=str(line["error"]),
                remedy="Check that the engine pushes to 127.0.0.1 without a proxy, and try again.",
            )
