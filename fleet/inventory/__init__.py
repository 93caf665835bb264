"""Ansible's YAML inventory into typed hosts."""

from fleet.inventory.extra import extra_variables, with_extra
from fleet.inventory.inventory import Inventory, variables
from fleet.inventory.known import CONNECTION_VARIABLES, FLEET_VARIABLES
from fleet.inventory.load import load
from fleet.inventory.rows import HostRow, table

__all__ = [
    "CONNECTION_VARIABLES",
    "FLEET_VARIABLES",
    "HostRow",
    "Inventory",
    "extra_variables",
    "load",
    "table",
    "variables",
    "with_extra",
]
