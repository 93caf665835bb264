"""What `fleet upgrade` and `fleet rollback` share: plan, question, rollout, report, exit code."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import typer

from fleet.errors import ExitCode, InputError

if TYPE_CHECKING:
    from fleet.inventory import Inventory
    from fleet.rollout.events import Outcome
    from fleet.rollout.model import Header, Plan
    from fleet.rollout.operate import Operation, Prepared, Request
    from fleet.rollout.report.data import Report
    from fleet.rollout.setting import Setting
    from fleet.rollout.stopping import Wish

_CODES = {
    "finished": ExitCode.DONE,
    "unchanged": ExitCode.DONE,
    "rolled-back": ExitCode.ROLLOUT_STOPPED,
    "stopped": ExitCode.ROLLOUT_STOPPED,
}


@dataclass(frozen=True)
class Wanted:
    """The options as the user gave them. `target` is an image, or the release to go back to."""

    kind: Literal["upgrade", "rollback"]
    target: str
    options: Mapping[str, str | bool | None]
    check: bool = False
    exit_code: bool = False
    yes: bool = False
    resume: bool = False
    abort: bool = False
    limit: str = ""
    report: Path | None = None
    json: bool = False


@dataclass(frozen=True)
class Access:
    """Where the fleet is described, and how its hosts are reached."""

    inventory: list[Path] | None = None
    playbook: Path | None = None
    extra: tuple[str, ...] = field(default=())
    ask_sudo: bool = False
    connect_timeout: float = 10.0
    ssh_config: Path | None = None


def run(wanted: Wanted, access: Access) -> NoReturn:
    """Do it, show it, exit."""
    from fleet.rollout.operate import Operation

    setting = setting_of(access)
    with Operation(setting) as operation:
        code = _run(wanted, setting, operation)
    raise typer.Exit(int(code))


def setting_of(access: Access) -> Setting:
    """The project's files, read; nothing is connected to."""
    from fleet.cli.options import open_inventory, refuse_examples, ssh_settings
    from fleet.engine.connect import opener
    from fleet.engine.run import RunOptions
    from fleet.images.bring import bringer
    from fleet.inventory import extra_variables, with_extra
    from fleet.modules.registry import MODULES
    from fleet.playbook.load import load_playbook
    from fleet.provision.playbook import provision_playbook
    from fleet.rollout.defaults import load_defaults
    from fleet.rollout.setting import Setting

    extra = extra_variables(access.extra)
    inventory = with_extra(open_inventory(access.inventory), extra)
    refuse_examples(inventory)
    path = access.playbook or provision_playbook(Path.cwd())
    open_host = opener(inventory, ssh_settings(access.ask_sudo, access.connect_timeout, access.ssh_config))
    return Setting(
        inventory=inventory,
        book=load_playbook(path, MODULES),
        defaults=load_defaults(Path.cwd()),
        opener=open_host,
        run=RunOptions(extra=extra),
        bring=bringer(open_host),
    )


def _run(wanted: Wanted, setting: Setting, operation: Operation) -> ExitCode:
    from fleet.rollout.operate import unfinished_error

    if wanted.resume or wanted.abort:
        return _go_on(wanted, setting, operation)
    request = _request(wanted, setting, operation)
    unfinished = operation.unfinished()
    if unfinished is not None and not wanted.check:
        operation.refuse_held()
        raise unfinished_error(unfinished)
    prepared = operation.prepare(request)
    _show_plan(wanted, prepared)
    if unfinished is not None:
        refusal = unfinished_error(unfinished)
        typer.echo(f"note: this cannot begin now: {refusal.message}\n  {refusal.remedy}", err=True)
    if wanted.check or not prepared.plan.waves:
        if wanted.json:
            _print_plan(wanted, prepared)
        pending = bool(prepared.plan.waves) and wanted.check and wanted.exit_code
        return ExitCode.CHANGES_PENDING if pending else ExitCode.DONE
    if not wanted.yes:
        _ask(wanted, prepared.plan)
    return _see_through(
        wanted, setting, lambda listen, wish, waiting: operation.carry_out(prepared, listen, wish, waiting)
    )


def _go_on(wanted: Wanted, setting: Setting, operation: Operation) -> ExitCode:
    header = operation.unfinished()
    if header is None:
        raise InputError(
            "there is no upgrade that has not ended", remedy="`fleet history` lists those that have"
        )
    if not wanted.yes:
        what = "Go on with" if wanted.resume else "Go back to where it began:"
        _confirm(f"{what} {header.kind} {header.id} to {header.image}?", wanted)
    abort = f"aborted by {_operator()}" if wanted.abort else ""
    return _see_through(
        wanted,
        setting,
        lambda listen, wish, waiting: operation.go_on(header, listen, wish, waiting, abort=abort),
    )


def _request(wanted: Wanted, setting: Setting, operation: Operation) -> Request:
    from fleet.rollout.history import find_release, previous_release
    from fleet.rollout.model import Share
    from fleet.rollout.operate import Request
    from fleet.rollout.options import overridden

    options = setting.defaults.options
    if wanted.kind == "rollback":
        options = replace(options, canary=Share(0), ramp=(100,), soak=0.0)
        rows = operation.history()
        release = find_release(rows, wanted.target) if wanted.target else previous_release(rows)
        if release is None:
            raise InputError(
                "nothing is known to have served before", remedy="name an image: `fleet upgrade IMAGE`"
            )
        options = overridden(options, wanted.options)
        return Request(release.image, options, "rollback", release.digest, wanted.limit)
    image = wanted.target or _inventory_image(setting.inventory)
    refuse_bare(image, setting.inventory)
    return Request(image, overridden(options, wanted.options), limit=wanted.limit)


def refuse_bare(image: str, inventory: Inventory) -> None:
    """A tag alone would be looked for on Docker Hub, under that name."""
    from fleet.docker.references import repository

    if any(sign in image for sign in "/:@"):
        return
    try:
        named = repository(_inventory_image(inventory))
    except InputError:
        return
    if image != named:
        raise InputError(
            f"{image!r} names no image", remedy=f"write {named}:{image} if that is the tag, or the whole name"
        )


def _inventory_image(inventory: Inventory) -> str:
    """The one image that the inventory's GPU hosts are to run."""
    from fleet.inventory import variables

    images = {
        str(image)
        for name in inventory.groups.get("gpu", ())
        if (image := variables(inventory, inventory.hosts[name]).get("image"))
    }
    if len(images) == 1:
        return images.pop()
    raise InputError(
        "the inventory names several images" if images else "the inventory names no image",
        remedy="say which: `fleet upgrade IMAGE`",
    )


def _show_plan(wanted: Wanted, prepared: Prepared) -> None:
    from fleet.console.rollout_plan import show_plan

    show_plan(prepared.plan, prepared.seen.snapshot, quiet=wanted.json)


def _print_plan(wanted: Wanted, prepared: Prepared) -> None:
    from fleet.cli.options import print_json
    from fleet.rollout.report.data import plan_json

    state = "planned" if prepared.plan.waves else "unchanged"
    print_json({"kind": wanted.kind, "state": state, "plan": plan_json(prepared.plan)})


def _ask(wanted: Wanted, plan: Plan) -> None:
    count = len(plan.moves)
    _confirm(f"Replace {count} {'container' if count == 1 else 'containers'} in this way?", wanted)


def _confirm(question: str, wanted: Wanted) -> None:
    from fleet.cli.options import agreed

    if not sys.stdin.isatty():
        look = "" if wanted.resume or wanted.abort else ", or look with --check"
        raise InputError("nobody is there to be asked whether to begin", remedy=f"say --yes{look}")
    untouched = "not begun; nothing was touched"
    if not agreed(question, untouched, err=wanted.json):
        raise InputError(untouched)


def _see_through(
    wanted: Wanted, setting: Setting, carry_out: Callable[[Any, Wish, Callable[[str], None]], Outcome]
) -> ExitCode:
    """The rollout on the screen, to its end; then its report."""
    from fleet.console.rollout import RolloutView
    from fleet.rollout.report.timeline import Timeline
    from fleet.rollout.stopping import Wish

    wish = Wish()
    timeline = Timeline()
    view = RolloutView(timeline, quiet=wanted.json)

    def waiting(text: str) -> None:
        if wish.asked:
            raise typer.Exit(int(ExitCode.INTERRUPTED))
        if not wanted.json:
            view.console.print(text, highlight=False)

    with _signals(wish), view:
        outcome = carry_out(view, wish, waiting)
    outcome = replace(outcome, resume="fleet upgrade --resume" if outcome.state == "stopped" else "")
    report = timeline.report(outcome)
    saved = _save(report, wanted.report)
    view.result(report, saved=str(saved) if saved else "")
    if outcome.state == "finished":
        _inventory_note(setting.inventory, view, outcome.header)
    code = _CODES[outcome.state]
    if wanted.abort and outcome.state == "rolled-back" and not outcome.lost:
        code = ExitCode.DONE  # that is what was asked for
    if wanted.json:
        from fleet.cli.options import print_json

        print_json({**report.as_json(), "report": str(saved) if saved else None, "exit_code": int(code)})
    return code


@contextmanager
def _signals(wish: Wish) -> Iterator[None]:
    """Ctrl-C, SIGTERM and a lost terminal ask to stop after the step at hand; Ctrl-C twice, to go back."""

    def asked(number: int, frame: object) -> None:
        if number == signal.SIGINT or not wish.asked:
            wish.stop()

    kinds: tuple[signal.Signals, ...] = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        kinds = kinds[:2]  # under nohup, the end of the terminal is nobody's wish
    before = {kind: signal.signal(kind, asked) for kind in kinds}
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


def _save(report: Report, path: Path | None) -> Path | None:
    """The report as HTML, and as JSON beside it; None where it cannot be written, which fails nothing."""
    import msgspec

    from fleet.rollout.report.files import data_file, page_file
    from fleet.rollout.report.page import write_report

    path = path or page_file(report.header.id)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_report(report, path)
        data_file(path).write_bytes(msgspec.json.format(msgspec.json.encode(report.as_json())))
    except OSError as error:
        typer.echo(f"the report could not be written: {error}", err=True)
        return None
    return path


def _inventory_note(inventory: Inventory, view: Any, header: Header) -> None:
    """Say where the inventory still names another image: the next provision would bring that one back."""
    from fleet.inventory import variables

    for origin in header.origins:
        host = inventory.hosts.get(origin.host)
        says = str(variables(inventory, host).get("image", "")) if host else ""
        place = inventory.where(origin.host, "image")
        if says and place is not None and says != header.image:
            view.inventory(place, says, header.image)
            return


def _operator() -> str:
    from fleet.rollout.operate import operator

    return operator()
