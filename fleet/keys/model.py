"""What the commands of `fleet key` tell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from fleet.balancer.keys import Key
from fleet.errors import ExitCode, FleetError, UnreachableError
from fleet.model.problem import Problem
from fleet.model.secret import Secret

ACTIVE = "active"
STORED = "stored"
REVOKED = "revoked"
MISSING = "missing"
STILL_ACTIVE = "still active"
UNKNOWN = "unknown"
UP = "up"
UNREACHABLE = "unreachable"
FAILED = "failed"


@dataclass(frozen=True)
class BalancerRow:
    """One balancer: `state` is up, unreachable or failed; `gateway` on, off, down, or None: not known."""

    name: str
    state: str = UP
    gateway: str | None = None
    reason: str | None = None

    @classmethod
    def lost(cls, name: str, error: FleetError) -> BalancerRow:
        """The row of a balancer that an error ended."""
        state = UNREACHABLE if isinstance(error, UnreachableError) else FAILED
        return cls(name, state, reason=error.message.removeprefix(f"{name}: "))


@dataclass(frozen=True)
class KeyRow:
    """A key, and what each balancer does with it.

    `balancers` gives, by balancer: active (accepted now), stored (accepted once the gateway is on), missing
    (not known there), revoked, still active (accepted there, though it was revoked), unknown (not reached).
    """

    name: str
    id: str
    created: str
    revoked: str | None
    sha256: str
    balancers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, key: Key, balancers: Mapping[str, str]) -> KeyRow:
        """The row of a key."""
        return cls(key.name, key.id, key.created, key.revoked, key.sha256, balancers)


@dataclass(frozen=True)
class KeyReport:
    """Keys, balancers, and what is wrong: of a look (`fleet key list`) or after a change.

    `mended` names the balancers that lacked earlier changes and have them now.
    """

    keys: tuple[KeyRow, ...] = ()
    balancers: tuple[BalancerRow, ...] = ()
    problems: tuple[Problem, ...] = ()
    mended: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """True where nothing is wrong."""
        return not self.problems

    @property
    def exit_code(self) -> ExitCode:
        """1 where something is wrong on a balancer that was reached, else 3 where one was not, else 0."""
        states = {row.state for row in self.balancers}
        lost = {row.name for row in self.balancers if row.state == UNREACHABLE}
        if FAILED in states or any(problem.place not in lost for problem in self.problems):
            return ExitCode.HOST_FAILED
        return ExitCode.UNREACHABLE if lost else ExitCode.DONE

    def as_json(self, *, revoked: bool = True) -> dict[str, Any]:
        """The document described in docs/json.md: hashes, never a key. `revoked`: revoked keys, too."""
        document = asdict(self)
        if not revoked:
            document["keys"] = [key for key in document["keys"] if key["revoked"] is None]
        return {"ok": self.ok, **document}


@dataclass(frozen=True)
class Added:
    """A new key. `secret` is the only copy there is; `same_name` are the other active keys of its name."""

    secret: Secret
    key: Key
    report: KeyReport
    same_name: tuple[Key, ...] = ()


@dataclass(frozen=True)
class Revoked:
    """Keys that no balancer reached accepts any more. `already`: all of them were revoked before."""

    keys: tuple[Key, ...]
    report: KeyReport
    already: bool = False
