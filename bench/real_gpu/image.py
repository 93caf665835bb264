"""The service image, pushed to the registry straight from folders: layers, a configuration and a manifest."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from hosts import BUNDLE, HERE, LIVE
from outside import Registry

NAME = "hunyuan-mt-webui"
_APP = HERE.parents[1] / "lab/webui/app"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@dataclass(frozen=True)
class Layer:
    """A layer's file, digest and size in bytes. It is not compressed: its digest is its content's, too."""

    path: Path
    digest: str
    size: int

    @property
    def descriptor(self) -> dict[str, Any]:
        """How a manifest names it."""
        return {
            "mediaType": "application/vnd.oci.image.layer.v1.tar",
            "digest": self.digest,
            "size": self.size,
        }


def layers() -> list[Layer]:
    """Python, the packages, and the app; what Python imports is compiled first, so that it starts quickly."""
    folder = LIVE / "layers"
    app = folder / "app"
    (app / "app").mkdir(parents=True)
    for source in (
        *_APP.glob("*.py"),
        _APP / "start.sh",
        *(HERE / name for name in ("service.py", "cuda_work.py")),
    ):
        shutil.copyfile(source, app / "app" / source.name)
    shutil.copyfile(HERE / "cuda_work.ptx", app / "app/cuda_work.ptx")
    compiled = [BUNDLE / "packages", BUNDLE / "python/usr/lib/python3.13"]
    subprocess.run(
        ["python3", "-m", "compileall", "-q", "-j", "0", *map(str, compiled)],
        check=False,
        stdout=subprocess.DEVNULL,
    )
    return [
        _layer(folder / "python.tar", BUNDLE / "python", "."),
        _layer(folder / "packages.tar", BUNDLE / "packages", "app/packages"),
        _layer(folder / "app.tar", app, "."),
    ]


def push(registry: Registry, tag: str, content: Sequence[Layer], config: Mapping[str, Any]) -> str:
    """Push one tag; returns its manifest's digest."""
    described = {
        "architecture": "amd64",
        "os": "linux",
        "config": dict(config),
        "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in content]},
    }
    text = json.dumps(described).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": _digest(text),
            "size": len(text),
        },
        "layers": [layer.descriptor for layer in content],
    }
    body = json.dumps(manifest).encode()
    with registry.client() as client:
        for layer in content:
            if client.head(f"{NAME}/blobs/{layer.digest}").status_code != 200:
                with layer.path.open("rb") as stream:
                    _upload(client, layer.digest, iter(lambda: stream.read(1 << 20), b""), layer.size)
        _upload(client, _digest(text), text, len(text))
        client.put(
            f"{NAME}/manifests/{tag}", content=body, headers={"Content-Type": _MANIFEST}
        ).raise_for_status()
    return _digest(body)


def config(version: str, mib: int, job_seconds: float, *, gpu: bool) -> dict[str, Any]:
    """A tag's configuration. Without a GPU it is the lab's image, whose memory is a number it tells."""
    command = ["/usr/bin/python3", "/app/service.py"] if gpu else ["/bin/sh", "/app/start.sh"]
    environment = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "PYTHONPATH": "/app/packages",
        "PYTHONUNBUFFERED": "1",
        "HOME": "/tmp",
        "GRADIO_TEMP_DIR": "/tmp/files",
        "GRADIO_ANALYTICS_ENABLED": "False",
        "HF_HUB_OFFLINE": "1",
        "FLEET_LAB_VERSION": version,
        "FLEET_LAB_GPU_MEMORY": str(mib),
        "REAL_GPU_MIB": str(mib),
        "REAL_GPU_JOB_SECONDS": str(job_seconds),
    }
    return {
        "User": "1000:1000",
        "WorkingDir": "/app",
        "Entrypoint": command,
        "ExposedPorts": {"7860/tcp": {}},
        "Env": [f"{key}={value}" for key, value in environment.items()],
        "Labels": {"org.opencontainers.image.version": version},
    }


def _layer(path: Path, folder: Path, within: str) -> Layer:
    argv = ["tar", "--numeric-owner", "--sort=name", "-C", str(folder), "-cf", str(path)]
    if within == ".":
        argv += ["."]
    else:
        argv += [f"--transform=s,^\\.,{within},", "--owner=0", "--group=0", "."]
    subprocess.run(argv, check=True)
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return Layer(path, f"sha256:{digest}", path.stat().st_size)


def _upload(client: httpx.Client, digest: str, content: Any, size: int) -> None:
    begun = client.post(f"{NAME}/blobs/uploads/")
    begun.raise_for_status()
    place = httpx.URL(begun.headers["Location"]).copy_merge_params({"digest": digest})
    headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
    client.put(place, content=content, headers=headers).raise_for_status()


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
