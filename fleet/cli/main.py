"""The `fleet` command. Commands import what they need when they run, so that --help stays quick."""

from __future__ import annotations

import errno
import functools
import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, NoReturn

import typer

from fleet.cli import (
    control,
    doctor,
    history,
    image,
    init,
    inventory,
    key,
    lab,
    lb,
    provision,
    reboot,
    status,
    translate,
    trust,
    upgrade,
)
from fleet.errors import ExitCode, FleetError

app = typer.Typer(
    name="fleet",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    suggest_commands=False,  # click says it already
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    help="Keep a translation service up on GPU hosts: provision them over SSH, balance them with HAProxy.",
    epilog="Exit codes: 0 done, 1 a host failed, 2 invalid input, 3 a host was unreachable, "
    "4 an upgrade stopped or went back, 5 another operator has the lease, "
    "10 changes pending (--check --exit-code). Start with: fleet init DIR",
)


def _version(wanted: bool) -> None:
    if wanted:
        from fleet import __version__

        typer.echo(f"fleet {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Typer needs a function to hang the global options on."""


def _at_once(command: Callable[..., None]) -> Callable[..., None]:
    """The command, which Ctrl-C ends at once: threads that wait for hosts would else hold up the exit.

    The operating system closes their connections. `fleet.engine.run` takes the first Ctrl-C for itself.
    """

    @functools.wraps(command)
    def run(*args: Any, **options: Any) -> None:
        try:
            command(*args, **options)
        except KeyboardInterrupt as interrupt:
            said = str(interrupt) or "interrupted; what ran on a host ends there: see `fleet status`"
            typer.echo(said, err=True)
            sys.stdout.flush()
            os._exit(int(ExitCode.INTERRUPTED))

    return run


for command in (
    init.init,
    inventory.inventory,
    trust.trust,
    provision.provision,
    provision.run_playbook,
    status.status,
    doctor.doctor,
    translate.translate,
    control.drain,
    control.ready,
    control.weight,
    reboot.reboot,
    history.history,
):
    app.command(command.__name__.removesuffix("_playbook"))(_at_once(command))
for rollout in (upgrade.upgrade, upgrade.rollback):
    app.command(rollout.__name__)(rollout)  # they have their own way with Ctrl-C
for info in (*image.app.registered_commands, *key.app.registered_commands, *lb.app.registered_commands):
    if info.callback is not None:
        info.callback = _at_once(info.callback)
app.add_typer(
    history.app, name="release", short_help="One release: what it is, who brought it, where it runs."
)
app.add_typer(
    image.app, name="image", short_help="The service's images on every host: list, pull ahead, prune."
)
app.add_typer(key.app, name="key", short_help="API keys of the gateway: who may use the service.")
app.add_typer(lb.app, name="lb", short_help="The balancers' configuration: show, compare, check, deploy.")
app.add_typer(lab.app, name="lab", short_help="A real fleet on this machine, to try and test.")


def main() -> None:
    """Entry point: an error is one message and an exit code; a traceback only with FLEET_DEBUG=1."""
    if sys.stdout is None:  # the caller closed it: Python then has none
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    try:
        with _ending_as_by_ctrl_c(), _all_written():
            app()
    except FleetError as error:
        _fail(error)
    except BrokenPipeError:
        _write_no_more()
        sys.exit(int(ExitCode.DONE))
    except Exception as bug:
        if isinstance(bug, OSError) and bug.errno == errno.ENOSPC and bug.filename is None:
            _fail(_no_room(bug))
        if os.environ.get("FLEET_DEBUG"):
            raise
        from fleet.engine.hostrun import internal

        _fail(internal(f"running fleet {' '.join(sys.argv[1:2])}", bug))
    finally:
        # The interpreter's last walk over all objects frees what the process is about to give back anyway.
        gc.freeze()
        gc.disable()


@contextmanager
def _all_written() -> Iterator[None]:
    """What is still in stdout's buffer is written while an error of it can still be told."""
    try:
        yield
    finally:
        sys.stdout.flush()


def _write_no_more() -> None:
    """What is left for stdout goes nowhere; the interpreter would try it once more at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _no_room(error: OSError) -> FleetError:
    return FleetError(
        f"what fleet prints, or a file here, cannot be written: {error.strerror}",
        remedy="make room on this machine's disk; what was done on hosts is done: see `fleet status`",
    )


@contextmanager
def _ending_as_by_ctrl_c() -> Iterator[None]:
    """SIGTERM and a lost terminal end a command as Ctrl-C does: it clears up what it has to."""
    # Under nohup the end of the terminal is nobody's wish.
    kinds = [each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) is not signal.SIG_IGN]
    before = {kind: signal.signal(kind, signal.default_int_handler) for kind in kinds}
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


def _fail(error: FleetError) -> NoReturn:
    from fleet.console.errors import error_json, print_error

    print_error(error)
    try:
        if "--json" in sys.argv[1:]:
            from fleet.cli.options import print_json

            print_json({"error": error_json(error)})
        sys.stdout.flush()
    except OSError:  # nobody reads it, or its disk is full: stderr and the exit code tell
        _write_no_more()
    sys.exit(int(error.exit_code))
