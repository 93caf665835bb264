"""Commands for a running HAProxy, as steps. Each is checked, and saved for the next reload or start."""

from __future__ import annotations

import re

from fleet.balancer.deploy import SAVE_STATE
from fleet.balancer.render import SOCKET
from fleet.balancer.stats import WORK, Admin
from fleet.errors import InputError
from fleet.model.steps import Run

_SERVER = re.compile(r"[A-Za-z0-9_.:-]+")

# HAProxy answers a command it carried out with an empty line, and any other with a reason.
_SEND = f"""\
answer=$(socat -t 10 -T 10 - UNIX-CONNECT:{SOCKET}) || exit 1
answer=$(printf '%s' "$answer" | sed '/^[[:space:]]*$/d')
[ -z "$answer" ] || {{ printf '%s\\n' "$answer" >&2; exit 1; }}
[ ! -x {SAVE_STATE} ] || {SAVE_STATE}
"""


def set_weight(server: str, weight: int) -> Run:
    """Give a slot's server another weight (0 to 256) until told otherwise."""
    if not 0 <= weight <= 256:
        raise InputError(f"weight {weight} for {server} is not from 0 to 256")
    return _command(f"set weight {_checked(server)} {weight}")


def set_admin(server: str, state: Admin) -> Run:
    """Let a slot's server take jobs, only finish them, or neither."""
    return _command(f"set server {_checked(server)} state {state.value}")


def drain(server: str) -> Run:
    """No new job to this server; jobs in flight go on."""
    return set_admin(server, Admin.DRAIN)


def ready(server: str) -> Run:
    """New jobs to this server again."""
    return set_admin(server, Admin.READY)


def _command(line: str) -> Run:
    return Run(("sh", "-c", _SEND), stdin=f"{line}\n".encode(), timeout=30)


def _checked(server: str) -> str:
    if not _SERVER.fullmatch(server):
        raise InputError(f"{server!r} cannot be a server's name")
    return f"{WORK}/{server}"
