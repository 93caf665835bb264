"""The one hierarchy of errors a user can meet.

A message says what failed, where, what the remote side printed, and what to do next.
`ExitCode` is the process's answer; docs/architecture.md lists it for users.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of every command."""

    DONE = 0
    HOST_FAILED = 1
    INVALID = 2
    UNREACHABLE = 3
    ROLLOUT_STOPPED = 4
    LEASE_HELD = 5
    CHANGES_PENDING = 10
    INTERRUPTED = 130


@dataclass(frozen=True)
class Place:
    """A position in a file a user wrote; `line` and `column` count from 1."""

    file: str
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        parts = [self.file, *(str(n) for n in (self.line, self.column) if n is not None)]
        return ":".join(parts)


class FleetError(Exception):
    """Something a user can understand and mend; never shown with a traceback.

    `message` is one sentence; `place` the file position at fault; `output` what a remote command
    printed; `remedy` what to do next, in the imperative.
    """

    exit_code: ExitCode = ExitCode.HOST_FAILED

    def __init__(
        self, message: str, *, place: Place | None = None, output: str = "", remedy: str = ""
    ) -> None:
        super().__init__(message)
        self.message = message
        self.place = place
        self.output = output
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.place}: {self.message}" if self.place else self.message


class InputError(FleetError):
    """A file, option or variable is wrong; nothing was done (exit code 2)."""

    exit_code = ExitCode.INVALID


class UnreachableError(FleetError):
    """No working SSH session to a host: refused, timed out, host key, authentication (exit code 3)."""

    exit_code = ExitCode.UNREACHABLE


class TaskError(FleetError):
    """A task could not be planned, applied or verified on a host (exit code 1)."""


class InternalError(TaskError):
    """A mistake of fleet's own (exit code 1)."""


class HeldBackError(TaskError):
    """A host was not gone on with, since one had failed before; that one's exit code stands."""


class StepError(TaskError):
    """A remote command, upload or engine call failed."""
