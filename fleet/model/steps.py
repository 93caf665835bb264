"""Steps: what a plan consists of. They are data; only a runner executes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fleet.model.secret import Secret


@dataclass(frozen=True)
class Run:
    """Run one command as root on the host.

    `argv` is never given to a shell; wrap it as ("sh", "-c", script) where a shell is meant.
    `stdin` carries secrets and bulk data. `timeout` is in seconds and is enforced on the remote side too.
    `title` names the step in errors where argv is a script nobody wants to read; `failure` is the whole error
    where an exit code would tell nothing, and `remedy` goes with it. `says` is what those who wait are told.
    `undo` takes it back, where this step or a later one of the same change fails.
    """

    argv: tuple[str, ...]
    stdin: bytes | Secret | None = None
    timeout: float = 120.0
    ok_codes: tuple[int, ...] = (0,)
    env: Mapping[str, str] = field(default_factory=dict)
    title: str = ""
    failure: str = ""
    remedy: str = ""
    says: str = ""
    undo: Run | EngineCall | None = None


@dataclass(frozen=True)
class Upload:
    """Write a file atomically (temporary file beside it, then rename). Parent folders are created.

    `mode` is octal text such as "0644". `content` is not shown anywhere when `secret` is true.
    """

    path: str
    content: bytes = field(repr=False)
    mode: str = "0644"
    owner: str = "root"
    group: str = "root"
    secret: bool = False


@dataclass(frozen=True)
class EngineCall:
    """One operation on the host's Docker Engine, by name, e.g. "pull", "create", "start".

    The names and their arguments are those of `fleet.docker.calls.CALLS`. `undo` is as a `Run`'s.
    """

    operation: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    undo: Run | EngineCall | None = None


@dataclass(frozen=True)
class Operation:
    """Something that takes more than the host itself, such as its reboot, of which balancers are told first.

    The names are those of the operations that a run is given. The host is connected anew afterwards.
    `otherwise` is what does on the host alone where the run was given no such operation.
    """

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    otherwise: Run | Upload | EngineCall | None = None


Step = Run | Upload | EngineCall | Operation


@dataclass(frozen=True)
class Throttle:
    """For what the service feels: `of` is away meanwhile, a slot.

    So many hosts of a run at `most` are in such a change at a time (0 is no bound), only one until the first
    has come to its end, and none begins it after one that failed, or while what was away before is not back.
    The host is looked at, and its plan made, anew before and after.
    """

    most: int
    of: str


@dataclass(frozen=True)
class Change:
    """One difference between what is and what should be.

    `summary` is one line in the present tense ("install docker.io 26.1"); `diff` a unified or
    before -> after text for --diff; `steps` what mends it, and `then` what is left to do where all of these
    were done, from which there is no way back. A change without steps is `deferred`: what it
    will be depends on changes before it in the same run ("containers for the GPUs found then"), and `remedy`
    what to do where these did not bring about what it waits for.
    """

    summary: str
    diff: str = ""
    steps: tuple[Step, ...] = ()
    then: tuple[Step, ...] = ()
    remedy: str = ""
    throttle: Throttle | None = None

    @property
    def deferred(self) -> bool:
        """True where the steps can only be known once earlier changes are applied."""
        return not self.steps
