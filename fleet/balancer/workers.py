"""What is in flight on each server, over every HAProxy process of a balancer.

A reload leaves the old process (worker) behind until its last stream ends, and the admin socket goes to the
new one. What the old ones still hold is asked of HAProxy's master process.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from fleet.balancer.paths import SOCKET
from fleet.balancer.stats import WORK

MASTER = "/run/haproxy-master.sock"
"""Where the units of Debian and Ubuntu put the master's socket."""

TABS = "tabs"

_FETCH_GRACE = 5_000

WORKERS = f"""\
master() {{ echo "$1" | socat -t 5 -T 5 - UNIX-CONNECT:{MASTER} 2>/dev/null; }}
old() {{ awk '/^# old workers/ {{ old = 1; next }} /^#/ {{ old = 0 }} old {{ print $1 }}'; }}
"""

# For every line it reads it tells once what is in flight, so that one connection serves a whole drain and the
# end of the connection is its end. Without a master's socket, processes with the same parent are counted.
WATCH = f"""\
{WORKERS}
ask() {{ socat -t 5 -T 5 - UNIX-CONNECT:{SOCKET} 2>/dev/null; }}
siblings() {{
  stat='s/^\\([0-9]*\\) (haproxy) . \\([0-9]*\\) .*/\\1 \\2/p'
  parent=$(sed -n "$stat" "/proc/$1/stat" 2>/dev/null)
  [ -z "$parent" ] || sed -n "$stat" /proc/[0-9]*/stat 2>/dev/null |
    awk -v me="$1" -v parent="${{parent#* }}" '$2 == parent && $1 != me {{ print "@mute " $1 }}'
}}
joined=$(echo "show env FLEET_JOINED" | ask | sed -n 's/^FLEET_JOINED=//p')
joins="show table joins data.gpt0 eq ${{joined:-2}}"
while IFS= read -r mark; do
  now=$(echo "show info; show env FLEET_LONGEST_JOB; show stat -1 4 -1; $joins" | ask)
  printf '%s\\n\\n' "$now"
  keys=$(printf '%s\\n' "$now" | sed -n 's/^0x.* key=\\([A-Za-z0-9_-]\\{{1,64\\}}\\) .*gpt0=.*/\\1/p')
  if [ -n "$keys" ]; then
    echo @owner
    printf '%s\\n' "$keys" | head -n 200 | sed 's/.*/show table owner key &;/' | tr '\\n' ' ' | ask
  fi
  if procs=$(master "show proc") && [ -n "$procs" ]; then
    for pid in $(printf '%s\\n' "$procs" | old); do
      said=$(master "@!$pid show stat -1 4 -1")
      if [ -n "$said" ]; then printf '@old %s\\n%s\\n\\n' "$pid" "$said"
      elif [ -d "/proc/$pid" ]; then echo "@mute $pid"; fi
    done
  else
    siblings "$(printf '%s\\n' "$now" | sed -n 's/^Pid: //p')"
  fi
  printf '\\n@end %s\\n' "$mark"
done
"""


@dataclass(frozen=True)
class InFlight:
    """What a slot still holds.

    `jobs` are requests in flight, `pages` open pages (heartbeats, which are no work), `announced` jobs whose
    client was just given their place and is about to fetch their events.
    """

    jobs: int = 0
    pages: int = 0
    announced: int = 0

    @property
    def busy(self) -> int:
        """The jobs that a drain waits for."""
        return self.jobs + self.announced

    def __add__(self, other: InFlight) -> InFlight:
        return InFlight(self.jobs + other.jobs, self.pages + other.pages, self.announced + other.announced)


@dataclass(frozen=True)
class Watched:
    """One answer of WATCH: what one balancer's processes hold.

    `announced` are pairs of server and session: balancers tell each other of them, so one may come from
    several. `old_workers` counts processes of before a reload, `mute` those of them that could not be asked.
    """

    servers: dict[str, InFlight] = field(default_factory=dict)
    announced: frozenset[tuple[str, str]] = frozenset()
    old_workers: int = 0
    mute: int = 0


def parse_watched(text: str) -> Watched | None:
    """What an answer of WATCH tells; None where no HAProxy answered."""
    if "# pxname," not in text:
        return None
    jobs: Counter[str] = Counter()
    pages: Counter[str] = Counter()
    for row in _rows(text):
        if row["pxname"] == WORK:
            jobs[row["svname"]] += int(row["scur"] or 0) + int(row["qcur"] or 0)
        elif row["pxname"] == TABS:
            pages[row["svname"]] += int(row["scur"] or 0)
    asked = len(re.findall(r"^@old ", text, re.MULTILINE))
    mute = len(re.findall(r"^@mute ", text, re.MULTILINE))
    return Watched(
        servers={name: InFlight(jobs[name], pages[name]) for name in jobs.keys() | pages.keys()},
        announced=frozenset(_announced(text)),
        old_workers=asked + mute,
        mute=mute,
    )


def _rows(text: str) -> Iterator[dict[str, str]]:
    """The rows of every `show stat` in the answer."""
    for table in re.findall(r"^# (pxname,.*?)(?:\n\n|\Z)", text, re.MULTILINE | re.DOTALL):
        yield from csv.DictReader(io.StringIO(table), restval="")


def _announced(text: str) -> Iterator[tuple[str, str]]:
    """Joins that were answered a moment ago and whose events nobody fetches yet.

    After some seconds without that, nobody will: the page was closed.
    """
    joins, _, owners = text.partition("\n@owner\n")
    rows = re.findall(r"^0x\S* key=(\S+) .*\bexp=(\d+)\b.*\bgpt0=", joins, re.MULTILINE)
    # A row lives as long as a job may take after it was last written (templates/haproxy.cfg.j2).
    longest = re.search(r"^FLEET_LONGEST_JOB=(\d+)$", joins, re.MULTILINE)
    expire = int(longest[1]) * 1000 if longest else 0
    fresh = {key for key, left in rows if int(left) > expire - _FETCH_GRACE}
    for key, server in re.findall(r"^0x\S* key=(\S+) .*\bserver_key=(\S+)", owners, re.MULTILINE):
        if key in fresh:
            yield server, key
