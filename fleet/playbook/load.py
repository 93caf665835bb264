"""Reads playbook files: YAML into typed plays, every error at its line."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from fleet.errors import InputError, Place
from fleet.inventory.names import suggest
from fleet.playbook.marks import Marked, read_marked
from fleet.playbook.model import Play, Playbook, Task

_PLAY_KEYS = ("name", "hosts", "defaults", "vars", "tasks", "handlers")
_TASK_KEYS = ("name", "when", "loop", "notify", "tags", "vars", "ignore_errors")


def load_playbook(path: Path, modules: Collection[str]) -> Playbook:
    """The plays of a file. `modules` are the task keys that name a module.

    Raises InputError with file, line and the nearest known key.
    """
    root = read_marked(path)
    plays = tuple(read_play(item, modules) for item in _list(root, "a playbook is a list of plays"))
    if not plays:
        raise InputError("the playbook has no plays", place=root.place, remedy="start it with `- hosts: gpu`")
    return Playbook(path, plays)


def read_play(node: Marked, modules: Collection[str]) -> Play:
    """One play of a file that was read. Raises InputError as `load_playbook`."""
    keys = _mapping(node, "a play is a mapping with `hosts` and `tasks`")
    _known(keys, _PLAY_KEYS, "a play")
    if "hosts" not in keys:
        raise InputError("the play has no `hosts`", place=node.place, remedy="add `hosts: gpu`")
    hosts = keys["hosts"].plain()
    pattern = ":".join(map(str, hosts)) if isinstance(hosts, list) else str(hosts)
    handlers = tuple(_task(t, modules) for t in _list(keys.get("handlers"), "`handlers` is a list of tasks"))
    tasks = tuple(_task(t, modules) for t in _list(keys.get("tasks"), "`tasks` is a list of tasks"))
    known = {handler.name for handler in handlers}
    for task in tasks:
        for name in task.notify:
            if name not in known:
                raise InputError(
                    f"task {task.name!r} notifies {name!r}, no handler of this play{near(name, known)}",
                    place=task.place,
                    remedy="add it under `handlers`, or correct the name",
                )
    return Play(
        name=str(keys["name"].plain()) if "name" in keys else pattern,
        hosts=pattern,
        place=node.place,
        tasks=tasks,
        handlers=handlers,
        defaults=_variables(keys.get("defaults")),
        vars=_variables(keys.get("vars")),
    )


def _task(node: Marked, modules: Collection[str]) -> Task:
    keys = _mapping(node, "a task is a mapping with one module")
    named = [key for key in keys if key in modules]
    _known(keys, (*_TASK_KEYS, *modules), "a task")
    if len(named) != 1:
        found = " and ".join(named) if named else "none"
        raise InputError(f"a task has exactly one module, this one has {found}", place=node.place)
    module = named[0]
    given = keys[module]
    args: Mapping[str, Any] | str = {}
    places: dict[str, Place] = {}
    if isinstance(given.value, str) and given.value.strip().startswith("{{"):
        args = given.value
    elif given.value is not None:
        arguments = _mapping(given, f"the arguments of {module} are a mapping")
        args = {key: value.plain() for key, value in arguments.items()}
        places = {key: value.key_place for key, value in arguments.items()}
    return Task(
        name=str(keys["name"].plain()) if "name" in keys else module,
        module=module,
        args=args,
        place=given.key_place,
        places=places,
        when=_strings(keys.get("when")),
        loop=keys["loop"].plain() if "loop" in keys else None,
        notify=_strings(keys.get("notify")),
        tags=_strings(keys.get("tags")),
        vars=_variables(keys.get("vars")),
        ignore_errors=bool(keys["ignore_errors"].plain()) if "ignore_errors" in keys else False,
    )


def _known(keys: Mapping[str, Marked], known: Collection[str], where: str) -> None:
    for key, value in keys.items():
        if key not in known:
            raise InputError(
                f"unknown key {key!r} in {where}{near(key, known)}",
                place=value.key_place,
                remedy=f"known keys: {', '.join(sorted(known))}",
            )


def near(word: str, known: Collection[str]) -> str:
    """`; did you mean 'x'?`, or nothing where no known word is near."""
    close = suggest(word, known)
    return f"; did you mean {close!r}?" if close else ""


def _mapping(node: Marked, expected: str) -> Mapping[str, Marked]:
    if not isinstance(node.value, dict):
        raise InputError(f"{expected}, not {node.kind}", place=node.place)
    return node.value


def _list(node: Marked | None, expected: str) -> list[Marked]:
    if node is None or node.value is None:
        return []
    if not isinstance(node.value, list):
        raise InputError(f"{expected}, not {node.kind}", place=node.place)
    return node.value


def _strings(node: Marked | None) -> tuple[str, ...]:
    if node is None or node.value is None:
        return ()
    plain = node.plain()
    return tuple(str(item) for item in plain) if isinstance(plain, list) else (str(plain),)


def _variables(node: Marked | None) -> Mapping[str, Any]:
    if node is None or node.value is None:
        return {}
    return {key: value.plain() for key, value in _mapping(node, "variables are a mapping").items()}
