"""`fleet history` and `fleet release show`: what was rolled out, and what a release is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from fleet.cli.options import AskSudo, ConnectTimeout, Inventories, Json, SshConfig

if TYPE_CHECKING:
    from pathlib import Path

    from fleet.rollout.operate import Operation

app = typer.Typer(no_args_is_help=True, help="One release: what it is, who brought it, where it runs.")


def history(
    inventory: Inventories = None,
    ask_sudo: AskSudo = False,
    connect_timeout: ConnectTimeout = 10.0,
    ssh_config: SshConfig = None,
    json: Json = False,
) -> None:
    """List what was rolled out, the newest first: when, by whom, and how it ended.

    The balancers remember the last 20. `fleet rollback RELEASE` takes an id, image, tag or digest of these.
    """
    from fleet.cli.options import print_json
    from fleet.console.rollout_history import history_json, show_history

    with _operation(inventory, ask_sudo, connect_timeout, ssh_config) as operation:
        rows = operation.history()
    if json:
        print_json(history_json(rows))
    else:
        show_history(rows)


@app.command()
def show(
    release: Annotated[
        str,
        typer.Argument(
            metavar="[RELEASE]",
            help="A rollout, image, tag or digest of `fleet history`. Default: the newest.",
            show_default=False,
        ),
    ] = "",
    inventory: Inventories = None,
    ask_sudo: AskSudo = False,
    connect_timeout: ConnectTimeout = 10.0,
    ssh_config: SshConfig = None,
    json: Json = False,
) -> None:
    """Show one rollout: its image and digest, what was before, how it ended, and which slots run it."""
    from fleet.cli.options import print_json
    from fleet.console.rollout_history import release_json, show_release
    from fleet.errors import InputError
    from fleet.rollout.history import find_row

    with _operation(inventory, ask_sudo, connect_timeout, ssh_config) as operation:
        rows = operation.history()
        if not rows:
            raise InputError("nothing was rolled out yet", remedy="`fleet upgrade IMAGE` does")
        row = find_row(rows, release) if release else rows[0]
        detail = operation.release(row)
    if json:
        print_json(release_json(detail))
    else:
        show_release(detail)


def _operation(
    inventory: list[Path] | None, ask_sudo: bool, connect_timeout: float, ssh_config: Path | None
) -> Operation:
    from fleet.cli.upgrade_run import Access, setting_of
    from fleet.rollout.operate import Operation

    access = Access(inventory, ask_sudo=ask_sudo, connect_timeout=connect_timeout, ssh_config=ssh_config)
    return Operation(setting_of(access), reading=True)
