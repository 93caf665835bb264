"""Commands for a running HAProxy, as steps. What they decide is saved for the next reload or start."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping

from fleet.balancer.deploy import SAVE_STATE
from fleet.balancer.paths import PORTS_FILE, SOCKET
from fleet.balancer.stats import WORK, Admin
from fleet.balancer.workers import WORKERS
from fleet.errors import InputError
from fleet.model.steps import Run

MAX_WEIGHT = 256

_SERVER = re.compile(r"[A-Za-z0-9_.:-]+")

# What is refused does not keep the rest from being told (`tell` sets `failed`). What a process hears after a
# reload has begun is not known to the next one, so reloads are waited for, and who is another process
# afterwards is told again.
_ROUNDS = f"""\
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
    tell "$line" || exit 1
  done <<END
$lines
END
  [ ! -x {SAVE_STATE} ] || {SAVE_STATE}
  settle
  [ "$(worker)" != "$told" ] || break
done
exit $failed
"""

# HAProxy answers a command it carried out with an empty line, and any other with a reason. Where no agent is
# asked, none keeps the server out.
_SEND = (
    """\
tell() {
  answer=$(printf '%s\\n' "$1" | ask) || return 1
  answer=$(printf '%s' "$answer" | sed '/^[[:space:]]*$/d')
  case "$1: $answer" in *" agent up: agent checks are not enabled"*) answer= ;; esac
  [ -z "$answer" ] || { printf '%s: %s\\n' "$1" "$answer" >&2; failed=1; }
}
"""
    + _ROUNDS
)

# The port is written down first: a reload that comes in between then brings what was meant. HAProxy's words
# for what it did differ, so its servers are looked at; since 3.0 it changes them a moment later.
_MOVE = (
    f"""\
ports={PORTS_FILE} saves={SAVE_STATE}
[ ! -x "$saves" ] || grep -q '/fleet-ports' "$saves" || {{
  echo "a reload of this balancer would forget the port: run fleet provision first" >&2; exit 1
}}
servers() {{ echo "show servers state" | ask | awk -v server="$1" '$4 == server {{ print $2, $5, $19 }}'; }}
remember() {{
  (
    flock -w 10 9 || exit 1
    umask 077
    new=$(mktemp "$ports.XXXXXX") || exit 1
    touch "$ports"
    awk -v server="$1" '$1 != server' "$ports" > "$new"
    [ -z "$2" ] || printf '%s %s\\n' "$1" "$2" >> "$new"
    mv -f "$new" "$ports"
    [ -s "$ports" ] || rm -f "$ports"
  ) 9< "${{ports%/*}}"
}}
there() {{ servers "$1" | awk -v at="$2 $3" '$2 " " $3 != at {{ other = 1 }} END {{ exit other }}'; }}
tell() {{
  rows=$(servers "${{1%% *}}")
  [ -n "$rows" ] || {{ echo "${{1%% *}}: HAProxy has no such server" >&2; failed=1; return 0; }}
  before=$(awk -v server="${{1%% *}}" '$1 == server {{ print $2 }}' "$ports" 2>/dev/null)
  remember "${{1%% *}}" "${{1##* }}" || {{ echo "$ports cannot be written" >&2; return 1; }}
  said=$(move $1 "$rows") && return 0
  printf '%s\\n' "$said" | sed '/^[[:space:]]*$/d' >&2
  failed=1
  remember "${{1%% *}}" "$before"
}}
move() {{
  server=$1 address=$2 port=$3
  [ "$address" != - ] || address=$(printf '%s\\n' "$4" | awk 'NR == 1 {{ print $2 }}')
  for backend in $(printf '%s\\n' "$4" | awk '{{ print $1 }}'); do
    command="set server $backend/$server addr $address port $port"
    printf '%s: %s\\n' "$command" "$(echo "$command" | ask)"
  done
  tries=0
  until there "$server" "$address" "$port"; do
    tries=$((tries + 1)); [ $tries -lt 20 ] || return 1
    sleep 0.1
  done
}}
"""
    + _ROUNDS
)

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
    _check_weight(weight)
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


def admit(weights: Mapping[str, int]) -> Run:
    """Let slots' servers take jobs with these weights (0 to 256) at once, whatever checks said until now.

    For who has just seen for himself that they are well: else a server that was down would have to pass its
    checks first, `rise` of them.
    """
    for weight in weights.values():
        _check_weight(weight)
    return _commands(
        line
        for server, weight in weights.items()
        for line in (
            f"set weight {WORK}/{_checked(server)} {weight}",
            f"set server {WORK}/{server} health up",
            f"set server {WORK}/{server} agent up",
            f"set server {WORK}/{server} state {Admin.READY.value}",
        )
    )


def set_endpoint(server: str, address: str, port: int) -> Run:
    """Send a slot's new connections to another port, in every backend that has it, and over reloads.

    Requests under way end where they are. A Gradio job whose events are not fetched yet would be looked for
    at the new port, so drain the server first. `address` is where the host is, which does not change; for a
    name HAProxy keeps the address it found. The configuration's port counts again where a new one has this
    port, or another than the one before it.
    """
    if not 1 <= port <= 65535:
        raise InputError(f"port {port} of {server} is not from 1 to 65535")
    line = f"{_checked(server)} {_address(address)} {port}\n"
    return Run(("sh", "-c", _MOVE), stdin=line.encode(), timeout=60, title="tell HAProxy the port")


def cut(servers: Iterable[str]) -> Run:
    """End the jobs in flight on these servers, in this process and in those that reloads have left behind.

    Prints a server's name for each job that it ended there.
    """
    lines = "".join(f"{_checked(server)}\n" for server in servers)
    return Run(("sh", "-c", _CUT), stdin=lines.encode(), timeout=60, title="end the jobs in flight")


def _commands(lines: Iterable[str]) -> Run:
    stdin = "".join(f"{line}\n" for line in lines)
    return Run(("sh", "-c", _SEND), stdin=stdin.encode(), timeout=60, title="tell HAProxy")


def _check_weight(weight: int) -> None:
    if not 0 <= weight <= MAX_WEIGHT:
        raise InputError(f"weight {weight} is not from 0 to {MAX_WEIGHT}")


def _address(address: str) -> str:
    """The address as HAProxy writes it; `-` for a name, which HAProxy has looked up."""
    try:
        return str(ipaddress.ip_address(address.strip("[]")))
    except ValueError:
        _checked(address)
        return "-"


def _checked(server: str) -> str:
    if not _SERVER.fullmatch(server):
        raise InputError(f"{server!r} cannot be a server's name")
    return server
