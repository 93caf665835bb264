"""`fleet inventory`: the hosts as fleet understands them."""

from __future__ import annotations

from fleet.cli.options import Inventories, Json, Limit


def inventory(inventory: Inventories = None, limit: Limit = "", json: Json = False) -> None:
    """List the inventory's hosts, with addresses and groups."""
    from fleet.cli.options import open_inventory, print_json
    from fleet.inventory import table

    loaded = open_inventory(inventory)
    hosts = loaded.select(limit, at_least_one=True) if limit else tuple(loaded.hosts.values())
    rows = table(loaded, hosts)
    if json:
        print_json({"hosts": rows, "groups": {name: list(names) for name, names in loaded.groups.items()}})
        return
    from fleet.console.inventory import show_inventory

    show_inventory(rows)
