"""A seed: its certificate and password are for one run, and hosts trust it and nothing else for that."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from fleet.docker.pulling import RegistryLogin
from fleet.errors import StepError, TaskError
from fleet.images import fetch, seed
from fleet.images.fetch import Fetch
from fleet.images.manifest import Blob
from fleet.images.seed import Seed
from fleet.images.source import basic
from fleet.model.secret import Secret
from fleet.ssh.remote import Result
from tests.local import LocalRemote
from tests.unit.registry_world import Registry, digest, serving

BODY = b"layer" * 1000
LOGIN = RegistryLogin("fleet", Secret("pass word"))


def fetched(tmp_path: Path, ca: str, made: tuple[str, str], address: str = "127.0.0.1") -> bytes:
    """A blob over TLS from a registry with the certificate `made`, where `ca` is what is trusted."""
    for name, text in zip(("crt", "key"), made, strict=True):
        (tmp_path / name).write_text(text)
    registry = Registry()
    registry.auth = "basic"
    registry.blob(BODY)
    with serving(registry, (str(tmp_path / "crt"), str(tmp_path / "key"))):
        one = Seed("gpu-01", address, registry.port, ca, LOGIN)
        assert one.source.base == f"https://{address}:{registry.port}/v2/fleet/image"
        Fetch(
            str(tmp_path / "store"),
            one.source,
            [Blob(digest(BODY), len(BODY))],
            lambda: basic(LOGIN.username, LOGIN.password),
            ca=one.ca,
            pause=lambda _: None,
        ).run(LocalRemote("gpu-02"), lambda _: None)
    return (tmp_path / "store" / "blobs" / "sha256" / digest(BODY).removeprefix("sha256:")).read_bytes()


def test_a_host_fetches_from_the_seed_whose_certificate_it_was_given(tmp_path):
    made = seed._certificate("127.0.0.1")
    assert fetched(tmp_path, made[0], made) == BODY


def test_another_certificate_for_the_same_address_is_refused(tmp_path):
    with pytest.raises(StepError, match="cannot fetch") as caught:
        fetched(tmp_path, seed._certificate("127.0.0.1")[0], seed._certificate("127.0.0.1"))
    assert "certificate" in caught.value.output


def test_a_certificate_is_for_one_address_or_name(tmp_path):
    made = seed._certificate("gpu-01.internal")
    with pytest.raises(StepError, match="cannot fetch"):
        fetched(tmp_path, made[0], made)
    assert "BEGIN CERTIFICATE" in seed._certificate("fd00::1")[0]


class Host:
    """A host that notes what is uploaded and run, and ends scripts as it is told."""

    name = "gpu-01"

    def __init__(self, rc: int = 0, err: bytes = b"") -> None:
        self.files: dict[str, tuple[bytes, str]] = {}
        self.ran: list[tuple[str, ...]] = []
        self.events: list[str] = []
        self._end = Result(rc, b"", err)

    def upload(self, path: str, content: bytes, *, mode: str, owner: str, group: str) -> None:
        self.files[path] = content, mode
        self.events.append("upload")

    def run(self, argv: tuple[str, ...], **_: object) -> Result:
        self.ran.append(argv)
        self.events.append("stop" if argv[2] == seed._STOP else "start")
        return self._end if argv[2] == seed._START else Result(0, b"", b"")


def start(host: Host) -> Seed:
    return seed.start(host, "/var/lib/docker/fleet-images", [Blob(digest(BODY), 1)] * 2, "10.0.0.1")  # type: ignore[arg-type]


def test_what_a_seed_needs_is_for_root_alone_and_its_password_is_hashed():
    import bcrypt

    host = Host()
    one = start(host)
    assert {mode for _, mode in host.files.values()} == {"0600"}
    assert all(path.startswith("/run/") for path in host.files)
    hashed = host.files["/run/fleet-image-seed/password"][0].decode().strip().partition(":")[2]
    assert bcrypt.checkpw(one.login.password.reveal().encode(), hashed.encode())
    assert one.login.password.reveal() not in repr((host.files, host.ran, one))
    assert host.ran[-1][-3:] == ("/var/lib/docker/fleet-images", "7858", digest(BODY).removeprefix("sha256:"))
    # The end of a seed that was left over must not take the new one's files with it.
    assert host.events == ["stop", "upload", "upload", "upload", "upload", "start"]


def test_a_seed_only_reads_and_only_for_who_has_its_password():
    host = Host()
    start(host)
    config: Mapping[str, dict[str, dict[str, object]]] = json.loads(
        host.files["/run/fleet-image-seed/config.yml"][0]
    )
    assert config["storage"]["maintenance"]["readonly"] == {"enabled": True}
    assert config["auth"]["htpasswd"]["path"] == "/run/fleet-image-seed/password"
    assert "proxy" not in config
    assert start(Host()).login != start(Host()).login


def test_a_seed_that_does_not_come_up_leaves_nothing_and_says_why():
    host = Host(127, b"docker-registry is not installed there\n")
    with pytest.raises(TaskError, match="cannot seed its site") as caught:
        start(host)
    assert "not installed" in caught.value.output
    assert "image_seed" in caught.value.remedy
    assert host.events[-1] == "stop"


def test_the_scripts_are_plain_sh():
    import subprocess

    for script in (seed._START, seed._STOP, fetch._FETCH, fetch._STORED):
        subprocess.run(["sh", "-n"], input=script.encode(), check=True)
