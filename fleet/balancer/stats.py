"""What a running HAProxy says about itself and its servers."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from fleet.balancer.probe import ABSENT
from fleet.model.facts import Answer

WORK = "work"

# How HAProxy marks a check that is under way.
_ASKED = "* "

_ANSWERS = ("1xx", "2xx", "3xx", "4xx", "5xx", "other")


class Admin(Enum):
    """What an operator or a rollout decided about a server, whatever its health checks say."""

    READY = "ready"
    DRAIN = "drain"
    MAINT = "maint"


@dataclass(frozen=True)
class ServerState:
    """One server of one backend.

    `status` is HAProxy's own word without its counters (UP, DOWN, DRAIN, MAINT, "no check"); `weight` the
    weight in use when it takes jobs, `configured_weight` the configuration's. `sessions` are requests in
    flight, `response_time` the average of the last 1024 in milliseconds, `last_change` in seconds ago;
    the other numbers count since the worker started. `agent_status` is HAProxy's code for its last question
    to the GPU host's agent (L7OK, L7STS, L4CON, ...; empty where none is asked), `agent_reason` what the
    agent said is wrong, `agent_down` whether it took the server out, `agent_asked` whether it is being asked
    just now: HAProxy has then forgotten what it said before.
    """

    backend: str
    name: str
    status: str
    admin: Admin
    weight: int
    configured_weight: int
    address: str = ""
    sessions: int = 0
    sessions_total: int = 0
    queue: int = 0
    connection_errors: int = 0
    response_errors: int = 0
    retries: int = 0
    redispatches: int = 0
    responses_5xx: int = 0
    response_time: int = 0
    answers: int = 0
    total_time: int = 0
    check_status: str = ""
    check_detail: str = ""
    last_change: int = 0
    agent_status: str = ""
    agent_reason: str = ""
    agent_down: bool = False
    agent_asked: bool = False

    @property
    def up(self) -> bool:
        """True where health checks pass, or there are none."""
        return self.status in ("UP", "DRAIN", "no check", "NOLB")

    @property
    def down(self) -> bool:
        """True where its health checks fail, also of a drained one; in maintenance there are none."""
        return self.admin is not Admin.MAINT and not self.up

    @property
    def word(self) -> str:
        """What keeps jobs away, in one word: drain, maint, or down where its checks fail; else ready."""
        return "down" if self.admin is Admin.READY and self.down else self.admin.value

    @property
    def takes_jobs(self) -> bool:
        """True where new jobs may go there."""
        return self.up and self.admin is Admin.READY and self.weight > 0

    @property
    def agent_answers(self) -> bool | None:
        """Whether the GPU host's agent answered when last asked; None where it was not asked yet."""
        if not self.agent_status.startswith("L"):
            return None
        return self.agent_status in ("L7OK", "L7STS")

    @property
    def agent_holds(self) -> bool:
        """True where the weight in use is its agent's doing: an agent only ever takes all of it, or half.

        So it is also where the agent is being asked, or does not answer: only it can tell whether the GPU is
        well.
        """
        if not self.agent_status or self.weight not in (0, self.configured_weight // 2):
            return False
        return bool(self.agent_reason) or self.agent_asked or not self.agent_answers


@dataclass(frozen=True)
class BalancerState:
    """A running HAProxy: `config_hash` names its configuration, `started` is in seconds since the epoch."""

    version: str
    config_hash: str | None
    uptime: int
    started: int
    servers: tuple[ServerState, ...]
    sessions: int = 0
    gateway: bool = False
    certificate_ends: str | None = None

    def slots(self) -> tuple[ServerState, ...]:
        """The servers that work, one a slot; the same ones' shadows for open pages are left out."""
        return tuple(server for server in self.servers if server.backend == WORK)

    def slot(self, name: str) -> ServerState | None:
        """One slot's server by name; None where this HAProxy has no such server."""
        return next((server for server in self.slots() if server.name == name), None)


def parse_balancer(answer: Answer) -> BalancerState | None:
    """The state out of RUNTIME_PROBE's answer; None where no HAProxy answered.

    A HAProxy that answers without FLEET_CONFIG runs somebody else's configuration: `config_hash` is None.
    """
    text = answer.text
    info = dict(re.findall(r"^(\w+): (.*)$", text, re.MULTILINE))
    if not answer.ok or ABSENT in text.splitlines() or "Version" not in info:
        return None
    now = re.search(r"^now=(\d+)$", text, re.MULTILINE)
    marked = re.search(r"^FLEET_CONFIG=(\S+)$", text, re.MULTILINE)
    uptime = _int(info.get("Uptime_sec"))
    return BalancerState(
        version=info["Version"],
        config_hash=marked[1] if marked else None,
        uptime=uptime,
        started=_int(info.get("Start_time_sec")) or (int(now[1]) if now else 0) - uptime,
        servers=tuple(_servers(text)),
        sessions=_int(info.get("CurrConns")),
        gateway=re.search(r"^gateway,FRONTEND,", text, re.MULTILINE) is not None,
        certificate_ends=ends[1]
        if (ends := re.search(r"^Not ?[Aa]fter: (.+)$", text, re.MULTILINE))
        else None,
    )


def _servers(text: str) -> Iterator[ServerState]:
    numbers = _numbers(text)
    for state in _server_lines(text):
        row = numbers.get((state["be_name"], state["srv_name"]))
        if row is None:
            continue
        yield ServerState(
            backend=state["be_name"],
            name=state["srv_name"],
            status=_status(row["status"]),
            admin=_admin(_int(state.get("srv_admin_state"))),
            weight=_int(row.get("uweight") or state.get("srv_uweight")),
            configured_weight=_int(state.get("srv_iweight")),
            address=row.get("addr", ""),
            sessions=_int(row.get("scur")),
            sessions_total=_int(row.get("stot")),
            queue=_int(row.get("qcur")),
            connection_errors=_int(row.get("econ")),
            response_errors=_int(row.get("eresp")),
            retries=_int(row.get("wretr")),
            redispatches=_int(row.get("wredis")),
            responses_5xx=_int(row.get("hrsp_5xx")),
            response_time=_int(row.get("rtime")),
            answers=sum(_int(row.get(f"hrsp_{kind}")) for kind in _ANSWERS),
            total_time=_int(row.get("ttime")),
            check_status=row.get("check_status", "").removeprefix(_ASKED),
            check_detail=row.get("last_chk") or row.get("check_desc") or "",
            last_change=_int(row.get("lastchg")),
            agent_status=row.get("agent_status", "").removeprefix(_ASKED),
            agent_asked=row.get("agent_status", "").startswith(_ASKED),
            agent_down=row["status"].startswith("DOWN (agent)"),
            agent_reason=_agent_reason(row.get("last_agt", "")),
        )


def _numbers(text: str) -> dict[tuple[str, str], dict[str, str]]:
    """Each server's row of `show stat`: of several the last one that tells what its agent said."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    for row in _stat(text):
        key = (row["pxname"], row["svname"])
        if key not in found or not row.get("agent_status", "").startswith(_ASKED):
            found[key] = row
    return found


def _stat(text: str) -> Iterator[dict[str, str]]:
    """The rows of every `show stat`: CSV below a `# pxname,...` line."""
    for table in text.split("# pxname,")[1:]:
        yield from csv.DictReader(io.StringIO("pxname," + table.split("\n\n", 1)[0]), restval="")


def _server_lines(text: str) -> Iterator[dict[str, str]]:
    """The rows of `show servers state`: words below a `# be_id ...` line."""
    start = text.find("# be_id ")
    if start < 0:
        return
    head, *lines = text[start + 2 :].split("\n\n", 1)[0].splitlines()
    names = head.split()
    for line in lines:
        yield dict(zip(names, line.split(), strict=False))


def _status(text: str) -> str:
    """ "UP 1/3" -> "UP", "MAINT (via work/gpu-01-0)" -> "MAINT"; "no check" is one word."""
    return text if text == "no check" else text.split(" ", 1)[0]


def _agent_reason(text: str) -> str:
    """What stands in brackets in "via agent : down (no running container)"."""
    found = re.fullmatch(r"via agent : \w+ \((.*)\)", text)
    return found[1] if found else ""


def _admin(bits: int) -> Admin:
    """HAProxy's bits: 0x01, 0x02, 0x04, 0x20, 0x40 are kinds of maintenance, 0x08 and 0x10 of drain."""
    if bits & 0x67:
        return Admin.MAINT
    return Admin.DRAIN if bits & 0x18 else Admin.READY


def _int(text: str | None) -> int:
    try:
        return int(text or 0)
    except ValueError:
        return 0
