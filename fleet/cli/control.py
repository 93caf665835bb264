"""`fleet drain`, `fleet ready`, `fleet weight`: what the balancers send to which slot."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fleet.cli.options import AskSudo, ConnectTimeout, Inventories, Json, SshConfig

if TYPE_CHECKING:
    from fleet.control import Balancers
    from fleet.engine.hostrun import Opener
    from fleet.inventory import Inventory

_WHICH = "Slots (gpu-01-0), hosts, groups, or patterns of them (gpu-0?-1, 'gpu:!gpu-03')."
Targets = Annotated[list[str], typer.Argument(metavar="TARGET...", help=_WHICH, show_default=False)]
Force = Annotated[
    bool,
    typer.Option(
        "--force",
        help="Even where no slot is left that takes jobs (the service is down then), and while an upgrade "
        "is at work.",
    ),
]


def drain(
    targets: Targets,
    deadline: Annotated[
        str,
        typer.Option(
            "--deadline",
            metavar="TIME",
            help="Wait so long (90s, 10m), then end the jobs still in flight. Default: wait 15m, end none.",
            show_default=False,
        ),
    ] = "",
    no_cut: Annotated[
        bool, typer.Option("--no-cut", help="At the deadline, leave the jobs in flight and exit with 1.")
    ] = False,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Do not wait for the jobs in flight.")] = False,
    force: Force = False,
    inventory: Inventories = None,
    ask_sudo: AskSudo = False,
    connect_timeout: ConnectTimeout = 10.0,
    ssh_config: SshConfig = None,
    json: Json = False,
) -> None:
    """Send slots no new jobs, and wait for those in flight.

    TARGET is a slot (gpu-01-0), a host (all its slots), a group, or a pattern of these (gpu-0?-1,
    'gpu:!gpu-03'). Every balancer is told. Open pages are not waited for: their next job goes to another
    slot. Ends within a second of the last job. A slot stays drained, over reloads and reboots, until `fleet
    ready`.

    \b
    Examples:
      fleet drain gpu-01-0                 one GPU
      fleet drain gpu-02 --deadline 10m    all of a host's; after 10 minutes cut what is left
    """
    from fleet.console.control import DrainView, control_json
    from fleet.control import Wait, open_balancers
    from fleet.control import drain as drain_slots
    from fleet.control.spans import seconds
    from fleet.errors import ExitCode, InputError

    if no_wait and (deadline or no_cut):
        raise InputError("--no-wait and a deadline exclude each other", remedy="leave one of them out")
    wait = None if no_wait else Wait(seconds(deadline, "--deadline"), cut=not no_cut) if deadline else Wait()
    loaded = _inventory(inventory)
    with open_balancers(
        loaded, _opener(loaded, ask_sudo, connect_timeout, ssh_config), "fleet drain"
    ) as balancers:
        slots = _slots(balancers, targets, loaded)
        _stand_back(balancers, "fleet drain", force, json)
        with DrainView(quiet=json) as view:
            result = drain_slots(balancers, slots, wait, view, force=force)
        view.result(result, targets)
    _end(
        control_json(result) if json else None,
        result.exit_code,
        at_once=result.exit_code == ExitCode.INTERRUPTED,
    )


def ready(
    targets: Targets,
    force: Annotated[
        bool,
        typer.Option("--force", help="Even while an upgrade is at work, on slots it has not checked yet."),
    ] = False,
    inventory: Inventories = None,
    ask_sudo: AskSudo = False,
    connect_timeout: ConnectTimeout = 10.0,
    ssh_config: SshConfig = None,
    json: Json = False,
) -> None:
    """Send slots new jobs again, after a drain or maintenance.

    TARGET is a slot, host, group or pattern, as for `fleet drain`. Every balancer is told. Exits with 1
    where a slot is ready and still takes no jobs (it fails its health checks, or its weight is 0), and says
    why.
    """
    from fleet.console.control import ReadyView, control_json
    from fleet.control import open_balancers
    from fleet.control import ready as make_ready

    loaded = _inventory(inventory)
    with open_balancers(
        loaded, _opener(loaded, ask_sudo, connect_timeout, ssh_config), "fleet ready"
    ) as balancers:
        slots = _slots(balancers, targets, loaded)
        _stand_back(balancers, "fleet ready", force, json)
        result = make_ready(balancers, slots)
    ReadyView(quiet=json).result(result, targets)
    _end(control_json(result) if json else None, result.exit_code)


def weight(
    target: Annotated[str, typer.Argument(metavar="TARGET", help=_WHICH, show_default=False)],
    number: Annotated[
        int | None,
        typer.Argument(
            metavar="[N]",
            min=0,
            max=256,
            help="The new weight; without it, show weights.",
            show_default=False,
        ),
    ] = None,
    force: Force = False,
    inventory: Inventories = None,
    ask_sudo: AskSudo = False,
    connect_timeout: ConnectTimeout = 10.0,
    ssh_config: SshConfig = None,
    json: Json = False,
) -> None:
    """Give slots another share of the jobs, until the next provision.

    TARGET is a slot, host, group or pattern, as for `fleet drain`; N is from 0 to 256. A slot with twice
    the weight gets twice the jobs; 0 means no new ones. The weight holds over reloads; `fleet provision`
    sets the inventory's again. Without N, show what the balancers use.
    """
    from fleet.console.control import WeightView, control_json
    from fleet.control import open_balancers, show
    from fleet.control import weight as set_weight

    loaded = _inventory(inventory)
    with open_balancers(
        loaded, _opener(loaded, ask_sudo, connect_timeout, ssh_config), "fleet weight"
    ) as balancers:
        slots = _slots(balancers, [target], loaded)
        if number is None:
            result = show(balancers, slots)
        else:
            _stand_back(balancers, "fleet weight", force, json)
            result = set_weight(balancers, slots, number, force=force)
    WeightView(quiet=json).result(result, [target])
    _end(control_json(result) if json else None, result.exit_code)


def _inventory(paths: list[Path] | None) -> Inventory:
    from fleet.cli.options import open_inventory, refuse_examples

    loaded = open_inventory(paths)
    refuse_examples(loaded)
    return loaded


def _opener(loaded: Inventory, ask_sudo: bool, connect_timeout: float, ssh_config: Path | None) -> Opener:
    from fleet.cli.options import ssh_settings
    from fleet.engine.connect import opener

    return opener(loaded, ssh_settings(ask_sudo, connect_timeout, ssh_config))


def _slots(balancers: Balancers, targets: list[str], loaded: Inventory) -> tuple[str, ...]:
    from fleet.control import select_slots

    balancers.look()
    return select_slots(targets, balancers.slots(), loaded)


def _stand_back(balancers: Balancers, command: str, force: bool, json: bool) -> None:
    """Raise LeaseError while a rollout is at work; one that waits for somebody is a line on stderr."""
    from fleet.rollout.at_work import refuse, waiting

    if not force:
        refuse(balancers.rollouts, command, insist=True)
    if not json and (line := waiting(balancers.rollouts)):
        from fleet.console.lb import show_warning

        show_warning(line)


def _end(document: object, code: int, *, at_once: bool = False) -> None:
    """The document and the exit code; `at_once` does not wait for threads that wait for hosts."""
    if document is not None:
        from fleet.cli.options import print_json

        print_json(document)
    if at_once:
        sys.stdout.flush()
        os._exit(int(code))
    if code:
        raise typer.Exit(int(code))
