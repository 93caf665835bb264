"""Reads playbooks/upgrade.yml: the shipped file, and over it the project's own, key by key."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fleet.data import data_dir
from fleet.errors import InputError, Place
from fleet.inventory.problems import Problems
from fleet.modules.registry import MODULES
from fleet.playbook.load import near, read_play
from fleet.playbook.marks import Marked, read_marked
from fleet.playbook.model import Play, Playbook
from fleet.provision.golden import read_pairs
from fleet.rollout.model import Options
from fleet.rollout.options import GATES, OPTIONS, Reader, read_value

STAGES = ("before", "after_pull", "canary", "each_wave", "after", "on_failure")
"""Where a user's own tasks run, in order."""

_FILE = {key: reader for key, reader in OPTIONS.items() if key != "allow_downtime"}
_KEYS = (*_FILE, "gates", "golden", "stages")


@dataclass(frozen=True)
class Defaults:
    """What playbooks/upgrade.yml says.

    `golden` are plain values, empty where the inventory's `golden` counts. `stages` has every stage of
    STAGES; one without plays has nothing to do. A stage's path is the file that it stands in.
    """

    options: Options = field(default_factory=Options)
    golden: list[Any] = field(default_factory=list)
    stages: Mapping[str, Playbook] = field(default_factory=dict)


def load_defaults(project: Path, modules: Collection[str] = MODULES) -> Defaults:
    """The shipped defaults with those of the project's playbooks/upgrade.yml over them, if it has one.

    `modules` are the task keys that name a module. Raises InputError with file, line and the nearest
    known key; several mistakes of a file are told in one error.
    """
    shipped = data_dir("playbooks") / "upgrade.yml"
    own = project / "playbooks" / "upgrade.yml"
    defaults = Defaults(stages={stage: Playbook(shipped, ()) for stage in STAGES})
    for path in (shipped, own) if own.is_file() else (shipped,):
        defaults = _over(defaults, path, modules)
    return defaults


def _over(defaults: Defaults, path: Path, modules: Collection[str]) -> Defaults:
    root = read_marked(path)
    problems = Problems()
    keys = _mapping(root, "the file is a mapping of options; plays go under `stages`", problems)
    _check_keys(keys, _KEYS, "the options of an upgrade", problems)
    gates = _section(keys, "gates", "`gates` is a mapping", problems)
    _check_keys(gates, tuple(GATES), "`gates`", problems)
    stages = _section(keys, "stages", "`stages` is a mapping of stages to plays", problems)
    _check_keys(stages, STAGES, "`stages`", problems)
    options = _values(keys, _FILE, "", problems)
    limits = _values(gates, GATES, "gates.", problems)
    golden = _golden(keys.get("golden"), problems)
    books = {
        stage: _stage(stage, stages[stage], path, modules, problems) for stage in STAGES if stage in stages
    }
    problems.check()
    return Defaults(
        options=replace(defaults.options, **options, gates=replace(defaults.options.gates, **limits)),
        golden=defaults.golden if golden is None else golden,
        stages={**defaults.stages, **books},
    )


def _check_keys(keys: Mapping[str, Marked], known: tuple[str, ...], where: str, problems: Problems) -> None:
    for key, value in keys.items():
        if key == "allow_downtime" and "stages" in known:
            problems.add(
                value.key_place,
                "allow_downtime is no default: whoever takes the service down says so each time",
                "remove it, and give --allow-downtime on the command line",
            )
        elif key not in known:
            problems.add(
                value.key_place,
                f"unknown key {key!r} in {where}{near(key, known)}",
                f"known keys: {', '.join(known)}",
            )


def _values(
    keys: Mapping[str, Marked], readers: Mapping[str, Reader], prefix: str, problems: Problems
) -> dict[str, Any]:
    values: dict[str, Any] = {}

    for key, reader in readers.items():
        if key in keys:
            with _noting(problems, keys[key].place):
                values[key] = read_value(reader, f"{prefix}{key}", keys[key].plain())
    return values


def _golden(node: Marked | None, problems: Problems) -> list[Any] | None:
    if node is None:
        return None
    if not isinstance(node.value, list):
        problems.add(
            node.place,
            f"`golden` is a list of translations, not {node.kind}",
            "start each one with `- `; an empty list, [], takes the inventory's",
        )
        return None
    found = [item.plain() for item in node.value]
    for number, item in enumerate(node.value):
        with _noting(problems, item.place):
            read_pairs(found[number], f"golden[{number}]")
    return found


def _stage(stage: str, node: Marked, path: Path, modules: Collection[str], problems: Problems) -> Playbook:
    """A stage's plays; a stage that stands there empty has none."""
    items = [] if node.value is None else node.value
    if not isinstance(items, list):
        problems.add(
            node.place,
            f"stage `{stage}` is a list of plays, not {node.kind}",
            "start it with `- hosts: gpu`, as in playbooks/provision.yml",
        )
        return Playbook(path, ())
    plays: list[Play] = []
    for item in items:
        with _noting(problems, item.place):
            plays.append(read_play(item, modules))
    return Playbook(path, tuple(plays))


def _section(keys: Mapping[str, Marked], key: str, expected: str, problems: Problems) -> Mapping[str, Marked]:
    return _mapping(keys[key], expected, problems) if key in keys else {}


def _mapping(node: Marked, expected: str, problems: Problems) -> Mapping[str, Marked]:
    """The entries of a mapping; none where nothing stands there."""
    if node.value is None:
        return {}
    if not isinstance(node.value, dict):
        problems.add(node.place, f"{expected}, not {node.kind}", "see docs/upgrade-options.md")
        return {}
    return node.value


@contextmanager
def _noting(problems: Problems, place: Place) -> Iterator[None]:
    """A mistake in here is one of the file's."""
    try:
        yield
    except InputError as error:
        problems.add(error.place or place, error.message, error.remedy)
