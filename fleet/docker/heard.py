"""Which of a host's ports answer HTTP, and which surely do not."""

from __future__ import annotations

from dataclasses import dataclass

from fleet.model.facts import Answer, Facts, Probe

PORTS = 16
"""So many ports from a host's first one are asked: one for each GPU of the largest machines."""

_KEY = "slots.heard"

# Any page will do, one that asks for a login too; 5xx is how a proxy says that nobody is there yet.
ASK = """\
ask() {
  code=$(curl -q -s -g -m "$2" --noproxy '*' -o /dev/null -w '%{http_code}' "http://$1/" 2>/dev/null)
  rc=$?
  code=${code:-000}
  [ "$code" -ge 100 ] && [ "$code" -lt 500 ]
}
"""
"""A function for sh: true where HOST:PORT answers within so many seconds; `rc` and `code` are curl's."""


@dataclass(frozen=True)
class Heard:
    """Ports by what they said: those that `answer` HTTP, those that surely do not. Of others nobody knows."""

    answer: frozenset[int] = frozenset()
    silent: frozenset[int] = frozenset()


def heard_probe(*firsts: int) -> Probe:
    """Ask the ports from each of `firsts` on that somebody listens on: all at once, two seconds at most."""
    within = " || ".join(f"($2 >= {first} && $2 < {first + PORTS})" for first in firsts)
    script = f"""\
command -v curl >/dev/null && command -v ss >/dev/null || exit 0
{ASK}
places=$(ss -Hltn | awk '{{ print $4 }}' | sed 's/:\\([0-9]*\\)$/ \\1/; s/%[^ ]*//' | awk '{within} {{
  sub(/^(0\\.0\\.0\\.0|\\*)$/, "127.0.0.1", $1)
  sub(/^\\[::\\]$/, "[::1]", $1)
  print $1 ":" $2
}}' | sort -u)
for place in $places; do
  (
    if ask "$place" 2; then echo "answers ${{place##*:}}"; exit; fi
    # Refused, or cut by what forwards the port. One that is late may be busy with a job.
    case $rc-$code in 7-*|52-*|56-*|0-5*) echo "silent ${{place##*:}}" ;; esac
  ) &
done
wait
"""
    return Probe(_KEY, script)


def heard(facts: Facts) -> Heard:
    """What the host's ports said."""
    rows = [line.split() for line in facts.get(_KEY, Answer(0)).text.splitlines()]
    said = [(row[0], int(row[1])) for row in rows if len(row) == 2 and row[1].isdecimal()]
    answer = frozenset(port for word, port in said if word == "answers")
    return Heard(answer, frozenset(port for word, port in said if word == "silent") - answer)
