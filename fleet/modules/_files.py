"""Files on a host: what is there, how it differs from what should be, and what mends it.

Shared by every module that writes a file (copy, template, file, apt_repository, docker_engine).
"""

from __future__ import annotations

import hashlib
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fleet.model.facts import Facts, Probe
from fleet.model.steps import Change, Run, Step, Upload
from fleet.modules.base import Context

Depth = Literal["attributes", "hash", "content", "whole"]
"""How closely a file is looked at. Secrets are compared by hash, so that they never leave the host; `whole`
is the content of a file of any size."""

CONTENT_LIMIT = 131_072
"""Larger files are compared by hash: their diff would not be read, and the look stays small."""

_MODE = re.compile(r"[0-7]{3,4}")
_REMEDY_TYPE = "move it away, or choose another path"


@dataclass(frozen=True)
class FileState:
    """One path as observed; `kind` is stat's word ("regular file", "directory", ...) or "absent"."""

    kind: str = "absent"
    mode: str = ""
    owner: str = ""
    group: str = ""
    uid: str = ""
    gid: str = ""
    size: int = 0
    mtime: float = 0.0
    target: str = ""
    content: bytes | None = None
    sha256: str | None = None

    @property
    def exists(self) -> bool:
        """True where anything has this path, also a dangling symbolic link."""
        return self.kind != "absent"

    @property
    def regular(self) -> bool:
        """True for a file proper (not a link, folder, socket or device)."""
        return self.kind in ("regular file", "regular empty file")

    def same_content(self, wanted: bytes) -> bool:
        """True where a regular file has exactly these bytes."""
        if not self.regular or self.size != len(wanted):
            return False
        if self.content is not None:
            return self.content == wanted
        return self.sha256 == hashlib.sha256(wanted).hexdigest()


@dataclass(frozen=True)
class Wanted:
    """A file as it should be. None for `mode`, `owner` or `group` keeps what the file has.

    `validate` is a command that must accept the new file before it takes the old one's place; `%s` in it
    stands for the new file's path. `backup` keeps the replaced file beside it.
    """

    path: str
    content: bytes
    mode: str | None = None
    owner: str | None = None
    group: str | None = None
    secret: bool = False
    validate: tuple[str, ...] = ()
    backup: bool = False


def check_path(path: str, what: str = "path") -> None:
    """Raise ValueError unless `path` is absolute and says plainly where it leads."""
    if not path.startswith("/") or "\0" in path or "\n" in path:
        raise ValueError(f"`{what}` must be an absolute path on the host, not {path!r}")
    if any(part in ("..", ".") for part in path.split("/")):
        raise ValueError(f"`{what}` must not contain `.` or `..` as a component: {path}")


def check_mode(mode: str | int | None) -> None:
    """Raise ValueError unless `mode` is None or octal text."""
    if mode is not None and not (isinstance(mode, str) and _MODE.fullmatch(mode)):
        raise ValueError(f'`mode` must be quoted octal text such as "0644", not {mode!r}')


def octal(mode: str | int | None) -> str | None:
    """A mode that passed `check_mode`, with four digits."""
    return None if mode is None else str(mode).rjust(4, "0")


def file_probe(path: str, depth: Depth) -> Probe:
    """Ask for a path's type, attributes and, as deep as asked, its content."""
    quoted = shlex.quote(path)
    lines = [
        f"p={quoted}",
        '[ -e "$p" ] || [ -L "$p" ] || { echo absent; exit 0; }',
        "h=$(stat -c '%a|%U|%G|%u|%g|%.6Y|%s|%F' -- \"$p\") || exit 1",
        'printf "%s\\n" "$h"',
        "case $h in",
        "*'|symbolic link') readlink -n -- \"$p\" ;;",
    ]
    if depth == "hash":
        lines.append('*"|regular"*) sha256sum <"$p" ;;')
    elif depth == "whole":
        lines.append('*"|regular file") cat -- "$p" ;;')
    elif depth == "content":
        lines += [
            '*"|regular empty file") ;;',
            '*"|regular file") s=${h%|*}; s=${s##*|}',
            f'  if [ "$s" -gt {CONTENT_LIMIT} ]; then sha256sum <"$p"; else cat -- "$p"; fi ;;',
        ]
    lines.append("esac")
    return Probe(f"file.{depth}:{path}", "\n".join(lines) + "\n")


def file_state(path: str, depth: Depth, facts: Facts, ctx: Context) -> FileState:
    """The path as the probe saw it. Raises TaskError where the host could not read it."""
    answer = facts[file_probe(path, depth).key]
    head, _, body = answer.out.partition(b"\n")
    if answer.ok and head == b"absent":
        return FileState()
    parts = head.decode("utf-8", "replace").split("|")
    if not answer.ok or len(parts) != 8:
        raise ctx.fail(
            f"cannot read {path} on the host",
            output=answer.text,
            remedy="check the path and its file system on the host",
        )
    mode, owner, group, uid, gid, mtime, size, kind = parts
    content = sha256 = None
    target = ""
    if kind == "symbolic link":
        target = body.decode("utf-8", "surrogateescape")
    elif depth == "hash" or (depth == "content" and int(size) > CONTENT_LIMIT):
        sha256 = body.decode("ascii", "replace").split(" ")[0]
    elif depth in ("content", "whole"):
        content = body
    return FileState(kind, mode, owner, group, uid, gid, int(size), float(mtime), target, content, sha256)


def write(wanted: Wanted, found: FileState, ctx: Context) -> Change | None:
    """The change that makes the file as wanted; None where it is.

    A symbolic link in its place is replaced, never followed. Raises TaskError where a folder or a device
    is in its place.
    """
    if found.exists and not found.regular and found.kind != "symbolic link":
        raise ctx.fail(f"{wanted.path} is a {found.kind}, not a file", remedy=_REMEDY_TYPE)
    if found.same_content(wanted.content):
        return attributes(wanted.path, found, wanted.mode, wanted.owner, wanted.group)
    kept = found if found.regular else FileState()
    kept_mode = kept.mode.rjust(4, "0") if kept.mode else None
    moved = attributes(wanted.path, kept, wanted.mode, wanted.owner, wanted.group) if kept.exists else None
    upload = Upload(
        path=wanted.path,
        content=wanted.content,
        mode=wanted.mode or kept_mode or ("0600" if wanted.secret else "0644"),
        owner=wanted.owner or kept.owner or "root",
        group=wanted.group or kept.group or "root",
        secret=wanted.secret,
    )
    return Change(
        summary=f"{'change' if found.exists else 'create'} {wanted.path}",
        diff=(moved.diff if moved else "") + content_diff(wanted, found),
        steps=(*_backup(wanted, found), *_placed(upload, wanted.validate)),
    )


def attributes(
    path: str, found: FileState, mode: str | None, owner: str | None, group: str | None
) -> Change | None:
    """The change that gives an existing path the mode, owner and group named; None where it has them."""
    new_owner = owner if owner is not None and owner not in (found.owner, found.uid) else None
    new_group = group if group is not None and group not in (found.group, found.gid) else None
    moved = new_owner is not None or new_group is not None
    new_mode = mode is not None and int(mode, 8) != int(found.mode, 8)
    before: list[str] = []
    after: list[str] = []
    steps: list[Step] = []
    if moved:
        before.append(f"{found.owner}:{found.group}")
        after.append(f"{new_owner or found.owner}:{new_group or found.group}")
        ownership = (new_owner or "") + (f":{new_group}" if new_group is not None else "")
        steps.append(Run(("chown", "-h", "--", ownership, path)))
    if mode is not None and new_mode:
        before.append(found.mode.rjust(4, "0"))
        after.append(mode.rjust(4, "0"))
    # chown clears set-user-ID bits, so such a mode is set again after it.
    if mode is not None and (new_mode or (moved and int(mode, 8) >= 0o1000)):
        steps.append(Run(("chmod", "--", mode.rjust(4, "0"), path)))
    if not steps:
        return None
    return Change(
        summary=f"set {' '.join(after)} on {path}",
        diff=f"{path}: {' '.join(before)} -> {' '.join(after)}\n",
        steps=tuple(steps),
    )


def content_diff(wanted: Wanted, found: FileState) -> str:
    """A unified diff of the content, or one line where the content is secret, binary or large."""
    path = wanted.path
    if wanted.secret:
        return f"{path}: content is secret, its diff is not shown\n"
    old = b"" if not found.regular else found.content
    if old is None or len(wanted.content) > CONTENT_LIMIT or _binary(old) or _binary(wanted.content):
        return f"{path}: {found.size if found.regular else 0} -> {len(wanted.content)} bytes\n"
    notes = f"{path}: symbolic link to {found.target} -> file\n" if found.kind == "symbolic link" else ""
    if not found.exists and not wanted.content:
        return f"{path}: absent -> empty file\n"
    return notes + text_diff(path, old.decode(), wanted.content.decode(), new_file=not found.regular)


def text_diff(path: str, old: str, new: str, *, new_file: bool = False) -> str:
    """A unified diff of two texts; a missing newline at the end is marked as diff(1) marks it."""
    import difflib

    lines = difflib.unified_diff(
        old.splitlines(keepends=True),
        new.splitlines(keepends=True),
        "/dev/null" if new_file else path,
        path,
    )
    return "".join(
        line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines
    )


def find_source(src: str, kind: str, ctx: Context) -> Path:
    """The controller's file `src` means: absolute, or in a search folder, or in its `kind` subfolder.

    Raises TaskError naming every place looked at.
    """
    given = Path(src).expanduser()
    places = (
        [given]
        if given.is_absolute()
        else [folder / part for folder in ctx.search for part in (given, Path(kind) / given)]
    )
    if len(src) > 4096 or any(len(part.encode()) > 255 for part in given.parts):
        raise ctx.fail(f"no file can have this name: {src[:60]}...", remedy="give the path of a file")
    for place in places:
        if place.is_file():
            return place
        if place.is_dir():
            raise ctx.fail(f"{place} is a folder", remedy="name a file; use a loop for several files")
    raise ctx.fail(
        f"file not found: {src}",
        output="looked for:\n" + "\n".join(f"  {place}" for place in dict.fromkeys(places)),
        remedy="put it into one of these places, or give an absolute path",
    )


def read_source(path: Path, ctx: Context) -> bytes:
    """A controller's file. Raises TaskError where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ctx.fail(f"cannot read {path}: {error.strerror}", remedy="check its permissions") from error


def _binary(content: bytes) -> bool:
    if b"\0" in content:
        return True
    try:
        content.decode()
    except UnicodeDecodeError:
        return True
    return False


def _backup(wanted: Wanted, found: FileState) -> tuple[Step, ...]:
    if not wanted.backup or not found.regular:
        return ()
    script = 'cp -p -- "$1" "$1.$(date -u +%Y%m%dT%H%M%SZ).bak"'
    return (Run(("sh", "-c", script, "backup", wanted.path)),)


# The new file waits beside the old one, so that the last step is a rename on one file system. Its name has a
# dot, which sudo, cron and others skip in their folders of fragments.
_VALIDATE = """\
new=$1 path=$2; shift 2
"$@" >&2 || { rc=$?; rm -f -- "$new"; exit "$rc"; }
mv -fT -- "$new" "$path"
"""


def _placed(upload: Upload, validate: tuple[str, ...]) -> tuple[Step, ...]:
    if not validate:
        return (upload,)
    waiting = f"{upload.path}.fleet-new"
    command = tuple(part.replace("%s", waiting) for part in validate)
    there = Upload(waiting, upload.content, upload.mode, upload.owner, upload.group, upload.secret)
    argv = ("sh", "-c", _VALIDATE, "validate", waiting, upload.path, *command)
    return (there, Run(argv, title=" ".join(validate).replace("%s", upload.path)))
