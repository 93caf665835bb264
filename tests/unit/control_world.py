"""Balancers as hosts, with jobs and pages on them: real HAProxy processes on loopback, without SSH in between."""

from __future__ import annotations

import http.client
import itertools
import json
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from fleet.balancer.deploy import EMPTY_STATE, SAVE_STATE, save_state_script
from fleet.balancer.paths import SOCKET
from fleet.balancer.render import render
from fleet.balancer.rollouts import ROOT
from fleet.balancer.workers import MASTER
from fleet.control import Balancers
from fleet.errors import UnreachableError
from fleet.model.slot import Slot
from fleet.ssh.remote import Result
from tests.local import LocalRemote, LocalRunner
from tests.unit.haproxy_world import TEMPLATE, Balancer, free_port, haproxy, runnable, settings


class Gradio:
    """A server that speaks as much of Gradio as the balancer looks at. Jobs end when `finish` says so."""

    def __init__(self) -> None:
        self._going = threading.Event()
        world = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.0"

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                self._answer(b'{"event_id": "e"}')

            def do_GET(self) -> None:
                if "/queue/data" in self.path:
                    going = world._going
                    self._answer(b"data: started\n\n")
                    going.wait(30)
                    self.wfile.write(b"data: done\n\n")
                elif "/heartbeat/" in self.path:
                    self._answer(b"data: ALIVE\n\n")
                    while not world.closing.wait(0.05):
                        self.wfile.write(b"data: ALIVE\n\n")
                else:
                    self._answer(b"page")

            def _answer(self, body: bytes) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "text/plain")
                self.end_headers()
                self.wfile.write(body)
                self.wfile.flush()

            def log_message(self, *args: object) -> None:
                pass

        self.closing = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        # A page that was closed.
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def finish(self) -> None:
        """End every job; those that come later are not ended by it."""
        self._going.set()
        self._going = threading.Event()

    def close(self) -> None:
        self.finish()
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()


_sessions = itertools.count()


class Job:
    """A job as a page sends it: a join, and with `fetch` the stream of its events, open until the job ends."""

    def __init__(self, balancer: Balancer, session: str = "") -> None:
        self.session = session or f"session{next(_sessions)}"
        self.ended: float | None = None
        self.whole = False
        self._port = balancer.port
        body = json.dumps({"data": ["text"], "session_hash": self.session})
        joining = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
        joining.request("POST", "/gradio_api/queue/join", body, {"Content-Type": "application/json"})
        answer = joining.getresponse()
        assert answer.status == 200, answer.read()
        answer.read()
        joining.close()

    def fetch(self) -> Job:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=40)
        connection.request("GET", f"/gradio_api/queue/data?session_hash={self.session}")
        response = connection.getresponse()
        assert response.readline() == b"data: started\n"
        self._thread = threading.Thread(target=self._read, args=(response,), daemon=True)
        self._thread.start()
        return self

    def _read(self, response: http.client.HTTPResponse) -> None:
        try:
            self.whole = b"data: done" in response.read()
        except (OSError, http.client.HTTPException):
            self.whole = False
        self.ended = time.monotonic()

    def wait(self) -> bool:
        """True where it came back whole."""
        self._thread.join(20)
        assert self.ended is not None
        return self.whole


def open_page(balancer: Balancer, session: str) -> http.client.HTTPResponse:
    """A page's heartbeat, open until the answer is closed."""
    connection = http.client.HTTPConnection("127.0.0.1", balancer.port, timeout=40)
    connection.request("GET", f"/gradio_api/heartbeat/{session}")
    response = connection.getresponse()
    assert response.status == 200
    return response


class BalancerRemote(LocalRemote):
    """A balancer's host: its paths are those of the folder that its HAProxy runs in."""

    def __init__(self, name: str, balancer: Balancer) -> None:
        super().__init__(name)
        self._balancer = balancer

    def here(self, script: str) -> str:
        folder = self._balancer.folder
        for path, mine in (
            (SOCKET, "admin.sock"),
            (MASTER, "master.sock"),
            (SAVE_STATE, "save-state"),
            (ROOT, "rollouts"),
        ):
            script = script.replace(path, str(folder / mine))
        return script

    def script(self, text: str, *, timeout: float) -> Result:
        return super().script(self.here(text), timeout=timeout)

    def run(
        self,
        argv: tuple[str, ...],
        *,
        stdin: bytes | None = None,
        timeout: float = 120.0,
        env: Mapping[str, str] | None = None,
    ) -> Result:
        mine = tuple(self.here(word) for word in argv)
        return super().run(mine, stdin=stdin, timeout=timeout, env=env)

    def stream(self, argv: tuple[str, ...], *, timeout: float = 30.0) -> LocalTalk:
        return LocalTalk(tuple(self.here(word) for word in argv))


class LocalTalk:
    """A kept process, as `fleet.ssh.streams.Stream` is one on a host."""

    def __init__(self, argv: tuple[str, ...]) -> None:
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)

    def settimeout(self, timeout: float | None) -> None:
        pass

    def sendall(self, data: bytes) -> None:
        assert self._process.stdin
        self._process.stdin.write(data)

    def recv(self, size: int) -> bytes:
        assert self._process.stdout
        return self._process.stdout.read(size)

    def last_words(self, grace: float = 2.0) -> str:
        return ""

    def close(self) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()


def hosts(**balancers: Balancer | None) -> Any:
    """An opener of balancers by name (`lb_01`); None stands for a host that cannot be reached."""

    def open_host(name: str) -> tuple[LocalRemote, LocalRunner]:
        balancer = balancers[name.replace("-", "_")]
        if balancer is None:
            raise UnreachableError(f"{name}: no route to host", remedy="check that it is up")
        remote = BalancerRemote(name, balancer)
        return remote, LocalRunner(remote)

    return open_host


@contextmanager
def control(**balancers: Balancer | None) -> Iterator[Balancers]:
    names = [name.replace("_", "-") for name in balancers]
    with Balancers(names, hosts(**balancers)) as opened:
        opened.look()
        yield opened


@contextmanager
def balancing(folder: Path, slots: Sequence[Slot], *, master: bool = True, **more: Any) -> Iterator[Balancer]:
    """HAProxy as Debian's unit runs it: with a master that answers on a socket, unless told otherwise."""
    folder.mkdir(exist_ok=True)
    folder.chmod(0o755)
    port = free_port()
    config = settings(
        folder,
        bind=f"127.0.0.1:{port}",
        stats_bind=f"127.0.0.1:{free_port()}",
        **{"peer_bind": f"127.0.0.1:{free_port()}", **more},
    )
    (folder / "servers.state").write_bytes(EMPTY_STATE)
    (folder / "haproxy.cfg").write_text(runnable(render(slots, config, TEMPLATE)))
    save = folder / "save-state"
    save.write_text(save_state_script(config, str(folder / "haproxy.cfg")))
    save.chmod(0o755)
    words = [haproxy(), "-W", "-f", str(folder / "haproxy.cfg")]
    with ExitStack() as stack:
        log = stack.enter_context((folder / "log").open("wb"))
        if master:
            words += ["-S", str(folder / "master.sock")]
        process = subprocess.Popen(words, stderr=log, stdout=log)
        balancer = Balancer(folder, config, port, process)
        try:
            balancer.until_up()
            yield balancer
        finally:
            process.kill()
            process.wait(timeout=10)
