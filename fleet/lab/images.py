"""Images made without any registry: a root file system by mmdebstrap, and layers built on it."""

from __future__ import annotations

import hashlib
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from fleet.errors import FleetError
from fleet.lab.engine import need_program
from fleet.lab.spec import SUITES, Report

if TYPE_CHECKING:
    from docker import DockerClient

IMAGE_LABEL = "fleet.lab.recipe"
"""Label of every image the lab made; its value is the hash of what it was made from."""

_HOST_PACKAGES = (
    "ca-certificates",
    "curl",
    "dbus",
    "iproute2",
    "iptables",
    "kmod",
    "openssh-server",
    "procps",
    "sudo",
    "systemd",
    "systemd-sysv",
)
_NO_DOCS = (
    "path-exclude=/usr/share/doc/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/man/*",
)


def host_image(client: DockerClient, debian: str, assets: Path, report: Report) -> str:
    """The image of a bare host running that Debian release; made when there is none yet."""
    base = root_filesystem(
        client, f"fleet-lab-debian:{debian}", SUITES[debian], "minbase", _HOST_PACKAGES, report
    )
    return build_on(client, f"fleet-lab-base:{debian}", assets / "host", base, report)


def root_filesystem(
    client: DockerClient,
    tag: str,
    suite: str,
    variant: str,
    packages: Iterable[str],
    report: Report,
) -> str:
    """A Debian root file system imported as `tag`, unless it is there already."""
    options = [
        f"--variant={variant}",
        f"--include={','.join(packages)}",
        *(f"--dpkgopt={option}" for option in _NO_DOCS),
    ]
    recipe = digest([suite, *options])
    if find_recipe(client, tag) == recipe:
        return tag
    need_program(report, "mmdebstrap")
    report(f"{tag}: making a Debian root file system")
    with tempfile.TemporaryDirectory(prefix="fleet-lab-") as folder:
        archive = Path(folder) / "root.tar"
        done = subprocess.run(
            ["mmdebstrap", *options, suite, str(archive)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise FleetError(
                f"mmdebstrap could not make a root file system of {suite}",
                output="\n".join(done.stderr.splitlines()[-15:]),
                remedy="Check that this machine reaches Debian's packages (`apt-get update`).",
            )
        repository, version = tag.split(":")
        client.api.import_image(
            str(archive), repository=repository, tag=version, changes=[f"LABEL {IMAGE_LABEL}={recipe}"]
        )
    return tag


def build(
    client: DockerClient,
    tag: str,
    context: Path,
    arguments: Mapping[str, str],
    *,
    recipe: str,
) -> str:
    """Build an image from a folder with a Dockerfile; the engine's layer cache makes a second time cheap."""
    import docker

    try:
        client.images.build(
            path=str(context),
            tag=tag,
            buildargs=dict(arguments),
            labels={IMAGE_LABEL: recipe},
            rm=True,
            forcerm=True,
        )
    except docker.errors.BuildError as error:
        lines = [str(entry["stream"]).rstrip() for entry in error.build_log if "stream" in entry]
        raise FleetError(
            f"the image {tag} could not be built: {error.msg}",
            output="\n".join(lines[-20:]),
            remedy="Check that containers on this machine reach Debian's packages, then run it again.",
        ) from None
    return tag


def build_on(client: DockerClient, tag: str, context: Path, base: str, report: Report) -> str:
    """Build an image on `base`, unless it was built from the same files on the same base already."""
    recipe = digest([image_id(client, base), *hash_folder(context)])
    if find_recipe(client, tag) != recipe:
        report(f"{tag}: building")
        build(client, tag, context, {"BASE": base}, recipe=recipe)
    return tag


def remove_images(client: DockerClient, report: Report) -> None:
    """Remove every image the lab made that no container runs on."""
    import docker

    for image in client.images.list(filters={"label": IMAGE_LABEL}):
        for tag in image.tags:
            try:
                client.images.remove(tag)
            except docker.errors.ImageNotFound:
                continue
            except docker.errors.APIError:
                report(f"kept {tag}, which another lab uses")
    client.images.prune(filters={"dangling": True, "label": IMAGE_LABEL})


def find_recipe(client: DockerClient, tag: str) -> str:
    """The recipe hash of an image of ours; empty when there is none of that name."""
    import docker

    try:
        return str(client.images.get(tag).labels.get(IMAGE_LABEL, ""))
    except docker.errors.ImageNotFound:
        return ""


def image_id(client: DockerClient, name: str) -> str:
    """An image's id, or "" for what names no image (a plain build argument)."""
    import docker

    try:
        return str(client.images.get(name).id)
    except (docker.errors.ImageNotFound, docker.errors.APIError):
        return ""


def hash_folder(folder: Path) -> list[str]:
    """The relative paths and content hashes of a folder's files, sorted."""
    return [
        f"{path.relative_to(folder)} {path.stat().st_mode & 0o111:o} "
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}"
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    ]


def digest(parts: Iterable[str]) -> str:
    """One short hash of many texts, order included."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]
