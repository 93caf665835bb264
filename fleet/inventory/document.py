"""A YAML file as nodes, each with its place: YAML 1.1 by PyYAML, as Ansible reads it, but stricter.

PyYAML lets a repeated key silently override the first; here it is a mistake, as are tags nobody can
read and keys that are no plain names.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from fleet.errors import Place
from fleet.inventory.problems import Problems

_YAML_TAG = "tag:yaml.org,2002:"
_STR, _NULL, _MERGE = _YAML_TAG + "str", _YAML_TAG + "null", _YAML_TAG + "merge"


@dataclass(frozen=True)
class Entry:
    """A key of a mapping with the nodes of the key and its value (None: the key stands alone)."""

    key: str
    key_node: Any
    value_node: Any


class Document:
    """One YAML file. `root` is None when the file holds nothing."""

    def __init__(self, file: str, loader: Any, root: Any, problems: Problems) -> None:
        self.file = file
        self.root = root
        self._loader = loader
        self._problems = problems

    def place(self, node: Any) -> Place:
        """Where a node starts."""
        return Place(self.file, node.start_mark.line + 1, node.start_mark.column + 1)

    def problem(self, node: Any, message: str, remedy: str) -> None:
        """Note a mistake at a node."""
        self._problems.add(self.place(node), message, remedy)

    def whole_file_problem(self, message: str, remedy: str) -> None:
        """Note a mistake that has no line."""
        self._problems.add(Place(self.file), message, remedy)

    def entries(self, node: Any, what: str) -> Iterator[Entry]:
        """The entries of a mapping, merges (`<<`) applied; `what` names its keys in errors."""
        self._loader.flatten_mapping(node)
        for key_node, value_node in node.value:
            if key_node.tag == _STR:
                yield Entry(key_node.value, key_node, value_node)
            else:
                self.problem(
                    key_node,
                    f"{what} is {key_node.value or 'empty'}, which YAML reads as {self.kind(key_node)}",
                    f'quote it: "{key_node.value}":',
                )

    def keyed(self, node: Any, what: str) -> Iterator[Entry]:
        """The entries of a mapping, or of a lone name (`hosts: gpu-01`), or of nothing."""
        if self.is_mapping(node):
            yield from self.entries(node, what)
        elif self.is_text(node):
            yield Entry(node.value, node, None)

    def value(self, node: Any) -> Any:
        """The node's value, typed as YAML 1.1 types it; None (and a problem) where it cannot be read."""
        if node.tag == _STR and isinstance(node.value, str):
            return node.value
        try:
            return self._loader.construct_object(node, deep=True)
        except (_yaml().YAMLError, ValueError, OverflowError, TypeError) as error:
            reason = getattr(error, "problem", None) or str(error)
            self.problem(node, f"the value cannot be read: {reason}", "quote it if text is meant")
            return None

    def is_mapping(self, node: Any) -> bool:
        """True for a mapping."""
        return isinstance(node, _yaml().MappingNode)

    def is_text(self, node: Any) -> bool:
        """True for a string."""
        return bool(node.tag == _STR)

    def is_null(self, node: Any) -> bool:
        """True for nothing at all, `~` and `null`."""
        return node is None or node.tag == _NULL

    def kind(self, node: Any) -> str:
        """What a user would call the value."""
        if self.is_mapping(node):
            return "a mapping"
        if isinstance(node, _yaml().SequenceNode):
            return "a list"
        return kind_of(self.value(node))

    def survey(self) -> bool:
        """Look through the whole file for repeated keys, unknown tags and cycles; True when sound."""
        sound = True
        done: set[int] = set()
        active: set[int] = set()
        yaml = _yaml()

        def walk(node: Any) -> None:
            nonlocal sound
            if not node.tag.startswith(_YAML_TAG):
                sound = False
                self.problem(node, *_about_tag(node.tag))
            if isinstance(node, yaml.ScalarNode) or id(node) in done:
                return
            if id(node) in active:
                sound = False
                self.problem(node, "the value contains itself", "remove the alias inside its own anchor")
                return
            active.add(id(node))
            if isinstance(node, yaml.MappingNode):
                sound &= self._keys_are_sound(node)
                for _, child in node.value:
                    walk(child)
            else:
                for child in node.value:
                    walk(child)
            active.discard(id(node))
            done.add(id(node))

        if self.root is not None:
            walk(self.root)
        return sound

    def _keys_are_sound(self, node: Any) -> bool:
        seen: dict[tuple[str, str], Any] = {}
        sound = True
        for key_node, _ in node.value:
            if not isinstance(key_node.value, str):
                sound = False
                self.problem(key_node, "a key is itself a mapping or a list", 'quote templates: "{{ name }}"')
                continue
            first = seen.setdefault((key_node.tag, key_node.value), key_node)
            if first is not key_node and key_node.tag != _MERGE:
                sound = False
                self.problem(
                    key_node,
                    f"{key_node.value} stands twice here, first on line {first.start_mark.line + 1}",
                    "YAML would silently drop the first one: merge the two, or remove one",
                )
        return sound


def kind_of(value: Any) -> str:
    """What a user would call a value."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return f"the number {value}"
    if isinstance(value, date):  # a datetime is a date too
        return "a date"
    if isinstance(value, dict):
        return "a mapping"
    return "text" if isinstance(value, str) else "a list"


def read(path: Path, problems: Problems) -> Document | None:
    """The document in a file; None where it cannot be used (the reasons are then in `problems`)."""
    file = str(path)
    try:
        raw = path.read_bytes()
        text = raw.decode("utf-8-sig")
    except OSError as error:
        problems.add(Place(file), f"cannot be read: {error.strerror}", "correct the path or its permissions")
        return None
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        problems.add(Place(file, line), "the file is not UTF-8 text", "save it as UTF-8")
        return None
    if text.startswith("$ANSIBLE_VAULT;"):
        problems.add(Place(file, 1), *_VAULT)
        return None
    return parse(file, text, problems)


def parse(file: str, text: str, problems: Problems) -> Document | None:
    """The document in a text; None where it cannot be used. `file` names it in problems."""
    yaml = _yaml()
    try:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)
        document = Document(file, loader, loader.get_single_node(), problems)
        return document if document.survey() else None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(file, mark.line + 1, mark.column + 1) if mark else Place(file)
        problems.add(place, *_about_syntax(error, text.splitlines(), mark.line if mark else 0))
    except yaml.YAMLError as error:
        problems.add(Place(file), f"not valid YAML: {error}", "remove the character that YAML forbids")
    except RecursionError:
        problems.add(Place(file), "the YAML is nested too deeply to be read", "flatten it")
    return None


def _about_syntax(error: Any, lines: list[str], number: int) -> tuple[str, str]:
    problem = str(error.problem or error.context)
    line = lines[number] if number < len(lines) else ""
    if "\t" in line and ("token" in problem or "indent" in problem or "tab" in problem):
        return "a tab stands where YAML allows only spaces", "indent with spaces"
    if next((each for each in lines if each.strip() and each[0] not in "#;"), "").startswith("["):
        return (
            f"not valid YAML: {problem}; this looks like an INI inventory",
            "convert it: ansible-inventory -i FILE --list --yaml > inventory.yml",
        )
    if "mapping values are not allowed" in problem:
        return f"not valid YAML: {problem}", "quote a value that holds `: `, and check the indentation"
    if "expected ':'" in problem:
        return f"not valid YAML: {problem}", "end the name on the line before with a colon"
    if "another document" in problem or "single document" in problem or "document start" in problem:
        return f"not valid YAML: {problem}", "keep one document in a file; check the indentation"
    return f"not valid YAML: {problem}", "check indentation and quotes on this line and the one before"


_VAULT = (
    "encrypted with Ansible Vault, which fleet cannot read yet",
    "keep the secret in an environment variable or a file of mode 0600, named by a variable such as"
    " registry_password_env or registry_password_file",
)


def _about_tag(tag: str) -> tuple[str, str]:
    if tag in ("!vault", "!vault-encrypted"):
        return _VAULT
    return f"the YAML tag {tag} is not supported", "remove the tag, or quote a value that starts with `!`"


def _yaml() -> Any:
    import yaml  # the one heavy import of reading an inventory: only commands that read one pay for it

    return yaml
