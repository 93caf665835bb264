"""`fleet upgrade` and `fleet rollback`: another release, without losing a request."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fleet.cli.options import AskSudo, ConnectTimeout, Inventories, Json, SshConfig
from fleet.cli.provision import Extra

if TYPE_CHECKING:
    from fleet.cli.upgrade_run import Wanted


def _option(name: str, metavar: str, text: str, default: str) -> Any:
    """An option of playbooks/upgrade.yml; `default` is the shipped value."""
    return typer.Option(name, metavar=metavar, help=f"{text}. Default: {default}.", show_default=False)


_TIME = "TIME"
_CANARY = ("--canary", "N|N%", "So many slots go first, alone; 0: none")
_RAMP = ("--ramp", "N,N,...", "Percents of its weight a new container takes in turn, or none")
_SOAK = ("--soak", _TIME, "So long the new release serves alone before the old one ends")
_FLOOR = "So much of the weight that serves stays ready, always"
_DRAIN = "So long jobs in flight may take; then they are cut"
Canary = Annotated[str | None, _option(*_CANARY, "1")]
CanaryBack = Annotated[str | None, _option(*_CANARY, "0")]
Ramp = Annotated[str | None, _option(*_RAMP, "10,50,100")]
RampBack = Annotated[str | None, _option(*_RAMP, "none")]
Soak = Annotated[str | None, _option(*_SOAK, "30s")]
SoakBack = Annotated[str | None, _option(*_SOAK, "0")]
Floor = Annotated[str | None, _option("--floor", "N|N%", _FLOOR, "50%")]
MaxUnavailable = Annotated[
    str | None, _option("--max-unavailable", "N|N%", "At most so many slots are out at once", "100%")
]
DrainDeadline = Annotated[str | None, _option("--drain-deadline", _TIME, _DRAIN, "10m")]
ReadyDeadline = Annotated[
    str | None, _option("--ready-deadline", _TIME, "So long a new container may take to translate", "10m")
]
StrategyOption = Annotated[
    str | None, _option("--strategy", "auto|swap|side-by-side", "How a slot changes its release", "auto")
]
Retain = Annotated[
    str | None, _option("--retain", "N", "So many old releases stay, stopped, for a rollback", "1")
]
Downtime = Annotated[
    bool, typer.Option("--allow-downtime", help="Even where no slot is left that serves meanwhile.")
]
Partial = Annotated[
    bool,
    typer.Option("--keep-partial", help="After a failure, slots that are on the new release stay there."),
]
Check = Annotated[bool, typer.Option("--check", help="Show the plan; nothing is touched.")]
ExitCodeOption = Annotated[
    bool, typer.Option("--exit-code", help="With --check: exit with 10 when something would change.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before it begins.")]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on with the one that has not ended, from any machine.")
]
Abort = Annotated[
    bool, typer.Option("--abort", help="Take the one that has not ended back to where it began.")
]
LimitSlots = Annotated[
    str,
    typer.Option(
        "--limit", "-l", metavar="PATTERN", help="Only these slots, hosts or groups.", show_default=False
    ),
]
Playbook = Annotated[
    Path | None,
    typer.Option(
        "--playbook",
        "-p",
        metavar="FILE",
        help="What describes the containers. Default: playbooks/provision.yml, else the shipped one.",
    ),
]
ReportFile = Annotated[
    Path | None,
    typer.Option(
        "--report",
        metavar="FILE",
        help="Where the report goes (HTML). Default: among your user's state files.",
    ),
]


def upgrade(
    image: Annotated[
        str,
        typer.Argument(
            metavar="[IMAGE]", help="The new image. Default: the inventory's `image`.", show_default=False
        ),
    ] = "",
    blue_green: Annotated[
        bool,
        typer.Option("--blue-green", help="By draining, in waves. It is the only way, and the default."),
    ] = True,
    canary: Canary = None,
    floor: Floor = None,
    max_unavailable: MaxUnavailable = None,
    ramp: Ramp = None,
    soak: Soak = None,
    drain_deadline: DrainDeadline = None,
    ready_deadline: ReadyDeadline = None,
    strategy: StrategyOption = None,
    retain: Retain = None,
    allow_downtime: Downtime = False,
    keep_partial: Partial = False,
    check: Check = False,
    exit_code: ExitCodeOption = False,
    yes: Yes = False,
    resume: Resume = False,
    abort: Abort = False,
    limit: LimitSlots = "",
    inventory: Inventories = None,
    playbook: Playbook = None,
    extra: Extra = None,
    report: ReportFile = None,
    ask_sudo: AskSudo = False,
    connect_timeout: ConnectTimeout = 10.0,
    ssh_config: SshConfig = None,
    json: Json = False,
) -> None:
    """Replace the running image by another one, blue-green, without losing a request.

    The fleet is its own second colour: part of it is drained, replaced and checked while the rest serves. A
    canary goes first, then waves that keep the floor. A new container gets traffic only after it made golden
    translations, and more of it step by step while the balancers' numbers are held against the old
    release's. When anything is not as it must be, everything goes back, with exit code 4.

    Shows the plan and asks before it begins. Ctrl-C once stops after the step at hand, and says how to go
    on; twice goes back. If this machine dies, the fleet serves on: `fleet upgrade --resume` or `--abort`
    from any machine. Defaults, and your own tasks at its stages, are in playbooks/upgrade.yml: your
    project's, and for what that does not name the shipped one, whose values are given below.

    \b
    Examples:
      fleet upgrade registry.example/app:v2 --check        the plan; nothing is touched
      fleet upgrade registry.example/app:v2 --floor 75%    roll it out
      fleet upgrade --resume                               go on where it ended
      fleet rollback                                       back to the release of before
    """
    from fleet.cli.upgrade_run import Access, Wanted, run

    wanted = Wanted(
        kind="upgrade",
        target=image,
        options=_given(locals()),
        check=check,
        exit_code=exit_code,
        yes=yes,
        resume=resume,
        abort=abort,
        limit=limit,
        report=report,
        json=json,
    )
    _alone(wanted)
    run(wanted, Access(inventory, playbook, tuple(extra or ()), ask_sudo, connect_timeout, ssh_config))


def rollback(
    release: Annotated[
        str,
        typer.Argument(
            metavar="[RELEASE]",
            help="A rollout, image, tag or digest of `fleet history`. Default: what served before.",
            show_default=False,
        ),
    ] = "",
    canary: CanaryBack = None,
    floor: Floor = None,
    max_unavailable: MaxUnavailable = None,
    ramp: RampBack = None,
    soak: SoakBack = None,
    drain_deadline: DrainDeadline = None,
    ready_deadline: ReadyDeadline = None,
    strategy: StrategyOption = None,
    retain: Retain = None,
    allow_downtime: Downtime = False,
    keep_partial: Partial = False,
    check: Check = False,
    exit_code: ExitCodeOption = False,
    yes: Yes = False,
    limit: LimitSlots = "",
    inventory: Inventories = None,
    playbook: Playbook = None,
    extra: Extra = None,
    report: ReportFile = None,
    ask_sudo: AskSudo = False,
    connect_timeout: ConnectTimeout = 10.0,
    ssh_config: SshConfig = None,
    json: Json = False,
) -> None:
    """Go back to an earlier release, blue-green, as an upgrade does.

    Its containers are still there, stopped, as long as `retain` says, so nothing is pulled. Without ramp,
    soak and canary, unless they are asked for: it is known to work. Other defaults are in
    playbooks/upgrade.yml, as for `fleet upgrade`; the shipped values are given below.
    """
    from fleet.cli.upgrade_run import Access, Wanted, run

    wanted = Wanted(
        kind="rollback",
        target=release,
        options=_given(locals()),
        check=check,
        exit_code=exit_code,
        yes=yes,
        limit=limit,
        report=report,
        json=json,
    )
    run(wanted, Access(inventory, playbook, tuple(extra or ()), ask_sudo, connect_timeout, ssh_config))


_OPTIONS = (
    "canary",
    "floor",
    "max_unavailable",
    "ramp",
    "soak",
    "drain_deadline",
    "ready_deadline",
    "strategy",
    "retain",
)


def _given(values: dict[str, object]) -> dict[str, str | bool | None]:
    """The options of a rollout as they were given; what was not is None."""
    given: dict[str, str | bool | None] = {}
    for name in _OPTIONS:
        value = values[name]
        given[name] = value if isinstance(value, str) else None
    for name in ("allow_downtime", "keep_partial"):
        given[name] = True if values[name] else None
    return given


def _alone(wanted: Wanted) -> None:
    """Raise InputError for options that exclude each other."""
    from fleet.errors import InputError

    if not (wanted.resume or wanted.abort):
        return
    flag = "--resume" if wanted.resume else "--abort"
    if wanted.resume and wanted.abort:
        raise InputError("--resume and --abort exclude each other", remedy="leave one of them out")
    others = [f"--{name.replace('_', '-')}" for name, value in wanted.options.items() if value is not None]
    others += ["IMAGE"] if wanted.target else []
    others += ["--limit"] if wanted.limit else []
    others += ["--check"] if wanted.check else []
    if others:
        raise InputError(
            f"{flag} takes what it began with; {' and '.join(others)} cannot be given with it",
            remedy="leave that out, or go back with --abort and begin anew",
        )
