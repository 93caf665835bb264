"""`fleet doctor`: what is wrong with the hosts, why it matters, and what to do."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from fleet.cli.options import AskSudo, ConnectTimeout, Forks, Inventories, Json, Limit, SshConfig

if TYPE_CHECKING:
    from fleet.doctor.model import Check, Finding
    from fleet.model.host import Host

Only = Annotated[
    list[str] | None,
    typer.Option(
        "--only",
        "-o",
        metavar="CHECK",
        help="Only this group or check: driver, driver/health, health; repeatable.",
        show_default=False,
    ),
]


def doctor(
    inventory: Inventories = None,
    limit: Limit = "",
    only: Only = None,
    list_: Annotated[bool, typer.Option("--list", help="List all checks, look at no host.")] = False,
    fix: Annotated[
        bool, typer.Option("--fix", help="Mend what can be mended without harm to any job; asks first.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="With --fix: do not ask.")] = False,
    forks: Forks = 0,
    ask_sudo: AskSudo = False,
    connect_timeout: ConnectTimeout = 10.0,
    ssh_config: SshConfig = None,
    json: Json = False,
) -> None:
    """Examine every host, name what is wrong and how to mend it.

    Connection, system, driver, containers (from outside and from inside), service, balancers. One round trip
    per host; nothing is changed without --fix. Exits with 0 when all is well, 3 when a host was unreachable,
    else 1.

    \b
    Examples:
      fleet doctor --only driver --limit gpu-03
      fleet doctor --fix                 mend what is safe, after asking
    """
    from dataclasses import replace

    from fleet.cli.options import open_inventory, print_json, refuse_examples, ssh_settings
    from fleet.console.doctor import report_json, show_checks, show_report
    from fleet.doctor.checks import ALL, chosen
    from fleet.doctor.examine import examine, mend
    from fleet.engine.connect import opener
    from fleet.errors import ExitCode, InputError
    from fleet.inventory import variables

    checks = chosen(only or ())
    if list_:
        if json:
            rows = [
                {"check": each.id, "why": each.why, "on": list(each.on)} for each in ALL if each in checks
            ]
            print_json({"checks": rows})
        else:
            show_checks(checks)
        return
    loaded = open_inventory(inventory)
    refuse_examples(loaded)
    if yes and not fix:
        raise InputError("--yes goes with --fix", remedy="add --fix, or leave --yes out")
    if fix and not yes and (json or not sys.stdin.isatty()):
        raise InputError(
            "--fix asks before it changes anything, and there is nobody to ask", remedy="add --yes"
        )
    named = loaded.select(limit, at_least_one=True) if limit else tuple(loaded.hosts.values())
    hosts = tuple(
        replace(host, vars={**host.vars, "inventory_dir": variables(loaded, host)["inventory_dir"]})
        for host in named
        if {"gpu", "balancer"} & set(host.groups)
    )
    if not hosts:
        raise InputError(
            f"{limit or 'the inventory'} names no host of the groups `gpu` and `balancer`",
            remedy="`fleet inventory` shows the hosts and their groups",
        )
    _refuse_nothing(only or (), checks, hosts)
    open_host = opener(loaded, ssh_settings(ask_sudo, connect_timeout, ssh_config))
    report = examine(hosts, checks, loaded.hosts, open_host, forks=forks)
    if fix:
        mendable = [each for each in report.findings if each.trouble.fix is not None]
        if mendable and (yes or _agreed(mendable)):
            report = mend(mendable, hosts, checks, loaded.hosts, open_host, report, forks=forks)
    if json:
        print_json(report_json(report))
    else:
        show_report(report)
    if report.unreachable:
        raise typer.Exit(int(ExitCode.UNREACHABLE))
    if not report.ok:
        raise typer.Exit(int(ExitCode.HOST_FAILED))


def _refuse_nothing(words: Sequence[str], checks: Sequence[Check], hosts: Sequence[Host]) -> None:
    """Raise InputError where no host is asked any of the chosen checks but for those of the connection."""
    from fleet.doctor import connection
    from fleet.errors import InputError

    asked = [check for check in checks if check not in connection.CHECKS]
    if asked and not any(check.concerns(host) for check in asked for host in hosts):
        groups = " and ".join(dict.fromkeys(f"`{group}`" for check in asked for group in check.on))
        raise InputError(
            f"there is nothing to look at: --only {','.join(words)} is for hosts of {groups}, and none of "
            f"{', '.join(host.name for host in hosts[:8])} is one",
            remedy="choose other checks, or other hosts with --limit",
        )


def _agreed(findings: list[Finding]) -> bool:
    from fleet.cli.options import agreed
    from fleet.console.doctor import show_fixes

    show_fixes(findings)
    return agreed("Do this?", "nothing was changed")
