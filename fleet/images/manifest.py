"""What a registry says an image consists of: manifests as frozen values. No I/O."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import msgspec

from fleet.docker.grammar import check_digest
from fleet.errors import TaskError
from fleet.model.decode import from_json

ACCEPT = ", ".join(
    (
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
)
"""What fleet can read, for the Accept header; a registry else answers in a form of 2013."""


@dataclass(frozen=True)
class Blob:
    """A part of an image in the registry; `size` in bytes, compressed."""

    digest: str
    size: int

    @property
    def hex(self) -> str:
        """The digest's digits."""
        return self.digest.removeprefix("sha256:")


@dataclass(frozen=True)
class Manifest:
    """An image for one platform. `body` are the manifest's own bytes, whose hash is `digest`.

    `layers` from the lowest to the topmost; one that occurs twice is listed twice.
    """

    digest: str
    media_type: str
    body: bytes
    config: Blob
    layers: tuple[Blob, ...]

    @property
    def blobs(self) -> tuple[Blob, ...]:
        """All that must be fetched, each once, the configuration first."""
        return tuple(dict.fromkeys((self.config, *self.layers)))

    @property
    def size(self) -> int:
        """Bytes of all of it in the registry."""
        return sum(blob.size for blob in self.blobs)


@dataclass(frozen=True)
class Index:
    """An image for several platforms: the digest of each one's manifest, by `architecture[/variant]`."""

    digest: str
    manifests: tuple[tuple[str, str], ...]

    def of(self, architecture: str) -> str | None:
        """The manifest's digest for an architecture, as the engine calls it; None where there is none."""
        exact = (digest for name, digest in self.manifests if name == architecture)
        loose = (digest for name, digest in self.manifests if name.partition("/")[0] == architecture)
        return next(exact, None) or next(loose, None)


def digest_of(body: bytes) -> str:
    """The digest that these bytes have."""
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


def parse_manifest(body: bytes, where: str, wanted: str = "") -> Manifest | Index:
    """The manifest or index in a registry's answer; `where` names it in errors.

    Raises TaskError where its bytes do not have the digest `wanted`, or where it is in a form fleet does not
    know.
    """
    digest = digest_of(body)
    if wanted and digest != wanted:
        raise TaskError(
            f"{where}: the registry's answer has another digest than it was asked for",
            output=f"asked for {wanted}\ngot       {digest}",
            remedy="something between the host and the registry changes what it transfers; do not use it",
        )
    try:
        raw = from_json(body, _Raw)
        if raw.manifests is not None:
            return Index(digest, tuple(_platforms(raw.manifests)))
        if raw.config is None or raw.layers is None:
            raise ValueError("it is neither a manifest nor an index")
        layers = tuple(_blob(layer) for layer in raw.layers)
        return Manifest(digest, raw.media_type or _DOCKER, body, _blob(raw.config), layers)
    except (msgspec.MsgspecError, ValueError) as error:
        raise TaskError(
            f"{where}: the registry's manifest cannot be read: {error}",
            output=body[:300].decode("utf-8", "replace"),
            remedy="`fleet image pull --engine` leaves it to the Docker Engine",
        ) from error


def parse_diff_ids(config: bytes, where: str) -> tuple[str, ...]:
    """The digests of the unpacked layers, from an image's configuration."""
    try:
        found = from_json(config, _RawConfig).rootfs.diff_ids
    except msgspec.MsgspecError as error:
        raise TaskError(f"{where}: the image's configuration cannot be read: {error}") from error
    return tuple(found)


_DOCKER = "application/vnd.docker.distribution.manifest.v2+json"


class _RawPlatform(msgspec.Struct):
    architecture: str = ""
    os: str = ""
    variant: str = ""


class _RawBlob(msgspec.Struct):
    digest: str
    size: int = 0
    platform: _RawPlatform | None = None


class _Raw(msgspec.Struct, rename="camel"):
    media_type: str = ""
    config: _RawBlob | None = None
    layers: list[_RawBlob] | None = None
    manifests: list[_RawBlob] | None = None


class _RawRootfs(msgspec.Struct):
    diff_ids: list[str]


class _RawConfig(msgspec.Struct):
    rootfs: _RawRootfs


def _blob(raw: _RawBlob) -> Blob:
    # What a registry names becomes a file's name on the host.
    check_digest(raw.digest)
    if raw.size < 0:
        raise ValueError(f"{raw.digest} has the size {raw.size}")
    return Blob(raw.digest, raw.size)


def _platforms(manifests: list[_RawBlob]) -> Any:
    for each in manifests:
        blob = _blob(each)
        platform = each.platform or _RawPlatform()
        if platform.os in ("linux", "") and platform.architecture not in ("", "unknown"):
            variant = f"/{platform.variant}" if platform.variant else ""
            yield f"{platform.architecture}{variant}", blob.digest
