"""What `copy` and `template` have in common: the arguments of a written file, its probe and its change."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from fleet.model.facts import Facts, Probe
from fleet.model.steps import Change
from fleet.modules._files import Depth, Wanted, check_mode, check_path, file_probe, file_state, octal, write
from fleet.modules.base import Args, Context


class WriteArgs(Args, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Arguments of a module that writes one file."""

    dest: str
    mode: str | int | None = None
    owner: str | None = None
    group: str | None = None
    backup: bool = False
    secret: bool = False
    validate: str | None = None

    def __post_init__(self) -> None:
        check_path(self.dest, "dest")
        if self.dest.endswith("/"):
            raise ValueError(f"`dest` must name the file itself, not its folder: {self.dest}")
        check_mode(self.mode)
        if self.validate is not None and "%s" not in self.validate:
            raise ValueError("`validate` must contain %s, which stands for the new file's path")


def write_probe(args: WriteArgs) -> Probe:
    """Ask for the file's attributes and content (a secret's hash)."""
    return file_probe(args.dest, _depth(args))


def written(content: bytes, args: WriteArgs, facts: Facts, ctx: Context) -> Sequence[Change]:
    """The changes that put `content` where the arguments say; none where it is."""
    wanted = Wanted(
        path=args.dest,
        content=content,
        mode=octal(args.mode),
        owner=args.owner,
        group=args.group,
        secret=args.secret,
        validate=tuple(shlex.split(args.validate)) if args.validate else (),
        backup=args.backup,
    )
    change = write(wanted, file_state(args.dest, _depth(args), facts, ctx), ctx)
    return (change,) if change else ()


def _depth(args: WriteArgs) -> Depth:
    return "hash" if args.secret else "content"
