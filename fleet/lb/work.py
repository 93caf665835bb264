"""Which tasks make the balancers' configuration, and whose facts they need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from fleet.engine.bind import BoundTask
from fleet.engine.run import PlayWork, RunOptions, prepare
from fleet.errors import InputError
from fleet.inventory import Inventory
from fleet.lb.software import SOFTWARE
from fleet.playbook.model import Playbook


@dataclass(frozen=True)
class Work:
    """The balancers' tasks, one play per balancer; `witnesses` are tasks of hosts that are only looked at."""

    plays: tuple[PlayWork, ...]
    witnesses: Mapping[str, tuple[BoundTask, ...]]

    @property
    def tasks(self) -> tuple[BoundTask, ...]:
        """The balancers' tasks in order, all hosts'."""
        return tuple(task for play in self.plays for tasks in play.tasks.values() for task in tasks)

    @property
    def balancers(self) -> tuple[str, ...]:
        """The balancers' names in order, each once."""
        return tuple(dict.fromkeys(task.ctx.host.name for task in self.tasks))


def balancer_work(book: Playbook, inventory: Inventory, options: RunOptions) -> Work:
    """The balancer tasks of a playbook. `options.limit` chooses among balancers, and among them only.

    The hosts whose GPUs are balanced are looked at whatever the limit: a server must not vanish because
    somebody named one balancer. Raises InputError where the playbook has no such task or no host has one.
    """
    wanted = {
        host.name for host in inventory.select(options.limit or "all", at_least_one=bool(options.limit))
    }
    bound = prepare(book, inventory, replace(options, limit=""))
    plays: list[PlayWork] = []
    for item in bound:
        for name, tasks in item.tasks.items():
            kept = tuple(task for task in tasks if task.task.module in SOFTWARE and not task.skipped)
            if kept and name in wanted:
                play = replace(item.play, name=f"{item.play.name}: {name}")
                plays.append(PlayWork(play, {name: kept}, {name: item.handlers[name]}))
    if not plays:
        raise _nothing(book, options.limit)
    groups = {getattr(task.args, "group", None) for play in plays for task in sum(play.tasks.values(), ())}
    looked_at = {name for group in groups if group for name in inventory.groups.get(group, ())}
    witnesses: dict[str, tuple[BoundTask, ...]] = {}
    for item in bound:
        for name, tasks in item.tasks.items():
            if name in looked_at:
                others = tuple(task for task in tasks if task.task.module not in SOFTWARE)
                witnesses[name] = (*witnesses.get(name, ()), *others)
    return Work(tuple(plays), witnesses)


def _nothing(book: Playbook, limit: str) -> InputError:
    has = any(task.module in SOFTWARE for play in book.plays for task in play.tasks)
    if not has:
        return InputError(
            f"{book.path} has no task for a balancer",
            remedy=f"add one with the module {' or '.join(SOFTWARE)}, or name another file with --playbook",
        )
    of = f" among {limit!r}" if limit else ""
    return InputError(
        f"no host{of} has a balancer task of {book.path}",
        remedy="check --limit, the plays' `hosts` and the tasks' `when` against `fleet inventory`",
    )
