"""The readiness script with a real sh and curl, against a Gradio-like service and a Docker-like engine."""

from __future__ import annotations

import json
import shutil
import socketserver
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from fleet.docker.readiness import Call, Profile, Seen, State, Target, parse, script
from fleet.model.facts import Answer, Probe
from fleet.rollout.golden import Pair
from fleet.rollout.gpu_memory import Owner
from fleet.rollout.ladder import Readiness, Wanted, climb
from fleet.rollout.shape import Shape, shape_of
from fleet.rollout.world import RungError

ID = "ab" * 32
UP: dict[str, Any] = {"Status": "running", "Running": True, "ExitCode": 0, "Error": "", "OOMKilled": False}
HOSTILE = (
    "plain",
    'it\'s "quoted" `id` $(touch /tmp/never) ${HOME} \\ \\n %s',
    "two\nlines\r\nEND\nfleet end 0\n",
    "你好 😀 𝒳 \u2028 é",
    "'; exit 1; '",
    "\x00\x1b[0m",
    "-d @/etc/passwd",
    "x" * 50_000,
    "",
)


class Quiet(BaseHTTPRequestHandler):
    def reply(self, status: int, body: bytes, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass

    def address_string(self) -> str:
        return "-"


class UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


@contextmanager
def serving(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass
class Service:
    """A page like Gradio's: a job is posted, and its answer comes as a stream of events."""

    prefix: str = "/gradio_api"
    version: str = "6.31.0"
    answer: Callable[[list[str]], str] = lambda inputs: f"免费: {inputs[0]}"
    events: tuple[str, ...] = ("heartbeat", "generating", "complete")
    refusal: tuple[int, bytes] | None = None
    slow: float = 0.0
    pages: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    jobs: dict[str, tuple[str, list[str]]] = field(default_factory=dict)

    def config(self) -> bytes:
        rows = [{"api_name": "translate", "inputs": [1, 2], "outputs": [3]}]
        said: dict[str, Any] = {"version": self.version, "dependencies": rows}
        said["components"] = [{"props": {"value": 'not the "api_prefix":"/evil"'}}]
        if self.prefix:
            said["api_prefix"] = self.prefix
        return json.dumps(said, separators=(",", ":")).encode()

    def handler(service) -> type[Quiet]:
        class Handler(Quiet):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if service.refusal:
                    return self.reply(*service.refusal)
                if self.path == "/v1/chat/completions":
                    said = f"{body['model']}: {body['messages'][0]['content']}"
                    return self.reply(200, json.dumps({"choices": [{"message": {"content": said}}]}).encode())
                if not self.path.startswith(f"{service.prefix}/call/"):
                    return self.reply(404, b'{"detail":"Not Found"}')
                event = f"{len(service.jobs):032x}"
                service.jobs[event] = (unquote(self.path.rpartition("/")[2]), body["data"])
                return self.reply(200, json.dumps({"event_id": event}).encode())

            def do_GET(self) -> None:
                event = self.path.rpartition("/")[2]
                if self.path == "/config" and "/config" not in service.pages:
                    return self.reply(200, service.config())
                if event not in service.jobs:
                    return self.reply(*service.pages.get(self.path, (404, b"nothing")))
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.end_headers()
                data = {"heartbeat": None, "error": "out of memory", "generating": ["half"]}
                for name in service.events:
                    time.sleep(service.slow)
                    answer = data[name] if name in data else [service.answer(service.jobs[event][1])]
                    text = json.dumps(answer, ensure_ascii=False)
                    self.wfile.write(f"event: {name}\ndata: {text}\n\n".encode("utf-8", "surrogatepass"))
                return None

        return Handler

    @contextmanager
    def up(self) -> Iterator[int]:
        server = ThreadingHTTPServer(("127.0.0.1", 0), self.handler())
        with serving(server):
            yield server.server_address[1]


def framed(*lines: bytes) -> bytes:
    """A log as the engine sends it: before each line its stream, three zeros and its length."""
    return b"".join(b"\x01\0\0\0" + len(line).to_bytes(4, "big") + line for line in lines)


LOG = framed(b"loading\n", "fleet end 0\n$(x) 模型\n".encode(), b"done\n")


@pytest.fixture
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., str]]:
    """Starts an engine that knows one container, gpu-01-0, in the given state; its socket's path."""
    # Paths of sockets are short.
    folder = tmp_path_factory.mktemp("e")
    running = []

    def start(state: dict[str, Any] | None = None, restarts: int = 0, log: bytes = LOG) -> str:
        said = {
            "Id": ID,
            "Name": "/fleet-gpu-01-0",
            "State": {**UP, **(state or {}), "StartedAt": "2026-11-25T07:00:00.123456789Z"},
            "RestartCount": restarts,
            "Config": {"Image": "x", "Labels": {"Status": '"Status":"exited"'}},
            "HostConfig": {},
        }

        class Handler(Quiet):
            def do_GET(self) -> None:
                name, _, what = self.path.removeprefix("/containers/").partition("/")
                if name != "fleet-gpu-01-0":
                    return self.reply(404, b'{"message":"No such container"}')
                if what == "json":
                    return self.reply(200, json.dumps(said).encode())
                assert what == "logs?stdout=1&stderr=1&tail=40"
                return self.reply(200, log, "application/vnd.docker.multiplexed-stream")

        path = str(folder / f"{len(running)}.sock")
        context = serving(UnixServer(path, Handler))
        context.__enter__()
        running.append(context)
        return path

    yield start
    for context in running:
        context.__exit__(None, None, None)


def run(text: str, seconds: float) -> bytes:
    """As an SSH connection runs a script: whole, with nothing on its standard input."""
    done = subprocess.run(
        ["sh", "-s"], input=f"{{ :\n{text}\n}} </dev/null\n".encode(), capture_output=True, timeout=seconds
    )
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout


def ask(
    target: Target, *calls: Call, probes: tuple[Probe, ...] = (), log: bool = False, wait: bool = False
) -> Seen:
    text, seconds = script(target, calls, probes, log=log, wait=wait)
    seen = parse(run(text, seconds), probes)
    assert seen.whole
    return seen


def target(port: int, socket: str = "/nonexistent", profile: Profile = "gradio") -> Target:
    return Target("fleet-gpu-01-0", port, profile=profile, socket=socket)


HELLO = Call(("Hello", "Chinese"), deadline=20)


@pytest.mark.parametrize(
    ("version", "prefix"), [("6.31.0", "/gradio_api"), ("5.0.1", "/gradio_api"), ("4.44.1", "")]
)
def test_one_exchange_tells_state_page_translation_facts_and_log(engine, version, prefix):
    service = Service(prefix, version)
    probe = Probe("x", "printf 'a\\nfleet end 0\\n'; exit 3\n")
    with service.up() as port:
        seen = ask(target(port, engine()), HELLO, probes=(probe,), log=True)
    assert seen.state == State(ID, "running")
    assert shape_of(seen.page.body) == Shape({"translate": (2, 1)}, prefix, int(version[0]))
    [reply] = seen.replies
    assert (reply.text, reply.trouble) == ("免费: Hello", "")
    assert reply.seconds > 0
    assert seen.facts["x"] == Answer(3, b"a\nfleet end 0\n")
    assert seen.log == "loading\nfleet end 0\n$(x) 模型\ndone\n"
    assert list(service.jobs.values()) == [("translate", ["Hello", "Chinese"])]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_whatever_is_asked_and_answered_arrives_as_it_is(engine, text):
    service = Service(answer=lambda inputs: inputs[0])
    with service.up() as port:
        seen = ask(target(port, engine()), Call((text, text), deadline=20), HELLO)
    assert [reply.text for reply in seen.replies] == [text, "Hello"]
    assert service.jobs[f"{0:032x}"] == ("translate", [text, text])
    assert seen.state == State(ID, "running")
    assert not Path("/tmp/never").exists()


def test_names_that_are_shell_or_paths_stay_names(engine):
    service = Service()
    with service.up() as port:
        odd = Call(("a",), api="$(id)/'x' ?#", deadline=20)
        seen = ask(target(port, engine()), odd)
        other = ask(replace(target(port, engine()), container="../x'$(id)"))
    assert seen.replies[0].trouble.startswith("HTTP 404") or seen.replies[0].text
    assert [api for api, _ in service.jobs.values()] == ["$(id)/'x' ?#"]
    assert (other.engine, other.state) == (404, None)


@pytest.mark.parametrize("wait", [True, False])
def test_a_port_that_opens_a_moment_later_is_waited_for_in_the_same_exchange_if_wished(engine, wait):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Service().handler(), bind_and_activate=False)
    server.server_bind()
    where = target(server.server_address[1], engine())
    with ThreadPoolExecutor(1) as pool:
        # Bound and not listening, the port refuses whoever comes.
        asked = pool.submit(ask, where, wait=wait)
        if not wait:
            asked.result()
        else:
            time.sleep(0.3)
        server.server_activate()
        with serving(server):
            seen = asked.result()
    assert (seen.page.status, seen.page.trouble == "") == ((200, True) if wait else (0, False))
    assert seen.state == State(ID, "running")


@pytest.mark.parametrize(
    ("state", "restarts", "want"),
    [
        ({"Status": "restarting", "ExitCode": 1}, 3, State(ID, "restarting", 1, restarts=3)),
        (
            {"Status": "exited", "ExitCode": 137, "OOMKilled": True, "Error": 'no "GPU"\n'},
            0,
            State(ID, "exited", 137, 'no "GPU"\n', oom_killed=True),
        ),
    ],
)
def test_a_container_that_does_not_run_is_told_with_its_reason(engine, state, restarts, want):
    with Service().up() as port:
        pass
    seen = ask(target(port, engine(state, restarts)), HELLO)
    assert seen.state == want
    assert (seen.page.status, seen.page.trouble) == (0, "nothing listens on the port")
    assert (seen.replies[0].text, seen.replies[0].trouble) == (None, "nothing listens on the port")
    assert not seen.replies[0].final


def test_an_engine_that_is_not_there_is_told():
    with Service().up() as port:
        seen = ask(target(port), log=True)
    assert (seen.engine, seen.state, seen.log) == (0, None, "")
    assert seen.page.status == 200


def test_a_slow_answer_is_cut_at_its_deadline_and_none_is_waited_for_after_it(engine):
    with Service(slow=0.6).up() as port:
        seen = ask(target(port, engine()), HELLO, replace(HELLO, deadline=0.8), HELLO, HELLO)
    right, late = seen.replies
    assert (late.text, late.trouble, late.final) == (None, "no answer in time", False)
    assert late.seconds < right.seconds
    assert right.text == "免费: Hello"


@pytest.mark.parametrize(
    ("service", "trouble", "final"),
    [
        (Service(events=()), "no answer: the stream ended without an answer", False),
        (Service(events=("heartbeat",)), "no answer: the stream ended without an answer", False),
        (Service(events=("error",)), 'the service answered with an error: "out of memory"', True),
        (Service(refusal=(503, b"full")), "HTTP 503: 'full'", False),
        (Service(refusal=(429, b"")), "HTTP 429: ''", False),
        (Service(refusal=(422, b"bad")), "HTTP 422: 'bad'", True),
        (Service(refusal=(200, b"{}")), "no answer: it said '{}'", False),
        (Service(refusal=(200, b'{"event_id": "$(id)/../x"}')), "no answer: it said", False),
    ],
)
def test_what_is_no_answer_is_told_with_its_reason(engine, service, trouble, final):
    with service.up() as port:
        [reply] = ask(target(port, engine()), HELLO).replies
    assert reply.text is None
    assert reply.trouble.startswith(trouble)
    assert reply.final is final


def test_an_answer_without_end_is_cut(engine):
    with Service(answer=lambda inputs: "x" * 12_000_000).up() as port:
        seen = ask(target(port, engine()), HELLO)
    assert seen.replies[0].text is None
    assert "more was said than is taken" in seen.replies[0].trouble


def test_servers_of_openais_kind_are_asked_in_their_own_way(engine):
    service = Service(pages={"/v1/models": (200, b'{"data":[{"id":"m"}]}')})
    with service.up() as port:
        ask_model = Call(("It's", "$(x)"), deadline=20, model="m")
        seen = ask(target(port, engine(), "openai"), ask_model)
    assert seen.page.body == b'{"data":[{"id":"m"}]}'
    assert seen.replies[0].text == "m: It's\n$(x)"


def test_plain_services_are_asked_for_their_first_page(engine):
    with Service(pages={"/": (404, b"no")}).up() as port:
        assert ask(target(port, engine(), "http")).page.status == 404


def test_nothing_is_left_behind_and_no_request_goes_through_a_proxy(engine, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    before = set(Path("/run").glob("fleet.*")) | set(Path("/tmp").glob("fleet.*"))
    with Service().up() as port:
        assert ask(target(port, engine()), HELLO).replies[0].text == "免费: Hello"
    new = {*Path("/run").glob("fleet.*"), *Path("/tmp").glob("fleet.*")} - before
    # Other tests make folders there meanwhile, and remove them again.
    deadline = time.monotonic() + 10
    while any(path.exists() for path in new) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [path for path in new if path.exists()] == []


def test_an_answer_that_breaks_off_is_not_whole_and_says_nothing_wrong(engine):
    with Service().up() as port:
        text, seconds = script(target(port, engine()), [HELLO], log=True)
        out = run(text, seconds)
    whole = parse(out)
    assert whole.whole
    for at in range(len(out)):
        seen = parse(out[:at])
        assert not seen.whole or at == len(out) - 1
        assert seen.state in (None, whole.state)
        assert seen.page.body in (b"", whole.page.body)
        assert [reply.text for reply in seen.replies] in ([], ["免费: Hello"])


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_the_script_is_bashs_too_where_that_is_sh(engine):
    with Service().up() as port:
        text, seconds = script(target(port, engine()), [HELLO])
        done = subprocess.run(["bash", "--posix"], input=text.encode(), capture_output=True, timeout=seconds)
    assert parse(done.stdout).replies[0].text == "免费: Hello"


def climbing(port: int, socket: str, tmp_path: Path, gpu: str = "GPU-0", deadline: float = 20.0) -> float:
    """Climb with an nvidia-smi in front that shows the container's memory on one GPU."""
    smi = tmp_path / "nvidia-smi"
    smi.write_text(
        "#!/bin/sh\ncase $1 in\n"
        "*compute-apps*) ;;\n"
        "*) echo '0, GPU-0, NVIDIA T4, 15360, 9000, 0, 40, 30, 550, 0000, [N/A]'\n"
        "   echo '1, GPU-1, NVIDIA T4, 15360, 9000, 0, 40, 30, 550, 0000, [N/A]' ;;\nesac\n"
    )
    smi.chmod(0o755)
    wanted = Wanted(
        "gpu-01-0",
        Owner(ID, "GPU-0", {"GPU-0": 10 if gpu == "GPU-0" else 9000, "GPU-1": 10 if gpu == "GPU-1" else 9000}),
        (Pair(), Pair(inputs=("Good morning", "German"), equals="免费: Good morning")),
        before=Shape({"translate": (2, 1)}, "/gradio_api", 6),
    )  # fmt: skip
    look = Readiness(
        target(port, socket), lambda text, seconds: run(f"PATH={tmp_path}:$PATH\n{text}", seconds)
    )
    return climb(look, wanted, deadline, lambda slot, text: None)


def test_the_whole_ladder_is_climbed(engine, tmp_path):
    with Service().up() as port:
        assert climbing(port, engine(), tmp_path) > 0


@pytest.mark.parametrize(
    ("service", "state", "gpu", "rung", "words"),
    [
        (Service(), {"Status": "exited", "ExitCode": 1}, "GPU-0", "running", "exit code 1"),
        (Service(pages={"/config": (503, b"")}), None, "GPU-0", "port", "HTTP 503"),
        (Service("", "4.44.1"), None, "GPU-0", "shape", "Gradio 6 became 4"),
        (Service(), None, "GPU-1", "memory", "GPU 1 (GPU-1): +8990 MiB"),
        (Service(answer=lambda inputs: "$(wrong)"), None, "GPU-0", "golden", "gave '$(wrong)', which lacks"),
        (Service(events=("error",)), None, "GPU-0", "golden", "answered with an error"),
    ],
    ids=["running", "port", "shape", "memory", "golden", "error"],
)
def test_a_rung_that_is_not_reached_is_named_with_the_containers_log(
    engine, tmp_path, service, state, gpu, rung, words
):
    with service.up() as port, pytest.raises(RungError) as caught:
        climbing(port, engine(state), tmp_path, gpu, deadline=2.0 if rung == "port" else 20.0)
    assert caught.value.rung == rung
    assert words in caught.value.message
    assert caught.value.output == "loading\nfleet end 0\n$(x) 模型\ndone"
