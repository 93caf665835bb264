"""A YAML file as values that know their place, for playbooks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fleet.errors import Place
from fleet.inventory.document import Document, kind_of, read
from fleet.inventory.problems import Problems


@dataclass(frozen=True)
class Marked:
    """A YAML value and where it stands; `key_place` is where its key stands (its own place in a list)."""

    value: Any
    place: Place
    key_place: Place

    @property
    def kind(self) -> str:
        """What a user would call the value."""
        return kind_of(self.value)

    def plain(self) -> Any:
        """The value without marks."""
        if isinstance(self.value, dict):
            return {key: item.plain() for key, item in self.value.items()}
        if isinstance(self.value, list):
            return [item.plain() for item in self.value]
        return self.value


def read_marked(path: Path) -> Marked:
    """The document in a file. Raises InputError that lists every mistake in its YAML with its line."""
    problems = Problems()
    document = read(path, problems)
    problems.check()
    top = Place(str(path), 1)
    if document is None or document.root is None:
        return Marked(None, top, top)
    marked = _marked(document.root, document, None)
    problems.check()
    return marked


def _marked(node: Any, document: Document, key_place: Place | None) -> Marked:
    place = document.place(node)
    key_place = key_place or place
    if document.is_mapping(node):
        items = {
            entry.key: _marked(entry.value_node, document, document.place(entry.key_node))
            for entry in document.entries(node, "a key")
        }
        return Marked(items, place, key_place)
    if isinstance(node.value, list):
        return Marked([_marked(child, document, None) for child in node.value], place, key_place)
    return Marked(document.value(node), place, key_place)
