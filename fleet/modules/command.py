"""The command module: run a program of the user's choice."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import ClassVar

import msgspec

from fleet.model.facts import Facts, Probe
from fleet.model.steps import Change, Run
from fleet.modules._files import check_path
from fleet.modules.base import Args, Context


class CommandArgs(Args, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Arguments of `command`."""

    cmd: str | None = None
    argv: list[str] | None = None
    shell: str | None = None
    creates: str | None = None
    removes: str | None = None
    unless: str | list[str] | None = None
    chdir: str | None = None
    stdin: str | None = None
    environment: dict[str, str] = msgspec.field(default_factory=dict)
    timeout: float = 600.0

    def __post_init__(self) -> None:
        given = [word for word in (self.cmd, self.argv, self.shell) if word is not None]
        if len(given) != 1:
            raise ValueError("give exactly one of `cmd`, `argv` and `shell`")
        if not given[0] or not command_line(self):
            raise ValueError("the command is empty")
        for what in ("creates", "removes", "chdir"):
            if (path := getattr(self, what)) is not None:
                check_path(path, what)
        if self.unless is not None and not self.unless:
            raise ValueError("`unless` is empty")
        if self.timeout <= 0:
            raise ValueError("`timeout` must be more than 0 seconds")


class Command:
    """Run a command as root, unless one of its conditions says that nothing is to be done.

    Without `creates`, `removes` or `unless` fleet cannot know whether the command has done its work, so it
    runs every time and every run reports a change. With several of them, any one that holds prevents the
    run. Conditions are looked at again after the command; whether it did its work is its own exit code.

    Arguments:
        cmd: the command line, split as a shell would, without a shell's expansions.
        argv: the command as a list of words, instead of `cmd`.
        shell: a script for /bin/sh, instead of `cmd`: pipes, variables and wildcards work.
        creates: path on the host; where it exists the command does not run.
        removes: path on the host; where it does not exist the command does not run.
        unless: command (a list) or /bin/sh script (a text) that only reads; where it ends with 0 the
            command does not run. It is run in every look, also with --check.
        chdir: folder to run in.
        stdin: text for the command's standard input; it is not shown.
        environment: variables for the command.
        timeout: seconds after which the command is ended; default 600.

    Example:
        - name: Build the swap file
          command:
            shell: fallocate -l 8G /swapfile && chmod 0600 /swapfile && mkswap /swapfile
            creates: /swapfile
    """

    name: ClassVar[str] = "command"
    args: ClassVar[type[Args]] = CommandArgs
    verifies: ClassVar[bool] = False
    """A command may always change something: the engine must not take that for a failure."""

    def probes(self, args: CommandArgs, ctx: Context) -> Sequence[Probe]:
        """Ask the conditions; nothing without any."""
        probe = _conditions(args)
        return (probe,) if probe else ()

    def plan(self, args: CommandArgs, facts: Facts, ctx: Context) -> Sequence[Change]:
        """The run itself, unless a condition holds."""
        probe = _conditions(args)
        if probe is not None and facts[probe.key].ok:
            return ()
        run = Run(
            argv=command_line(args),
            stdin=args.stdin.encode() if args.stdin is not None else None,
            timeout=args.timeout,
            env=args.environment,
        )
        return (Change(f"run {_short(args)}", steps=(run,)),)


def command_line(args: CommandArgs) -> tuple[str, ...]:
    """The words to execute, with the folder to run in."""
    if args.shell is not None:
        words: tuple[str, ...] = ("sh", "-c", args.shell)
    else:
        words = tuple(args.argv) if args.argv is not None else tuple(shlex.split(args.cmd or ""))
    return ("env", f"--chdir={args.chdir}", "--", *words) if args.chdir and words else words


def _conditions(args: CommandArgs) -> Probe | None:
    """A probe that ends with 0 where the command has nothing to do."""
    lines = []
    if args.creates is not None:
        path = shlex.quote(args.creates)
        lines.append(f"[ -e {path} ] || [ -L {path} ] && exit 0")
    if args.removes is not None:
        path = shlex.quote(args.removes)
        lines.append(f"[ -e {path} ] || [ -L {path} ] || exit 0")
    if args.unless is not None:
        unless = ("sh", "-c", args.unless) if isinstance(args.unless, str) else tuple(args.unless)
        lines.append(f"{_exports(args.environment)}{shlex.join(unless)} >/dev/null 2>&1 && exit 0")
    if not lines:
        return None
    script = "\n".join((*lines, "exit 1", ""))
    return Probe(f"command:{script}", script)


def _exports(environment: Mapping[str, str]) -> str:
    if not environment:
        return ""
    return shlex.join(("env", *(f"{key}={value}" for key, value in environment.items()))) + " "


def _short(args: CommandArgs, limit: int = 72) -> str:
    text = " ".join((args.shell or shlex.join(args.argv or ()) or args.cmd or "").split())
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
