"""Does a container that was just started stay up, and does it answer?"""

from __future__ import annotations

import math

from fleet.docker.answers import Port
from fleet.docker.heard import ASK
from fleet.docker.probe import SOCKET
from fleet.model.steps import Run

_PAGE_SECONDS = 5

# The engine frames each line of a log with eight bytes.
_WAIT = f"""\
{ASK}
engine() {{ curl -q -s -g --max-time 30 --unix-socket {SOCKET} "$@"; }}
# up, ended, or nothing where the engine does not answer: it starts anew itself, which containers can outlive.
state() {{
  case $(engine "http://d/containers/$1/json") in
    '') ;;
    *'"Status":"running"'*'"RestartCount":0,'*) echo up ;;
    *) echo ended ;;
  esac
}}
fail() {{
  log=$(engine -f "http://d/containers/$1/logs?stdout=1&stderr=1&tail=20" | cut -b9- | tr -d '\\000')
  if [ -n "$log" ]; then printf '%s; its log ends with:\\n%s\\n' "$2" "$log" >&2
  else echo "$2; it has no log" >&2; fi
  exit 1
}}
# The clock may be set while a machine starts.
now() {{ read -r seconds _ < /proc/uptime; echo "${{seconds%%.*}}"; }}
"""

_STAYS_UP = f"""\
{_WAIT}
sleep "$2"
[ "$(state "$1")" != ended ] || fail "$1" 'it has ended'
"""

_ANSWERS = f"""\
{_WAIT}
until=$(($(now) + $3))
while :; do
  said=
  # Another program may have the port: it counts while the container is up, as the engine says afterwards.
  if ask "$2" {_PAGE_SECONDS}; then found=1; else found=; [ "$code" = 000 ] || said=" (HTTP $code)"; fi
  case $(state "$1")$found in
    up1) exit 0 ;;
    ended*) fail "$1" 'it ended before it answered' ;;
  esac
  [ "$(now)" -lt "$until" ] || fail "$1" "no answer at http://$2/ within $3 s$said"
  sleep 1
done
"""

_REMEDY = "mend the settings, or the image"


def stays_up(name: str, seconds: float) -> Run:
    """A step that waits and fails, with the end of its log, where the container has ended meanwhile."""
    argv = ("sh", "-c", _STAYS_UP, "stays-up", name, f"{seconds:g}")
    return Run(argv, timeout=seconds + 90, failure=f"{name} does not stay up", remedy=_REMEDY)


def answers(name: str, port: Port, seconds: float) -> Run:
    """A step that waits until the container's `port` answers HTTP; fails where it ends, or in the end."""
    whole = math.ceil(seconds)
    address = f"[{port.local}]" if ":" in port.local else port.local
    argv = ("sh", "-c", _ANSWERS, "answers", name, f"{address}:{port.host_port}", str(whole))
    return Run(
        argv,
        timeout=whole + 2 * _PAGE_SECONDS + 90,
        failure=f"{name} does not answer",
        remedy=f"{_REMEDY}; where its model needs longer to load, set slot_ready (seconds) higher, and to 0 "
        "where it does not speak plain HTTP",
        says=f"waiting until {name} answers, {whole} s at most",
    )
