"""Tasks bound to hosts: loops unrolled, conditions decided, arguments templated and typed.

All of it happens before any connection is made, so a playbook's mistake is found before a host is touched.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from fleet.data import data_dir
from fleet.engine.mistakes import ArgumentError, Where, argument_error
from fleet.errors import FleetError, InputError
from fleet.model.decode import from_plain
from fleet.model.facts import Probe
from fleet.model.host import Host
from fleet.modules.base import Args, Context, Module
from fleet.modules.registry import load
from fleet.playbook.load import near
from fleet.playbook.model import Play, Playbook, Task
from fleet.playbook.templating import evaluate
from fleet.playbook.templating import test as holds


@dataclass(frozen=True)
class BoundTask:
    """One task on one host, ready to plan. `skipped` says why it will not run, else it is empty."""

    play: str
    task: Task
    name: str
    module: Module[Any] | None
    args: Args | None
    ctx: Context
    skipped: str = ""

    def probes(self) -> tuple[Probe, ...]:
        """The questions this task needs answered."""
        if self.module is None or self.args is None:
            return ()
        return tuple(self.module.probes(self.args, self.ctx))


def bind_play(
    play: Play,
    book: Playbook,
    host: Host,
    hosts: Mapping[str, Host],
    variables: Mapping[str, Any],
    extra: Mapping[str, Any],
    where: Where = lambda _: None,
) -> tuple[tuple[BoundTask, ...], tuple[BoundTask, ...]]:
    """The play's tasks and handlers for one host. `variables` are the inventory's for that
    host, `extra` those that stand above all others.

    Raises InputError at the task's file and line, or where the inventory has the variable that is wrong.
    """
    search = (*_search(book.path), *_beside(variables))
    scope = _settle({**play.defaults, **variables, **play.vars, **extra}, play)

    def bind(task: Task) -> list[BoundTask]:
        try:
            return list(_bind(task, play, host, hosts, scope, search))
        except ArgumentError as error:
            error.trace(scope, lambda name: None if name in extra else where(name))
            raise

    tasks = tuple(bound for task in play.tasks for bound in bind(task))
    return tasks, tuple(bound for task in play.handlers for bound in bind(task))


def _search(playbook: Path) -> tuple[Path, ...]:
    """Where `src` files are looked for: beside the playbook, the project's templates/, the shipped ones."""
    here = playbook.resolve().parent
    return (here, here / "templates", here.parent / "templates", here.parent, data_dir("templates"))


def _beside(variables: Mapping[str, Any]) -> tuple[Path, ...]:
    """The inventory's folder and the one above: what an inventory names is in the project around it."""
    folder = variables.get("inventory_dir")
    return (Path(folder), Path(folder).parent) if isinstance(folder, str) else ()


def _settle(scope: dict[str, Any], play: Play) -> dict[str, Any]:
    """The play's own variables may use each other and the inventory's: render them once, in order."""
    for key in (*play.defaults, *play.vars):
        scope[key] = evaluate(scope[key], scope, play.place)
    return scope


def _bind(
    task: Task,
    play: Play,
    host: Host,
    hosts: Mapping[str, Host],
    scope: Mapping[str, Any],
    search: tuple[Path, ...],
) -> list[BoundTask]:
    variables = {**scope, **task.vars}
    if task.loop is None:
        return [_bind_one(task, task.name, play, host, hosts, variables, search)]
    items = evaluate(task.loop, variables, task.place)
    if not isinstance(items, list | tuple):
        raise InputError(f"`loop` of task {task.name!r} is not a list", place=task.place)
    return [
        _bind_one(task, f"{task.name} ({item})", play, host, hosts, {**variables, "item": item}, search)
        for item in items
    ]


def _bind_one(
    task: Task,
    name: str,
    play: Play,
    host: Host,
    hosts: Mapping[str, Host],
    variables: Mapping[str, Any],
    search: tuple[Path, ...],
) -> BoundTask:
    ctx = Context(host=host, hosts=hosts, variables=variables, search=search, place=task.place)
    try:
        for condition in task.when:
            if not holds(condition, variables, task.place):
                return BoundTask(play.name, task, name, None, None, ctx, skipped=f"when: {condition}")
        rendered = _rendered(task, variables)
    except FleetError as error:
        error.message = f"task {task.name!r}, host {host.name}: {error.message}"
        raise
    module = load(task.module)
    return BoundTask(play.name, task, name, module, _typed(task, module, rendered, host), ctx)


def _rendered(task: Task, variables: Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(task.args, str):
        whole = evaluate(task.args, variables, task.place)
        if not isinstance(whole, Mapping):
            raise InputError(f"{task.args} gives {whole!r}, not a mapping of arguments", place=task.place)
        return whole
    return {
        key: evaluate(value, variables, task.places.get(key, task.place)) for key, value in task.args.items()
    }


def _typed(task: Task, module: Module[Any], rendered: Mapping[str, Any], host: Host) -> Args:
    known = [field.encode_name for field in msgspec.structs.fields(module.args)]
    for key in rendered:
        if key not in known:
            raise InputError(
                f"{task.module} has no argument {key!r}{near(key, known)}",
                place=task.places.get(key, task.place),
                remedy=f"arguments of {task.module}: {', '.join(known)}",
            )
    try:
        return from_plain(rendered, module.args)
    except (msgspec.ValidationError, ValueError) as error:
        before = f"task {task.name!r}, host {host.name}: {task.module}: "
        raise argument_error(before, str(error), task, rendered, module.args) from error
