"""`fleet lab`: a fleet of real hosts on this machine, to try and test with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fleet.cli.options import Json

app = typer.Typer(
    no_args_is_help=True,
    help="A real fleet on this machine, for trying and testing: hosts that boot systemd and run sshd.",
)

Name = Annotated[str, typer.Option("--name", help="The lab's name; several stand side by side.")]


@app.command()
def up(
    name: Name = "lab",
    gpu_hosts: Annotated[int, typer.Option("--gpu-hosts", help="GPU hosts.")] = 2,
    gpus: Annotated[int, typer.Option("--gpus", help="Simulated GPUs per GPU host.")] = 2,
    balancers: Annotated[int, typer.Option("--balancers", help="Balancer hosts.")] = 1,
    registry: Annotated[
        bool, typer.Option("--registry/--no-registry", help="A host with image registry and apt repository.")
    ] = True,
    debian: Annotated[str, typer.Option("--debian", help="The hosts' Debian release: 12 or 13.")] = "13",
    debian_of: Annotated[
        list[str] | None,
        typer.Option("--debian-of", help="Another release for one host, as HOST=RELEASE; repeatable."),
    ] = None,
    inventory: Annotated[
        Path | None,
        typer.Option("--inventory", "-i", help="Where to write it. Default: inventories/NAME.yml."),
    ] = None,
    snapshot: Annotated[
        str | None, typer.Option("--snapshot", help="Start from this snapshot instead of bare hosts.")
    ] = None,
    json: Json = False,
) -> None:
    """Bring up bare hosts: SSH and sudo, nothing else. Writes their inventory, keys and known_hosts.

    Installs and starts a Docker engine first where none runs (as root on Debian or Ubuntu).
    """
    from fleet.cli.options import print_json
    from fleet.errors import InputError
    from fleet.lab import LabSpec
    from fleet.lab import up as bring_up

    releases = dict(pair.partition("=")[::2] for pair in debian_of or [])
    if not all(releases.values()):
        raise InputError("--debian-of is not HOST=RELEASE", remedy="for example --debian-of lb-01=12")
    spec = LabSpec(name, gpu_hosts, gpus, balancers, registry, debian, releases, inventory, snapshot)
    state = bring_up(spec, _say)
    if json:
        print_json(state.as_json())
        return
    typer.echo(f"next: fleet provision -i {_short(state.inventory)}")


@app.command()
def down(
    name: Name = "lab",
    images: Annotated[bool, typer.Option("--images", help="Remove the cached images, too.")] = False,
) -> None:
    """Remove a lab and all it made.

    Hosts, volumes, network, inventory, keys.
    """
    from fleet.lab import down as take_down

    take_down(name, _say, images=images)


@app.command("snapshot")
def save(
    tag: Annotated[str, typer.Argument(help="The snapshot's name.", show_default=False)],
    name: Name = "lab",
) -> None:
    """Keep the hosts as they are, for `fleet lab up --snapshot TAG`."""
    from fleet.lab import snapshot

    snapshot(name, tag, _say)


@app.command()
def status(name: Name = "lab", json: Json = False) -> None:
    """The lab's hosts, and where its service answers. Exits with 1 where there is none or one is down."""
    from fleet.cli.options import print_json
    from fleet.lab import status as look

    state = look(name)
    if json:
        print_json(state.as_json())
    elif not state.hosts:
        typer.echo(f"there is no lab {name}; start one with: fleet lab up --name {name}", err=True)
    else:
        from fleet.console.inventory import show_lab

        show_lab(state)
    if not state.hosts or any(host.state != "running" for host in state.hosts):
        raise typer.Exit(1)


def _say(line: str) -> None:
    typer.echo(line, err=True)


def _short(path: Path | None) -> Path | None:
    """The path as a user would type it from here."""
    return path.relative_to(Path.cwd()) if path and path.is_relative_to(Path.cwd()) else path
