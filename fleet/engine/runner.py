"""Executes steps on a host. A recording twin with the same two methods makes plans' tests exact."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from fleet.errors import StepError
from fleet.model.secret import Secret
from fleet.model.steps import EngineCall, Operation, Run, Step, Upload
from fleet.ssh.remote import Remote

if TYPE_CHECKING:
    from docker import DockerClient

    from fleet.docker.calls import Shared

_NONCE = re.compile(r"^[0-9a-f]{24}: \d+: (exec: )?", re.MULTILINE)
"""How the remote shell names itself in its complaints."""

Progress = Callable[[str, float, float], None]


class Runner(Protocol):
    """Executes one step, or raises StepError."""

    def execute(self, step: Step, progress: Progress) -> None:
        """Do the step. `progress(text, done, total)` may be called any number of times."""
        ...

    def close(self) -> None:
        """Give back what the steps opened."""
        ...


class HostRunner:
    """Steps over an open connection; the Docker client is opened with the first engine call."""

    def __init__(self, remote: Remote, shared: Shared) -> None:
        self._remote = remote
        self._shared = shared
        self._engine: DockerClient | None = None

    def execute(self, step: Step, progress: Progress) -> None:
        """Do the step. Raises StepError with the remote output."""
        if isinstance(step, Run):
            self._run(step)
        elif isinstance(step, Upload):
            self._remote.upload(step.path, step.content, mode=step.mode, owner=step.owner, group=step.group)
        elif isinstance(step, Operation):
            raise StepError(f"a step cannot be done from the host alone: {step.name}")
        else:
            self.ask(step, progress)

    def ask(self, call: EngineCall, progress: Progress = lambda *_: None) -> Any:
        """Do an engine operation and return what it answers."""
        from fleet.docker.calls import CALLS
        from fleet.docker.client import open_engine

        if self._engine is None:
            self._engine = open_engine(self._remote)
        return CALLS[call.operation](self._engine, call.arguments, progress, self._shared)

    def close(self) -> None:
        """Close the Docker client, if one was opened."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def _run(self, step: Run) -> None:
        stdin = step.stdin.reveal().encode() if isinstance(step.stdin, Secret) else step.stdin
        result = self._remote.run(step.argv, stdin=stdin, timeout=step.timeout, env=step.env)
        if result.rc not in step.ok_codes:
            raise StepError(
                step.failure or f"{step.title or f'`{_short(step.argv)}`'} ended with {result.rc}",
                remedy=step.remedy,
                output=_NONCE.sub("", (result.err or result.out).decode("utf-8", "replace").strip()),
            )


def _short(argv: tuple[str, ...], limit: int = 120) -> str:
    import shlex

    text = " ".join(shlex.join(argv).split())
    return text if len(text) <= limit else text[: limit - 1] + "…"
