"""This machine as a host: the same scripts and steps, run by a real sh, without SSH in between."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping

from fleet.errors import StepError, UnreachableError
from fleet.model.steps import EngineCall, Run, Step, Upload
from fleet.ssh.remote import Result


class LocalRemote:
    """Counts its exchanges; `dies_after` exchanges it is gone, as a host that lost power."""

    def __init__(self, name: str, dies_after: int | None = None) -> None:
        self.name = name
        self.exchanges = 0
        self.closed = False
        self._dies_after = dies_after

    def _exchange(self) -> None:
        self.exchanges += 1
        if self._dies_after is not None and self.exchanges > self._dies_after:
            raise UnreachableError(f"{self.name}: connection lost", remedy="look at the host's console")

    def script(self, text: str, *, timeout: float) -> Result:
        self._exchange()
        done = subprocess.run(["sh", "-s"], input=text.encode(), capture_output=True, timeout=timeout)
        return Result(done.returncode, done.stdout, done.stderr)

    def run(
        self,
        argv: tuple[str, ...],
        *,
        stdin: bytes | None = None,
        timeout: float = 120.0,
        env: Mapping[str, str] | None = None,
    ) -> Result:
        self._exchange()
        done = subprocess.run(
            argv, input=stdin, capture_output=True, timeout=timeout, env={**os.environ, **(env or {})}
        )
        return Result(done.returncode, done.stdout, done.stderr)

    def upload(self, path: str, content: bytes, *, mode: str, owner: str, group: str) -> None:
        self._exchange()
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(content)
        os.chmod(path, int(mode, 8))

    def close(self) -> None:
        self.closed = True


class LocalRunner:
    """Executes steps on a LocalRemote and records them."""

    def __init__(self, remote: LocalRemote) -> None:
        self.remote = remote
        self.steps: list[Step] = []

    def execute(self, step: Step, progress: object) -> None:
        self.steps.append(step)
        if isinstance(step, Upload):
            self.remote.upload(step.path, step.content, mode=step.mode, owner=step.owner, group=step.group)
        elif isinstance(step, Run):
            assert step.stdin is None or isinstance(step.stdin, bytes)
            result = self.remote.run(step.argv, stdin=step.stdin, timeout=step.timeout, env=step.env)
            if result.rc not in step.ok_codes:
                raise StepError(f"ended with {result.rc}", output=result.err.decode())
        elif isinstance(step, EngineCall):
            raise AssertionError("no Docker Engine here")

    def close(self) -> None:
        pass
