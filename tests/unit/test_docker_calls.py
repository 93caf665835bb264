"""Engine calls: progress, one digest for all, and errors with remedies."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from docker.errors import APIError

from fleet.docker.calls import CALLS, RegistryLogin, Shared
from fleet.docker.failures import engine_error
from fleet.docker.grammar import check_digest, check_reference
from fleet.docker.pulling import Layers
from fleet.errors import StepError, UnreachableError
from fleet.model.secret import Secret
from fleet.ssh import SshSettings, connect
from fleet.ssh.fabric_remote import FabricRemote
from tests.sshd import Sshd, free_port


def no_progress(text: str, done: float, total: float) -> None:
    pass


def test_what_one_finds_out_the_others_wait_for() -> None:
    shared, found = Shared(), []

    def find() -> str:
        time.sleep(0.02)
        found.append(1)
        return "sha256:1"

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: shared.once("app:v1", find), range(8)))
    assert (set(answers), len(found)) == ({"sha256:1"}, 1)


def test_after_a_failure_the_next_tries_itself() -> None:
    shared, turn = Shared(), threading.Lock()
    outcomes: Iterator[bool] = iter([False, True])

    def find() -> str:
        with turn:
            if not next(outcomes):
                raise StepError("no route to the registry")
            return "sha256:1"

    with pytest.raises(StepError):
        shared.once("app:v1", find)
    assert shared.once("app:v1", find) == "sha256:1"
    assert shared.once("app:v1", find) == "sha256:1"


def test_progress_of_layers() -> None:
    layers = Layers()
    for event in (
        {"status": "Pulling from app", "id": "v1"},
        {"status": "Pulling fs layer", "id": "a", "progressDetail": {}},
        {"status": "Downloading", "id": "a", "progressDetail": {"current": 10, "total": 100}},
        {"status": "Downloading", "id": "b", "progressDetail": {"current": 50, "total": 50}},
    ):
        layers.take(event)
    assert (layers.done, layers.total, layers.text) == (60, 150, "downloading")
    layers.take({"status": "Download complete", "id": "a", "progressDetail": {}})
    layers.take({"status": "Extracting", "id": "a", "progressDetail": {"current": 1, "total": 100}})
    assert (layers.done, layers.total, layers.text) == (150, 150, "extracting")
    layers.take({"status": "Pull complete", "id": "a", "progressDetail": {}})
    layers.take({"status": "Digest: sha256:1"})
    assert layers.done == 150


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        ("write /var/lib/docker/x: no space left on device", "disk space"),
        ("tls: failed to verify certificate: x509: certificate signed by unknown authority", "certs.d"),
        ("dial tcp: lookup registry.example: no such host", "DNS"),
        ("unauthorized: authentication required", "registry_username"),
        ("denied: requested access to the resource is denied", "registry_username"),
        ("manifest for app:v9 not found: manifest unknown: manifest unknown", "name and tag"),
        ("http: server gave HTTP response to HTTPS client", "plain HTTP"),
        ("no matching manifest for linux/amd64 in the manifest list entries", "architecture"),
        ("unresolvable CDI devices nvidia.com/gpu=GPU-1", "toolkit"),
        ('could not select device driver "cdi" with capabilities: []', "toolkit"),
        ("Bind for 0.0.0.0:7860 failed: port is already allocated", "slot_port_base"),
        ("net/http: request canceled (Client.Timeout exceeded while awaiting headers)", "network"),
        ("unable to find user nosuch: no matching entries in passwd file", "uid:gid"),
        ("curl: (6) Could not resolve host: nosuch.invalid", "DNS"),
        ("something else", "journalctl"),
    ],
)
def test_remedies(said: str, remedy: str) -> None:
    error = engine_error(said, "cannot pull app:v1")
    assert (error.message, error.output) == ("cannot pull app:v1", said)
    assert remedy in error.remedy


def test_what_the_engine_refuses_is_not_looked_for_in_its_log() -> None:
    answer = requests.Response()
    answer.status_code = 400
    refusal = APIError("400 Client Error", response=answer, explanation="Duplicate mount point: /x")
    error = engine_error(refusal, "cannot create container a")
    assert error.output == "Duplicate mount point: /x"
    assert error.remedy.startswith("the engine refuses this")


def test_a_password_the_engine_repeats_is_hidden() -> None:
    error = engine_error("login hunter2 refused", "cannot pull", hide=("hunter2",))
    assert error.output == "login *** refused"
    assert "hunter2" not in repr(RegistryLogin("u", Secret("hunter2")))


@pytest.mark.parametrize(
    "name",
    [
        "app",
        "app:v1",
        "team/app",
        "registry.example:5000/hunyuan-mt-webui:v1",
        "localhost/app",
        "Registry.Example/app",
        "[fd00::1]:5000/app:v1",
        "a__b/c-d.e:V_1.2-3",
        f"app@sha256:{'0' * 64}",
        f"r.example/app:v1@sha256:{'a' * 64}",
    ],
)
def test_references(name: str) -> None:
    check_reference(name)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "empty"),
        ("App:v1", "small letters"),
        ("https://registry.example/app", "leave out https"),
        ("app:", "not a tag"),
        ("app:v 1", "not a tag"),
        ("app:-v1", "not a tag"),
        (f"app:{'x' * 129}", "not a tag"),
        ("app@sha256:123", "not a digest"),
        ("/app", "not an image's name"),
        ("team//app", "not an image's name"),
        ("registry.example:port/app", "not a registry"),
        ("{{ image }}", "not"),
    ],
)
def test_what_is_no_reference(name: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        check_reference(name)


def test_digests() -> None:
    check_digest(f"sha256:{'0' * 64}")
    with pytest.raises(ValueError, match="not a digest"):
        check_digest("v1")


# From here on with the Docker Engine of this machine, through a real sshd.

needs_engine = pytest.mark.usefixtures("engine")


@pytest.fixture(scope="module")
def engine() -> None:
    if not shutil.which("docker") or subprocess.run(["docker", "info"], capture_output=True).returncode != 0:
        pytest.skip("no Docker Engine answers here")


@pytest.fixture(scope="module")
def remote(sshd: Sshd) -> Iterator[FabricRemote]:
    opened = connect(sshd.host(), SshSettings())
    yield opened
    opened.close()


@needs_engine
def test_the_engine_answers_over_ssh(remote: FabricRemote, monkeypatch: pytest.MonkeyPatch) -> None:
    from fleet.docker.client import open_engine

    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")  # the operator's, and no business of the host's
    client = open_engine(remote)
    version = subprocess.run(
        ["docker", "version", "--format", "{{.Server.Version}}"], capture_output=True, text=True, check=True
    )
    assert client.version()["Version"] == version.stdout.strip()
    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(lambda _: client.ping(), range(12)))
    client.close()


@needs_engine
def test_what_the_engine_refuses_is_explained(remote: FabricRemote) -> None:
    from fleet.docker.client import open_engine

    client = open_engine(remote)
    with pytest.raises(StepError, match="cannot start container no-such") as caught:
        CALLS["start"](client, {"name": "no-such-container"}, no_progress, Shared())
    assert "No such container" in caught.value.output
    CALLS["remove"](client, {"name": "no-such-container", "force": True}, no_progress, Shared())
    with pytest.raises(StepError, match="cannot remove container no-such"):
        CALLS["remove"](client, {"name": "no-such-container"}, no_progress, Shared())
    registry = f"127.0.0.1:{free_port()}"
    auth = {"username": "u", "password": Secret("hunter2")}
    with pytest.raises(StepError, match="the registry gives no digest") as caught:
        CALLS["pull"](client, {"reference": f"{registry}/app:v1", "auth": auth}, no_progress, Shared())
    assert "cannot reach it" in caught.value.remedy
    arguments = {"reference": f"{registry}/app:v1", "digest": f"sha256:{'0' * 64}", "auth": auth}
    with pytest.raises(StepError, match="cannot pull") as caught:
        CALLS["pull"](client, arguments, no_progress, Shared())
    assert "hunter2" not in f"{caught.value.message}{caught.value.output}{caught.value.remedy}"
    client.close()


@needs_engine
@pytest.mark.parametrize("ends", [signal.SIGKILL, signal.SIGSTOP])
def test_a_host_that_ends_under_the_engine(start_sshd: Callable[..., Sshd], ends: signal.Signals) -> None:
    from fleet.docker.client import open_engine

    server = start_sshd()
    remote = connect(server.host(), SshSettings(keepalive=0.1, keepalive_count=2))
    client = open_engine(remote)
    for pid in server.sessions():
        os.kill(pid, ends)
    with pytest.raises(UnreachableError, match=r"connection .*was lost"):
        CALLS["start"](client, {"name": "no-such-container"}, no_progress, Shared())
    client.close()
    remote.close()


def test_a_host_without_an_engine(remote: FabricRemote, monkeypatch: pytest.MonkeyPatch) -> None:
    from fleet.docker import adapter
    from fleet.docker.client import open_engine

    monkeypatch.setattr(adapter, "DIAL", ("sh", "-c", "echo 'Cannot connect to the daemon' >&2; exit 1"))
    with pytest.raises(StepError, match="Docker Engine cannot be reached") as caught:
        open_engine(remote)
    assert "Cannot connect" in caught.value.output
