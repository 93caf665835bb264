"""The outer engine: the machine's own Docker Engine, installed and started where there is none."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from fleet.errors import FleetError
from fleet.lab.spec import Report

if TYPE_CHECKING:
    from docker import DockerClient

_START_DEADLINE = 60.0


def connect(report: Report, *, install: bool = False) -> DockerClient:
    """A client of the machine's engine. With `install`, put one there when none answers."""
    client = _client()
    if client is not None:
        return client
    if not install:
        raise FleetError(
            "no Docker Engine answers on this machine",
            remedy="Start it, or run `fleet lab up` as root, which installs and starts one.",
        )
    if os.geteuid() != 0:
        raise FleetError(
            "no Docker Engine answers on this machine, and only root can install one",
            remedy="Start Docker, add yourself to the group `docker`, or run this as root.",
        )
    if shutil.which("dockerd") is None:
        apt_install(report, "docker.io")
    _start(report)
    deadline = time.monotonic() + _START_DEADLINE
    while time.monotonic() < deadline:
        client = _client()
        if client is not None:
            return client
        time.sleep(0.2)
    raise FleetError(
        f"the Docker Engine did not answer within {_START_DEADLINE:.0f} s of its start",
        output=_tail(_log_path()),
        remedy="Read its log; `docker info` should answer before `fleet lab up` is run again.",
    )


_installing = threading.Lock()


def need_program(report: Report, program: str) -> None:
    """Install the Debian package of that name where the program is missing; one thread at a time."""
    with _installing:
        if shutil.which(program) is None:
            apt_install(report, program)


def apt_install(report: Report, *packages: str) -> None:
    """Install packages on this machine with apt; needs root on Debian or Ubuntu."""
    names = " ".join(packages)
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise FleetError(
            f"this machine lacks {names}",
            remedy=f"Install {names}, or run this as root on Debian or Ubuntu.",
        )
    report(f"installing {names} on this machine with apt")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for argv in (
        ["apt-get", "-q", "update"],
        ["apt-get", "-q", "install", "-y", "--no-install-recommends", *packages],
    ):
        done = _patiently(argv, environment)
        if done.returncode != 0:
            raise FleetError(
                f"`{' '.join(argv)}` failed",
                output=done.stdout[-2000:] + done.stderr[-2000:],
                remedy=f"Install {names} by hand, then run `fleet lab up` again.",
            )


def _patiently(argv: list[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run apt-get; while another one holds a lock, wait for it (at most five minutes)."""
    from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed

    retry = Retrying(
        retry=retry_if_result(lambda done: done.returncode != 0 and "Could not get lock" in done.stderr),
        stop=stop_after_delay(300),
        wait=wait_fixed(3),
        retry_error_callback=lambda state: state.outcome.result() if state.outcome else None,
    )
    done: subprocess.CompletedProcess[str] = retry(
        subprocess.run, argv, capture_output=True, text=True, env=environment, check=False
    )
    return done


def state_dir() -> Path:
    """The folder for logs and locks of the lab on this machine."""
    import platformdirs

    path = Path(platformdirs.user_state_dir("fleet")) / "lab"
    path.mkdir(parents=True, exist_ok=True)
    return path


def _client() -> DockerClient | None:
    import docker

    try:
        client = docker.from_env(timeout=600)
        client.ping()
    except (docker.errors.DockerException, OSError):
        return None
    return client


def _start(report: Report) -> None:
    if Path("/run/systemd/system").is_dir():
        report("starting the Docker Engine with systemctl")
        done = subprocess.run(
            ["systemctl", "enable", "--now", "docker"], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise FleetError(
                "the Docker Engine did not start",
                output=done.stderr,
                remedy="See `journalctl -u docker`.",
            )
        return
    log = _log_path()
    report(f"starting the Docker Engine without systemd; its log is {log}")
    with log.open("ab") as sink:
        subprocess.Popen(
            ["dockerd"], stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, start_new_session=True
        )


def _log_path() -> Path:
    return state_dir() / "dockerd.log"


def _tail(path: Path, lines: int = 15) -> str:
    if not path.is_file():
        return ""
    return "\n".join(path.read_text("utf-8", "replace").splitlines()[-lines:])
