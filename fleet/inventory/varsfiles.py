"""The files in group_vars/ and host_vars/ beside an inventory."""

from __future__ import annotations

import os
from pathlib import Path

from fleet.inventory.document import read
from fleet.inventory.problems import Problems
from fleet.inventory.source import read_variables
from fleet.inventory.tree import Scope

EXTENSIONS = (".yml", ".yaml", ".json")

_LOOKUP = ("", *EXTENSIONS)


class VarsFolder:
    """One group_vars/ or host_vars/: what it sets for a group's or host's name.

    As in Ansible, the first of NAME (a file, or a folder whose files are all read, in name order),
    NAME.yml, NAME.yaml and NAME.json is taken, and the others are not looked at.
    """

    def __init__(self, path: Path, problems: Problems) -> None:
        self._path = path
        self._problems = problems
        self._names = frozenset(os.listdir(path)) if path.is_dir() else frozenset()
        self._used: set[str] = set()

    def scope(self, name: str) -> Scope | None:
        """The variables set for a name; None where there is no file. To be asked once for a name."""
        found = next((name + end for end in _LOOKUP if name + end in self._names), None)
        if found is None:
            return None
        self._used.add(found)
        path = self._path / found
        scope = Scope()
        for file in _files_below(path) if path.is_dir() else [path]:
            self._read(file, scope)
        return scope

    def unused(self) -> list[Path]:
        """Files no group or host of this inventory asked for, in name order: a misspelt name, perhaps."""
        left = sorted(name for name in self._names - self._used if _counts(name))
        return [self._path / name for name in left]

    def _read(self, path: Path, into: Scope) -> None:
        document = read(path, self._problems)
        if document is None or document.is_null(document.root):
            return
        if not document.is_mapping(document.root):
            document.problem(
                document.root,
                f"a variables file is a mapping, not {document.kind(document.root)}",
                "write each variable as `name: value`",
            )
            return
        for _ in read_variables(document, document.root, into):
            pass


def _files_below(folder: Path) -> list[Path]:
    files: list[Path] = []
    for name in sorted(os.listdir(folder)):
        path = folder / name
        if not _counts(name):
            continue
        if path.is_dir():
            files.extend(_files_below(path) if not os.path.splitext(name)[1] else ())
        elif path.is_file():
            files.append(path)
    return files


def _counts(name: str) -> bool:
    """Hidden files, editors' backups and files of other kinds do not count."""
    end = os.path.splitext(name)[1]
    return not name.startswith(".") and not name.endswith("~") and (not end or end in EXTENSIONS)
