"""Handing fetched blobs to the host's engine: an archive as `docker save` makes it, streamed."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence

from fleet.docker.failures import engine_error
from fleet.docker.probe import SOCKET
from fleet.errors import TaskError
from fleet.images.manifest import Blob, Manifest
from fleet.model.steps import Run
from fleet.ssh.remote import Remote

_SLOWEST = 20e6
"""Bytes a second below which an engine counts as stuck, while it unpacks."""

# `Expect:` is left out: curl would wait a second for an answer that this engine never gives.
_LOAD = f"""\
cd "$1" || exit 91
shift
wrong=$(mktemp -p /run fleet.XXXXXX 2>/dev/null || mktemp) || exit 90
trap 'rm -f "$wrong"' EXIT
{{ tar -cf - "$@" 2>"$wrong" || echo 'the archive is not whole' >>"$wrong"; }} |
  curl -q -s -S -X POST -H 'Content-Type: application/x-tar' -H 'Expect:' -T - --unix-socket {SOCKET} \\
    'http://d/images/load?quiet=1' || exit $?
[ ! -s "$wrong" ] || {{ cat "$wrong" >&2; exit 93; }}
"""
_FORGET = """\
cd "$1" 2>/dev/null || exit 0
shift
rm -f -- "$@" manifest.json index.json oci-layout
rm -rf registry
rmdir blobs/sha256 blobs partial 2>/dev/null
[ -e blobs ] || [ -e partial ] || { rm -f lock; cd .. && rmdir "$OLDPWD"; }
exit 0
"""
# A seed serves what it fetched long before, and to load an image may take an engine half an hour.
_ABANDONED = """\
cd "$1" 2>/dev/null || exit 0
systemctl -q is-active fleet-image-seed.service 2>/dev/null && exit 0
[ -z "$(find . -mmin -60 | head -n 1)" ] || exit 0
du -sk .
"""
_ERROR = re.compile(rb'"errorDetail"|"message"')


def store_of(root_dir: str) -> str:
    """Where a host's blobs wait to be loaded: where its images are, since that disk is the large one."""
    return f"{root_dir.rstrip('/')}/fleet-images"


def layout(manifest: Manifest, present: int = 0) -> dict[str, bytes]:
    """The small files of the archive, by name. The lowest `present` layers are left out of it.

    `manifest.json` is what engines read that keep images in their own store, the others are for engines that
    keep them in containerd's.
    """
    name = f"blobs/sha256/{manifest.digest.removeprefix('sha256:')}"
    docker = [
        {
            "Config": _path(manifest.config),
            "RepoTags": None,
            "Layers": [_path(layer) for layer in manifest.layers],
        }
    ]
    whole = {"mediaType": manifest.media_type, "digest": manifest.digest, "size": len(manifest.body)}
    files = {"manifest.json": _json(docker)}
    if not present:
        files["oci-layout"] = _json({"imageLayoutVersion": "1.0.0"})
        files["index.json"] = _json({"schemaVersion": 2, "manifests": [whole]})
        files[name] = manifest.body
    return files


def load(remote: Remote, store: str, manifest: Manifest, missing: Sequence[Blob], present: int) -> None:
    """Have the engine take the image from the store. Raises StepError with what it said."""
    files = layout(manifest, present)
    for name, content in files.items():
        remote.upload(f"{store}/{name}", content, mode="0600", owner="root", group="root")
    names = (*files, *(_path(blob) for blob in missing))
    size = sum(blob.size for blob in manifest.layers)
    result = remote.run(
        ("sh", "-c", _LOAD, "fleet-load", store, *dict.fromkeys(names)), timeout=600 + size / _SLOWEST
    )
    if result.rc != 0 or _ERROR.search(result.out):
        said = (result.out + result.err).decode("utf-8", "replace").strip()
        raise engine_error(said or f"it ended with {result.rc}", f"{remote.name}: cannot load the image")


def forget(remote: Remote, store: str, manifest: Manifest) -> None:
    """Remove an image's blobs from the store, and the store where nothing else is in it."""
    names = (f"blobs/sha256/{blob.hex}" for blob in manifest.blobs)
    own = f"blobs/sha256/{manifest.digest.removeprefix('sha256:')}"
    result = remote.run(("sh", "-c", _FORGET, "fleet-forget", store, *names, own), timeout=120)
    if result.rc != 0:
        raise TaskError(f"{remote.name}: cannot clear {store}", output=result.err.decode("utf-8", "replace"))


def abandoned(remote: Remote, store: str) -> int:
    """Bytes that pulls left which never ended; 0 while something may still be at work there."""
    out = remote.run(("sh", "-c", _ABANDONED, "fleet-abandoned", store), timeout=60).out.split()
    return int(out[0]) * 1024 if out and out[0].isdigit() else 0


def clear(store: str) -> Run:
    """A step that removes all a host has left of pulls that never ended."""
    return Run(("sh", "-c", f"rm -rf -- {shlex.quote(store)}"), title=f"remove {store}")


def _path(blob: Blob) -> str:
    return f"blobs/sha256/{blob.hex}"


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
