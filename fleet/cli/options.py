"""Options that several commands share, and what they need to open an inventory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from fleet.inventory import Inventory
    from fleet.ssh import SshSettings

Inventories = Annotated[
    list[Path] | None,
    typer.Option(
        "--inventory",
        "-i",
        metavar="FILE",
        help="Inventory file or folder (Ansible's YAML form); may be given more than once. "
        "Default: the only file in inventories/ besides example.yml.",
        envvar="FLEET_INVENTORY",
        show_default=False,
    ),
]
Limit = Annotated[
    str,
    typer.Option(
        "--limit",
        "-l",
        metavar="PATTERN",
        help="Only hosts matching this pattern, as in Ansible.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, all else on stderr.")]
Forks = Annotated[
    int, typer.Option("--forks", "-f", min=0, metavar="N", help="Hosts worked on at once; 0: all, up to 64.")
]
AskSudo = Annotated[
    bool,
    typer.Option(
        "--ask-sudo-pass", "-K", help="Ask once for the sudo password (or set FLEET_SUDO_PASSWORD)."
    ),
]
ConnectTimeout = Annotated[
    float,
    typer.Option("--connect-timeout", min=1, metavar="SECONDS", help="Seconds to wait for a host's SSH."),
]


SshConfig = Annotated[
    Path | None,
    typer.Option(
        "--ssh-config",
        "-F",
        metavar="FILE",
        help="Instead of ~/.ssh/config, as `ssh -F`.",
        show_default=False,
    ),
]


def open_inventory(paths: list[Path] | None) -> Inventory:
    """The inventory named, or the only one in inventories/. Raises InputError."""
    from fleet.inventory import load
    from fleet.playbook.variables import rendered

    return rendered(load(paths or [default_inventory(Path.cwd())]))


def refuse_examples(inventory: Inventory) -> None:
    """Raise InputError where a host still has an address that only examples have (RFC 5737)."""
    from fleet.errors import InputError

    for host in inventory.hosts.values():
        if host.ssh_host.startswith(("192.0.2.", "198.51.100.", "203.0.113.")):
            raise InputError(
                f"{host.name} has the example address {host.ssh_host}",
                place=inventory.where(host.name, "ansible_host") or host.place,
                remedy="put your hosts' addresses there",
            )


def default_inventory(project: Path) -> Path:
    """The only inventory file in `project`/inventories. Raises InputError where there is none or a choice."""
    from fleet.errors import InputError

    folder = project / "inventories"
    found = sorted(p for p in folder.glob("*.y*ml") if p.name != "example.yml") if folder.is_dir() else []
    if len(found) == 1:
        return found[0]
    if not found:
        raise InputError(
            "no inventory: there is none in inventories/",
            remedy="name one with -i FILE, or make a starter project with `fleet init DIR`",
        )
    raise InputError(
        f"several inventories: {', '.join(str(p.relative_to(project)) for p in found)}",
        remedy="choose one with -i FILE or FLEET_INVENTORY",
    )


def ssh_settings(ask_sudo: bool, connect_timeout: float, ssh_config: Path | None) -> SshSettings:
    """How to connect, from a command's options; the sudo password is asked for, or FLEET_SUDO_PASSWORD's."""
    import os

    from fleet.errors import InputError
    from fleet.model.secret import Secret
    from fleet.ssh import SshSettings

    password = os.environ.get("FLEET_SUDO_PASSWORD")
    if ask_sudo:
        if not _terminal():
            raise InputError(
                "nobody is there to be asked for the sudo password", remedy="set FLEET_SUDO_PASSWORD instead"
            )
        password = typer.prompt("sudo password", hide_input=True, err=True)
    return SshSettings(
        connect_timeout=connect_timeout,
        sudo_password=None if password is None else Secret(password),
        ssh_config=ssh_config,
    )


def _terminal() -> bool:
    """Whether a password can be typed without being shown; getpass would else warn, and echo it."""
    import os
    import sys

    if sys.stdin.isatty():
        return True
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def print_json(document: Any) -> None:
    """One JSON document on stdout."""
    import msgspec

    typer.echo(msgspec.json.format(msgspec.json.encode(document), indent=2).decode())


def agreed(question: str, otherwise: str, *, err: bool = True) -> bool:
    """Whether somebody at the terminal says yes; no is the default.

    Ctrl-C, or the end of the input, prints `otherwise` and exits with 130.
    """
    from fleet.errors import ExitCode

    try:
        return typer.confirm(question, err=err)
    except typer.Abort:
        typer.echo(f"\n{otherwise}", err=True)
        raise typer.Exit(int(ExitCode.INTERRUPTED)) from None
