"""`fleet init`: a starter project."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def init(
    directory: Annotated[Path, typer.Argument(help="Where to write it; made if needed.", show_default=False)],
) -> None:
    """Write a starter project: inventory, playbooks, template. Fill in the hosts' addresses and go."""
    from fleet.project import init as write

    for path in write(directory):
        typer.echo(f"wrote {path}")
    typer.echo(
        f"next: put your hosts into {directory / 'inventories' / 'production.yml'}, then, in {directory}:"
    )
    typer.echo("  fleet trust                       pin the hosts' SSH keys")
    typer.echo("  fleet provision --check --diff    see the plan")
    typer.echo("  fleet provision                   carry it out")
    typer.echo("  fleet upgrade IMAGE --check       later: another release, without losing a request")
