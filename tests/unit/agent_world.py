"""The real GPU agent on loopback, between a stand-in driver, log and engine."""

from __future__ import annotations

import json
import os
import signal
import socket
import socketserver
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from fleet.data import data_dir
from fleet.gpu.agent import AgentConfig, AgentSlot, config_text
from tests.unit.haproxy_world import free_port

PROGRAM = data_dir("templates") / "fleet-gpu-agent.pl"
UUIDS = ("GPU-aaaa", "GPU-bbbb")
BUSES = ("00000000:3B:00.0", "00000000:3C:00.0")
EVERY = 0.1

# It hangs as told, once lists other GPUs, knows no recovery action, as older drivers; alone (`-i UUID`) it answers from a file of its own.
NVIDIA_SMI = """\
#!/bin/sh
[ ! -e DIR/hangs ] || { trap '' TERM; sleep 60; }
answer=DIR/smi
if [ "$1" = -i ]; then answer=DIR/smi.$2; fi
case "$*" in *gpu_recovery_action*) echo 'Field "gpu_recovery_action" is not a valid field to query.'; exit 2 ;; esac
if [ -e DIR/once ]; then rm DIR/once; cat DIR/smi.once; exit 0; fi
cat $answer.out
exit $(cat $answer.rc 2>/dev/null || echo 0)
"""

JOURNALCTL = """\
#!/bin/sh
case " $* " in *' -f '*) exec tail -s 0.03 -n +1 -f DIR/log ;; esac
cat DIR/log
"""


class _Engine(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    running: list[dict[str, Any]]

    class Handler(BaseHTTPRequestHandler):
        server: _Engine

        def do_GET(self) -> None:
            body = json.dumps(self.server.running, separators=(",", ":")).encode() + b"\n"
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None: ...

    def __init__(self, path: Path) -> None:
        self.running = []
        super().__init__(str(path), self.Handler)


def container(slot: str, uuid: str, **labels: str) -> dict[str, Any]:
    """A running container of the slot, as the engine lists it."""
    return {
        "Id": "1" * 64,
        "Names": [f"/fleet-{slot}"],
        "Labels": {"a": 'b"}{', "fleet.gpu": uuid, **labels, "fleet.slot": slot},
        "State": "running",
    }


@dataclass
class Agent:
    """The agent with two slots, gpu-01-0 and gpu-01-1, whose GPUs are well as long as nothing is changed."""

    folder: Path
    engine: _Engine
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    def gpus(self, *rows: str, rc: int = 0, alone: str = "") -> None:
        """What nvidia-smi says; `alone` where it is asked for that one GPU."""
        name = f"smi.{alone}" if alone else "smi"
        new = self.folder / "new"
        (self.folder / f"{name}.rc").write_text(f"{rc}\n")
        new.write_text("".join(f"{row}\n" for row in rows))
        new.rename(self.folder / f"{name}.out")

    def well(self) -> None:
        self.gpus(row(0), row(1))

    def log(self, text: str, when: float | None = None) -> None:
        """A line of the kernel's."""
        with (self.folder / "log").open("a") as log:
            log.write(f"{time.time() if when is None else when:.6f} gpu-01 kernel: {text}\n")

    def configure(self, allow: Sequence[str] = ("127.0.0.1",)) -> None:
        slots = tuple(AgentSlot(f"gpu-01-{i}", UUIDS[i], BUSES[i]) for i in range(2))
        text = config_text(AgentConfig(slots, "127.0.0.1", self.port, tuple(allow)))
        (self.folder / "conf").write_text(text + f"every {EVERY}\npatience 1\n")

    @property
    def _env(self) -> dict[str, str]:
        return {
            **os.environ,
            "PATH": f"{self.folder}:{os.environ['PATH']}",
            "FLEET_AGENT_CONF": str(self.folder / "conf"),
            "FLEET_AGENT_STATE": str(self.folder / "state"),
            "FLEET_AGENT_DOCKER": str(self.folder / "docker.sock"),
        }

    def start(self) -> None:
        with (self.folder / "said").open("ab") as said:
            self.process = subprocess.Popen(["perl", PROGRAM], env=self._env, stdout=said, stderr=said)

    def stop(self) -> None:
        """End it and what it started, as systemd would."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        self.process.terminate()
        self.process.wait(timeout=10)
        for child in children:
            try:
                os.killpg(int(child), signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process = None

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["perl", PROGRAM, *words], env=self._env, capture_output=True, text=True, timeout=20
        )

    def ask(self, slot: str = "gpu-01-0", source: str = "127.0.0.1") -> str:
        """What a balancer would be told."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), 5, (source, 0)) as agent:
                agent.sendall(f"{slot}\n".encode())
                return agent.makefile().read().rstrip("\n")
        except OSError:
            return ""

    def becomes(self, line: str, slot: str = "gpu-01-0", seconds: float = 10) -> None:
        """Wait until it answers so."""
        end = time.monotonic() + seconds
        while (said := self.ask(slot)) != line:
            assert time.monotonic() < end, f"{said!r}, not {line!r}; {(self.folder / 'said').read_text()}"
            time.sleep(0.02)

    def until(self, true: Callable[[], object], seconds: float = 10) -> None:
        end = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < end, (self.folder / "said").read_text()
            time.sleep(0.02)


def row(index: int, temperature: int | str = 38, ecc: int | str = 0, slow: str = "Not Active") -> str:
    return f"{UUIDS[index]}, {BUSES[index]}, {temperature}, {ecc}, {slow}"


@contextmanager
def agent(folder: Path) -> Iterator[Agent]:
    """The running agent, which knows its GPUs."""
    for name, text in (("nvidia-smi", NVIDIA_SMI), ("journalctl", JOURNALCTL)):
        (folder / name).write_text(text.replace("DIR", str(folder)))
        (folder / name).chmod(0o755)
    (folder / "log").touch()
    engine = _Engine(folder / "docker.sock")
    engine.running = [container(f"gpu-01-{i}", UUIDS[i]) for i in range(2)]
    threading.Thread(target=engine.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    found = Agent(folder, engine)
    found.well()
    found.configure()
    found.start()
    try:
        found.becomes("up")
        yield found
    finally:
        if found.process is not None:
            found.stop()
        engine.shutdown()
        engine.server_close()
