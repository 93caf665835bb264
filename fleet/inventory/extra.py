"""Variables from the command line: checked as those of an inventory, and above all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from fleet.errors import InputError
from fleet.inventory.check import check_variable
from fleet.inventory.document import parse
from fleet.inventory.inventory import Inventory
from fleet.inventory.problems import Problems


def extra_variables(pairs: Iterable[str]) -> dict[str, Any]:
    """`key=value` pairs; a value is YAML, so numbers, lists and mappings keep their type.

    Raises InputError for what is no pair, no YAML, or not what fleet's variable of that name takes.
    """
    values: dict[str, Any] = {}
    problems = Problems()
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key.isidentifier():
            raise InputError(f"--extra-vars {pair!r} is not key=value", remedy="for example -e lb_port=8080")
        document = parse("--extra-vars", f"{key}: {text}", problems)
        problems.check()
        if document is None or document.root is None:
            continue
        for entry in document.entries(document.root, "a variable"):
            value = document.value(entry.value_node)
            values[entry.key] = check_variable(document, entry.key, entry.key_node, entry.value_node, value)
    problems.check()
    return values


def with_extra(inventory: Inventory, extra: Mapping[str, Any]) -> Inventory:
    """The inventory with the variables set for every host, above the host's own."""
    if not extra:
        return inventory
    hosts = {name: replace(host, vars={**host.vars, **extra}) for name, host in inventory.hosts.items()}
    return replace(inventory, hosts=hosts)
