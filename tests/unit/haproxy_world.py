"""A real HAProxy for the balancer's tests: on loopback, in a folder of its own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from fleet.balancer.deploy import EMPTY_STATE, save_state_script
from fleet.balancer.paths import SOCKET
from fleet.balancer.probe import RUNTIME_PROBE
from fleet.balancer.render import Settings, render
from fleet.balancer.stats import BalancerState, parse_balancer
from fleet.data import data_dir
from fleet.model.facts import Answer
from fleet.model.slot import Slot
from tests.ports import free_port as free_port

TEMPLATE = data_dir("templates") / "haproxy.cfg.j2"


def haproxy() -> str:
    found = shutil.which("haproxy", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    assert found, "these tests need HAProxy: apt-get install haproxy socat (make setup does it)"
    assert shutil.which("socat"), "these tests need socat: apt-get install socat (make setup does it)"
    return found


def slots(count: int, *, port: int = 7860) -> list[Slot]:
    return [
        Slot(f"gpu-{i // 2 + 1:02d}", i % 2, f"GPU-{i}", "127.0.0.1", port + i, "Tesla T4", 10 + i)
        for i in range(count)
    ]


def settings(folder: Path, **more: Any) -> Settings:
    """Settings whose files and sockets are all in `folder`."""
    return Settings(
        socket=str(folder / "admin.sock"),
        state_file=str(folder / "servers.state"),
        lua_file=str(data_dir("templates") / "haproxy-sessions.lua"),
        handover=f"abns@fleet-{os.getpid()}-{abs(hash(folder)) % 10**9}",
        **more,
    )


def runnable(text: str) -> str:
    """Without what only root may do, where the tests are not root."""
    if os.geteuid() == 0:
        return text
    return "".join(
        line for line in text.splitlines(True) if line.split()[:1] not in (["chroot"], ["user"], ["group"])
    )


def check(text: str, folder: Path) -> str:
    """What `haproxy -c` says about a configuration; empty where it is valid without a warning."""
    (folder / "servers.state").write_bytes(EMPTY_STATE)
    path = folder / "check.cfg"
    path.write_text(runnable(text))
    done = subprocess.run([haproxy(), "-c", "-q", "-f", path], capture_output=True, text=True, timeout=20)
    said = "".join(line for line in done.stderr.splitlines(True) if not line.startswith("[NOTICE]"))
    return said or ("" if done.returncode == 0 else f"exit code {done.returncode}")


@contextmanager
def web_server(status: int = 200) -> Iterator[int]:
    """A server whose every GET answers `status`; gives its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = "".join(f"{key}: {value}\n" for key, value in self.headers.items()).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass
class Balancer:
    """A running HAProxy with the configuration fleet would deploy."""

    folder: Path
    settings: Settings
    port: int
    process: subprocess.Popen[bytes]

    @property
    def config(self) -> Path:
        return self.folder / "haproxy.cfg"

    def write(self, slots: Sequence[Slot]) -> str:
        text = render(slots, self.settings, TEMPLATE)
        self.config.write_text(runnable(text))
        return text

    def here(self, script: str) -> str:
        """A script meant for a host, for this folder's HAProxy instead of the host's."""
        return script.replace(SOCKET, self.settings.socket)

    def sh(self, script: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(["sh", "-c", self.here(script)], input=stdin, capture_output=True, timeout=20)

    def ask(self, command: str) -> str:
        return ask(self.settings.socket, command)

    def look(self) -> BalancerState | None:
        done = self.sh(RUNTIME_PROBE.script)
        return parse_balancer(Answer(done.returncode, done.stdout))

    def save_state(self, *words: str) -> None:
        script = save_state_script(self.settings, str(self.config))
        subprocess.run(["sh", "-c", script, "save-state", *words], check=True, timeout=30)

    def reload(self) -> None:
        before = self.ask("show info").split("Pid: ")[1].split()[0]

        def another() -> bool:
            return before not in self.ask("show info").partition("Pid: ")[2].split()[:1]

        # A master that has only just started may not listen for signals yet.
        self.process.send_signal(signal.SIGUSR2)
        try:
            self.until(another, 3)
        except AssertionError:
            self.process.send_signal(signal.SIGUSR2)
            self.until(another)

    def until(self, true: Callable[[], object], seconds: float = 8.0) -> None:
        end, pause = time.monotonic() + seconds, 0.01
        while True:
            try:
                if true():
                    return
            except (AttributeError, IndexError):
                pass
            assert time.monotonic() < end, (self.folder / "log").read_text()
            time.sleep(pause)
            pause = min(pause * 1.5, 0.1)  # a look costs several processes

    def until_up(self) -> None:
        self.until(lambda: "Pid: " in self.ask("show info"))


def ask(path: str, command: str) -> str:
    """What HAProxy answers on its socket; nothing where it does not listen."""
    with socket.socket(socket.AF_UNIX) as talk:
        talk.settimeout(20)
        try:
            talk.connect(path)
            talk.sendall(f"{command}\n".encode())
            return b"".join(iter(lambda: talk.recv(65536), b"")).decode()
        except OSError:
            return ""


@contextmanager
def running(folder: Path, slots: Sequence[Slot], **more: Any) -> Iterator[Balancer]:
    port = free_port()
    config = settings(
        folder,
        bind=f"127.0.0.1:{port}",
        stats_bind=f"127.0.0.1:{free_port()}",
        peer_bind=f"127.0.0.1:{free_port()}",
        **more,
    )
    folder.chmod(0o755)
    (folder / "servers.state").write_bytes(EMPTY_STATE)
    (folder / "haproxy.cfg").write_text(runnable(render(slots, config, TEMPLATE)))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([haproxy(), "-W", "-f", folder / "haproxy.cfg"], stderr=log, stdout=log)
    balancer = Balancer(folder, config, port, process)
    try:
        balancer.until_up()
        yield balancer
    finally:
        process.terminate()
        process.wait(timeout=10)
