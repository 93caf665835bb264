"""`fleet status`: what is up, and how it does."""

from __future__ import annotations

import typer

from fleet.cli.options import AskSudo, ConnectTimeout, Forks, Inventories, Json, Limit, SshConfig


def status(
    inventory: Inventories = None,
    limit: Limit = "",
    forks: Forks = 0,
    ask_sudo: AskSudo = False,
    connect_timeout: ConnectTimeout = 10.0,
    ssh_config: SshConfig = None,
    json: Json = False,
) -> None:
    """Show hosts, slots and balancers.

    What runs where, how it does, what is wrong. One round trip per host. A host that does not answer is a
    row. Exits with 0 when all is up, 3 when a host was unreachable, else 1.
    """
    from fleet.cli.options import open_inventory, print_json, refuse_examples, ssh_settings
    from fleet.engine.connect import opener
    from fleet.engine.observe import observe
    from fleet.errors import ExitCode, InputError
    from fleet.status import probes, summarise

    loaded = open_inventory(inventory)
    refuse_examples(loaded)
    hosts = loaded.select(limit, at_least_one=True) if limit else tuple(loaded.hosts.values())
    hosts = tuple(host for host in hosts if {"gpu", "balancer"} & set(host.groups))
    if not hosts:
        raise InputError(
            f"{limit or 'the inventory'} names no host of the groups `gpu` and `balancer`",
            remedy="`fleet inventory` shows the hosts and their groups",
        )
    seen = observe(
        hosts, probes, opener(loaded, ssh_settings(ask_sudo, connect_timeout, ssh_config)), forks=forks
    )
    result = summarise(hosts, seen, whole=not limit)
    if json:
        print_json(result.as_json())
    else:
        from fleet.console.status import show_status

        show_status(result)
    if any(host.state == "unreachable" for host in result.hosts):
        raise typer.Exit(int(ExitCode.UNREACHABLE))
    if not result.ok:
        raise typer.Exit(int(ExitCode.HOST_FAILED))
