"""`fleet reboot`: hosts that wait for a reboot get it, drained first and whole afterwards."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fleet.cli.options import AskSudo, ConnectTimeout, Inventories, Json, SshConfig

if TYPE_CHECKING:
    from fleet.inventory import Inventory

_PATIENCE = "15m"
"""What --deadline and --timeout are by default."""


def reboot(
    targets: Annotated[
        list[str],
        typer.Argument(
            metavar="TARGET...",
            help="Hosts, groups, or patterns of them (gpu, gpu-03, 'gpu:!gpu-03').",
            show_default=False,
        ),
    ],
    check: Annotated[
        bool, typer.Option("--check", help="Show which hosts would be rebooted, and why; change nothing.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Also hosts that nothing asks a reboot of.")] = False,
    deadline: Annotated[
        str, typer.Option("--deadline", metavar="TIME", help="How long to wait for the jobs in flight.")
    ] = _PATIENCE,
    cut: Annotated[
        bool,
        typer.Option(
            "--cut", help="At the deadline end the jobs that are left; else the host is left as it is."
        ),
    ] = False,
    timeout: Annotated[
        str,
        typer.Option(
            "--timeout",
            metavar="TIME",
            help="How long to wait for a host to come back, and again for its containers to answer.",
        ),
    ] = _PATIENCE,
    serial: Annotated[
        int,
        typer.Option(
            "--serial", "--forks", "-f", metavar="N", min=1, help="At most so many hosts at the same time."
        ),
    ] = 1,
    floor: Annotated[
        str | None,
        typer.Option(
            "--floor",
            metavar="N|N%",
            help="So much of the weight that serves stays ready; without it half, below which one host alone "
            "may go.",
            show_default=False,
        ),
    ] = None,
    allow_down: Annotated[
        bool,
        typer.Option(
            "--allow-down", help="Even the only hosts that take jobs: the service is down meanwhile."
        ),
    ] = False,
    inventory: Inventories = None,
    ask_sudo: AskSudo = False,
    connect_timeout: ConnectTimeout = 10.0,
    ssh_config: SshConfig = None,
    json: Json = False,
) -> None:
    """Reboot hosts that wait for it, without losing a request.

    One host after the other: drained on every balancer, its jobs waited for, rebooted, back with another
    boot id, all its GPUs there, its containers answering; then it takes jobs again. Slots that somebody else
    drained stay drained. A host that does not come back, or not whole, ends it: the others are not touched.
    After Ctrl-C (SIGTERM and a lost terminal are the same) or a lost controller the same command goes on.

    \b
    Examples:
      fleet reboot gpu --check       which hosts wait for a reboot, and why
      fleet reboot gpu               those, one after the other
      fleet reboot gpu-03 --force    this one in any case
    """
    from fleet.cli.options import open_inventory, print_json, refuse_examples, ssh_settings
    from fleet.console.reboot import RebootView, reboot_json
    from fleet.control.spans import seconds
    from fleet.engine.connect import opener
    from fleet.reboot import Wish, pending
    from fleet.reboot import reboot as reboot_hosts
    from fleet.rollout.options import OPTIONS, read_value

    wish = Wish(
        force=force,
        deadline=seconds(deadline, "--deadline"),
        cut=cut,
        timeout=seconds(timeout, "--timeout"),
        allow_down=allow_down,
        together=serial,
        floor=None if floor is None else read_value(OPTIONS["floor"], "--floor", floor),
    )
    loaded = open_inventory(inventory)
    refuse_examples(loaded)
    names = _hosts(loaded, targets)
    open_host = opener(loaded, ssh_settings(ask_sudo, connect_timeout, ssh_config))
    view = RebootView(quiet=json)
    if check:
        result = pending(names, loaded, open_host, wish)
    else:
        command = f"fleet reboot {' '.join(targets)}"
        result = reboot_hosts(names, loaded, open_host, command, wish, view)
    options: dict[str, str | bool] = {
        "--force": force,
        "--deadline": deadline if deadline != _PATIENCE else "",
        "--cut": cut,
        "--timeout": timeout if timeout != _PATIENCE else "",
        "--serial": str(serial) if serial != 1 else "",
        "--floor": floor or "",
        "--allow-down": allow_down,
        "--ask-sudo-pass": ask_sudo,
        "--ssh-config": str(ssh_config or ""),
    }
    view.result(result, "" if check else _again(result.left, options, inventory))
    if json:
        print_json(reboot_json(result))
    if result.exit_code:
        raise typer.Exit(int(result.exit_code))


def _again(left: Sequence[str], options: Mapping[str, str | bool], inventory: list[Path] | None) -> str:
    """The command for the hosts that are left; a forced one must not name those that are done."""
    said = (word for name, value in options.items() if value for word in (name, value) if word is not True)
    files = (word for path in inventory or () for word in ("-i", str(path)))
    return shlex.join(["fleet", "reboot", *left, *map(str, said), *files])


def _hosts(loaded: Inventory, targets: list[str]) -> list[str]:
    """The hosts that any target means, in the order of the inventory."""
    meant = {host.name for target in targets for host in loaded.select(target, at_least_one=True)}
    return [name for name in loaded.hosts if name in meant]
