"""The engine's probes against a small engine on a real socket, asked by the real sh and curl."""

import socketserver
import subprocess
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest

from fleet.docker.probe import (
    CONTAINERS_PROBE,
    ENGINE_PROBE,
    IMAGES_PROBE,
    SOCKET,
    Engine,
    Port,
    parse_containers,
    parse_engine,
    parse_images,
)
from fleet.docker.references import digests_of, familiar, find_image, repository, tag
from fleet.gpu.container import ContainerSpec
from fleet.model.facts import Answer, Probe
from tests.unit import gpu_world as world

RUNNING, DEAD, LABEL_ONLY = "a" * 64, "b" * 64, "c" * 64


class Engines(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True

    def __init__(self, path: Path, answers: dict[str, Any]) -> None:
        self.answers = answers
        self.asked: list[str] = []
        super().__init__(str(path), Handler)


class Handler(BaseHTTPRequestHandler):
    server: Engines

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = parse_qs(url.query)
        filters = tuple(sorted(msgspec.json.decode(query["filters"][0]))) if "filters" in query else ()
        self.server.asked.append(self.path)
        body = self.server.answers.get((url.path, *filters), self.server.answers.get(url.path))
        self.send_response(404 if body is None else 200)
        data = body if isinstance(body, bytes) else msgspec.json.encode(body) + b"\n"
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engines]:
    server = Engines(tmp_path / "docker.sock", {})
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def ask(probe: Probe, path: Path) -> Answer:
    script = probe.script.replace(SOCKET, str(path / "docker.sock"))
    done = subprocess.run(["sh"], input=script.encode(), capture_output=True)
    return Answer(done.returncode, done.stdout)


def listed(id_: str, state: str, status: str, **labels: str) -> dict[str, Any]:
    return {
        "Id": id_,
        "Names": ["/x"],
        "ImageID": "sha256:1",
        "Labels": labels,
        "State": state,
        "Status": status,
    }


def test_no_engine(tmp_path):
    for probe, parse in (
        (ENGINE_PROBE, parse_engine),
        (IMAGES_PROBE, parse_images),
        (CONTAINERS_PROBE, parse_containers),
    ):
        assert parse(ask(probe, tmp_path)) is None
        assert parse(Answer(127, b"sh: curl: not found")) is None
        assert parse(Answer(0, b"")) in (None, ())


def test_an_engine_that_does_not_answer(tmp_path, engine):
    engine.shutdown()
    engine.server_close()
    for probe in (ENGINE_PROBE, IMAGES_PROBE, CONTAINERS_PROBE):
        assert not ask(probe, tmp_path).ok


def test_the_engine(tmp_path, engine):
    engine.answers["/version"] = {
        "Version": "26.1.5+dfsg1",
        "ApiVersion": "1.45",
        "Arch": "amd64",
        "Os": "linux",
    }
    engine.answers["/info"] = {
        "OperatingSystem": "Debian GNU/Linux 13 (trixie)",
        "DockerRootDir": "/srv/docker",
        "Runtimes": {"runc": {"path": "runc"}, "nvidia": {"path": "n"}},
        "CDISpecDirs": ["/etc/cdi"],
        "LiveRestoreEnabled": True,
        "SystemTime": "2026-03-01T13:00:00.123456789+01:00",
        "Labels": ["\nfleet 200 3 http://d/version\n"],
    }
    found = parse_engine(ask(ENGINE_PROBE, tmp_path))
    assert found == Engine(
        "26.1.5+dfsg1",
        "1.45",
        "Debian GNU/Linux 13 (trixie)",
        "amd64",
        root_dir="/srv/docker",
        runtimes=("nvidia", "runc"),
        cdi=True,
        live_restore=True,
        time=datetime(2026, 3, 1, 12, 0, 0, 123456, UTC),
    )
    assert found.major == 26


def test_an_engine_half_up_is_none(tmp_path, engine):
    engine.answers["/version"] = {"Version": "26"}
    assert parse_engine(ask(ENGINE_PROBE, tmp_path)) is None


def test_only_what_matters_is_inspected(tmp_path, engine):
    """What runs, what is named and what is labelled, each once; logs only of ours that need a look."""
    inspect = {"Name": "/n", "State": {"Status": "running"}, "Config": {}, "HostConfig": {}}
    ours = [
        listed(RUNNING, "running", "Up 2 hours"),
        listed(DEAD, "exited", "Exited (3) 2 weeks ago", Id="../../images/json"),
        listed(LABEL_ONLY, "running", "Up 5 seconds (health: starting)", Id="deadbeef -o /etc/passwd"),
    ]
    engine.answers |= {
        ("/containers/json", "status"): [ours[0], listed("d" * 64, "running", "Up 3 seconds")],
        ("/containers/json", "name"): ours[:1],
        ("/containers/json", "label"): ours,
        **{f"/containers/{x * 64}/json": {"Id": x * 64, **inspect} for x in "abcd"},
        **{f"/containers/{x}/logs": f"log {x[0]}\n".encode() for x in (RUNNING, DEAD, LABEL_ONLY, "d" * 64)},
    }
    found = parse_containers(ask(CONTAINERS_PROBE, tmp_path))
    assert found is not None
    assert {each.id[0]: each.log for each in found} == {"a": "", "b": "log b\n", "c": "log c\n", "d": ""}
    assert sorted(engine.asked[3:]) == sorted(
        [f"/containers/{x * 64}/json" for x in "abcd"]
        + [f"/containers/{x}/logs?stdout=1&stderr=1&tail=20" for x in (DEAD, LABEL_ONLY)]
    )


def test_no_containers(tmp_path, engine):
    engine.answers["/containers/json"] = []
    assert parse_containers(ask(CONTAINERS_PROBE, tmp_path)) == ()


def test_one_that_vanished_meanwhile_is_left_out(tmp_path, engine):
    engine.answers["/containers/json"] = [listed(RUNNING, "running", "Up 2 hours")]
    answer = ask(CONTAINERS_PROBE, tmp_path)
    assert engine.asked[-1] == f"/containers/{RUNNING}/json"
    assert parse_containers(answer) == ()


def test_a_log_that_looks_like_a_frame_is_only_a_log():
    odd = world.inspected(ContainerSpec(world.IMAGE), world.slot(), state="exited", exit_code=1)
    log = world.log_frames("one", "\nfleet 200 4 http://d/containers/x/json", '{"Id":"x"}')
    (found,) = parse_containers(world.containers(odd, logs={"fleet-gpu-01-0": log})) or ()
    assert found.log == 'one\n\nfleet 200 4 http://d/containers/x/json\n{"Id":"x"}\n'


def test_a_container_as_inspected():
    spec = ContainerSpec(world.IMAGE, env={"A": "b=c", "E": ""}, command=("serve",), user="1000")
    raw = world.inspected(spec, world.slot(), restarts=2) | {
        "Mounts": [
            {"Type": "bind", "Source": "/srv", "Destination": "/models", "RW": False},
            {
                "Type": "volume",
                "Name": "cache",
                "Source": "/var/lib/docker/v",
                "Destination": "/c",
                "RW": True,
            },
        ],
        "NetworkSettings": {"Ports": {"7860/tcp": [{"HostIp": "::", "HostPort": "7860"}], "9/udp": None}},
    }
    raw["State"]["Health"] = {"Status": "healthy"}
    (found,) = parse_containers(world.containers(raw)) or ()
    assert (found.name, found.slot, found.running, found.health) == (
        "fleet-gpu-01-0",
        "gpu-01-0",
        True,
        "healthy",
    )
    assert (found.gpus, found.ports) == ((world.uuid(0),), (Port(7860, "7860/tcp"),))
    assert (found.env, found.restarts) == ({"A": "b=c", "E": ""}, 2)
    assert found.mounts == ("/srv:/models:ro", "cache:/c")
    assert found.finished is None
    assert found.started == datetime(2026, 3, 1, 9, tzinfo=UTC)
    assert found.settings == {
        "restart": "unless-stopped",
        "init": "true",
        "stop_timeout": "120",
        "shm_size": "67108864",
        "log": "json-file max-file=3, max-size=50m",
        "user": "1000",
        "read_only": "false",
        "network": "bridge",
        "command": "serve",
    }


@pytest.mark.parametrize(
    ("host", "env", "gpus"),
    [
        ({}, [], ()),
        ({"DeviceRequests": [{"Driver": "", "Count": -1, "Capabilities": [["gpu"]]}]}, [], ("all",)),
        (
            {"DeviceRequests": [{"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=0", "vendor.com/net=1"]}]},
            [],
            ("0",),
        ),
        ({"DeviceRequests": [{"Driver": "other", "Count": -1, "Capabilities": [["tpu"]]}]}, [], ()),
        ({"Runtime": "nvidia"}, ["NVIDIA_VISIBLE_DEVICES=0,GPU-x"], ("0", "GPU-x")),
        ({"Runtime": "nvidia"}, ["NVIDIA_VISIBLE_DEVICES=void"], ()),
        ({"Runtime": "runc"}, ["NVIDIA_VISIBLE_DEVICES=all"], ()),
    ],
)
def test_the_gpus_a_container_has(host, env, gpus):
    raw = world.foreign("x", **host)
    raw["Config"]["Env"] = env
    (found,) = parse_containers(world.containers(raw)) or ()
    assert found.gpus == gpus


@pytest.mark.parametrize(
    ("reference", "engine_says", "repo", "its_tag"),
    [
        ("nginx", "nginx:latest", "nginx", "latest"),
        ("docker.io/library/nginx:1.27", "nginx:1.27", "nginx", "1.27"),
        ("r.example:5000/a/b", "r.example:5000/a/b:latest", "r.example:5000/a/b", "latest"),
        ("r.example:5000/a/b:v1", "r.example:5000/a/b:v1", "r.example:5000/a/b", "v1"),
        ("r.example:5000/b:v1@sha256:12", "r.example:5000/b@sha256:12", "r.example:5000/b", "v1"),
        ("r.example:5000/b@sha256:12", "r.example:5000/b@sha256:12", "r.example:5000/b", ""),
    ],
)
def test_references(reference, engine_says, repo, its_tag):
    assert (familiar(reference), repository(reference), tag(reference)) == (engine_says, repo, its_tag)


def test_finding_an_image():
    (image,) = parse_images(world.images()) or ()
    for reference in (world.IMAGE, world.IMAGE.replace(":v1", f"@{world.DIGEST}"), world.IMAGE_ID):
        assert find_image([image], reference) is image
    assert find_image([image], world.IMAGE.replace(":v1", ":v2")) is None
    assert digests_of(image, world.IMAGE) == (world.DIGEST, world.IMAGE_ID)
    assert digests_of(image, "elsewhere.example/app:v1") == (world.IMAGE_ID,)


def recorded(what: str) -> Answer:
    return Answer(0, (Path(__file__).parents[1] / "fixtures" / "docker-26" / what).read_bytes())


def test_what_docker_26_really_says():
    engine = parse_engine(recorded("engine"))
    assert engine is not None
    assert (engine.version, engine.cdi, engine.cgroup_version) == ("26.1.5+dfsg1", True, "2")
    (image,) = parse_images(recorded("images")) or ()
    assert (image.tags, image.digests) == (("app:v1", "fleet-lab-base:13"), ())
    dead, first, second = parse_containers(recorded("containers")) or ()
    assert (dead.state, dead.exit_code, dead.slot, dead.log) == (
        "exited",
        3,
        "gpu-01-9",
        "loading\nno model\n",
    )
    assert (first.name, second.name) == ("fleet-gpu-01-0", "fleet-gpu-01-1")
    assert second.running
    assert second.ports == (Port(7861, "7860/tcp"),)
    assert second.gpus == (second.labels["fleet.gpu"],)
    assert second.mounts == ("/srv:/models:ro",)
    assert (second.env["LANGS"], second.settings["init"], second.settings["shm_size"]) == (
        "de",
        "true",
        "67108864",
    )
    assert image.id in digests_of(image, second.image)
    assert second.labels["fleet.digest"] == image.id == second.image_id
