"""The module contract: typed arguments, probes, and a pure plan.

A module says what it must know (`probes`) and what has to change (`plan`). Everything else, sudo,
batching, retries, check mode, progress, verification, handlers, is the engine's. The engine verifies by
asking the module again: after the steps ran it observes anew, and a plan that still has changes is a
failure ("did not take").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import msgspec

from fleet.errors import Place, TaskError
from fleet.model.facts import Facts, Probe
from fleet.model.host import Host
from fleet.model.steps import Change


class Args(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of every module's typed arguments. Field names are the keys users write."""


@dataclass(frozen=True)
class Context:
    """What a module may know besides its arguments and facts.

    `host` is the host planned for; `hosts` every host of the inventory; `fleet` the last facts of every
    host this run observed so far (hosts that were not observed are absent); `variables` what templates
    see; `search` the folders where relative `src` files are looked for, first match wins;
    `place` where the task stands, for errors.
    """

    host: Host
    hosts: Mapping[str, Host] = field(default_factory=dict)
    fleet: Mapping[str, Facts] = field(default_factory=dict)
    variables: Mapping[str, Any] = field(default_factory=dict)
    search: tuple[Path, ...] = ()
    place: Place | None = None

    def group(self, name: str) -> tuple[Host, ...]:
        """The inventory's hosts in a group, in inventory order."""
        return tuple(h for h in self.hosts.values() if name in h.groups)

    def fail(self, message: str, *, output: str = "", remedy: str = "") -> TaskError:
        """A TaskError at this task's place, to be raised by the caller."""
        return TaskError(message, place=self.place, output=output, remedy=remedy)


A = TypeVar("A", bound=Args)
A_contra = TypeVar("A_contra", bound=Args, contravariant=True)


class Module(Protocol, Generic[A_contra]):
    """What the engine needs of a module. `name` is the key users write in a task."""

    name: ClassVar[str]
    args: ClassVar[type[Args]]

    def probes(self, args: A_contra, ctx: Context) -> Sequence[Probe]:
        """The questions whose answers `plan` needs; asked of `ctx.host`. `ctx.fleet` is empty here."""
        ...

    def plan(self, args: A_contra, facts: Facts, ctx: Context) -> Sequence[Change]:
        """The changes that make the host as `args` says; empty when it already is.

        Pure: no I/O beyond reading the controller's own `src` files. Raises TaskError where the wish
        cannot be met (through `ctx.fail`).
        """
        ...
