"""The file module: folders, links, absence, and the attributes of a path."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from fleet.model.facts import Facts, Probe
from fleet.model.steps import Change, Run, Step
from fleet.modules._files import FileState, attributes, check_mode, check_path, file_probe, file_state, octal
from fleet.modules.base import Args, Context


class FileArgs(Args, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Arguments of `file`."""

    path: str
    state: Literal["file", "directory", "link", "absent"] = "file"
    src: str | None = None
    mode: str | int | None = None
    owner: str | None = None
    group: str | None = None

    def __post_init__(self) -> None:
        check_path(self.path)
        check_mode(self.mode)
        if (self.state == "link") != (self.src is not None):
            raise ValueError("`src` is the target of a `state: link`, and only of that")
        if self.state in ("absent", "link") and self.mode is not None:
            raise ValueError(f"`mode` means nothing with `state: {self.state}`")
        if self.state == "absent" and (self.owner is not None or self.group is not None):
            raise ValueError("`owner` and `group` mean nothing with `state: absent`")
        if self.state == "absent" and len(self.path.strip("/").split("/")) < 2:
            raise ValueError(f"fleet does not remove {self.path}: it is a folder of the system")


class File:
    """Make a folder or a symbolic link, remove a path, or set the attributes of one that exists.

    Arguments:
        path: absolute path on the host.
        state: `file` (default: it must exist, only attributes are set), `directory` (made with the folders
            above it), `link`, or `absent` (removed, a folder with all it holds).
        src: the link's target, written as it is.
        mode: quoted octal text such as `"0755"`. Default: as it is; the system's for a new folder.
        owner: user name or number. Default: as it is, root for a new path.
        group: group name or number. Default: as it is, root for a new path.

    Example:
        - name: A place for models
          file:
            path: /srv/models
            state: directory
            mode: "0755"
    """

    name: ClassVar[str] = "file"
    args: ClassVar[type[Args]] = FileArgs

    def probes(self, args: FileArgs, ctx: Context) -> Sequence[Probe]:
        """Ask for the path's type and attributes."""
        return (file_probe(_clean(args.path), "attributes"),)

    def plan(self, args: FileArgs, facts: Facts, ctx: Context) -> Sequence[Change]:
        """The changes of type and attributes."""
        path = _clean(args.path)
        found = file_state(path, "attributes", facts, ctx)
        if args.state == "absent":
            return _absent(path, found)
        if args.state == "directory":
            change = _directory(path, args, found, ctx)
        elif args.state == "link":
            change = _link(path, args, found, ctx)
        else:
            change = _existing(path, args, found, ctx)
        return (change,) if change else ()


def _absent(path: str, found: FileState) -> Sequence[Change]:
    if not found.exists:
        return ()
    diff = f"{path}: {found.kind} -> absent\n"
    return (Change(f"remove {path}", diff, (Run(("rm", "-rf", "--one-file-system", "--", path)),)),)


def _directory(path: str, args: FileArgs, found: FileState, ctx: Context) -> Change | None:
    if found.kind == "directory":
        return attributes(path, found, octal(args.mode), args.owner, args.group)
    if found.exists:
        raise ctx.fail(f"{path} is a {found.kind}, not a folder", remedy="remove it or choose another path")
    # `install -d` makes the folders above it too, and gives owner and mode to the last one alone.
    argv = ["install", "-d", *(("-m", mode) if (mode := octal(args.mode)) else ())]
    argv += [*(("-o", args.owner) if args.owner else ()), *(("-g", args.group) if args.group else ())]
    return Change(f"create folder {path}", f"{path}: absent -> directory\n", (Run((*argv, "--", path)),))


def _link(path: str, args: FileArgs, found: FileState, ctx: Context) -> Change | None:
    assert args.src is not None
    if found.kind == "symbolic link" and found.target == args.src:
        return attributes(path, found, None, args.owner, args.group)
    if found.exists and found.kind != "symbolic link":
        raise ctx.fail(
            f"{path} is a {found.kind}; fleet does not replace it by a link",
            remedy=f"remove it first, by a task `file: {{path: {path}, state: absent}}`",
        )
    ownership = f"{args.owner or ''}{':' + args.group if args.group else ''}"
    steps: list[Step] = [Run(("ln", "-sfn", "--", args.src, path))]
    if ownership:
        steps.append(Run(("chown", "-h", "--", ownership, path)))
    before = f"link to {found.target}" if found.exists else "absent"
    return Change(f"link {path} to {args.src}", f"{path}: {before} -> link to {args.src}\n", tuple(steps))


def _existing(path: str, args: FileArgs, found: FileState, ctx: Context) -> Change | None:
    if not found.exists:
        return Change(f"set the attributes of {path} once it exists")
    if found.kind == "directory":
        raise ctx.fail(f"{path} is a folder", remedy="say `state: directory`")
    if found.kind == "symbolic link":
        raise ctx.fail(f"{path} is a link to {found.target}", remedy=f"set the attributes of {found.target}")
    return attributes(path, found, octal(args.mode), args.owner, args.group)


def _clean(path: str) -> str:
    """The path without slashes at its end: those would make `rm` and `ln` follow a link."""
    return path.rstrip("/") or "/"
