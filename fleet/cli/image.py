"""`fleet image`: the service's images on every host: list, pull ahead of an upgrade, prune."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fleet.cli.options import AskSudo, ConnectTimeout, Forks, Inventories, Json, Limit, SshConfig

if TYPE_CHECKING:
    from fleet.engine.hostrun import Opener
    from fleet.errors import FleetError
    from fleet.images.wire import Wire
    from fleet.inventory import Inventory

app = typer.Typer(no_args_is_help=True, help="The service's images on every host: list, pull, prune.")

_GROUP = "gpu"
_Image = Annotated[
    str,
    typer.Argument(metavar="[IMAGE]", help="Default: the inventory's `image`.", show_default=False),
]


@app.command("list")
def list_(
    image: _Image = "",
    inventory: Inventories = None,
    limit: Limit = "",
    forks: Forks = 0,
    ask_sudo: AskSudo = False,
    connect_timeout: ConnectTimeout = 10.0,
    ssh_config: SshConfig = None,
    json: Json = False,
) -> None:
    """Show the images of the service's repository on each host.

    Their digests and sizes on disk, which slots run them, which releases keep them for a rollback, and which
    hosts lack the image or have another of that name. Exits with 0 when all is well, 3 when a host was
    unreachable, else 1.
    """
    from fleet.cli.options import open_inventory, print_json, refuse_examples, ssh_settings
    from fleet.engine.connect import opener
    from fleet.engine.observe import observe
    from fleet.images.listing import PROBES, listing

    loaded = open_inventory(inventory)
    refuse_examples(loaded)
    hosts = _hosts(loaded, limit)
    wanted = image or _image_of(loaded, hosts)
    open_host = opener(loaded, ssh_settings(ask_sudo, connect_timeout, ssh_config))
    seen = observe([loaded.hosts[name] for name in hosts], lambda _: PROBES, open_host, forks=forks)
    result = listing([loaded.hosts[name] for name in hosts], seen, wanted)
    if json:
        from fleet.console.image import listing_json

        print_json(listing_json(result))
    else:
        from fleet.console.image import show_listing

        show_listing(result)
    _leave(result.failed.values(), bool(result.problems))


@app.command()
def pull(
    image: _Image = "",
    inventory: Inventories = None,
    limit: Limit = "",
    playbook: Annotated[
        Path | None,
        typer.Option(
            "--playbook",
            "-p",
            metavar="FILE",
            help="Whose login is used. Default: playbooks/provision.yml, else the shipped one.",
        ),
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Print the plan and change nothing.")] = False,
    digest: Annotated[
        str, typer.Option(metavar="sha256:...", help="Exactly these bytes.", show_default=False)
    ] = "",
    limit_rate: Annotated[
        str,
        typer.Option(
            metavar="RATE",
            help="Bytes a second that each host fetches at most, such as 500K, 20M or 1G.",
            show_default=False,
        ),
    ] = "",
    no_seed: Annotated[
        bool, typer.Option("--no-seed", help="Every host asks the registry, `image_seed` or not.")
    ] = False,
    engine: Annotated[
        bool,
        typer.Option(
            "--engine",
            help="Leave all to the Docker Engine, as `docker pull`: begins anew after an interruption.",
        ),
    ] = False,
    forks: Forks = 0,
    ask_sudo: AskSudo = False,
    connect_timeout: ConnectTimeout = 10.0,
    ssh_config: SshConfig = None,
    json: Json = False,
) -> None:
    """Bring an image to every GPU host, ahead of an upgrade. Traffic is not touched.

    Says first how large it is, which layers each host has, and whether it fits. One digest on all hosts. An
    interrupted pull goes on where it was, in the middle of a layer. With `image_seed` in the inventory one
    host of a site fetches, and the others get it from that one (docs/images.md).

    \b
    Examples:
      fleet image pull registry.example.com/hunyuan-mt-webui:v2 --check
      fleet image pull registry.example.com/hunyuan-mt-webui:v2 --limit-rate 20M
    """
    from fleet.cli.options import print_json
    from fleet.cli.upgrade_run import Access, setting_of
    from fleet.console.image import PullView, plan_json, pull_json, show_plan, show_pulled
    from fleet.docker.grammar import check_digest, check_reference
    from fleet.engine.run import RunOptions
    from fleet.errors import InputError
    from fleet.images.plan import Planner
    from fleet.images.pull import Pull
    from fleet.images.rate import parse_rate
    from fleet.rollout.targets import host_targets

    rate = parse_rate(limit_rate)
    if rate and engine:
        raise InputError(
            "the Docker Engine has no limit of rate: --limit-rate and --engine do not go together",
            remedy="leave out one of them",
        )
    access = Access(
        inventory,
        playbook=playbook,
        ask_sudo=ask_sudo,
        connect_timeout=connect_timeout,
        ssh_config=ssh_config,
    )
    setting = setting_of(access)
    wanted = image or _image_of(setting.inventory, _hosts(setting.inventory, limit))
    try:
        check_reference(wanted)
        if digest:
            check_digest(digest)
    except ValueError as error:
        raise InputError(str(error)) from error
    targets = host_targets(setting.book, setting.inventory, wanted, RunOptions(limit=limit))
    with _wires(setting.opener, targets) as wires, _going_on_later():
        planner = Planner(targets, wires, wanted, forks=forks)
        plan = planner.plan(digest, engine=engine, seeding=not no_seed)
        if not json:
            show_plan(plan)
        if check:
            if json:
                print_json(plan_json(plan))
            _leave(plan.failed.values(), False)
            return
        with PullView(quiet=json) as view:
            outcome = Pull(plan, planner, targets, wires, view, rate=rate, forks=forks).run()
    if json:
        print_json(pull_json(plan, outcome))
    else:
        show_pulled(plan, outcome)
    _leave(outcome.errors.values(), False)


@app.command()
def prune(
    image: Annotated[
        str,
        typer.Argument(
            metavar="[IMAGE]",
            help="Whose repository is cleared; this image itself stays. Default: the inventory's `image`.",
            show_default=False,
        ),
    ] = "",
    inventory: Inventories = None,
    limit: Limit = "",
    keep: Annotated[
        int,
        typer.Option(
            min=0, metavar="N", help="So many of the images that nothing needs stay, those built last."
        ),
    ] = 1,
    check: Annotated[bool, typer.Option("--check", help="Show what would go, and remove nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before removing.")] = False,
    forks: Forks = 0,
    ask_sudo: AskSudo = False,
    connect_timeout: ConnectTimeout = 10.0,
    ssh_config: SshConfig = None,
    json: Json = False,
) -> None:
    """Remove images of the service's repository that nothing needs. Shows them and asks first.

    Never one that a container of the host was made from, running or kept for a rollback, whoever's it is; nor
    the inventory's, nor that of an upgrade that has not ended. Other repositories' images stay. What pulls
    left that never ended goes, too.
    """
    from fleet.cli.options import agreed, open_inventory, print_json, refuse_examples, ssh_settings
    from fleet.cli.play import standing_back
    from fleet.console.image import prune_json, show_pruned
    from fleet.engine.connect import opener
    from fleet.errors import InputError
    from fleet.images.prune import prune as carry_out
    from fleet.rollout.at_work import images_needed

    loaded = open_inventory(inventory)
    refuse_examples(loaded)
    hosts = _hosts(loaded, limit)
    wanted = image or _image_of(loaded, hosts)
    if not check and not yes and (json or not sys.stdin.isatty()):
        raise InputError(
            "nobody is there to be asked whether to remove images", remedy="say --yes, or look with --check"
        )
    named = {name: str(loaded.hosts[name].vars.get("image") or "") for name in hosts}
    open_host = opener(loaded, ssh_settings(ask_sudo, connect_timeout, ssh_config))
    look = standing_back(loaded, open_host, "fleet image prune", quiet=json, refusing=not check)
    with look as first, _wires(first.open, hosts) as wires:
        needed = images_needed(first.seen)
        clear = partial(carry_out, hosts, wires, wanted, keep=keep, named=named, needed=needed, forks=forks)
        done, failed = clear(check=True)
        rows = [row for found in done.values() for row in (*found.gone, *found.stay)]
        if done and not failed and not any(row.names or row.digest for row in rows):
            raise InputError(
                f"no host has an image of the repository of {wanted}",
                remedy="`fleet image list` shows the service's",
            )
        if not check and any(found.changes for found in done.values()):
            if not yes:
                show_pruned(done, failed, check=True)
                if not agreed("Remove these?", "nothing was removed"):
                    raise InputError("nothing was removed")
            done, failed = clear(check=False)
    if json:
        print_json(prune_json(done, failed, check=check))
    else:
        show_pruned(done, failed, check=check)
    _leave(failed.values(), False)


@contextmanager
def _going_on_later() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            "interrupted; what came so far is kept: the same command goes on from there"
        ) from None


@contextmanager
def _wires(opener: Opener, names: Iterable[str]) -> Iterator[dict[str, Wire]]:
    from fleet.images.wire import Wire

    wires = {name: Wire(name, opener) for name in names}
    try:
        yield wires
    finally:
        for wire in wires.values():
            wire.end()


def _hosts(inventory: Inventory, limit: str) -> list[str]:
    from fleet.errors import InputError

    chosen = {host.name for host in inventory.select(limit, at_least_one=True)} if limit else None
    hosts = [name for name in inventory.groups.get(_GROUP, ()) if chosen is None or name in chosen]
    if not hosts:
        raise InputError(
            f"{limit or 'the inventory'} names no host of the group `{_GROUP}`",
            remedy="`fleet inventory` shows the hosts and their groups",
        )
    return hosts


def _image_of(inventory: Inventory, hosts: list[str]) -> str:
    from fleet.errors import InputError

    found = {str(inventory.hosts[name].vars.get("image", "")) for name in hosts} - {""}
    if len(found) != 1:
        what = f"several: {', '.join(sorted(found))}" if found else "none"
        raise InputError(f"these hosts' `image` in the inventory is {what}", remedy="name the image")
    return found.pop()


def _leave(errors: Iterable[FleetError], problems: bool) -> None:
    """Exit with the code that the errors deserve, a host's failure before one that was not reached."""
    from fleet.errors import ExitCode

    codes = {error.exit_code for error in errors}
    if codes - {ExitCode.UNREACHABLE}:
        raise typer.Exit(int(ExitCode.HOST_FAILED))
    if codes:
        raise typer.Exit(int(ExitCode.UNREACHABLE))
    if problems:
        raise typer.Exit(int(ExitCode.HOST_FAILED))
