"""Which program a balancer host runs, by the inventory's variable `balancer_software`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from fleet.errors import InputError
from fleet.model.host import Host

VARIABLE = "balancer_software"

Software = Literal["haproxy", "nginx"]


def software(host: Host) -> Software:
    """What the host balances with: `haproxy` unless its variables say `nginx`.

    Raises InputError for any other value.
    """
    value = host.vars.get(VARIABLE, "haproxy")
    if value == "haproxy":
        return "haproxy"
    if value == "nginx":
        return "nginx"
    raise InputError(
        f"{host.name}: {VARIABLE} is {value!r}",
        place=host.place,
        remedy=f"set {VARIABLE} to haproxy or nginx",
    )


def require_haproxy(hosts: Iterable[Host], command: str) -> None:
    """Raise InputError where a balancer runs nginx, which `command` (such as `fleet drain`) cannot steer."""
    others = [host.name for host in hosts if software(host) != "haproxy"]
    if others:
        verb = "runs" if len(others) == 1 else "run"
        raise InputError(
            f"`{command}` needs HAProxy; {', '.join(others)} {verb} nginx ({VARIABLE})",
            remedy="docs/nginx.md tells what to do instead, and how to go over to HAProxy",
        )
