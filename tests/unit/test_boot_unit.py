"""The unit for boots: its plan, its probe on real files, and its script against an engine on a real socket."""

import os
import socketserver
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest

from fleet.docker.boot import SCRIPT_FILE, SCRIPT_TEXT, UNIT_FILE, UNIT_TEXT, WANTS_LINK
from fleet.docker.probe import SOCKET
from fleet.gpu.container import ContainerSpec
from fleet.model.facts import Answer
from fleet.model.steps import Run, Upload
from fleet.modules._boot_unit import BOOT_UNIT_PROBE, boot_unit
from fleet.modules.base import Context
from fleet.modules.gpu_containers import GpuContainers, GpuContainersArgs
from tests.unit import gpu_world as world
from tests.unit.gpu_world import HOST, IMAGE, facts, inspected, slot

CTX = Context(HOST)
ENABLE = Run(("systemctl", "reenable", "fleet-slots.service"))
UNIT = Upload(UNIT_FILE, UNIT_TEXT.encode(), "0644", "root", "root")
SCRIPT = Upload(SCRIPT_FILE, SCRIPT_TEXT.encode(), "0644", "root", "root")


def plan(answer: Answer) -> list[Any]:
    return list(boot_unit(facts(slots_boot=answer), CTX))


def test_a_bare_host_gets_script_unit_and_its_start_with_docker():
    script, unit = plan(Answer(2))
    assert script.steps == (SCRIPT,)
    assert unit.steps == (UNIT, ENABLE)
    assert unit.summary == f"create {UNIT_FILE}"
    assert "+WantedBy=docker.service\n" in unit.diff


def test_what_is_there_and_enabled_is_left_alone():
    assert plan(world.boot_unit()) == []


def test_edited_files_and_a_disabled_unit_are_mended():
    (change,) = plan(world.boot_unit(unit=UNIT_TEXT.replace("oneshot", "simple")))
    assert change.steps == (UNIT, ENABLE)
    assert "-Type=simple\n+Type=oneshot\n" in change.diff
    (change,) = plan(world.boot_unit(script=SCRIPT_TEXT + "exit 0\n"))
    assert change.steps == (SCRIPT,)
    (change,) = plan(world.boot_unit(enabled=False))
    assert change.steps == (ENABLE,)


def test_it_comes_before_the_slots_and_also_where_these_are_deferred():
    args = GpuContainersArgs(image=IMAGE)
    changes = GpuContainers().plan(args, facts(slots_boot=Answer(2)), CTX)
    assert [change.summary.split(" on ")[0] for change in changes] == [
        f"create {SCRIPT_FILE}",
        f"create {UNIT_FILE}",
        "start fleet-gpu-01-0",
        "start fleet-gpu-01-1",
    ]
    changes = GpuContainers().plan(args, facts(slots_boot=Answer(2), docker_engine=Answer(7)), CTX)
    assert [change.deferred for change in changes] == [False, False, True]


def probe(root: Path) -> Answer:
    script = BOOT_UNIT_PROBE.script
    for path in (UNIT_FILE, SCRIPT_FILE, WANTS_LINK):
        script = script.replace(path, f"{root}{path}")
    done = subprocess.run(["sh", "-c", script], capture_output=True)
    return Answer(done.returncode, done.stdout.replace(str(root).encode(), b""))


def test_the_probe_sees_files_and_link(tmp_path):
    assert probe(tmp_path).out == b""
    for path, text in ((UNIT_FILE, UNIT_TEXT), (SCRIPT_FILE, SCRIPT_TEXT)):
        file = Path(f"{tmp_path}{path}")
        file.parent.mkdir(parents=True)
        file.write_text(text)
    assert [change.steps for change in plan(probe(tmp_path))] == [(ENABLE,)]
    link = Path(f"{tmp_path}{WANTS_LINK}")
    link.parent.mkdir()
    link.symlink_to(f"{tmp_path}{UNIT_FILE}")
    assert plan(probe(tmp_path)) == []


# -- the script -------------------------------------------------------------------------------------------------

NO_CDI = 'could not select device driver "cdi" with capabilities: []'
LOST = {"state": "exited", "exit_code": 255, "error": NO_CDI}


class LosingEngine(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """It has containers and can start them; `refusals` are the errors of the next attempts."""

    daemon_threads = True

    def __init__(self, path: Path) -> None:
        self.containers: dict[str, dict[str, Any]] = {}
        self.refusals: list[str] = []
        self.asked: list[str] = []
        super().__init__(str(path), Handler)

    def add(self, index: int, restart: str = "unless-stopped", **state: Any) -> dict[str, Any]:
        found = inspected(ContainerSpec(IMAGE, restart=restart), slot(index), **state)
        self.containers[found["Id"]] = found
        return found


class Handler(BaseHTTPRequestHandler):
    server: LosingEngine

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if url.path == "/containers/json":
            wanted = msgspec.json.decode(parse_qs(url.query)["filters"][0])
            assert wanted == {"label": ["fleet.slot"], "status": ["exited"]}
            ended = (c for c in self.server.containers.values() if c["State"]["Status"] == "exited")
            self._say(200, [{"Id": c["Id"], "Names": [c["Name"]], "Labels": {"Id": "x"}} for c in ended])
        else:
            self._say(200, self.server.containers[url.path.split("/")[2]])

    def do_POST(self) -> None:
        container = self.server.containers[self.path.split("/")[2]]
        self.server.asked.append(container["Name"])
        if self.server.refusals:
            container["State"]["Error"] = self.server.refusals.pop(0)
            self._say(500, {"message": container["State"]["Error"]})
        else:
            container["State"] |= {"Status": "running", "Error": ""}
            self._say(204, None)

    def _say(self, code: int, body: Any) -> None:
        data = b"" if body is None else msgspec.json.encode(body) + b"\n"
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[LosingEngine]:
    server = LosingEngine(tmp_path / "docker.sock")
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def boot(tmp_path: Path) -> Any:
    """Runs the script; its waits take no time and are noted."""
    waits = tmp_path / "waits"
    (tmp_path / "sleep").write_text(f'#!/bin/sh\necho "$1" >>{waits}\n')
    (tmp_path / "sleep").chmod(0o755)
    script = SCRIPT_TEXT.replace(SOCKET, str(tmp_path / "docker.sock"))

    def run() -> tuple[int, str, list[str]]:
        path = f"{tmp_path}:{os.environ['PATH']}"
        done = subprocess.run(
            ["sh", "-c", script], capture_output=True, text=True, env={**os.environ, "PATH": path}
        )
        return done.returncode, done.stdout + done.stderr, waits.read_text().split() if waits.exists() else []

    return run


def test_lost_ones_are_started_once(engine, boot):
    engine.add(0, **LOST)
    engine.add(1, restart="always", **{**LOST, "exit_code": 143})
    code, said, waits = boot()
    assert (code, waits) == (0, [])
    assert sorted(engine.asked) == ["/fleet-gpu-01-0", "/fleet-gpu-01-1"]
    assert "started fleet-gpu-01-0, which Docker had not: could not select device driver" in said
    assert boot()[0] == 0
    assert len(engine.asked) == 2


@pytest.mark.parametrize(
    "how",
    [
        {"state": "exited", "exit_code": 143},
        {"state": "exited", "exit_code": 137},
        {"state": "exited", "exit_code": 255},
        {"state": "exited", "exit_code": 3},
        {"state": "exited", "exit_code": 127, "error": "exec: no such file"},
        {"state": "running"},
        {**LOST, "restart": "no"},
        {**LOST, "started": "0001-01-01T00:00:00Z"},
    ],
)
def test_what_was_stopped_or_broke_by_itself_is_left_alone(engine, boot, how):
    engine.add(0, **how)
    assert boot()[0] == 0
    assert engine.asked == []


def test_a_word_of_ours_outside_the_error_means_nothing(engine, boot):
    container = engine.add(0, state="exited", exit_code=143)
    container["Args"] = ['"Error":"CDI","StartedAt":"2026']
    container["Config"]["Env"] = ["Error=CDI", "X=device driver"]
    container["State"] = container.pop("State")
    assert boot()[0] == 0
    assert engine.asked == []


def test_it_tries_again_whatever_the_next_error_is(engine, boot):
    engine.add(0, **LOST)
    engine.refusals = [NO_CDI, "driver failed programming external connectivity"]
    code, _, waits = boot()
    assert (code, waits) == (0, ["1", "2"])
    assert len(engine.asked) == 3


def test_it_gives_up_and_says_why(engine, boot):
    engine.add(0, **LOST)
    engine.refusals = [NO_CDI] * 50
    code, said, waits = boot()
    assert code == 1
    assert len(engine.asked) == len(waits) == 8
    assert said.startswith("could not start:\nfleet-gpu-01-0: ")
    assert "could not select device driver" in said


def test_no_engine_is_waited_for_and_then_named(boot, tmp_path):
    code, said, waits = boot()
    assert code == 1
    assert len(waits) == 8
    assert "Docker does not answer" in said
