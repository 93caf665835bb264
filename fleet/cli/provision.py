"""`fleet provision` and `fleet run`: a playbook over the inventory's hosts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fleet.cli.options import AskSudo, ConnectTimeout, Forks, Inventories, Json, Limit, SshConfig

Check = Annotated[bool, typer.Option("--check", help="Print the plan and change nothing.")]
Diff = Annotated[bool, typer.Option("--diff", help="Show what each change replaces, before and after.")]
ExitCodeOption = Annotated[
    bool, typer.Option("--exit-code", help="With --check: exit with 10 when changes are pending.")
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show tasks that were ok or skipped, too.")]
Extra = Annotated[
    list[str] | None,
    typer.Option(
        "--extra-vars",
        "-e",
        metavar="KEY=VALUE",
        help="A variable as key=value, above all others; repeatable.",
    ),
]
Tags = Annotated[
    list[str] | None, typer.Option("--tags", "-t", metavar="TAG", help="Only tasks with one of these tags.")
]


def provision(
    inventory: Inventories = None,
    limit: Limit = "",
    check: Check = False,
    diff: Diff = False,
    exit_code: ExitCodeOption = False,
    playbook: Annotated[
        Path | None,
        typer.Option(
            "--playbook", "-p", metavar="FILE", help="Default: playbooks/provision.yml, else the shipped one."
        ),
    ] = None,
    tags: Tags = None,
    extra: Extra = None,
    skip_preflight: Annotated[
        bool, typer.Option("--skip-preflight", help="Begin even where a host's work cannot end as it seems.")
    ] = False,
    forks: Forks = 0,
    ask_sudo: AskSudo = False,
    connect_timeout: ConnectTimeout = 10.0,
    ssh_config: SshConfig = None,
    verbose: Verbose = False,
    json: Json = False,
) -> None:
    """Turn bare hosts into the running service.

    Drivers, Docker, the image, one container per GPU, the balancer. Looks at every host, plans, applies
    only the differences, and looks again. A second run changes nothing. Ends with a translation made
    through the balancer.

    \b
    Examples:
      fleet provision --check --diff     show the whole plan, change nothing
      fleet provision --limit gpu-03     one host only
    """
    from fleet.cli.options import open_inventory, ssh_settings
    from fleet.cli.play import Wish, play
    from fleet.provision.playbook import provision_playbook

    play(
        playbook or provision_playbook(Path.cwd()),
        open_inventory(inventory),
        ssh_settings(ask_sudo, connect_timeout, ssh_config),
        Wish(
            limit,
            check,
            diff,
            exit_code,
            tuple(tags or ()),
            tuple(extra or ()),
            forks,
            verbose,
            json,
            preflight=not skip_preflight,
        ),
        translate=not check,
        alone="fleet provision",
    )


def run_playbook(
    playbook: Annotated[Path, typer.Argument(help="The playbook to run.", show_default=False)],
    inventory: Inventories = None,
    limit: Limit = "",
    check: Check = False,
    diff: Diff = False,
    exit_code: ExitCodeOption = False,
    tags: Tags = None,
    extra: Extra = None,
    forks: Forks = 0,
    ask_sudo: AskSudo = False,
    connect_timeout: ConnectTimeout = 10.0,
    ssh_config: SshConfig = None,
    verbose: Verbose = False,
    json: Json = False,
) -> None:
    """Run any playbook, as `ansible-playbook` would. docs/modules.md lists what tasks can do."""
    from fleet.cli.options import open_inventory, ssh_settings
    from fleet.cli.play import Wish, play

    play(
        playbook,
        open_inventory(inventory),
        ssh_settings(ask_sudo, connect_timeout, ssh_config),
        Wish(limit, check, diff, exit_code, tuple(tags or ()), tuple(extra or ()), forks, verbose, json),
        translate=False,
    )
