"""A real nginx for the balancer's tests, on loopback, before servers that behave as Gradio does."""

from __future__ import annotations

import json
import os
import queue
import shutil
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from fleet.balancer.nginx import Settings, config_hash, main_text, render
from fleet.data import data_dir
from fleet.model.slot import Slot
from tests.unit.haproxy_world import free_port

TEMPLATE = data_dir("templates") / "nginx.conf.j2"


def nginx() -> str:
    found = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    assert found, "these tests need nginx: apt-get install nginx (make setup-test does it)"
    return found


@dataclass
class Gradio:
    """One process of an app: sessions and events that it alone knows, and what it was asked."""

    port: int = 0
    asked: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    # Paths that end in one of these are broken off once they were read whole.
    breaks: tuple[str, ...] = ()
    go_on: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.sessions: dict[str, queue.SimpleQueue[str]] = {}
        self.go_on.set()

    def session(self, name: str) -> queue.SimpleQueue[str]:
        return self.sessions.setdefault(name, queue.SimpleQueue())


def _handler(app: Gradio) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.answer(b"")

        def do_POST(self) -> None:
            self.answer(self.rfile.read(int(self.headers["Content-Length"])))

        def answer(self, body: bytes) -> None:
            app.asked.append(f"{self.command} {self.path}")
            app.headers.append({key.lower(): value for key, value in self.headers.items()})
            path, _, query = self.path.partition("?")
            if path.endswith(app.breaks):
                self.close_connection = True
            elif path.endswith("/queue/join"):
                event = uuid.uuid4().hex
                app.session(json.loads(body)["session_hash"]).put(event)
                self.say({"event_id": event})
            elif path.endswith("/queue/data"):
                self.stream(query.removeprefix("session_hash="))
            elif self.command == "POST" and "/call/" in path:
                event = uuid.uuid4().hex
                app.session(event).put(event)
                self.say({"event_id": event})
            elif "/call/" in path:
                self.stream(path.rpartition("/")[2])
            else:
                self.say({"port": app.port, "body": len(body)})

        def say(self, document: object, status: int = 200) -> None:
            content = json.dumps(document, separators=(",", ":")).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def stream(self, session: str) -> None:
            if session not in app.sessions:
                self.say({"detail": "unknown session"}, 404)
                return
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(b"event: begin\n\n")
            app.go_on.wait(20)
            self.wfile.write(f"event: complete\ndata: {app.session(session).get(timeout=5)}\n\n".encode())
            self.close_connection = True

        def log_message(self, *args: object) -> None:
            pass

    return Handler


@contextmanager
def gradio(port: int = 0) -> Iterator[Gradio]:
    app = Gradio()
    server = ThreadingHTTPServer(("127.0.0.1", port), _handler(app))
    server.daemon_threads = True
    app.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield app
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def apps(count: int) -> Iterator[list[Gradio]]:
    with ExitStack() as stack:
        yield [stack.enter_context(gradio()) for _ in range(count)]


def slots(ports: Sequence[int], weights: Sequence[int] = ()) -> list[Slot]:
    weigh = weights or [100] * len(ports)
    return [
        Slot(f"gpu-{i // 2 + 1:02d}", i % 2, f"GPU-{i}", "127.0.0.1", port, weight=weight)
        for i, (port, weight) in enumerate(zip(ports, weigh, strict=True))
    ]


@dataclass
class Balancer:
    """A running nginx with the site fleet would deploy."""

    folder: Path
    settings: Settings
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.settings.port}"

    @property
    def running(self) -> str | None:
        import httpx

        try:
            answer = httpx.get(f"http://127.0.0.1:{self.settings.status_port}/config", trust_env=False)
        except httpx.TransportError:
            return None
        return answer.text.strip()

    def reload(self, slots: Sequence[Slot]) -> None:
        text = write(self.folder, self.settings, slots)
        self.process.send_signal(1)
        self.until(lambda: self.running == config_hash(text))

    def until(self, true: Callable[[], object], seconds: float = 8.0) -> None:
        end = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < end, (self.folder / "error.log").read_text()
            time.sleep(0.02)


def write(folder: Path, settings: Settings, slots: Sequence[Slot]) -> str:
    text = render(slots, settings, TEMPLATE)
    (folder / "site.conf").write_text(text)
    (folder / "main.conf").write_text(main_text(settings))
    temporary = "".join(
        f"  {kind}_temp_path {folder}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off;\npid {folder}/pid;\nworker_processes 2;\nerror_log {folder}/error.log warn;\n"
        + ("user root;\n" if os.geteuid() == 0 else "")
        + f"include {folder}/main.conf;\nevents {{}}\n"
        + f"http {{\n  access_log {folder}/access.log;\n{temporary}  include {folder}/site.conf;\n}}\n"
    )
    return text


def check(folder: Path, settings: Settings, slots: Sequence[Slot]) -> str:
    """What `nginx -t` says; empty where the configuration is valid without a warning."""
    write(folder, settings, slots)
    done = subprocess.run(
        [nginx(), "-q", "-t", "-c", folder / "nginx.conf"], capture_output=True, text=True, timeout=20
    )
    return done.stderr or ("" if done.returncode == 0 else f"exit code {done.returncode}")


@contextmanager
def running(folder: Path, slots: Sequence[Slot], **more: Any) -> Iterator[Balancer]:
    settings = Settings(bind=f"127.0.0.1:{free_port()}", status_port=free_port(), **more)
    text = write(folder, settings, slots)
    process = subprocess.Popen([nginx(), "-c", folder / "nginx.conf"], stderr=subprocess.DEVNULL)
    balancer = Balancer(folder, settings, process)
    try:
        balancer.until(lambda: balancer.running == config_hash(text))
        yield balancer
    finally:
        process.terminate()
        process.wait(timeout=10)
