"""YAML with the place of every value: PyYAML's nodes (YAML 1.1, as Ansible reads it), made typed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fleet.errors import InputError, Place


@dataclass(frozen=True)
class Marked:
    """A YAML value and where it stands; `key_place` is where its key stands (its own place in a list)."""

    value: Any
    place: Place
    key_place: Place

    @property
    def kind(self) -> str:
        """What a user would call the value."""
        if self.value is None:
            return "nothing"
        names = {dict: "a mapping", list: "a list", str: "text", bool: "true or false"}
        return names.get(type(self.value), "a number")

    def plain(self) -> Any:
        """The value without marks."""
        if isinstance(self.value, dict):
            return {key: item.plain() for key, item in self.value.items()}
        if isinstance(self.value, list):
            return [item.plain() for item in self.value]
        return self.value


def parse(text: str, file: str) -> Marked:
    """The document in `text`. Raises InputError with file and line on bad YAML or a repeated key."""
    import yaml

    loader_class: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    loader = loader_class(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return Marked(None, Place(file, 1), Place(file, 1))
        return _marked(node, loader, file, None)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(file, mark.line + 1, mark.column + 1) if mark else Place(file)
        raise InputError(
            f"not valid YAML: {error.problem or error.context}", place=place, remedy=_hint(str(error))
        ) from error
    except yaml.YAMLError as error:
        raise InputError(f"not valid YAML: {error}", place=Place(file)) from error
    finally:
        loader.dispose()


def _marked(node: Any, loader: Any, file: str, key_place: Place | None) -> Marked:
    import yaml

    place = Place(file, node.start_mark.line + 1, node.start_mark.column + 1)
    key_place = key_place or place
    if isinstance(node, yaml.MappingNode):
        loader.flatten_mapping(node)
        items: dict[str, Marked] = {}
        for key_node, value_node in node.value:
            here = Place(file, key_node.start_mark.line + 1, key_node.start_mark.column + 1)
            key = loader.construct_object(key_node, deep=True)
            if isinstance(key, dict | list):
                raise InputError(
                    "a key is a mapping or a list", place=here, remedy='quote templates: "{{ name }}"'
                )
            if key in items:
                first = items[key].key_place.line
                raise InputError(f"key {key!r} stands twice (first on line {first})", place=here)
            items[key] = _marked(value_node, loader, file, here)
        return Marked(items, place, key_place)
    if isinstance(node, yaml.SequenceNode):
        return Marked([_marked(child, loader, file, None) for child in node.value], place, key_place)
    return Marked(loader.construct_object(node, deep=True), place, key_place)


def _hint(problem: str) -> str:
    if "found character '\\t'" in problem or "\\t" in problem:
        return "indent with spaces, not tabs"
    if "mapping values are not allowed" in problem:
        return 'quote a value that holds ": "'
    return "check the indentation and the quotes on this line and the one before"
