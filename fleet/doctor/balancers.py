"""The group `balancers`: what balances, which configuration is in force, and whether it reaches the slots."""

from __future__ import annotations

import re
from collections.abc import Iterator

from fleet.balancer import nginx_probe
from fleet.balancer.features import OLDEST, spelled
from fleet.balancer.nginx import SITE_FILE
from fleet.balancer.paths import CONFIG_FILE
from fleet.balancer.probe import PACKAGE_PROBE, parse_package
from fleet.balancer.software import software
from fleet.docker.probe import CONTAINERS_PROBE
from fleet.doctor.model import BALANCER_GROUP, GPU_GROUP, Check, Trouble, Verdict, bad, judged, skipped, well
from fleet.doctor.patient import ABSENT, Patient
from fleet.doctor.service import LISTENS, PORTS_PROBE
from fleet.errors import InputError
from fleet.gpu.agent import DEFAULT_PORT, UNIT
from fleet.gpu.probe import GPU_PROBE
from fleet.gpu.slots import slots_of
from fleet.lb.software import SOFTWARE, Running
from fleet.model.facts import Probe
from fleet.model.host import Host
from fleet.model.slot import Slot

FEATURES_PROBE = Probe("doctor.haproxy", "command -v haproxy >/dev/null || exit 127\nhaproxy -vv\n")

# What is deployed says where the slots are; bash speaks TCP by itself, a bare host has no client. One that
# opens a connection and says nothing costs a slot nothing.
REACH_PROBE = Probe(
    "doctor.reach",
    f"""\
{{
  sed -n 's/^ *server  *\\([^ ]*\\)  *\\([^ ]*\\):\\([0-9]*\\) .*/\\1 \\2 \\3/p' {CONFIG_FILE} 2>/dev/null
  sed -n 's/^ *server  *\\([^ ]*\\):\\([0-9]*\\) .*; # \\([^ ]*\\)$/\\3 \\1 \\2/p' {SITE_FILE} 2>/dev/null
}} | grep -v -e ' abns@' -e ' unix@' | tr -d '[]' | sort -u -k2 |
  xargs -r -n 3 -P 32 sh -c '
    said=$(timeout 3 bash -c "exec 3<>/dev/tcp/$1/$2" 2>&1); rc=$?
    said=$(printf "%s" "$said" | sed -n "s/.*connect: //p" | head -n 1)
    echo "reach $0 $1 $2 $rc $said"'
exit 0
""",
)

_TIMED_OUT = 124
_PROVISION = "`fleet provision --limit {host}`"
_UPGRADE = "upgrade HAProxy on {host}: Debian 12, Ubuntu 22.04 and later have one that is new enough"


def config_probes(host: Host) -> tuple[Probe, ...]:
    """The questions about what balances on a host and its configuration."""
    return SOFTWARE[software(host)].probes


def check_software(patient: Patient) -> Verdict:
    """What the inventory names is there; HAProxy is new enough and has what the configuration uses."""
    if software(patient.host) == "nginx":
        nginx = nginx_probe.parse_package(patient.facts.get(nginx_probe.PACKAGE_PROBE.key, ABSENT))
        if nginx is None:
            return bad("nginx is not installed", _PROVISION)
        return well(f"nginx {nginx.version}, as the inventory says")
    package = parse_package(patient.facts.get(PACKAGE_PROBE.key, ABSENT))
    if package is None:
        return bad("HAProxy is not installed", _PROVISION)
    troubles = []
    if package.numbers < OLDEST:
        detail = f"{package.version}; {spelled(OLDEST)} is the first that does"
        troubles.append(Trouble("HAProxy is too old for fleet's configuration", _UPGRADE, detail))
    if not package.socat:
        troubles.append(
            Trouble(
                "socat is not installed, so nothing can ask HAProxy",
                f"`apt-get install socat`, or {_PROVISION}",
            )
        )
    lacking = _lacking(patient.text(FEATURES_PROBE.key), gateway=bool(patient.host.vars.get("gateway")))
    if lacking:
        troubles.append(
            Trouble(
                "HAProxy is built without what fleet's configuration uses",
                "use the distribution's HAProxy on {host}, which has it",
                ", ".join(lacking),
            )
        )
    return judged(f"HAProxy {package.version}", troubles)


def _lacking(said: str, *, gateway: bool) -> list[str]:
    """What `haproxy -vv` does not name; nothing where it was not asked."""
    if "Feature list" not in said:
        return []
    wanted = {"Lua": r"(\+LUA\b|Built with Lua)", "Prometheus' exporter": r"prometheus-exporter|\+PROMEX\b"}
    if gateway:
        wanted["TLS"] = r"\+OPENSSL\b"
    return [name for name, pattern in wanted.items() if not re.search(pattern, said)]


def check_port(patient: Patient) -> Verdict:
    """Nobody else has the port where users come in."""
    answer = patient.facts.get(PORTS_PROBE.key, ABSENT)
    if not answer.ok:
        return skipped("ss is not installed there (iproute2)")
    mine, port = software(patient.host), str(patient.host.vars.get("lb_port") or 80)
    who = {(program, pid) for at, program, pid in LISTENS.findall(answer.text) if at == port}
    troubles = [
        Trouble(
            "another program has the service's port",
            f"`systemctl disable --now {program}` on {{host}}; or is it meant to balance? "
            "(balancer_software, lb_port)",
            f"{port} by {program} (process {pid})" if program else f"{port} by a program",
        )
        for program, pid in sorted(who)
        if program != mine
    ]
    return judged(f"{port} is {mine}'s" if who else f"{port} is free", troubles)


def check_config(patient: Patient) -> Verdict:
    """What runs is fleet's, is what is on disk, and knows every slot."""
    found = SOFTWARE[software(patient.host)]
    now = found.running(patient.facts)
    if not now.answers:
        return bad(
            f"{found.name} does not answer",
            f"`systemctl status {software(patient.host)}` on {{host}}, or {_PROVISION}",
        )
    if now.hash is None:
        return bad(
            f"{found.name} runs a configuration that is not fleet's",
            f"{_PROVISION} brings fleet's; `fleet lb diff` shows the difference",
        )
    troubles = list(_not_in_force(patient, now, found.name))
    compared = "" if any(_known_slots(patient)) else "; no host told its slots"
    return judged(f"fleet's, {now.hash}{compared}", troubles)


def _not_in_force(patient: Patient, now: Running, name: str) -> Iterator[Trouble]:
    push = "`fleet lb diff` shows it, `fleet lb push` puts it right"
    if now.file_hash is None:
        yield Trouble(f"the configuration on disk is not the one that {name} runs", push, "it is not fleet's")
    elif now.hash != now.file_hash:
        detail = f"{now.hash} runs, {now.file_hash} is on disk"
        yield Trouble(f"the configuration on disk is not the one that {name} runs", push, detail)
    elif now.edited:
        yield Trouble("somebody edited the configuration that fleet wrote", push, f"it says {now.file_hash}")
    if now.servers is None:
        return
    servers = {server.name for server in now.servers.slots()}
    slots = {slot.name for slot in _known_slots(patient)}
    if missing := sorted(slots - servers):
        yield Trouble("it does not know every slot", push, ", ".join(missing))
    # A host that did not answer may have those.
    answered = {slot.rpartition("-")[0] for slot in slots}
    if gone := sorted(name for name in servers - slots if name.rpartition("-")[0] in answered):
        yield Trouble("it has servers that are no slots", push, ", ".join(gone))


def _known_slots(patient: Patient) -> Iterator[Slot]:
    for name, host in patient.hosts.items():
        if GPU_GROUP in host.groups and name in patient.fleet:
            try:
                yield from slots_of(host, patient.fleet[name]) or ()
            except InputError:
                continue


def check_reach(patient: Patient) -> Verdict:
    """A TCP connection from the balancer to each slot's port."""
    rows = [line.split(" ", 5) for line in patient.text(REACH_PROBE.key).splitlines()]
    tried = [row for row in rows if len(row) >= 5 and row[0] == "reach" and row[4].isdigit()]
    if not tried:
        return skipped("no slot is in its configuration")
    # They were tried side by side, and told as they ended.
    troubles = [trouble for row in sorted(tried) if (trouble := _unreached(row, patient)) is not None]
    return judged(f"{len(tried)} slots", troubles)


def _unreached(row: list[str], patient: Patient) -> Trouble | None:
    slot, address, port, rc = row[1], row[2], row[3], int(row[4])
    said = row[5] if len(row) > 5 else ""
    if rc == 0:
        return None
    host, name = slot.rpartition("-")[0], patient.host.name
    if rc == _TIMED_OUT:
        return Trouble(
            "a balancer gets no answer from a slot's port",
            f"let {{host}} through to {address} port {port} (firewalls, slot_firewall_allow)",
            f"from {name} to {address}:{port}: no answer in 3 s",
            slot,
        )
    if "refused" in said.lower():
        return Trouble(
            "nothing listens on a slot's port",
            f"does its container run (`fleet status`)? Its log: {patient.log_of(slot)} on {host}",
            f"from {name} to {address}:{port}: {said}",
            slot,
        )
    return Trouble(
        "a balancer cannot connect to a slot",
        f"is fleet_address of {host} right, and is there a route? `ip route get {address}` on {{host}}",
        f"from {name} to {address}:{port}: {said or f'exit code {rc}'}",
        slot,
    )


def check_agents(patient: Patient) -> Verdict:
    """The hosts' agents answer this balancer."""
    if patient.balancer is None:
        return skipped("no HAProxy answers")
    asked = [server for server in patient.balancer.slots() if server.agent_answers is not None]
    if not asked:
        return skipped("it asks no agents")
    silent: dict[str, str] = {}
    for server in asked:
        if not server.agent_answers:
            silent.setdefault(server.name.rpartition("-")[0], server.agent_status)
    troubles = [
        Trouble(
            "a GPU host's agent does not answer its balancer",
            f"let {{host}} through to port {DEFAULT_PORT} of {host} (firewall, gpu_agent_allow; "
            f"`fleet provision` lets in balancers that are new to it); `systemctl status {UNIT}` there",
            f"{host}: {status}",
        )
        for host, status in silent.items()
    ]
    return judged(
        f"{len({server.name.rpartition('-')[0] for server in asked})} hosts' agents answer", troubles
    )


ON = (BALANCER_GROUP,)

CHECKS = (
    Check(
        "balancers",
        "software",
        "an older or smaller HAProxy refuses the configuration",
        check_software,
        lambda host: (
            (PACKAGE_PROBE, FEATURES_PROBE) if software(host) == "haproxy" else (nginx_probe.PACKAGE_PROBE,)
        ),
        ON,
    ),
    Check(
        "balancers",
        "port",
        "users meet whatever listens there, and a balancer that cannot listen does not start",
        check_port,
        lambda host: (PORTS_PROBE,),
        ON,
    ),
    Check(
        "balancers",
        "config",
        "users meet what runs, not what was meant to",
        check_config,
        config_probes,
        ON,
        lambda host: (GPU_PROBE, CONTAINERS_PROBE) if GPU_GROUP in host.groups else (),
    ),
    Check(
        "balancers",
        "reach",
        "a slot that its balancer does not reach gets no jobs, however well it is",
        check_reach,
        lambda host: (REACH_PROBE,),
        ON,
    ),
    Check(
        "balancers",
        "agents",
        "what the agent cannot tell the balancer does not know",
        check_agents,
        lambda host: SOFTWARE["haproxy"].probes if software(host) == "haproxy" else (),
        ON,
    ),
)
