"""Inventory variables made of other variables, rendered for those who read them without a template."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fleet.errors import InputError, Place
from fleet.inventory import Inventory, variables
from fleet.model.host import Host
from fleet.playbook.templating import evaluate, has_template


def rendered(inventory: Inventory) -> Inventory:
    """The inventory with every host's own variables rendered (an address, a port, a weight).

    A variable that cannot be rendered stays as it is: only its use, if there is one, is a mistake.
    """
    hosts = {name: _host(inventory, host) for name, host in inventory.hosts.items()}
    return replace(inventory, hosts=hosts)


def _host(inventory: Inventory, host: Host) -> Host:
    templates = {key: value for key, value in host.vars.items() if _any_template(value)}
    if not templates:
        return host
    scope = variables(inventory, host)
    settled: dict[str, Any] = {}
    for key, value in templates.items():
        try:
            settled[key] = evaluate(value, scope, inventory.where(host.name, key) or Place("inventory"))
        except InputError:
            continue
    return replace(host, vars={**host.vars, **settled})


def _any_template(value: Any) -> bool:
    if isinstance(value, str):
        return has_template(value)
    if isinstance(value, Mapping):
        return any(map(_any_template, value.values()))
    return isinstance(value, list) and any(map(_any_template, value))
