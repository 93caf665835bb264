"""What is wrong with a balancer that runs nginx."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence

from fleet.balancer.nginx import SITE_FILE
from fleet.balancer.nginx_probe import NginxState
from fleet.model.problem import Problem
from fleet.status.model import SlotStatus

_PROVISION = "run `fleet provision`"


def nginx_problems(
    balancer: str,
    state: NginxState | None,
    slots: Sequence[SlotStatus],
    known: Container[str],
    complete: bool,
) -> Iterator[Problem]:
    """What is wrong there; `known` and `complete` as for a balancer with HAProxy.

    nginx tells nothing of single servers, so only what its configuration names is compared.
    """
    if state is None:
        yield Problem(balancer, "nginx does not run", f"`systemctl status nginx` there, or {_PROVISION}")
        return
    if state.config_hash is None:
        yield Problem(balancer, "nginx does not run fleet's configuration", _PROVISION)
        return
    if state.config_hash != state.site_hash:
        yield Problem(balancer, f"nginx runs another configuration than {SITE_FILE}", _PROVISION)
    names = {slot.name for slot in slots}
    for server in state.servers:
        if server not in names and (complete or server.rpartition("-")[0] in known):
            yield Problem(balancer, f"its server {server} is no slot", _PROVISION)
    for slot in slots:
        if slot.name not in state.servers:
            yield Problem(balancer, f"slot {slot.name} is not among its servers", _PROVISION)
