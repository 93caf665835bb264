"""One lab for all lab tests of a process: bare hosts, provisioned once by the first test that needs them."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Two balancers that share sessions, as different as fleet supports: HAProxy 3.0 and 2.6.
SHAPE = ("--gpu-hosts", "2", "--gpus", "2", "--balancers", "2", "--debian-of", "lb-02=12")
SOAK = bool(os.environ.get("FLEET_SOAK"))
# Each of several processes (pytest-xdist) has a lab of its own.
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")
NAME = "-".join(filter(None, (os.environ.get("FLEET_TEST_LAB", "soak" if SOAK else "test"), WORKER)))
# Jobs of the soak are short, since there are thousands of them.
PROVISION = ("-e", 'slot_env={"FLEET_LAB_JOB_SECONDS": "0.1"}') if SOAK else ()
KEEP = bool(os.environ.get("FLEET_TEST_KEEP"))


@dataclass(frozen=True)
class Done:
    """A finished `fleet` command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def words(self) -> str:
        """All it said, with the line breaks a terminal would make undone."""
        return " ".join((self.out + " " + self.err).split())


def fleet(*args: str, env: dict[str, str] | None = None, timeout: float = 600, cwd: Path = ROOT) -> Done:
    """Run the real command as a user would."""
    done = subprocess.run(
        [str(Path(sys.executable).parent / "fleet"), *args],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "COLUMNS": "140", **(env or {})},
    )
    assert "Traceback" not in done.stderr, done.stderr
    return Done(done.returncode, done.stdout, done.stderr)


class Lab:
    """The running lab, as `fleet lab status --json` tells it."""

    def __init__(self, state: dict[str, Any]) -> None:
        self.state = state
        self.url: str = state["url"]
        self.inventory: str = state["inventory"]
        self.hosts: dict[str, dict[str, Any]] = {host["name"]: host for host in state["hosts"]}
        self.urls: dict[str, str] = {name: _url(self.hosts[name]) for name in self.balancers}

    def fleet(self, *args: str, **more: Any) -> Done:
        """A fleet command on this lab's inventory."""
        return fleet(*args, "-i", self.inventory, **more)

    def sh(self, host: str, script: str, check: bool = True) -> str:
        """A shell script on a host, by the outer engine and not by SSH: the tests' own eyes and hands."""
        done = subprocess.run(
            ["docker", "exec", "-i", self.hosts[host]["container"], "sh", "-s"],
            input=script,
            capture_output=True,
            text=True,
            timeout=120,
        )
        if check:
            assert done.returncode == 0, f"{host}: {script}\n{done.stdout}{done.stderr}"
        return done.stdout

    @property
    def gpu_hosts(self) -> list[str]:
        return [name for name in self.hosts if name.startswith("gpu-")]

    @property
    def balancers(self) -> list[str]:
        return [name for name in self.hosts if name.startswith("lb-")]


def _url(balancer: dict[str, Any]) -> str:
    """Where this machine reaches one balancer's service."""
    port = balancer["ports"]["80"]
    return f"http://{balancer['service']}" + (f":{port}" if port != 80 else "")


@pytest.fixture(scope="session")
def bare_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """The lab as it comes up; bare, unless an earlier test provisioned it."""
    existing = fleet("lab", "status", "--name", NAME, "--json")
    if not (KEEP and existing.code == 0):
        fleet("lab", "down", "--name", NAME)
        # The first one makes the images, and the others find them.
        base = tmp_path_factory.getbasetemp()
        with ((base.parent if WORKER else base) / "lab-images.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            up = fleet("lab", "up", "--name", NAME, *SHAPE, "--json", timeout=900)
        assert up.code == 0, up.out + up.err
    status = fleet("lab", "status", "--name", NAME, "--json")
    assert status.code == 0, status.out + status.err
    yield Lab(status.json)
    if not KEEP:
        down = fleet("lab", "down", "--name", NAME)
        assert down.code == 0, down.err


@pytest.fixture(scope="session")
def lab(bare_lab: Lab) -> Lab:
    """The lab, provisioned."""
    done = bare_lab.fleet("provision", "--json", *PROVISION)
    assert done.code == 0, done.out + done.err
    return bare_lab


@pytest.fixture(scope="session")
def service_url(lab: Lab) -> str:
    """Where the provisioned lab's service answers: its first balancer."""
    return lab.url
