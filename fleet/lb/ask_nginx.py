"""nginx asked about a configuration: `nginx -t` on a copy of all it has, its other sites among it."""

from __future__ import annotations

import re

from fleet.balancer.nginx_deploy import NEW
from fleet.balancer.nginx_probe import DEFAULT_SITE
from fleet.lb.survey import Planned
from fleet.lb.verdict import FOLDER, Message, Question
from fleet.model.steps import Run

_ROOT = "/etc/nginx/"

# Absolute paths of includes lead into the copy, too.
_CHECK = (
    FOLDER
    + f"""\
cp -a {_ROOT}. "$d" || exit 90
[ $# -eq 0 ] || (cd "$d" && rm -f -- "$@") || exit 90
tar -x -C "$d" || exit 90
sed -i "s,{_ROOT},$d/,g" "$d/nginx.conf" || exit 90
nginx -t -c "$d/nginx.conf" 2>&1 || exit 1
"""
)


def question(planned: Planned, folder: str) -> Question:
    """What to ask; `folder` is the folder's path on the host."""
    files = {planned.path: (planned.rendered or "").encode()}
    files |= {file.path.removesuffix(NEW): file.content for file in planned.uploads}
    off = any(
        isinstance(step, Run) and step.argv[0] == "rm" and DEFAULT_SITE in step.argv
        for change in planned.changes
        for step in change.steps
    )
    return Question(
        _CHECK,
        (DEFAULT_SITE.removeprefix(_ROOT),) if off else (),
        {path.removeprefix(_ROOT): content for path, content in files.items()},
        {f"{folder}/": _ROOT},
        parse_messages,
    )


# Until it has read where its log is, nginx speaks to the terminal; from then on as it writes its log.
_SAID = re.compile(r"(?:nginx:|\S+ \S+) \[(\w+)\] (?:\d+#\d+: )?(.*?)(?: in (/\S+?):(\d+))?$")


def parse_messages(said: str) -> tuple[Message, ...]:
    """nginx's warnings and errors, in its order, each once."""
    found = (_SAID.match(line) for line in said.splitlines())
    messages = (
        Message(
            "warning" if each[1] in ("warn", "notice", "info") else "error",
            each[2],
            each[3] or "",
            int(each[4]) if each[4] else None,
        )
        for each in found
        if each is not None
    )
    return tuple(dict.fromkeys(messages))
