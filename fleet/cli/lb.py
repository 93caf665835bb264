"""`fleet lb`: the balancers' configuration shown, compared, checked and brought into use."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fleet.cli.lb_open import Opened, open_work, troubles, worse
from fleet.cli.options import AskSudo, ConnectTimeout, Forks, Inventories, Json, Limit, SshConfig
from fleet.cli.provision import Check, Diff, Extra, Verbose

if TYPE_CHECKING:
    from fleet.errors import FleetError

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Show, compare, check and deploy the balancers' configuration, and nothing else.\n\n"
    "It is made as `fleet provision` makes it: by the playbook's balancer tasks, with your variables and "
    "templates, from the GPUs that the GPU hosts are found to have. --limit chooses among balancers.",
)

Playbook = Annotated[
    Path | None,
    typer.Option(
        "--playbook",
        "-p",
        metavar="FILE",
        help="Whose balancer tasks. Default: playbooks/provision.yml, else the shipped one.",
    ),
]


@app.command()
def show(
    inventory: Inventories = None,
    limit: Limit = "",
    running: Annotated[
        bool, typer.Option("--running", help="What is on the balancer's disk now, instead.")
    ] = False,
    playbook: Playbook = None,
    extra: Extra = None,
    forks: Forks = 0,
    ask_sudo: AskSudo = False,
    connect_timeout: ConnectTimeout = 10.0,
    ssh_config: SshConfig = None,
    json: Json = False,
) -> None:
    """Print the configuration that a push would deploy.

    Only the configuration goes to stdout. With several balancers, stderr says whose comes next.

    \b
    Examples:
      fleet lb show --limit lb-01 > haproxy.cfg
      fleet lb show --limit lb-01 --running
    """
    opened = open_work(inventory, limit, playbook, extra, forks, ask_sudo, connect_timeout, ssh_config)
    if running:
        _show_running(opened, json)
    from fleet.cli.options import print_json
    from fleet.console.lb import show_header, show_trouble, troubles_json

    seen = opened.survey()
    code = troubles(seen)
    document = {}
    for item in seen.balancers:
        if item.rendered is None:
            assert item.error is not None
            code = worse(code, item.error)
            document[item.host] = _text_json(item.path, None, None, item.error)
            show_trouble(item.host, item.error)
            continue
        document[item.host] = _text_json(item.path, item.rendered, item.hash, None)
        if not json:
            if len(seen.balancers) > 1:
                show_header(item.host, item.path, f"rendered {item.hash}")
            typer.echo(item.rendered, nl=False)
    if json:
        print_json({"exit_code": int(code), "balancers": document, "troubles": troubles_json(seen.troubles)})
    raise typer.Exit(int(code))


def _show_running(opened: Opened, json: bool) -> None:
    """`lb show --running`; ends the command."""
    from fleet.cli.options import print_json
    from fleet.console.lb import show_header, show_trouble, show_warning
    from fleet.errors import ExitCode, FleetError, TaskError
    from fleet.lb.software import SOFTWARE
    from fleet.lb.survey import look

    seen = look(opened.work, opened.inventory, opened.opener, forks=opened.options.forks)
    modules = {task.ctx.host.name: task.task.module for task in opened.work.tasks}
    code, document = ExitCode.DONE, {}
    for name, now in seen.items():
        software = SOFTWARE[modules[name]]
        path = software.path
        if not isinstance(now, FleetError) and now.deployed is None:
            now = TaskError(f"{path} is not there", remedy="`fleet lb push` or `fleet provision` makes it")
        if isinstance(now, FleetError):
            code = worse(code, now)
            document[name] = _text_json(path, None, None, now)
            show_trouble(name, now)
            continue
        assert now.deployed is not None
        document[name] = _text_json(path, now.deployed, now.file_hash, None)
        if not now.answers:
            show_warning(f"{name}: {software.name} does not run, or does not answer")
        elif now.hash != now.file_hash:
            show_warning(f"{name}: {software.name} runs {now.hash or 'another configuration'}, not this file")
        if not json:
            if len(seen) > 1:
                show_header(name, path, f"on disk {now.file_hash or ''}".rstrip())
            typer.echo(now.deployed, nl=False)
    if json:
        print_json({"exit_code": int(code), "balancers": document})
    raise typer.Exit(int(code))


@app.command()
def diff(
    inventory: Inventories = None,
    limit: Limit = "",
    playbook: Playbook = None,
    extra: Extra = None,
    forks: Forks = 0,
    ask_sudo: AskSudo = False,
    connect_timeout: ConnectTimeout = 10.0,
    ssh_config: SshConfig = None,
    json: Json = False,
) -> None:
    """Compare what is deployed and runs with what a push would deploy.

    Also told: weights changed at run time, and, without counting as a difference, servers that somebody
    drained, and a HAProxy that runs another configuration than its file.
    Exits with 0 where nothing differs and with 10 where a push would change something.
    """
    from fleet.cli.options import print_json
    from fleet.console.lb import difference_json, show_difference, show_trouble, troubles_json
    from fleet.errors import ExitCode
    from fleet.lb.diff import difference

    opened = open_work(inventory, limit, playbook, extra, forks, ask_sudo, connect_timeout, ssh_config)
    seen = opened.survey()
    code = troubles(seen)
    differs, document = False, {}
    for item in seen.balancers:
        if item.error is not None:
            code = worse(code, item.error)
            document[item.host] = _failed_json(item.error)
            show_trouble(item.host, item.error)
            continue
        found = difference(item)
        differs = differs or found.any
        document[item.host] = difference_json(found)
        if not json:
            show_difference(found, item.now.hash)
    if code == ExitCode.DONE and differs:
        code = ExitCode.CHANGES_PENDING
    if json:
        print_json({"exit_code": int(code), "balancers": document, "troubles": troubles_json(seen.troubles)})
    raise typer.Exit(int(code))


@app.command()
def check(
    inventory: Inventories = None,
    limit: Limit = "",
    playbook: Playbook = None,
    extra: Extra = None,
    forks: Forks = 0,
    ask_sudo: AskSudo = False,
    connect_timeout: ConnectTimeout = 10.0,
    ssh_config: SshConfig = None,
    json: Json = False,
) -> None:
    """Have the HAProxy (or nginx) of each balancer validate what a push would deploy.

    The configuration and the files beside it are put into a folder of the balancer's memory and removed
    again; nothing else is touched. Errors and warnings come with the line they are about. Exits with 1
    where one is refused.
    """
    from fleet.cli.options import print_json
    from fleet.console.lb import show_verdict, troubles_json, verdict_json
    from fleet.lb.check import verdicts

    opened = open_work(inventory, limit, playbook, extra, forks, ask_sudo, connect_timeout, ssh_config)
    seen = opened.survey()
    code = troubles(seen)
    document = {}
    for verdict in verdicts(seen, opened.opener, forks=opened.options.forks):
        if verdict.error is not None:
            code = worse(code, verdict.error)
        elif not verdict.accepted:
            code = worse(code, None)
        document[verdict.host] = verdict_json(verdict)
        if not json:
            show_verdict(verdict)
    if json:
        print_json({"exit_code": int(code), "balancers": document, "troubles": troubles_json(seen.troubles)})
    raise typer.Exit(int(code))


@app.command()
def push(
    inventory: Inventories = None,
    limit: Limit = "",
    check: Check = False,
    diff: Diff = False,
    playbook: Playbook = None,
    extra: Extra = None,
    forks: Forks = 0,
    ask_sudo: AskSudo = False,
    connect_timeout: ConnectTimeout = 10.0,
    ssh_config: SshConfig = None,
    verbose: Verbose = False,
    json: Json = False,
) -> None:
    """Bring the configuration into use, one balancer after another.

    HAProxy (or nginx) there must accept it before it takes the old one's place, and must be seen
    running it afterwards; else the old one comes back. The first balancer that fails is the last one
    touched. Weights and drains go over HAProxy's run-time socket, without a reload.
    """
    from fleet.cli.options import print_json
    from fleet.cli.play import standing_back
    from fleet.console.lb import outcomes_json, show_outcomes, troubles_json
    from fleet.console.run import RunView, run_json
    from fleet.lb.push import push as bring

    opened = open_work(inventory, limit, playbook, extra, forks, ask_sudo, connect_timeout, ssh_config, check)
    command = "" if check else "fleet lb push"
    with standing_back(opened.inventory, opened.opener, command, quiet=json) as first:
        opened = opened._replace(opener=first.open)
        seen = opened.survey()
        view = RunView(check=check, diff=diff, verbose=verbose, quiet=json)
        with view:
            pushed = bring(opened.work, opened.inventory, opened.opener, view, opened.options, seen)
    code = pushed.result.exit_code
    if json:
        document = run_json(pushed.result)
        document["balancers"] = outcomes_json(pushed.outcomes)
        document["troubles"] = troubles_json(seen.troubles)
        print_json(document)
    else:
        show_outcomes(pushed.outcomes, check=check)
    raise typer.Exit(int(code))


def _text_json(
    path: str, text: str | None, digest: str | None, error: FleetError | None
) -> dict[str, object]:
    from fleet.console.errors import error_json

    return {"path": path, "hash": digest, "text": text, "error": error_json(error) if error else None}


def _failed_json(error: FleetError) -> dict[str, object]:
    from fleet.console.errors import error_json

    return {"differs": None, "diff": "", "changes": [], "remarks": [], "error": error_json(error)}
