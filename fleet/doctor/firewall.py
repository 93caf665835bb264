"""The group `service`, where `slot_firewall` is asked for: the slots' ports are closed, and stay so."""

from __future__ import annotations

from fleet.doctor.model import Check, Trouble, Verdict, bad, judged, well
from fleet.doctor.patient import Patient
from fleet.gpu.firewall import LOADED_PROBE, RULES_FILE, TABLE, UNIT, why_not_loaded
from fleet.model.facts import Probe
from fleet.model.host import Host

RULES_PROBE = Probe(
    "doctor.firewall",
    f"""\
echo "rules=$(sha256sum <{RULES_FILE} 2>/dev/null | cut -d ' ' -f 1)"
systemctl show -p UnitFileState {UNIT}
exit 0
""",
)
_PROVISION = "`fleet provision --limit {host}` loads what the inventory asks for"


def check_firewall(patient: Patient) -> Verdict:
    """The table that was written is the one in force, and the next boot loads it."""
    if not _asked(patient.host):
        return well("slot_firewall does not ask for it")
    pairs = patient.pairs(RULES_PROBE.key)
    rules, said = pairs.get("rules", ""), patient.text(LOADED_PROBE.key)
    if len(said.splitlines()) < 2:
        return bad(
            "everybody can reach the slots' ports",
            f"{_PROVISION}; `journalctl -u {UNIT}` there tells when it ended",
            f"slot_firewall is true, and the table inet {TABLE} is not there",
        )
    troubles = []
    if reason := why_not_loaded(said, rules):
        troubles.append(
            Trouble(
                "who can reach the slots' ports is not what fleet wrote",
                f"`nft list table inet {TABLE}` on {{host}} shows what it is; {_PROVISION}",
                reason,
            )
        )
    state = pairs.get("UnitFileState", "")
    if state not in ("enabled", "enabled-runtime"):
        troubles.append(
            Trouble(
                "everybody can reach the slots' ports after the next boot",
                _PROVISION,
                f"{UNIT} is {state or 'absent'}",
            )
        )
    return judged("closed to all but the balancers", troubles)


def _asked(host: Host) -> bool:
    return host.vars.get("slot_firewall") is True


CHECKS = (
    Check(
        "service",
        "firewall",
        "whoever reaches a slot's port goes round the balancers' keys, limits and log",
        check_firewall,
        lambda host: (RULES_PROBE, LOADED_PROBE) if _asked(host) else (),
    ),
)
