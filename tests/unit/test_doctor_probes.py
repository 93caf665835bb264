"""The doctor's questions run by a real sh, against real servers on loopback and real files."""

from __future__ import annotations

import base64
import json
import socketserver
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest

from fleet.balancer.nginx import SITE_FILE
from fleet.balancer.paths import CONFIG_FILE
from fleet.docker.probe import SOCKET
from fleet.doctor.balancers import REACH_PROBE
from fleet.doctor.containers import CDI_PROBE, OWN, REFRESHED, parse_spec
from fleet.doctor.disk import CHECKS, room_probes
from fleet.doctor.health import HEALTH_PROBE
from fleet.doctor.inside import INSIDE_PROBE, parse_inside
from fleet.doctor.registry import check_registry, parse, probes
from fleet.model.facts import Answer, Probe
from fleet.model.host import Host
from tests.ports import free_port
from tests.unit.doctor_world import patient
from tests.unit.gpu_world import uuid


def run(probe: Probe, path: str = "", **moved: str) -> Answer:
    script = probe.script
    for there, here in moved.items():
        script = script.replace(there, here)
    if path:
        script = f"PATH={path}:$PATH\n{script}"
    done = subprocess.run(["sh", "-c", script], capture_output=True, timeout=20, stdin=subprocess.DEVNULL)
    return Answer(done.returncode, done.stdout)


def moved(probe: Probe, places: dict[str, str]) -> Answer:
    script = probe.script
    for there, here in places.items():
        script = script.replace(there, here)
    return run(Probe(probe.key, script))


LAYER = {"digest": "sha256:" + "c" * 64, "size": 9_000_000}
ONE = json.dumps(
    {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"digest": "sha256:" + "b" * 64, "size": 1000},
        "layers": [LAYER],
    },
    indent=2,
)
MACHINES = {"amd64": "sha256:" + "1" * 64, "arm64": "sha256:" + "2" * 64}
INDEX = json.dumps(
    {
        "schemaVersion": 2,
        "manifests": [
            {"digest": digest, "size": 5, "platform": {"architecture": machine, "os": "linux"}}
            for machine, digest in MACHINES.items()
        ],
    },
    indent=2,
)
LOGIN = "Basic " + base64.b64encode(b"fleet:word").decode()


@contextmanager
def registry(kind: str) -> Iterator[int]:
    """A registry that wants no login, a login (`basic`), or a token (`bearer`); gives its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            here = f"http://127.0.0.1:{self.server.server_address[1]}"
            given = self.headers.get("Authorization", "")
            if self.path.startswith("/token"):
                right = given == LOGIN and "scope=repository:app/webui:pull" in unquote(self.path)
                return self.answer(200 if right else 401, json.dumps({"token": "abc.def"}))
            wanted = {"basic": LOGIN, "bearer": "Bearer abc.def"}.get(kind, "")
            if wanted and given != wanted:
                challenge = 'Basic realm="lab"'
                if kind == "bearer":
                    challenge = f'Bearer realm="{here}/token",service="lab"'
                return self.answer(401, "{}", challenge)
            if self.path == "/v2/":
                return self.answer(200, "{}")
            what = self.path.rpartition("/")[2]
            found = {"v1": INDEX, **dict.fromkeys(MACHINES.values(), ONE)}.get(what)
            return self.answer(200 if found else 404, found or "{}")

        def answer(self, code: int, body: str, challenge: str = "") -> None:
            self.send_response(code)
            if challenge:
                self.send_header("WWW-Authenticate", challenge)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *args: object) -> None:
            pass

    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as server:
        yield server.server_address[1]


@contextmanager
def serving(server: socketserver.BaseServer) -> Iterator[socketserver.BaseServer]:
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def asked(port: int, *, tag: str = "v1", login: bool = True) -> tuple[Answer, list[str]]:
    """The probe's answer from a host with this registry, and what the check makes of it."""
    variables = {"ansible_host": "127.0.0.1", "image": f"127.0.0.1:{port}/app/webui:{tag}"}
    if login:
        variables |= {"registry_username": "fleet", "registry_password_env": "DOCTOR_WORD"}
    host = Host("gpu-01", variables, ("gpu",))
    (probe,) = probes(host)
    answer = run(probe)
    verdict = check_registry(patient({probe.key: answer}, host=host))
    return answer, [each.what.replace(f"127.0.0.1:{port}", "REG") for each in verdict.troubles]


@pytest.mark.parametrize("kind", ["open", "basic", "bearer"])
def test_a_registry_is_asked_as_it_wants_and_tells_the_images_size(kind, monkeypatch):
    monkeypatch.setenv("DOCTOR_WORD", "word")
    with registry(kind) as port:
        answer, troubles = asked(port)
    assert troubles == []
    seen = parse(answer)
    assert seen is not None
    assert seen.size == 9_001_000
    assert b"word" not in answer.out


@pytest.mark.parametrize("kind", ["basic", "bearer"])
def test_a_registry_that_refuses_the_login(kind, monkeypatch):
    monkeypatch.setenv("DOCTOR_WORD", "another")
    with registry(kind) as port:
        assert asked(port)[1] == ["REG refuses the login"]
        assert asked(port, login=False)[1] == ["REG wants a login, and the inventory has none"]


def test_a_registry_that_lacks_the_image_and_one_that_is_not_there():
    with registry("open") as port:
        assert asked(port, tag="v9", login=False)[1] == ["REG has no app/webui:v9"]
    assert asked(free_port(), login=False)[1] == ["REG cannot be reached there"]


def test_the_disk_alone_is_looked_at_with_the_registrys_word_on_the_images_size():
    host = Host("gpu-01", {"image": "127.0.0.1:5000/app/webui:v1"}, ("gpu",))
    (check,) = (check for check in CHECKS if check.name == "disk")
    assert set(probes(host)) < set(check.probes(host))


def test_before_a_provision_a_registry_is_asked_only_where_the_image_is_missing(tmp_path):
    class Engine(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if unquote(self.path).endswith("/app/webui:v1/json") else 404)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    def size(tag: str) -> int | None:
        image = f"127.0.0.1:{port}/app/webui:{tag}"
        *_, probe = room_probes(Host("gpu-01", {"ansible_host": "127.0.0.1", "image": image}, ("gpu",)))
        seen = parse(moved(probe, {SOCKET: str(tmp_path / "engine")}))
        return seen.size if seen else None

    with registry("open") as port:
        assert size("v1") == 9_001_000
        with serving(socketserver.ThreadingUnixStreamServer(str(tmp_path / "engine"), Engine)):
            assert size("v1") is None


def test_docker_hub_is_not_asked_before_a_provision_by_who_does_not_log_in():
    """It counts each manifest that is asked for as a pull."""
    host = Host("gpu-01", {"image": "tencent/hunyuan-mt-webui:v1"}, ("gpu",))
    assert len(probes(host)) == 1
    assert probes(host, missing=True) == ()


def test_a_balancer_tries_every_address_of_its_configuration(tmp_path):
    open_port, closed = free_port(), free_port()
    config = tmp_path / "haproxy.cfg"
    config.write_text(
        "backend work\n  default-server init-addr none inter 10s\n"
        f"  server gpu-01-0 127.0.0.1:{open_port} weight 10 check\n"
        f"  server gpu-01-1 127.0.0.1:{closed} weight 10 check\n"
        f"backend pages\n  server gpu-01-0 127.0.0.1:{open_port} track work/gpu-01-0\n"
        "backend next\n  server next abns@fleet send-proxy-v2\n"
    )
    with serving(socketserver.TCPServer(("127.0.0.1", open_port), socketserver.BaseRequestHandler)):
        answer = moved(REACH_PROBE, {CONFIG_FILE: str(config), SITE_FILE: str(tmp_path / "none")})
    lines = sorted(line.strip() for line in answer.text.splitlines())
    assert lines == [
        f"reach gpu-01-0 127.0.0.1 {open_port} 0",
        f"reach gpu-01-1 127.0.0.1 {closed} 1 Connection refused",
    ]


SPEC = """\
---
cdiVersion: 0.5.0
kind: nvidia.com/gpu
devices:
    - name: "{uuid}"
      containerEdits:
        deviceNodes:
            - path: /dev/null
              major: {major}
containerEdits:
    mounts:
        - hostPath: /usr/lib/libcuda.so.580.95.05
          containerPath: /usr/lib/libcuda.so.580.95.05
        - hostPath: /dev/null
"""


def test_a_cdi_file_is_read_for_what_it_names_and_what_is_gone(tmp_path):
    spec = tmp_path / "nvidia.yaml"
    spec.write_text(SPEC.format(uuid=uuid(0), major=1))
    found = parse_spec(moved(CDI_PROBE, {REFRESHED: str(tmp_path / "none"), OWN: str(spec)}))
    assert found.file == str(spec)
    assert found.uuids == {uuid(0)}
    assert found.mounts == {"580.95.05"}
    assert found.gone == ("/usr/lib/libcuda.so.580.95.05",)
    assert found.moved == ()
    spec.write_text(SPEC.format(uuid=uuid(0), major=511))
    assert parse_spec(moved(CDI_PROBE, {OWN: str(spec)})).moved == ("/dev/null",)


def test_a_field_that_the_driver_does_not_know_is_left_out(tmp_path):
    smi = tmp_path / "nvidia-smi"
    smi.write_text(
        "#!/bin/sh\ncase $1 in\n"
        "*gpu_recovery_action*) printf 'Field \"gpu_recovery_action\" is not a valid field to query.\\n\\n'; exit 2 ;;\n"
        "*remapped_rows.pending*) printf 'Field \"remapped_rows.pending\" is not a valid field to query.\\n'; exit 2 ;;\n"
        "esac\necho row\n"
    )
    smi.chmod(0o755)
    answer = run(HEALTH_PROBE, path=str(tmp_path))
    fields, row = answer.text.splitlines()
    assert (answer.rc, row) == (0, "row")
    assert fields.startswith("uuid,persistence_mode,")
    assert fields.endswith(",remapped_rows.failure,retired_pages.pending")


class Engine(socketserver.ThreadingUnixStreamServer):
    """As much of a Docker Engine as runs a program in two containers."""

    daemon_threads = True


class Talk(BaseHTTPRequestHandler):
    FIRST, SECOND = "a" * 64, "b" * 64

    def do_GET(self) -> None:
        if self.path.startswith("/containers/json"):
            return self.answer(json.dumps([{"Id": self.FIRST}, {"Id": self.SECOND}], separators=(",", ":")))
        code = 0 if "/exec/aa" in self.path else 255
        return self.answer(json.dumps({"ID": "x", "Running": False, "ExitCode": code}, separators=(",", ":")))

    def do_POST(self) -> None:
        wish = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path.startswith("/containers/"):
            assert wish["Cmd"][0] == "nvidia-smi"
            return self.answer(json.dumps({"Id": self.path.split("/")[2][:2] * 32}, separators=(",", ":")))
        said = f"{uuid(0)}\r\n" if "/exec/aa" in self.path else "Failed to initialize NVML: Unknown Error\r\n"
        return self.answer(said)

    def answer(self, body: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *args: object) -> None:
        pass

    def address_string(self) -> str:
        return "engine"


def test_the_engine_runs_nvidia_smi_in_every_container(tmp_path):
    socket_ = str(tmp_path / "docker.sock")
    with serving(Engine(socket_, Talk)):
        views = parse_inside(moved(INSIDE_PROBE, {SOCKET: socket_}))
    assert views is not None
    assert views[Talk.FIRST].uuids == {uuid(0)}
    assert (views[Talk.SECOND].code, views[Talk.SECOND].said) == (
        255,
        "Failed to initialize NVML: Unknown Error",
    )
    assert parse_inside(moved(INSIDE_PROBE, {SOCKET: str(Path(socket_).with_name("none"))})) is None
