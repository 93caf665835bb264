"""What `fleet provision` and `fleet run` share: a playbook run, shown, and its exit code."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from fleet.errors import ExitCode

if TYPE_CHECKING:
    from fleet.console.run import RunView
    from fleet.inventory import Inventory
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


def play(path: Path, inventory: Inventory, ssh: SshSettings, wish: Wish, *, translate: bool) -> NoReturn:
    """Run the playbook, show it, exit. `translate`: end with a golden translation where balancers ran."""
    from fleet.cli.options import print_json
    from fleet.console.run import RunView, run_json, show_recap
    from fleet.engine.connect import opener
    from fleet.engine.run import RunOptions, prepare, run
    from fleet.modules.registry import MODULES
    from fleet.playbook.load import load_playbook

    options = RunOptions(
        check=wish.check, forks=wish.forks, limit=wish.limit, tags=wish.tags, extra=_extra(wish.extra)
    )
    work = prepare(load_playbook(path, MODULES), inventory, options)
    view = RunView(check=wish.check, diff=wish.diff, verbose=wish.verbose, quiet=wish.json)
    with view:
        result = run(work, inventory, opener(inventory, ssh), view, options)
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


def _translate(inventory: Inventory, view: RunView, document: dict[str, Any], as_json: bool) -> ExitCode:
    """The first golden translation through the service's URL, shown; the exit code it deserves."""
    from fleet.console.errors import error_json, print_error
    from fleet.errors import FleetError
    from fleet.provision.golden import golden_of, service_url, translate

    url = service_url(inventory)
    if url is None:
        return ExitCode.DONE
    golden = golden_of(inventory)
    document["url"] = url
    try:
        answer = translate(url, golden)
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


def _extra(pairs: Iterable[str]) -> dict[str, object]:
    """`key=value` pairs; a value is YAML, so numbers and lists keep their type."""
    import yaml

    from fleet.errors import InputError

    values: dict[str, object] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key.isidentifier():
            raise InputError(f"--extra-vars {pair!r} is not key=value", remedy="for example -e lb_port=8080")
        try:
            values[key] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise InputError(
                f"--extra-vars {key}: the value is not valid YAML: {text!r}", remedy="quote it"
            ) from error
    return values
