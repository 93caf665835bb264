"""Commands for a running HAProxy, as steps. What they decide is saved for the next reload or start."""

from __future__ import annotations

import re
from collections.abc import Iterable

from fleet.balancer.deploy import SAVE_STATE
from fleet.balancer.paths import SOCKET
from fleet.balancer.stats import WORK, Admin
from fleet.balancer.workers import WORKERS
from fleet.errors import InputError
from fleet.model.steps import Run

MAX_WEIGHT = 256

_SERVER = re.compile(r"[A-Za-z0-9_.:-]+")

# HAProxy answers a command it carried out with an empty line, and any other with a reason. One that is
# refused does not keep the others from being told. What a process hears after a reload has begun is not known
# to the next one, so reloads are waited for, and who is another process afterwards is told again.
_SEND = f"""\
ask() {{ socat -t 10 -T 10 - UNIX-CONNECT:{SOCKET}; }}
worker() {{ echo "show info" | ask | sed -n 's/^Pid: //p'; }}
settle() {{
  tries=0
  while [ "$(systemctl show -p ActiveState --value haproxy.service 2>/dev/null)" = reloading ]; do
    tries=$((tries + 1)); [ $tries -lt 100 ] || return
    sleep 0.2
  done
}}
lines=$(cat)
for round in 1 2 3; do
  settle
  told=$(worker) && [ -n "$told" ] || exit 1
  failed=0
  while IFS= read -r line; do
    answer=$(printf '%s\\n' "$line" | ask) || exit 1
    answer=$(printf '%s' "$answer" | sed '/^[[:space:]]*$/d')
    [ -z "$answer" ] || {{ printf '%s: %s\\n' "$line" "$answer" >&2; failed=1; }}
  done <<END
$lines
END
  [ ! -x {SAVE_STATE} ] || {SAVE_STATE}
  settle
  [ "$(worker)" != "$told" ] || break
done
exit $failed
"""

# By single sessions: a worker that a reload has left behind refuses `shutdown sessions server` ("Proxy is
# disabled"), and only so are jobs that end by themselves meanwhile not counted.
_CUT = f"""\
{WORKERS}
worker() {{ echo "$1" | socat -t 10 -T 10 - UNIX-CONNECT:{SOCKET}; }}
sessions() {{
  awk -v server="srv=$1" '
    {{ mine = work = 0; for (i = 2; i <= NF; i++) {{ mine += $i == server; work += $i == "be={WORK}" }} }}
    mine && work {{ sub(":", "", $1); print $1 }}'
}}
worker "show info" >/dev/null || exit 1
olds=$(master "show proc" | old)
while IFS= read -r server; do
  for id in $(worker "show sess" | sessions "$server"); do
    worker "shutdown session $id" | grep -q . || echo "$server"
  done
  for pid in $olds; do
    for id in $(master "@!$pid show sess" | sessions "$server"); do
      master "@!$pid shutdown session $id" | grep -q . || echo "$server"
    done
  done
done
exit 0
"""


def set_weight(server: str, weight: int) -> Run:
    """Give a slot's server another weight (0 to 256) until told otherwise."""
    return set_weights([server], weight)


def set_weights(servers: Iterable[str], weight: int) -> Run:
    """Give several slots' servers another weight (0 to 256), in one step."""
    if not 0 <= weight <= MAX_WEIGHT:
        raise InputError(f"weight {weight} is not from 0 to {MAX_WEIGHT}")
    return _commands(f"set weight {WORK}/{_checked(server)} {weight}" for server in servers)


def set_admin(server: str, state: Admin) -> Run:
    """Let a slot's server take jobs, only finish them, or neither."""
    return set_admins([server], state)


def set_admins(servers: Iterable[str], state: Admin) -> Run:
    """Let several slots' servers take jobs, only finish them, or neither, in one step."""
    return _commands(f"set server {WORK}/{_checked(server)} state {state.value}" for server in servers)


def drain(server: str) -> Run:
    """No new job to this server; jobs in flight go on."""
    return set_admin(server, Admin.DRAIN)


def ready(server: str) -> Run:
    """New jobs to this server again."""
    return set_admin(server, Admin.READY)


def cut(servers: Iterable[str]) -> Run:
    """End the jobs in flight on these servers, in this process and in those that reloads have left behind.

    Prints a server's name for each job that it ended there.
    """
    lines = "".join(f"{_checked(server)}\n" for server in servers)
    return Run(("sh", "-c", _CUT), stdin=lines.encode(), timeout=60, title="end the jobs in flight")


def _commands(lines: Iterable[str]) -> Run:
    stdin = "".join(f"{line}\n" for line in lines)
    return Run(("sh", "-c", _SEND), stdin=stdin.encode(), timeout=60, title="tell HAProxy")


def _checked(server: str) -> str:
    if not _SERVER.fullmatch(server):
        raise InputError(f"{server!r} cannot be a server's name")
    return server
