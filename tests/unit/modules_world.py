"""Modules asked with recorded facts, or with this machine as their host."""

from __future__ import annotations

import msgspec

from fleet.engine.look import look
from fleet.errors import Place
from fleet.model.facts import Answer, Facts
from fleet.model.host import Host
from fleet.modules.base import Context
from fleet.modules.registry import load
from tests.local import LocalRemote, LocalRunner

PLACE = Place("play.yml", 7)
ABSENT = "absent\n"
DEBIAN_13 = """\
PRETTY_NAME="Debian GNU/Linux 13 (trixie)"
NAME="Debian GNU/Linux"
VERSION_ID="13"
VERSION="13 (trixie)"
VERSION_CODENAME=trixie
ID=debian
"""
UBUNTU_24 = """\
PRETTY_NAME="Ubuntu 24.04.3 LTS"
NAME="Ubuntu"
VERSION_ID="24.04"
VERSION_CODENAME=noble
ID=ubuntu
ID_LIKE=debian
"""
RUNNING_UNIT = """\
ExecMainStartTimestamp=Sun 2026-11-22 23:48:13.737551 UTC
LoadState=loaded
ActiveState=active
SubState=running
UnitFileState=enabled
NeedDaemonReload=no
InvocationID=bdc0feffc6b847bbaaca3087d5aa2967
"""
NO_UNIT = """\
ExecMainStartTimestamp=
LoadState=not-found
ActiveState=inactive
SubState=dead
UnitFileState=
NeedDaemonReload=no
InvocationID=
"""


def context(**more):
    return Context(host=Host("gpu-01"), place=PLACE, **more)


def typed(module, args):
    return msgspec.convert(args, load(module).args)


def file_answer(content, mode="644", owner="root", group="root", mtime=1795390037.876836):
    kind = "regular file" if content else "regular empty file"
    head = f"{mode}|{owner}|{group}|0|0|{mtime:.6f}|{len(content)}|{kind}\n"
    return Answer(0, head.encode() + content)


def folder_answer(mode="755", owner="root", group="root"):
    return Answer(0, f"{mode}|{owner}|{group}|0|0|1795390037.000000|4096|directory\n".encode())


def link_answer(target):
    head = f"777|root|root|0|0|1795390037.000000|{len(target)}|symbolic link\n"
    return Answer(0, (head + target).encode())


def plan(module, args, answers, **ctx):
    """The module's plan, with the recorded answers by probe key; a text is an answer of a probe that ended well."""
    facts = Facts({k: v if isinstance(v, Answer) else Answer(0, v.encode()) for k, v in answers.items()})
    return list(load(module).plan(typed(module, args), facts, context(**ctx)))


def steps(changes):
    return [step for change in changes for step in change.steps]


class Machine:
    """This machine as a host: looks, plans and applies with a real sh."""

    def __init__(self):
        self.remote = LocalRemote("here")
        self.runner = LocalRunner(self.remote)

    def plan(self, module, args, **ctx):
        found, typed_args = load(module), typed(module, args)
        where = context(**ctx)
        return list(
            found.plan(typed_args, look(self.remote, found.probes(typed_args, where), timeout=30), where)
        )

    def apply(self, module, args, **ctx):
        changes = self.plan(module, args, **ctx)
        for step in steps(changes):
            self.runner.execute(step, None)
        return changes

    def converge(self, module, args, **ctx):
        """Apply, and hold the module to its word; the summaries of what was changed."""
        changes = self.apply(module, args, **ctx)
        assert self.plan(module, args, **ctx) == []
        return [change.summary for change in changes]
