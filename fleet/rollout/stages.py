"""The user's own tasks at the stages of a rollout: checked before it begins, run as it goes on."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from fleet.engine.hostrun import Opener
from fleet.engine.results import HostResult, Listener, RunResult
from fleet.engine.run import PlayWork, RunOptions, prepare, run
from fleet.errors import FleetError, Place, TaskError
from fleet.inventory import Inventory
from fleet.inventory.problems import Problems
from fleet.playbook.model import Playbook

_VARIABLES: Mapping[str, Any] = {
    "stage": "",
    "id": "",
    "kind": "upgrade",
    "image": "",
    "digest": "",
    "wave": 0,
    "slots": [],
    "hosts": [],
    "reason": "",
    "check": False,
}
"""What templates see as `rollout`, where the caller does not say otherwise."""


def check_stages(
    stages: Mapping[str, Playbook], inventory: Inventory, samples: Sequence[Mapping[str, Any]]
) -> None:
    """Bind every stage's tasks with each of the samples, which are variables as `run_stage` takes them.

    No host is touched. The nearer the samples are to what the stages will get (one for each wave), the more
    is found. Raises InputError with every stage's first mistake, at its file and line.
    """
    problems = Problems()
    for name, book in stages.items():
        for sample in samples or ({},):
            try:
                _bind(name, book, inventory, sample)
            except FleetError as error:
                problems.add(error.place or Place(str(book.path)), error.message, error.remedy)
                break
    problems.check()


def run_stage(
    playbook: Playbook,
    inventory: Inventory,
    opener: Opener,
    listen: Listener,
    variables: Mapping[str, Any],
    *,
    name: str,
) -> None:
    """Run the plays of the stage `name`; without plays there is nothing to do.

    `variables` are what templates see as `rollout`: id, kind, image, digest, wave, slots, hosts, reason,
    check. Every host goes on to its end before an error is raised.

    Raises TaskError that names stage, play, task and host, with the output, where a host failed or was not
    reached; InputError where the plays cannot be bound; KeyboardInterrupt where Ctrl-C ended the run.
    """
    work = _bind(name, playbook, inventory, variables)
    if not work:
        return
    result = run(work, inventory, opener, listen, RunOptions())
    if result.interrupted:
        raise KeyboardInterrupt
    failed = _failures(name, result)
    if failed:
        first, *others = failed
        first.output = "\n".join(part for part in (first.output.rstrip("\n"), *map(str, others)) if part)
        raise first


def _bind(
    name: str, playbook: Playbook, inventory: Inventory, variables: Mapping[str, Any]
) -> list[PlayWork]:
    """The stage's tasks bound to their hosts. Raises InputError that names the stage."""
    if not playbook.plays:
        return []
    rollout = {**_VARIABLES, **_defused(variables), "stage": name}
    try:
        return prepare(playbook, inventory, RunOptions(extra={"rollout": rollout}))
    except FleetError as error:
        error.message = f"stage {name}: {error.message}"
        error.place = error.place or playbook.plays[0].place
        raise


_TEMPLATE = re.compile(r"\{(?=[{%#])")


def _defused(value: Any) -> Any:
    """The value as lists and mappings, without templates: a reason may quote what a container printed, and
    text in variables is rendered until no template is left in it."""
    if isinstance(value, str):
        return _TEMPLATE.sub("{ ", value)
    if isinstance(value, Mapping):
        return {key: _defused(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_defused(item) for item in value]
    return value


def _failures(name: str, result: RunResult) -> list[TaskError]:
    """One error for each host that failed, in inventory order."""
    return [
        _failure(name, host) for host in result.hosts.values() if host.status in ("failed", "unreachable")
    ]


def _failure(name: str, host: HostResult) -> TaskError:
    """What a host failed of: its first task that did, else its connection."""
    for task in host.tasks:
        if task.error is not None and not task.ignored:
            return _named(
                f"stage {name}, play {task.play!r}, task {task.task!r}, host {host.host}", task.error
            )
    assert host.error is not None
    return _named(f"stage {name}, host {host.host}", host.error)


def _named(where: str, error: FleetError) -> TaskError:
    return TaskError(
        f"{where}: {error.message}",
        place=error.place,
        output=error.output,
        remedy=error.remedy or "correct the task, or let the rollout go on without it: `ignore_errors: true`",
    )
