"""Plays and tasks as their author wrote them, with the place of every part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fleet.errors import Place


@dataclass(frozen=True)
class Task:
    """One task: a module and its arguments, not yet templated (a lone template may stand for them all).

    `places` maps argument names to where they stand. `loop` is a list, or a template giving one; each
    item is `item` in the task's templates. `when` are Jinja expressions which must all be true.
    """

    name: str
    module: str
    args: Mapping[str, Any] | str
    place: Place
    places: Mapping[str, Place] = field(default_factory=dict)
    when: tuple[str, ...] = ()
    loop: Any = None
    notify: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    vars: Mapping[str, Any] = field(default_factory=dict)
    ignore_errors: bool = False


@dataclass(frozen=True)
class Play:
    """Tasks for the hosts of a pattern.

    `defaults` are variables the inventory overrides (a role's defaults in Ansible), `vars` override it.
    """

    name: str
    hosts: str
    place: Place
    tasks: tuple[Task, ...] = ()
    handlers: tuple[Task, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    vars: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Playbook:
    """A file of plays."""

    path: Path
    plays: tuple[Play, ...]
