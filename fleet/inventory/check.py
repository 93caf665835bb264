"""Checks a variable where it is set: is its name one that means something, is its value of the right kind?"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from typing import Any

from fleet.inventory.document import Document, kind_of
from fleet.inventory.known import (
    ANSIBLE_NAMES,
    CONNECTION_VARIABLES,
    FLEET_VARIABLES,
    RENAMED,
    RESERVED,
    Kind,
    Variable,
    is_ansible_name,
)
from fleet.inventory.names import misspelt, suggest

_YES = ("yes", "true", "on", "1", "y", "t")
_BOOLEAN_WORDS = (*_YES, "no", "false", "off", "0", "n", "f")


def check_variable(document: Document, name: str, key_node: Any, node: Any, value: Any) -> Any:
    """Note what is wrong with a variable's name or value in the document's problems; return what it means.

    That is the value itself, but true or false for a word that says so (`"no"`, in quotes, or in a file whose
    values are all texts): to a condition any text would be true.
    """
    variable = FLEET_VARIABLES.get(name) or CONNECTION_VARIABLES.get(name)
    if variable is None:
        wrong = _wrong_name(name)
        if wrong:
            document.problem(key_node, *wrong)
    elif not is_template(value):
        _check_value(document, variable, node, value)
        if variable.kind is Kind.BOOLEAN and name in FLEET_VARIABLES and isinstance(value, int | str):
            return value if isinstance(value, bool) else str(value).lower() in _YES
    return value


def is_template(value: Any) -> bool:
    """True for text with a template, whose kind is not known before it is rendered."""
    return isinstance(value, str) and ("{{" in value or "{%" in value)


@cache
def _wrong_name(name: str) -> tuple[str, str] | None:
    """Message and remedy for a name that cannot be meant; None for the user's own variables."""
    if name in RESERVED:
        return f"{name} is set by fleet itself, for every host", "choose another name"
    if name in RENAMED:
        return f"{name} is an old name that fleet does not read", f"write {RENAMED[name]}"
    if name.startswith("ansible_"):
        if is_ansible_name(name):
            return None
        meant = _suggest_behind("ansible_", name, ANSIBLE_NAMES)
        return f"Ansible has no connection variable {name}", _did_you_mean(meant, "a name without `ansible_`")
    if name.startswith("fleet_"):
        meant = _suggest_behind("fleet_", name, FLEET_VARIABLES)
        return f"fleet has no variable {name}", _did_you_mean(meant, "a name without `fleet_`")
    if name == "registry_password":
        return (
            "a password does not belong in an inventory",
            "name an environment variable with registry_password_env, or a file with registry_password_file",
        )
    meant = misspelt(name, FLEET_VARIABLES) or misspelt(name, CONNECTION_VARIABLES)
    return (f"unknown variable {name}", f"did you mean {meant}?") if meant else None


def _suggest_behind(prefix: str, name: str, known: Iterable[str]) -> str | None:
    """The nearest name with the prefix; the prefix itself makes nothing near."""
    rests = [each.removeprefix(prefix) for each in known if each.startswith(prefix)]
    meant = suggest(name.removeprefix(prefix), rests)
    return prefix + meant if meant else None


def _did_you_mean(meant: str | None, otherwise: str) -> str:
    return f"did you mean {meant}?" if meant else f"give a variable of your own {otherwise}"


def _check_value(document: Document, variable: Variable, node: Any, value: Any) -> None:
    name, kind = variable.name, variable.kind
    if value is None:
        document.problem(node, f"{name} has no value", f"give it {kind.value}, or remove the line")
    elif kind is Kind.TEXT:
        _check_text(document, name, node, value, variable.choices)
    elif kind is Kind.INTEGER:
        _check_number(document, name, node, value, variable)
    elif kind is Kind.BOOLEAN:
        if not isinstance(value, bool) and str(value).lower() not in _BOOLEAN_WORDS:
            _wrong_kind(document, name, node, value, kind)
    elif kind is Kind.TEXTS:
        if not isinstance(value, list):
            _wrong_kind(document, name, node, value, kind)
            return
        for index, (item_node, item) in enumerate(zip(node.value, value, strict=True)):
            _check_text(document, f"{name}[{index}]", item_node, item)
    elif kind is Kind.MAPPINGS and isinstance(value, list):
        for item_node, item in zip(node.value, value, strict=True):
            if isinstance(item, dict):
                _check_members(document, variable, item_node, item)
            else:
                _wrong_kind(document, name, item_node, item, Kind.MAPPING)
    elif not isinstance(value, dict):
        _wrong_kind(document, name, node, value, kind)
    else:
        _check_members(document, variable, node, value)


def _check_members(document: Document, variable: Variable, node: Any, value: dict[str, Any]) -> None:
    for entry in document.entries(node, f"a key of {variable.name}"):
        path = f"{variable.name}.{entry.key}"
        item = value.get(entry.key)
        if variable.members and entry.key not in variable.members:
            meant = suggest(entry.key, variable.members)
            document.problem(
                entry.key_node,
                f"{variable.name} has no key {entry.key}",
                f"did you mean {meant}?" if meant else f"its keys are {', '.join(variable.members)}",
            )
        elif is_template(item):
            continue
        elif variable.kind is Kind.NAMED_TEXTS:
            _check_text(document, path, entry.value_node, item, numbers=True)
        elif variable.kind is Kind.NAMED_NUMBERS:
            _check_number(document, path, entry.value_node, item, variable)


def _check_text(
    document: Document,
    name: str,
    node: Any,
    value: Any,
    choices: tuple[str, ...] = (),
    numbers: bool = False,
) -> None:
    """Text must be text in YAML's eyes too; with `numbers`, a whole number written plainly will do."""
    raw = node.value if isinstance(node.value, str) else ""
    if isinstance(value, str):
        if choices and value not in choices and not is_template(value):
            meant = suggest(value, choices)
            document.problem(
                node,
                f"{name} is {value!r}, but must be one of {', '.join(choices)}",
                f"did you mean {meant}?" if meant else f"write one of {', '.join(choices)}",
            )
    elif numbers and type(value) is int and str(value) == raw:
        return
    elif value is None or isinstance(value, list | dict):
        _wrong_kind(document, name, node, value, Kind.TEXT)
    else:
        document.problem(
            node,
            f"{name} must be text, but YAML reads {raw} as {kind_of(value)}",
            f'quote it: "{raw}"',
        )


def _check_number(document: Document, name: str, node: Any, value: Any, variable: Variable) -> None:
    number = _number(value)
    if number is None:
        _wrong_kind(document, name, node, value, variable.kind)
    elif isinstance(value, int) and node.value != str(value):  # 010 is octal, 12:30 counts in sixties
        document.problem(
            node,
            f"{name}: YAML reads {node.value} as {kind_of(value)}",
            f'write it plainly, or quote it: "{node.value}"',
        )
    elif (variable.low is not None and number < variable.low) or (
        variable.high is not None and number > variable.high
    ):
        bounds = f"from {variable.low}" + (f" to {variable.high}" if variable.high is not None else " up")
        document.problem(node, f"{name} is {value}, out of bounds", f"give it a number {bounds}")


def _number(value: Any) -> int | None:
    """The number a value is or, as in Ansible, the number it spells."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, str) and re.fullmatch("[0-9]{1,30}", value.strip()):
        return int(value)
    return None


def _wrong_kind(document: Document, name: str, node: Any, value: Any, kind: Kind) -> None:
    shown = f"{value!r}" if isinstance(value, str) else kind_of(value)
    document.problem(node, f"{name} must be {kind.value}, not {shown}", f"write {kind.value}")
