"""`fleet key`: the API keys of the gateway."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fleet.cli.options import AskSudo, ConnectTimeout, Inventories, Json, SshConfig

if TYPE_CHECKING:
    from fleet.keys import Balancers
    from fleet.model.secret import Secret

app = typer.Typer(
    no_args_is_help=True,
    help="API keys of the gateway. The balancers keep them, as hashes. Every command looks at all balancers; "
    "`add` and `revoke` also bring them what they missed.",
)


@app.command()
def add(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="Whose key it is: a user, a team, a program.", show_default=False
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Write the key to a new file (mode 600) instead of stdout.",
            show_default=False,
        ),
    ] = None,
    inventory: Inventories = None,
    ask_sudo: AskSudo = False,
    connect_timeout: ConnectTimeout = 10.0,
    ssh_config: SshConfig = None,
    json: Json = False,
) -> None:
    """Make a key and have all balancers accept it.

    NAME is whose key it is: a user, a team, a program. The key is shown once, alone on stdout:
    KEY=$(fleet key add bob). Only its hash leaves this machine. A name may have several keys: add the new
    one, bring it to its user, then revoke the old one by its ID.
    """
    from fleet.cli.options import print_json
    from fleet.console.keys import show_added
    from fleet.errors import InputError
    from fleet.keys import add_key, check_name

    if json and output is None:
        raise InputError(
            "--json never contains a key", remedy="name a file for the key as well: --output FILE"
        )
    check_name(name)
    with _balancers(inventory, ask_sudo, connect_timeout, ssh_config) as balancers:
        file = _KeyFile(output) if output is not None else None
        try:
            added = add_key(balancers, name, keep=file.write if file else None)
        except BaseException:
            if file is not None:
                file.discard()
            raise
    if json:
        print_json({**added.report.as_json(), "output": str(output)})
    else:
        show_added(added, "it is shown only this once" if output is None else f"it is in {output}")
        if output is None:
            typer.echo(added.secret.reveal())
    raise typer.Exit(int(added.report.exit_code))


@app.command("list")
def list_(
    revoked: Annotated[bool, typer.Option("--revoked", help="Show revoked keys, too.")] = False,
    inventory: Inventories = None,
    ask_sudo: AskSudo = False,
    connect_timeout: ConnectTimeout = 10.0,
    ssh_config: SshConfig = None,
    json: Json = False,
) -> None:
    """Show whose keys there are, and where the balancers disagree.

    Changes nothing. Exits with 1 where a balancer lacks a key or accepts a revoked one, 3 where a balancer
    was unreachable.
    """
    from fleet.cli.options import print_json
    from fleet.keys import list_keys

    with _balancers(inventory, ask_sudo, connect_timeout, ssh_config) as balancers:
        report = list_keys(balancers)
    if json:
        print_json(report.as_json(revoked=revoked))
    else:
        from fleet.console.keys import show_keys

        show_keys(report, revoked=revoked)
    raise typer.Exit(int(report.exit_code))


@app.command()
def revoke(
    who: Annotated[
        str, typer.Argument(metavar="ID|NAME", help="The key's ID, or the name it has.", show_default=False)
    ],
    every: Annotated[bool, typer.Option("--all", help="All keys of the name, where it has several.")] = False,
    inventory: Inventories = None,
    ask_sudo: AskSudo = False,
    connect_timeout: ConnectTimeout = 10.0,
    ssh_config: SshConfig = None,
    json: Json = False,
) -> None:
    """Have all balancers refuse a key, at once and for ever.

    HAProxy is told while it runs: no reload, no other user notices. Exits with 3 where a balancer was
    unreachable: the key may still work there, until the next add, revoke or provision that reaches it.
    """
    from fleet.cli.options import print_json
    from fleet.keys import check_who, revoke_keys

    check_who(who)
    with _balancers(inventory, ask_sudo, connect_timeout, ssh_config) as balancers:
        revoked = revoke_keys(balancers, who, every=every)
    if json:
        print_json(revoked.report.as_json())
    else:
        from fleet.console.keys import show_revoked

        show_revoked(revoked)
    raise typer.Exit(int(revoked.report.exit_code))


def _balancers(
    inventory: list[Path] | None, ask_sudo: bool, connect_timeout: float, ssh_config: Path | None
) -> Balancers:
    from fleet.cli.options import open_inventory, refuse_examples, ssh_settings
    from fleet.engine.connect import opener
    from fleet.keys import Balancers, balancers_of

    loaded = open_inventory(inventory)
    refuse_examples(loaded)
    hosts = balancers_of(loaded)
    return Balancers(hosts, opener(loaded, ssh_settings(ask_sudo, connect_timeout, ssh_config)))


class _KeyFile:
    """A new file that only its owner may read: made before the key, so that no key is made and then lost."""

    def __init__(self, path: Path) -> None:
        import os

        from fleet.errors import InputError

        self._path = path
        try:
            self._file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w")
        except FileExistsError:
            raise InputError(
                f"{path} exists already", remedy="name a new file: nothing is overwritten"
            ) from None
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror}") from error

    def write(self, secret: Secret) -> None:
        from fleet.errors import InputError

        try:
            with self._file:
                self._file.write(f"{secret.reveal()}\n")
        except OSError as error:
            raise InputError(f"cannot write {self._path}: {error.strerror}") from error

    def discard(self) -> None:
        self._file.close()
        with suppress(OSError):
            self._path.unlink()
