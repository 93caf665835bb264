"""`fleet provision` and `fleet run`: a playbook over the inventory's hosts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fleet.cli.options import AskSudo, ConnectTimeout, Forks, Inventories, Json, Limit

Check = Annotated[bool, typer.Option("--check", help="Print the plan and change nothing.")]
Diff = Annotated[bool, typer.Option("--diff", help="Show what each change replaces, before and after.")]
ExitCodeOption = Annotated[
    bool, typer.Option("--exit-code", help="With --check: exit with 10 when changes are pending.")
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show tasks that were ok or skipped, too.")]
Extra = Annotated[
    list[str] | None,
    typer.Option("--extra-vars", "-e", help="A variable as key=value, above all others; repeatable."),
]
Tags = Annotated[list[str] | None, typer.Option("--tags", "-t", help="Only tasks with one of these tags.")]


def provision(
    inventory: Inventories = None,
    limit: Limit = "",
    check: Check = False,
    diff: Diff = False,
    exit_code: ExitCodeOption = False,
    playbook: Annotated[
        Path | None,
        typer.Option("--playbook", "-p", help="Default: playbooks/provision.yml, else the shipped one."),
    ] = None,
    tags: Tags = None,
    extra: Extra = None,
    forks: Forks = 0,
    ask_sudo: AskSudo = False,
    connect_timeout: ConnectTimeout = 10.0,
    verbose: Verbose = False,
    json: Json = False,
) -> None:
    """Turn bare hosts into the service: drivers, Docker, image, one container per GPU, balancer.

    Looks at every host, plans, applies only the differences, and looks again. A second run changes
    nothing. Ends with a translation made through the balancer.

    \b
    Examples:
      fleet provision --check --diff     show the whole plan, change nothing
      fleet provision --limit gpu-03     one host only
    """
    from fleet.provision.playbook import provision_playbook

    path = playbook or provision_playbook(Path.cwd())
    _run(
        path,
        inventory,
        limit,
        check,
        diff,
        exit_code,
        tags,
        extra,
        forks,
        ask_sudo,
        connect_timeout,
        verbose,
        json,
        golden=not check,
    )


def run_playbook(
    playbook: Annotated[Path, typer.Argument(help="The playbook to run.", show_default=False)],
    inventory: Inventories = None,
    limit: Limit = "",
    check: Check = False,
    diff: Diff = False,
    exit_code: ExitCodeOption = False,
    tags: Tags = None,
    extra: Extra = None,
    forks: Forks = 0,
    ask_sudo: AskSudo = False,
    connect_timeout: ConnectTimeout = 10.0,
    verbose: Verbose = False,
    json: Json = False,
) -> None:
    """Run any playbook, as `ansible-playbook` would."""
    _run(
        playbook,
        inventory,
        limit,
        check,
        diff,
        exit_code,
        tags,
        extra,
        forks,
        ask_sudo,
        connect_timeout,
        verbose,
        json,
        golden=False,
    )


def _run(
    path: Path,
    inventories: list[Path] | None,
    limit: str,
    check: bool,
    diff: bool,
    exit_code: bool,
    tags: list[str] | None,
    extra: list[str] | None,
    forks: int,
    ask_sudo: bool,
    connect_timeout: float,
    verbose: bool,
    as_json: bool,
    *,
    golden: bool,
) -> None:
    from fleet.cli.options import open_inventory, print_json, sudo_password
    from fleet.console.run import RunView, run_json, show_recap
    from fleet.engine.connect import opener
    from fleet.engine.run import RunOptions, prepare
    from fleet.engine.run import run as run_plays
    from fleet.errors import ExitCode
    from fleet.modules.registry import MODULES
    from fleet.playbook.load import load_playbook

    inventory = open_inventory(inventories)
    book = load_playbook(path, MODULES)
    options = RunOptions(
        check=check, forks=forks, limit=limit, tags=tuple(tags or ()), extra=_extra(extra or [])
    )
    work = prepare(book, inventory, options)
    view = RunView(check=check, diff=diff, verbose=verbose, quiet=as_json)
    with view:
        result = run_plays(
            work, inventory, opener(inventory, sudo_password(ask_sudo), connect_timeout), view, options
        )
    code = result.exit_code
    if check and exit_code and code == ExitCode.DONE and result.changed:
        code = ExitCode.CHANGES_PENDING
    document: dict[str, Any] = run_json(result)
    if not as_json:
        show_recap(view.console, result)
    if golden and code == ExitCode.DONE:
        code = _translate(inventory, view, document, as_json)
    if as_json:
        document["exit_code"] = int(code)
        print_json(document)
    raise typer.Exit(int(code))


def _translate(inventory: Any, view: Any, document: dict[str, Any], as_json: bool) -> Any:
    """The first golden translation through the service's URL, shown; the exit code it deserves."""
    from fleet.console.errors import error_json, print_error
    from fleet.errors import ExitCode, FleetError
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


def _extra(pairs: list[str]) -> dict[str, object]:
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
