"""One timed run of one tool: whole processes, and the processor time of both sides."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import docker
from peers.tools import HERE, Host, InvalidRunError, Tool

_STEERING = ("ANSIBLE_", "PYINFRA_", "FLEET_", "PYTHON", "SSH_AUTH_SOCK", "COLUMNS", "FORCE_COLOR")
"""Variables that would change what a tool does. Python's belong to them: without the compiled files that
PYTHONDONTWRITEBYTECODE forbids, every start compiles everything again, which no installed tool does."""

_SETTLE = 0.5
"""Seconds after a run for its sessions on the hosts to end, before their time is read."""


@dataclass(frozen=True)
class Sample:
    """Seconds of wall clock, of the controller's processors, and of the hosts'."""

    wall: float
    cpu: float
    hosts_cpu: float


class HostUsage:
    """The processor time that lab hosts have used, as the Docker engine counts it."""

    def __init__(self, containers: Sequence[str]) -> None:
        self._api = docker.from_env().api
        self._containers = containers

    def seconds(self) -> float:
        """Since they started, all of them together."""
        stats = [self._api.stats(name, stream=False, one_shot=True) for name in self._containers]
        return sum(each["cpu_stats"]["cpu_usage"]["total_usage"] for each in stats) / 1e9


def run(tool: Tool, hosts: Sequence[Host], usage: HostUsage) -> tuple[Sample, int]:
    """Run a tool once: its sample, and how much it changed. Raises InvalidRunError where it failed."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(_STEERING)}
    environment |= tool.environment
    before = usage.seconds()
    with tempfile.TemporaryDirectory(prefix="bench-run-") as folder, ExitStack() as files:
        outputs = [Path(folder, str(number)) for number in range(len(tool.processes))]
        streams = [
            (
                files.enter_context(open(process.stdin or os.devnull, "rb")),
                files.enter_context(output.open("wb")),
            )
            for process, output in zip(tool.processes, outputs, strict=True)
        ]
        started = time.perf_counter()
        running = [
            subprocess.Popen(
                process.argv, stdin=given, stdout=output, stderr=subprocess.STDOUT, env=environment, cwd=HERE
            )
            for process, (given, output) in zip(tool.processes, streams, strict=True)
        ]
        # wait4 tells what each process and all its descendants used.
        ended = [os.wait4(process.pid, 0) for process in running]
        wall = time.perf_counter() - started
        texts = [output.read_text(errors="replace") for output in outputs]
    for process, (_, status, _), text in zip(running, ended, texts, strict=True):
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise InvalidRunError(f"{tool.name} ended with {process.returncode}:\n{text[-4000:]}")
    time.sleep(_SETTLE)
    cpu = sum(used.ru_utime + used.ru_stime for _, _, used in ended)
    return Sample(wall, cpu, usage.seconds() - before), tool.check(texts, hosts)
