"""Reads inventories: files and folders into hosts with merged variables, as Ansible merges them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from fleet.errors import InputError, Place
from fleet.inventory.inventory import Inventory
from fleet.inventory.problems import Problems
from fleet.inventory.source import read_source
from fleet.inventory.tree import ALL, UNGROUPED, Entry, Scope, Tree
from fleet.inventory.varsfiles import EXTENSIONS, VarsFolder
from fleet.model.host import Host

_IGNORED_NAMES = ("group_vars", "host_vars", "vars_plugins")
_IGNORED_ENDS = (
    *(".pyc", ".pyo", ".swp", ".bak", "~", ".rpm", ".md", ".txt", ".rst"),
    *(".orig", ".cfg", ".retry"),
)


def load(path: Path | Sequence[Path]) -> Inventory:
    """The inventory in a file or a folder of files; of several, later ones add to and override earlier ones.

    Raises one InputError for all mistakes: the first with its place, the others in its output.
    """
    sources = [path] if isinstance(path, Path) else list(path)
    tree, problems = Tree(), Problems()
    for source in sources:
        for file in _files(source, problems):
            read_source(file, tree, problems)
    tree.settle()
    for entry in tree.hosts.values():
        if entry.name in tree.groups:
            problems.add(
                entry.place,
                f"{entry.name} is the name of a host and of a group",
                "rename one: Ansible would give the host's variables to the group",
            )
    inventory = _merged(tree, sources, problems)
    problems.check()
    return inventory


def _files(source: Path, problems: Problems) -> Iterator[Path]:
    """The inventory files of a source, in name order where it is a folder."""
    if source.is_file():
        yield from _readable(source, problems)
    elif source.is_dir():
        for name in sorted(os.listdir(source)):
            if not (name.startswith(".") or name in _IGNORED_NAMES or name.endswith(_IGNORED_ENDS)):
                yield from _files(source / name, problems)
    else:
        raise InputError(
            "there is no such inventory",
            place=Place(str(source)),
            remedy="name an existing one with -i, or make a starter project with `fleet init DIR`",
        )


def _readable(file: Path, problems: Problems) -> Iterator[Path]:
    end = file.suffix
    if end and end not in EXTENSIONS:
        problems.add(
            Place(str(file)),
            f"an inventory is a YAML file ({', '.join(EXTENSIONS)}), not {end}",
            f"convert it: ansible-inventory -i {file} --list --yaml > inventory.yml",
        )
    elif not end and _is_program(file):
        problems.add(
            Place(str(file)),
            "fleet runs no inventory scripts",
            f"write its result: ansible-inventory -i {file} --list --yaml > inventory.yml",
        )
    else:
        yield file


def _is_program(file: Path) -> bool:
    try:
        with file.open("rb") as opened:
            return opened.read(2) == b"#!"
    except OSError:
        return False  # reading it as an inventory will say why


def _merged(tree: Tree, sources: Iterable[Path], problems: Problems) -> Inventory:
    folders = [_folder(source) for source in sources]
    group_files = _VarsFolders(folders, "group_vars", problems)
    host_files = _VarsFolders(folders, "host_vars", problems)
    group_layers = _GroupLayers(tree, group_files)
    hosts: dict[str, Host] = {}
    layers: dict[str, tuple[Scope, ...]] = {}
    for entry in tree.hosts.values():
        above, merged, groups = group_layers.of(entry)
        own = (entry.scope, *host_files.scopes(entry.name))
        values = dict(merged)
        for scope in own:
            values.update(scope.values)
        hosts[entry.name] = Host(entry.name, values, groups, entry.place)
        layers[entry.name] = (*above, *own)
    for name in tree.groups:
        group_files.scopes(name)  # the files of groups without hosts are checked too
    return Inventory(
        hosts=hosts,
        groups={name: tree.members(name) for name in tree.groups},
        sources=tuple(sources),
        unused=(*group_files.unused(), *host_files.unused()),
        files={entry.name: entry.file for entry in tree.hosts.values()},
        layers=layers,
    )


def _folder(source: Path) -> Path:
    """Where a source's group_vars/ and host_vars/ are: beside a file, inside a folder."""
    return source if source.is_dir() else source.parent


class _VarsFolders:
    """group_vars/ or host_vars/ of every source; each file is read once."""

    def __init__(self, folders: Iterable[Path], kind: str, problems: Problems) -> None:
        by_path = {folder: VarsFolder(folder / kind, problems) for folder in folders}
        self._by_path = by_path
        self._in_order = [by_path[folder] for folder in folders]
        self._read: dict[str, list[Scope]] = {}

    def scopes(self, name: str) -> list[Scope]:
        """What each source's files set for a name, in the order of the sources, empty scopes for none."""
        if name not in self._read:
            once = {id(folder): folder.scope(name) or Scope() for folder in self._by_path.values()}
            self._read[name] = [once[id(folder)] for folder in self._in_order]
        return self._read[name]

    def unused(self) -> list[Path]:
        return [path for folder in self._by_path.values() for path in folder.unused()]


class _GroupLayers:
    """What a host has from its groups, the weakest first; made once for each set of groups.

    Ansible's order, surprises included: what inventory files say of `all`, then of the other groups; then
    group_vars/ for `all`, then for the others (so a parent's file beats a child's inline variables).
    Of several sources the later one's files win, whatever the group.
    """

    def __init__(self, tree: Tree, files: _VarsFolders) -> None:
        self._tree = tree
        self._files = files
        self._made: dict[frozenset[str], tuple[tuple[Scope, ...], dict[str, Any], tuple[str, ...]]] = {}

    def of(self, host: Entry) -> tuple[tuple[Scope, ...], dict[str, Any], tuple[str, ...]]:
        """The layers, their merge, and the groups' names without `all` and `ungrouped`, sorted."""
        key = frozenset(host.groups)
        if key not in self._made:
            self._made[key] = self._make(host)
        return self._made[key]

    def _make(self, host: Entry) -> tuple[tuple[Scope, ...], dict[str, Any], tuple[str, ...]]:
        above = self._tree.groups_of(host)
        ranked = self._tree.ranked(above - {ALL})
        of_files = [self._files.scopes(name) for name in ranked]
        layers = (
            *(self._tree.groups[name].scope for name in (ALL, *ranked)),
            *self._files.scopes(ALL),
            *(scope for source in zip(*of_files, strict=True) for scope in source),
        )
        merged: dict[str, Any] = {}
        for scope in layers:
            merged.update(scope.values)
        return layers, merged, tuple(sorted(above - {ALL, UNGROUPED}))
