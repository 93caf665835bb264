"""The copy module: put a file or a text on the host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from fleet.model.facts import Facts, Probe
from fleet.model.steps import Change
from fleet.modules._files import find_source, read_source
from fleet.modules._write import WriteArgs, write_probe, written
from fleet.modules.base import Args, Context


class CopyArgs(WriteArgs, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Arguments of `copy`."""

    src: str | None = None
    content: str | None = None

    def __post_init__(self) -> None:
        if (self.src is None) == (self.content is None):
            raise ValueError("give exactly one of `src` and `content`")
        super().__post_init__()


class Copy:
    """Put a file of the controller, or a text, on the host.

    The content is compared first, byte by byte; only a file that differs is sent, and it replaces the old
    one in a single rename. A symbolic link at `dest` is replaced, not followed. Folders on the way to it
    are created.

    Arguments:
        dest: absolute path of the file on the host.
        src: file on the controller; a relative path is looked for beside the playbook, then in the
            project and its `files/` folder.
        content: the text itself, instead of `src`.
        mode: quoted octal text. Default: as the file has, `"0644"` for a new one (`"0600"` for a secret).
        owner: user name or number. Default: as the file has, root for a new one.
        group: group name or number. Default: as the file has, root for a new one.
        backup: keep the replaced file beside it, named after the time.
        secret: never show the content, and compare it by its hash.
        validate: command that must accept the new file before it takes its place; `%s` is its path.

    Example:
        - name: Let operators restart the service
          copy:
            dest: /etc/sudoers.d/operators
            content: "%operators ALL=(root) NOPASSWD: /usr/bin/systemctl restart app\\n"
            mode: "0440"
            validate: visudo -cf %s
    """

    name: ClassVar[str] = "copy"
    args: ClassVar[type[Args]] = CopyArgs

    def probes(self, args: CopyArgs, ctx: Context) -> Sequence[Probe]:
        """Ask for the file's attributes and content (a secret's hash)."""
        return (write_probe(args),)

    def plan(self, args: CopyArgs, facts: Facts, ctx: Context) -> Sequence[Change]:
        """One change where content or attributes differ."""
        if args.src is not None:
            content = read_source(find_source(args.src, "files", ctx), ctx)
        else:
            content = (args.content or "").encode()
        return written(content, args, facts, ctx)
