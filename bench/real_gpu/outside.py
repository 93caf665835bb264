"""The world outside the hosts: a package repository and an image registry, both on the stage's address."""

from __future__ import annotations

import base64
import gzip
import hashlib
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
from hosts import BUNDLE, LIVE, REGISTRY, STAGE
from packages import index

from fleet.lab.keys import hash_htpasswd, make_authority, make_certificate, make_password

_USER = "fleet"
_CONFIG = """\
version: 0.1
log: {{level: warn, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: {folder}/store}}}}
http:
  addr: {address}:5000
  tls: {{certificate: {folder}/server.crt, key: {folder}/server.key}}
auth: {{htpasswd: {{realm: registry, path: {folder}/htpasswd}}}}
"""


@dataclass(frozen=True)
class Registry:
    """A registry with TLS and a login; `ca` and `password_file` are files of the stage."""

    ca: Path
    password_file: Path
    username: str = _USER
    name: str = f"{REGISTRY}:5000"

    def client(self) -> httpx.Client:
        """A client that trusts it and logs in."""
        import ssl

        login = f"{self.username}:{self.password_file.read_text().strip()}".encode()
        return httpx.Client(
            base_url=f"https://{self.name}/v2/",
            verify=ssl.create_default_context(cafile=str(self.ca)),
            headers={"Authorization": f"Basic {base64.b64encode(login).decode()}"},
            timeout=120,
            trust_env=False,
        )


def serve_packages(extra: Path) -> None:
    """An apt repository of the bundle's packages and those in `extra`, at http://STAGE/."""
    folder = LIVE / "www"
    folder.mkdir()
    for package in (*(BUNDLE / "debs").glob("*.deb"), *extra.glob("*.deb")):
        (folder / package.name).symlink_to(package)
    listed = index(folder)
    (folder / "Packages").write_bytes(listed)
    (folder / "Packages.gz").write_bytes(gzip.compress(listed))
    sums = "".join(
        f" {hashlib.sha256(path.read_bytes()).hexdigest()} {path.stat().st_size} {path.name}\n"
        for path in (folder / "Packages", folder / "Packages.gz")
    )
    date = time.strftime("%a, %d %b %Y %H:%M:%S +0000", time.gmtime())
    (folder / "Release").write_text(f"Origin: real-gpu\nDate: {date}\nSHA256:\n{sums}")
    argv = [sys.executable, "-m", "http.server", "--bind", STAGE, "--directory", str(folder), "80"]
    _start(argv, LIVE / "www.log")


def serve_images() -> Registry:
    """Debian's docker-registry on port 5000, once it answers."""
    folder = LIVE / "registry"
    folder.mkdir()
    package = next((BUNDLE / "debs").glob("docker-registry_*.deb"))
    subprocess.run(["dpkg-deb", "--extract", str(package), str(folder / "program")], check=True)
    authority = make_authority("real-gpu")
    server = make_certificate(authority, (REGISTRY, STAGE))
    password = make_password()
    for name, content in (
        ("ca.crt", authority.certificate),
        ("server.crt", server.certificate),
        ("server.key", server.key),
        ("password", f"{password}\n".encode()),
        ("htpasswd", hash_htpasswd(_USER, password).encode()),
        ("config.yml", _CONFIG.format(folder=folder, address=STAGE).encode()),
    ):
        (folder / name).write_bytes(content)
        (folder / name).chmod(0o600)
    program = folder / "program/usr/bin/docker-registry"
    _start([str(program), "serve", str(folder / "config.yml")], folder / "log")
    registry = Registry(folder / "ca.crt", folder / "password")
    with registry.client() as client:
        _answers(client, folder / "log")
    return registry


def _answers(client: httpx.Client, log: Path) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            if client.get("").status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.1)
    raise TimeoutError(f"the image registry does not answer; it printed:\n{log.read_text()[-2000:]}")


def _start(argv: list[str], log: Path) -> None:
    with log.open("wb") as sink:
        subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink)
