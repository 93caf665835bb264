"""The lab's registry as a release engineer has it: tags that move, and images that are new to every host."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import ssl
import tarfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.lab.conftest import Lab

_KINDS = "application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.manifest.v1+json"
_HOSTS_KEPT = 6.0
# Docker is a Go program: what it read of /etc/hosts counts for 5 s.
_HOSTS_MARK = "# of a test"


class Registry:
    """The registry over its own HTTP API, from this machine."""

    def __init__(self, lab: Lab) -> None:
        everything = yaml.safe_load(Path(lab.inventory).read_text("utf-8"))["all"]["vars"]
        # Such as registry-01:5000/hunyuan-mt-webui
        self.repository: str = everything["image"].rpartition(":")[0]
        name, _, self._path = self.repository.partition("/")
        host = lab.hosts[name.partition(":")[0]]
        trust = ssl.create_default_context(cafile=everything["registry_ca"][name])
        password = Path(everything["registry_password_file"]).read_text("utf-8").strip()
        self._http = httpx.Client(
            base_url=f"https://{host['address']}:{host['ports']['5000']}/v2/{self._path}",
            auth=(everything["registry_username"], password),
            verify=trust,
            trust_env=False,
            timeout=60,
        )

    def reference(self, tag: str) -> str:
        """What `fleet upgrade` is given."""
        return f"{self.repository}:{tag}"

    def digest(self, tag: str) -> str:
        return "sha256:" + hashlib.sha256(self._manifest(tag).content).hexdigest()

    def image(self, tag: str) -> str:
        """The id that Docker gives the image."""
        found: str = self._manifest(tag).json()["config"]["digest"]
        return found

    def tag(self, source: str, tag: str) -> None:
        """Have a tag mean what another one means now."""
        manifest = self._manifest(source)
        self._put(tag, manifest.content, manifest.headers["Content-Type"])

    def larger(self, source: str, tag: str, megabytes: int) -> None:
        """An image like another one, with a layer that no host has yet."""
        manifest = self._manifest(source)
        made: dict[str, Any] = manifest.json()
        config = self._config(made)
        plain, packed = _layer(megabytes)
        config["rootfs"]["diff_ids"].append(_digest(plain))
        config["history"].append({"created_by": "a test"})
        kind = made["layers"][-1]["mediaType"]
        made["layers"].append({"mediaType": kind, "size": len(packed), "digest": self._blob(packed)})
        self._put_image(tag, made, config, manifest.headers["Content-Type"])

    def variant(self, source: str, tag: str, env: Mapping[str, str]) -> None:
        """An image like another one, with other words in its environment."""
        manifest = self._manifest(source)
        made: dict[str, Any] = manifest.json()
        config = self._config(made)
        old = [line for line in config["config"]["Env"] if line.partition("=")[0] not in env]
        config["config"]["Env"] = [*old, *(f"{name}={value}" for name, value in env.items())]
        self._put_image(tag, made, config, manifest.headers["Content-Type"])

    def _put_image(self, tag: str, made: dict[str, Any], config: Any, kind: str) -> None:
        text = json.dumps(config).encode()
        made["config"] |= {"size": len(text), "digest": self._blob(text)}
        self._put(tag, json.dumps(made).encode(), kind)

    def _config(self, made: Mapping[str, Any]) -> Any:
        where = f"/blobs/{made['config']['digest']}"
        return self._http.get(where, follow_redirects=True).raise_for_status().json()

    def _manifest(self, tag: str) -> httpx.Response:
        return self._http.get(f"/manifests/{tag}", headers={"Accept": _KINDS}).raise_for_status()

    def _put(self, tag: str, manifest: bytes, kind: str) -> None:
        answer = self._http.put(f"/manifests/{tag}", content=manifest, headers={"Content-Type": kind})
        assert answer.status_code == 201, answer.text

    def _blob(self, content: bytes) -> str:
        begun = self._http.post("/blobs/uploads/")
        assert begun.status_code == 202, begun.text
        # The registry tells the address by the name under which it was asked.
        where = httpx.URL(begun.headers["Location"]).copy_add_param("digest", _digest(content))
        kind = {"Content-Type": "application/octet-stream"}
        answer = self._http.put(where, content=content, headers=kind)
        assert answer.status_code == 201, answer.text
        return _digest(content)


@contextmanager
def without_registry(lab: Lab, *hosts: str) -> Iterator[None]:
    """On these hosts nothing answers under the registry's name."""
    name = Registry(lab).repository.partition(":")[0]
    for host in hosts:
        lab.sh(host, f"echo '127.0.0.1 {name} {_HOSTS_MARK}' >> /etc/hosts")
    time.sleep(_HOSTS_KEPT)
    try:
        yield
    finally:
        for host in hosts:
            # The file is a mount of the outer engine's: it can be written to, but not replaced.
            lab.sh(host, f"sed '/{_HOSTS_MARK}$/d' /etc/hosts > /run/hosts; cat /run/hosts > /etc/hosts")
        time.sleep(_HOSTS_KEPT)


@contextmanager
def without_space(lab: Lab, host: str) -> Iterator[None]:
    """Docker has one megabyte there for what it downloads."""
    where = "/var/lib/docker/tmp"
    lab.sh(host, f"mkdir -p {where}; mount -t tmpfs -o size=1m tmpfs {where}")
    try:
        yield
    finally:
        lab.sh(host, f"umount {where}")


def forget(lab: Lab, host: str, image: str) -> None:
    """Have a host not know an image by its id, so that it must be pulled."""
    lab.sh(host, f"docker image rm -f {image} 2>&1 | grep -v 'No such image' || true")
    assert not lab.sh(host, f"docker image ls -q --no-trunc | grep -x {image} || true").strip()


def _layer(megabytes: int) -> tuple[bytes, bytes]:
    """A layer with a file that cannot be packed any smaller: as it is, and compressed."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        content = os.urandom(megabytes << 20)
        entry = tarfile.TarInfo("weights")
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    return raw.getvalue(), gzip.compress(raw.getvalue(), 1)


def _digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()
