"""From one balancer's answer to its servers' rows, and what is wrong there."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from datetime import UTC, datetime

from fleet.balancer.agree import disagreements
from fleet.balancer.stats import Admin, BalancerState, ServerState
from fleet.model.problem import Problem
from fleet.status.model import ServerStatus, SlotStatus

_PROVISION = "run `fleet provision`"
_UNIT = "fleet-gpu-agent"
_RENEW = "renew it, then run `fleet provision`"
_SOON = 14  # days


def servers(balancer: str, state: BalancerState) -> tuple[ServerStatus, ...]:
    """The servers of one balancer, in its own order."""
    return tuple(_server(balancer, server) for server in state.slots())


def balancer_problems(
    balancer: str,
    state: BalancerState | None,
    slots: Sequence[SlotStatus],
    known: Container[str],
    complete: bool,
) -> Iterator[Problem]:
    """What is wrong with one balancer.

    `known` are the hosts whose slots are among `slots`; `complete` tells that there are no others.
    """
    if state is None:
        yield Problem(
            balancer, "HAProxy does not answer", f"`systemctl status haproxy` there, or {_PROVISION}"
        )
        return
    if state.config_hash is None:
        yield Problem(balancer, "HAProxy runs a configuration that is not fleet's", _PROVISION)
        return
    by_name = {slot.name: slot for slot in slots}
    for server in state.slots():
        slot = by_name.get(server.name)
        if slot is None and (complete or server.name.rpartition("-")[0] in known):
            yield Problem(balancer, f"its server {server.name} is no slot", _PROVISION)
        elif slot is not None and server.address.rpartition(":")[2] not in ("", str(slot.port)):
            yield Problem(
                balancer, f"it reaches {server.name} at {server.address}, not port {slot.port}", _PROVISION
            )
        if server.down and not (server.agent_down and server.check_status.endswith("OK")):
            drained = "it is drained, and " if server.admin is Admin.DRAIN else ""
            yield Problem(server.name, f"{drained}{balancer} finds it down: {_check(server)}")
        elif server.agent_down and not server.agent_reason and not server.agent_asked:
            yield Problem(
                server.name,
                f"{balancer} keeps it out: its agent said so, and does not answer any more",
                f"`systemctl restart {_UNIT}` on {server.name.rpartition('-')[0]}",
            )
        elif server.up and server.admin is Admin.READY and not server.weight and not server.agent_holds:
            yield Problem(server.name, f"its weight on {balancer} is 0: it takes no jobs", _PROVISION)
    for name in by_name:
        if state.slot(name) is None:
            yield Problem(balancer, f"slot {name} is not among its servers", _PROVISION)
    if not any(server.takes_jobs for server in state.slots()):
        yield Problem(balancer, "no slot takes new jobs: the service is down")


def agent_problems(balancers: Mapping[str, BalancerState]) -> Iterator[Problem]:
    """What the GPU hosts' agents say is wrong, once a slot; and hosts whose agent is silent, once a host.

    Silence harms nobody: the balancers go on with what they were told last, and with their own checks.
    """
    said: dict[str, str] = {}
    silent: dict[str, dict[str, None]] = {}
    for name, state in balancers.items():
        for server in state.slots():
            if server.agent_reason:
                said.setdefault(server.name, server.agent_reason)
            elif server.up and server.agent_answers is False:
                silent.setdefault(server.name.rpartition("-")[0], {})[name] = None
    for slot, reason in said.items():
        host = slot.rpartition("-")[0]
        yield Problem(slot, f"its agent says: {reason}", f"`{_UNIT} show` on {host}; docs/agent.md")
    for host, names in silent.items():
        who = " and ".join(names)
        remedy = f"`systemctl status {_UNIT}` there; `fleet provision` lets in balancers that are new to it"
        yield Problem(host, f"the GPU agent does not answer {who}", remedy)


def disagreement_problems(balancers: Mapping[str, BalancerState]) -> Iterator[Problem]:
    """Slots about which balancers were told different things: one was down when a command came."""
    for found in disagreements(balancers):
        if not _agent_decided(found.slot, balancers):
            remedy = f"`fleet drain {found.slot}` or `fleet ready {found.slot}`"
            yield Problem(found.slot, str(found), remedy if found.what == "state" else _PROVISION)


def gateway_problems(
    balancers: Mapping[str, BalancerState], now: datetime | None = None
) -> Iterator[Problem]:
    """A gateway that only some balancers have, and certificates that end soon."""
    guarded = [name for name, state in balancers.items() if state.gateway]
    for name, state in balancers.items():
        if guarded and not state.gateway:
            yield Problem(
                name,
                f"it has no gateway; {' and '.join(guarded)} {'has' if len(guarded) == 1 else 'have'} one",
                _PROVISION,
            )
        if state.certificate_ends and (left := _days_left(state.certificate_ends, now)) is not None:
            if left < 0:
                yield Problem(name, f"its certificate ended on {state.certificate_ends}", _RENEW)
            elif left < _SOON:
                yield Problem(
                    name, f"its certificate ends within {left + 1} days, {state.certificate_ends}", _RENEW
                )


def _days_left(ends: str, now: datetime | None) -> int | None:
    try:
        end = datetime.strptime(" ".join(ends.split()), "%b %d %H:%M:%S %Y GMT").replace(tzinfo=UTC)
    except ValueError:
        return None
    return (end - (now or datetime.now(UTC))).days


def _agent_decided(slot: str, balancers: Mapping[str, BalancerState]) -> bool:
    """True where the balancers differ only for the moment in which its agent tells them one by one."""
    servers = [server for state in balancers.values() if (server := state.slot(slot)) is not None]
    return any(server.agent_holds for server in servers)


def _server(balancer: str, server: ServerState) -> ServerStatus:
    return ServerStatus(
        balancer=balancer,
        server=server.name,
        state=server.word,
        down=server.down,
        weight=server.weight,
        jobs=server.sessions,
        queued=server.queue,
        errors_5xx=server.responses_5xx,
        errors_connection=server.connection_errors,
        response_time=server.response_time if server.sessions_total else None,
        check=_check(server) or None,
        agent=_agent(server),
    )


def _agent(server: ServerState) -> str | None:
    if server.agent_answers is None:
        return None
    return server.agent_reason or ("ok" if server.agent_answers else "no answer")


def _check(server: ServerState) -> str:
    """The check's code, and where it fails the words with it: "L7OK", "L4CON Connection refused"."""
    if server.check_status.endswith("OK"):
        return server.check_status
    return f"{server.check_status} {server.check_detail}".strip()
