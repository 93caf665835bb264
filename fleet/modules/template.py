"""The template module: render a Jinja2 template into a file on the host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from fleet.model.facts import Facts, Probe
from fleet.model.steps import Change
from fleet.modules._files import find_source
from fleet.modules._write import WriteArgs, write_probe, written
from fleet.modules.base import Args, Context
from fleet.playbook.templating import render_file


class TemplateArgs(WriteArgs, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Arguments of `template`."""

    src: str


class Template:
    """Render a Jinja2 template of the controller into a file on the host.

    Works as `copy` does, with the rendered text. Templates see the inventory's and the playbook's
    variables; an undefined one is an error that names the template's line.

    Arguments:
        src: template on the controller; a relative path is looked for beside the playbook, in the
            project's `templates/`, then among the templates fleet ships.
        dest: absolute path of the file on the host.
        mode: quoted octal text. Default: as the file has, `"0644"` for a new one (`"0600"` for a secret).
        owner: user name or number. Default: as the file has, root for a new one.
        group: group name or number. Default: as the file has, root for a new one.
        backup: keep the replaced file beside it, named after the time.
        secret: never show the content, and compare it by its hash.
        validate: command that must accept the new file before it takes its place; `%s` is its path.

    Example:
        - name: Set the message of the day
          template:
            src: motd.j2
            dest: /etc/motd
            mode: "0644"
    """

    name: ClassVar[str] = "template"
    args: ClassVar[type[Args]] = TemplateArgs

    def probes(self, args: TemplateArgs, ctx: Context) -> Sequence[Probe]:
        """Ask for the file's attributes and content (a secret's hash)."""
        return (write_probe(args),)

    def plan(self, args: TemplateArgs, facts: Facts, ctx: Context) -> Sequence[Change]:
        """One change where the rendered text or the attributes differ."""
        text = render_file(find_source(args.src, "templates", ctx), ctx.variables)
        return written(text.encode(), args, facts, ctx)
