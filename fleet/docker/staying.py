"""Does a container that was just started stay up?"""

from __future__ import annotations

from fleet.docker.probe import SOCKET
from fleet.model.steps import Run

# The engine frames each line of a log with eight bytes.
_SCRIPT = f"""\
ask() {{ curl -s -g --max-time 30 --unix-socket {SOCKET} "http://d/containers/$1"; }}
sleep "$2"
state=$(ask "$1/json")
case $state in *'"Status":"running"'*)
  case $state in *'"RestartCount":0,'*) exit 0 ;; esac
esac
echo "$1 does not stay up; its log ends with:" >&2
ask "$1/logs?stdout=1&stderr=1&tail=20" | cut -b9- >&2
exit 1
"""


def stays_up(name: str, seconds: float) -> Run:
    """A step that waits and fails, with the end of its log, where the container has ended meanwhile."""
    argv = ("sh", "-c", _SCRIPT, "stays-up", name, f"{seconds:g}")
    return Run(argv, timeout=seconds + 90, title=f"{name}, which has to stay up for {seconds:g} s,")
