"""What `fleet provision` and `fleet run` share: a playbook run, shown, and its exit code."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from fleet.errors import ExitCode

if TYPE_CHECKING:
    from fleet.console.run import RunView
    from fleet.engine.hostrun import Opener, Operate
    from fleet.engine.results import Event, Listener
    from fleet.engine.run import PlayWork, RunOptions
    from fleet.inventory import Inventory
    from fleet.rollout.at_work import FirstLook
    from fleet.ssh import SshSettings


@dataclass(frozen=True)
class Wish:
    """The options of a run, as the user gave them."""

    limit: str
    check: bool
    diff: bool
    exit_code: bool
    tags: tuple[str, ...]
    extra: tuple[str, ...]
    forks: int
    verbose: bool
    json: bool
    preflight: bool = False


def play(
    path: Path, inventory: Inventory, ssh: SshSettings, wish: Wish, *, translate: bool, alone: str = ""
) -> NoReturn:
    """Run the playbook, show it, exit. `translate`: end with a golden translation where balancers ran.

    `alone` names a command that must not change anything while a rollout is at work.
    """
    from fleet.cli.options import print_json, refuse_examples
    from fleet.console.run import RunView, run_json, show_recap
    from fleet.doctor.preflight import preflight
    from fleet.engine.connect import opener
    from fleet.engine.run import RunOptions, prepare, run
    from fleet.inventory import extra_variables, with_extra
    from fleet.modules.registry import MODULES
    from fleet.playbook.load import load_playbook
    from fleet.rollout.as_whole import AsWhole

    extra = extra_variables(wish.extra)
    inventory = with_extra(inventory, extra)
    refuse_examples(inventory)
    options = RunOptions(check=wish.check, forks=wish.forks, limit=wish.limit, tags=wish.tags, extra=extra)
    work = prepare(load_playbook(path, MODULES), inventory, options)
    view = RunView(check=wish.check, diff=wish.diff, verbose=wish.verbose, quiet=wish.json)
    guarded = alone if not wish.check else ""
    with (
        standing_back(inventory, opener(inventory, ssh), guarded, quiet=wish.json) as first,
        view,
    ):
        open_host = first.open
        gate = preflight(inventory.hosts) if wish.preflight else None
        with _images(work, inventory, open_host, view, options) as (listen, operations):
            operations.update(_operations(work, inventory, open_host, alone or f"fleet run {path.name}"))
            result = run(
                work,
                inventory,
                open_host,
                listen,
                options,
                operations=operations,
                gate=gate,
                may=AsWhole(inventory, opener(inventory, ssh), alone or f"fleet run {path.name}"),
            )
    code = result.exit_code
    if wish.check and wish.exit_code and code == ExitCode.DONE and result.changed:
        code = ExitCode.CHANGES_PENDING
    document = run_json(result)
    if not wish.json:
        show_recap(view.console, result)
    if translate and code == ExitCode.DONE and set(result.hosts) & set(inventory.groups.get("balancer", ())):
        code = _translate(inventory, view, document, wish.json)
    if wish.json:
        document["exit_code"] = int(code)
        print_json(document)
    raise typer.Exit(int(code))


def _operations(
    work: Sequence[PlayWork], inventory: Inventory, open_host: Opener, command: str
) -> dict[str, Operate]:
    """What the playbook's modules ask for beyond one host."""
    from fleet.modules.reboot import OPERATION, Reboot

    bound = (task for item in work for tasks in (item.tasks, item.handlers) for task in tasks.values())
    if not any(isinstance(each.module, Reboot) for tasks in bound for each in tasks):
        return {}
    from fleet.reboot import reboot_operation

    return {OPERATION: reboot_operation(inventory, open_host, command)}


@contextmanager
def _images(
    work: Sequence[PlayWork], inventory: Inventory, open_host: Opener, view: RunView, options: RunOptions
) -> Iterator[tuple[Listener, dict[str, Operate]]]:
    """Who listens to the run, and what brings images to sites that have a seed."""
    from fleet.docker.sites import seeds_of
    from fleet.modules.docker_image import OPERATION, DockerImage

    asking = [
        name
        for item in work
        for name, tasks in item.tasks.items()
        if any(isinstance(task.module, DockerImage) for task in tasks)
    ]
    if options.check or not asking or not seeds_of(inventory.hosts.values()):
        yield view, {}
        return
    from fleet.images.site import Sites

    sites = Sites(inventory.hosts, open_host, asking, forks=options.forks)

    def listen(event: Event) -> None:
        sites.listen(event)
        view(event)

    try:
        yield listen, {OPERATION: sites.operate}
    finally:
        sites.close()


@contextmanager
def standing_back(
    inventory: Inventory, open_host: Opener, command: str, *, quiet: bool = False, refusing: bool = True
) -> Iterator[FirstLook]:
    """A look whose opener is for a command that changes something; at no balancer for an empty `command`.

    Raises LeaseError while a rollout is at work, unless told not to be `refusing`. One that waits for
    somebody is a line on stderr, unless `quiet`. A balancer that cannot be asked holds up nothing.
    """
    from fleet.console.lb import show_warning
    from fleet.rollout.at_work import FirstLook, refuse, waiting

    first = FirstLook(inventory, open_host)
    if not command:
        yield first
        return
    with first:
        if refusing:
            refuse(first.seen, command)
        if not quiet and (line := waiting(first.seen)):
            show_warning(line)
        yield first


def _translate(inventory: Inventory, view: RunView, document: dict[str, Any], as_json: bool) -> ExitCode:
    """The first golden translation through the service's URL, shown; the exit code it deserves."""
    from fleet.console.errors import error_json, print_error
    from fleet.errors import FleetError
    from fleet.provision.golden import KEY_VARIABLE, KeyNeededError, golden_of, service_url, translate

    url = service_url(inventory)
    if url is None:
        return ExitCode.DONE
    golden = golden_of(inventory)

    def waiting(reason: str) -> None:
        view.console.print(f"waiting up to {golden.deadline:.0f} s for {url}: {reason}")

    document["url"] = url
    try:
        answer = translate(url, golden, patience=golden.deadline, waiting=waiting)
    except KeyNeededError as error:
        if os.environ.get(KEY_VARIABLE):
            document["translation"] = {"error": error_json(error)}
            print_error(error)
            return ExitCode.HOST_FAILED
        document["translation"] = None
        view.console.print(
            f"\nservice      {url}, which asks for API keys: no translation was made.", highlight=False
        )
        view.console.print(f"             With one in {KEY_VARIABLE}, fleet makes it.", highlight=False)
        return ExitCode.DONE
    except FleetError as error:
        document["translation"] = {"error": error_json(error)}
        print_error(error)
        return ExitCode.HOST_FAILED
    document["translation"] = {
        "text": golden.text,
        "answer": answer.text,
        "seconds": round(answer.seconds, 3),
    }
    if not as_json:
        from rich.text import Text

        view.console.print(Text.assemble("\nservice      ", (url, "bold cyan")))
        view.console.print(
            Text(
                f"translation  {golden.text} -> {answer.text}  ({answer.seconds:.2f} s through the balancer)"
            )
        )
    return ExitCode.DONE
