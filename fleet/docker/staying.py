"""Does a container that was just started stay up, and does it answer?"""

from __future__ import annotations

import math

from fleet.docker.answers import Port
from fleet.docker.probe import SOCKET
from fleet.model.facts import Answer, Facts, Probe
from fleet.model.steps import Run

PORTS = 16
"""So many ports from a host's first one are asked: one for each GPU of the largest machines."""

_PAGE_SECONDS = 5
_KEY = "slots.answering"

# Any page will do, one that asks for a login too; 5xx is how a proxy says that nobody is there yet.
_ASK = """\
ask() {
  code=$(curl -q -s -g -m "$2" --noproxy '*' -o /dev/null -w '%{http_code}' "http://$1/" 2>/dev/null)
  code=${code:-000}
  [ "$code" -ge 100 ] && [ "$code" -lt 500 ]
}
"""

# The engine frames each line of a log with eight bytes.
_WAIT = f"""\
{_ASK}
engine() {{ curl -q -s -g --max-time 30 --unix-socket {SOCKET} "http://d/containers/$1"; }}
# An engine that does not answer is restarted itself, which containers can outlive.
ended() {{
  case $(engine "$1/json") in ''|*'"Status":"running"'*'"RestartCount":0,'*) return 1 ;; esac
}}
fail() {{
  log=$(engine "$1/logs?stdout=1&stderr=1&tail=20" | cut -b9-)
  if [ -n "$log" ]; then printf '%s; its log ends with:\n%s\n' "$2" "$log" >&2
  else echo "$2; its log is empty" >&2; fi
  exit 1
}}
# The clock may be set while a machine starts.
now() {{ read -r seconds _ < /proc/uptime; echo "${{seconds%%.*}}"; }}
"""

_STAYS_UP = f"""\
{_WAIT}
sleep "$2"
! ended "$1" || fail "$1" 'it has ended'
"""

_ANSWERS = f"""\
{_WAIT}
until=$(($(now) + $3))
while ! ask "$2" {_PAGE_SECONDS}; do
  ! ended "$1" || fail "$1" 'it ended before it answered'
  said=
  [ "$code" = 000 ] || said=" (HTTP $code)"
  [ "$(now)" -lt "$until" ] || fail "$1" "no answer at http://$2/ within $3 s$said"
  sleep 1
done
"""

_REMEDY = "mend what its log names in image or settings"


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
        remedy=f"{_REMEDY}; where its model needs longer to load, set slot_ready (seconds) higher",
        says=f"waiting until {name} answers, {whole} s at most",
    )


def answering_probe(*firsts: int) -> Probe:
    """Ask which ports from each of `firsts` on answer HTTP, all of them at once, two seconds at most."""
    within = " || ".join(f"($2 >= {first} && $2 < {first + PORTS})" for first in firsts)
    script = f"""\
command -v curl >/dev/null && command -v ss >/dev/null || exit 0
{_ASK}
for place in $(ss -Hltn | awk '{{ print $4 }}' | sed 's/:\\([0-9]*\\)$/ \\1/; s/%[^ ]*//' | awk '{within} {{
    print ($1 == "0.0.0.0" || $1 == "*" || $1 == "[::]" ? "127.0.0.1" : $1) ":" $2 }}' | sort -u); do
  (ask "$place" 2 && echo "${{place##*:}}") &
done
wait
"""
    return Probe(_KEY, script)


def answering(facts: Facts) -> frozenset[int]:
    """The host's ports that answered."""
    return frozenset(int(word) for word in facts.get(_KEY, Answer(0)).text.split() if word.isdecimal())
