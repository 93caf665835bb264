"""The cards' health: what the driver counts, and what the kernel's log says of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from fleet.data import data_dir
from fleet.docker.probe import CONTAINERS_PROBE
from fleet.doctor.model import Check, Fix, Trouble, Verdict, bad, judged, skipped, well
from fleet.doctor.patient import ABSENT, Patient
from fleet.gpu.probe import GPU_PROBE
from fleet.model.facts import Probe
from fleet.model.slot import Gpu
from fleet.model.steps import Run

HOT = 90
"""Degrees Celsius; the agent's own limit by default."""

_FIELDS = (
    "uuid",
    "persistence_mode",
    "ecc.errors.uncorrected.volatile.total",
    "temperature.gpu",
    "clocks_throttle_reasons.hw_thermal_slowdown",
    "remapped_rows.failure",
    "remapped_rows.pending",
    "retired_pages.pending",
    "gpu_recovery_action",
)

# A field that a driver does not know makes it refuse them all, naming that one.
HEALTH_PROBE = Probe(
    "doctor.health",
    f"""\
fields={",".join(_FIELDS)}
while :; do
  said=$(nvidia-smi --query-gpu="$fields" --format=csv,noheader,nounits 2>&1); rc=$?
  case $said in *'Field "'*'" is not a valid field'*) ;; *) break ;; esac
  unknown=${{said#*'Field "'}}; unknown=${{unknown%%'"'*}}
  less=$(printf ',%s,' "$fields" | sed "s/,$unknown,/,/; s/^,//; s/,$//")
  [ "$less" != "$fields" ] || break
  fields=$less
done
printf '%s\\n%s\\n' "$fields" "$said"
exit $rc
""",
)

# As the agent reads it: the kernel's own lines, and root's under the kernel's name. What operators accepted
# with `fleet-gpu-agent accept` is known and told no more.
XID_PROBE = Probe(
    "doctor.xids",
    """\
for file in /var/lib/fleet-gpu-agent/accepted/*; do
  [ -r "$file" ] && read -r time rest <"$file" && echo "accepted ${file##*/} $time $rest"
done
journalctl -q -b -o short-unix --no-pager '--grep=NVRM: (Xid|loading)' \
  _TRANSPORT=kernel + SYSLOG_IDENTIFIER=kernel _UID=0 2>/dev/null | tail -n 500
exit 0
""",
)

_LINE = re.compile(r"^(\d+(?:\.\d+)?) \S+ kernel(?:\[\d+\])?: .*?(NVRM: .*)$")
_XID = re.compile(r"^NVRM: Xid \((?:PCI:)?([0-9a-f:.]+)\): (\d+),?\s*(.*)", re.IGNORECASE)
_BUS = re.compile(r"([0-9a-f]+):([0-9a-f]+):([0-9a-f]+)", re.IGNORECASE)
_RESET = (
    "`fleet drain {slot}`, then on {host} `nvidia-smi --gpu-reset -i {index}` (or restart it) and "
    "`fleet-gpu-agent accept {slot}`"
)
_LOST_XID = 79


def check_health(patient: Patient) -> Verdict:
    """Errors, heat and lost cards, by card."""
    if patient.gpus is None:
        return skipped("no driver answers")
    troubles = list(_troubles(patient))
    return judged(f"{len(patient.gpus)} well" if not troubles else "", troubles)


def _troubles(patient: Patient) -> Iterator[Trouble]:
    rows = _rows(patient.facts.get(HEALTH_PROBE.key, ABSENT).text)
    accepted = _accepted(patient.text(XID_PROBE.key))
    log = xids(patient.text(XID_PROBE.key))
    for gpu in patient.gpus or ():
        slot = patient.slot_name(gpu)
        time, errors = accepted.get(slot, (0.0, 0))
        remedy = _RESET.replace("{slot}", slot).replace("{index}", str(gpu.index))
        for code, (when, text) in log.get(_bus(gpu.pci_bus_id or ""), {}).items():
            if when > time:
                yield Trouble(
                    "the kernel's log tells of a GPU's failure", remedy, f"Xid {code}: {text}", slot
                )
        yield from _counted(rows.get(gpu.uuid, {}), gpu, slot, remedy, errors)


def _counted(row: Mapping[str, str], gpu: Gpu, slot: str, remedy: str, known: int) -> Iterator[Trouble]:
    errors = _whole(row.get("ecc.errors.uncorrected.volatile.total", ""))
    if errors is not None and errors > known:
        yield Trouble("a GPU counts uncorrected memory errors", remedy, str(errors - known), slot)
    if row.get("remapped_rows.failure", "") in ("Yes", "1"):
        yield Trouble("a GPU has no spare memory left to repair itself", "have the card replaced", "", slot)
    pending = [row.get(name, "") for name in ("remapped_rows.pending", "retired_pages.pending")]
    if {"Yes", "1"} & set(pending):
        yield Trouble("a GPU repairs its memory at the next reset", remedy, "", slot)
    action = row.get("gpu_recovery_action", "")
    if action and not re.match(r"none|drain p2p|\[|n/a", action, re.IGNORECASE):
        yield Trouble("the driver asks for a GPU's reset", remedy, action, slot)
    slow = row.get("clocks_throttle_reasons.hw_thermal_slowdown", "").startswith("Active")
    degrees = gpu.temperature
    if slow or (degrees is not None and degrees >= HOT):
        text = f"{degrees} °C" if degrees is not None else ""
        yield Trouble(
            "a GPU is too hot",
            "look at the fans and the air of {host}; `nvidia-smi -q -d TEMPERATURE,PERFORMANCE` there",
            f"{text}{', slowed down' if slow else ''}".strip(", "),
            slot,
        )


def check_persistence(patient: Patient) -> Verdict:
    """The driver stays loaded while nobody uses it."""
    if not patient.gpus:
        return skipped("no GPU is known")
    rows = _rows(patient.facts.get(HEALTH_PROBE.key, ABSENT).text)
    off = [gpu for gpu in patient.gpus if rows.get(gpu.uuid, {}).get("persistence_mode") == "Disabled"]
    if not off:
        return well("on")
    command = ("systemctl", "enable", "--now", "nvidia-persistenced.service")
    return bad(
        "persistence mode is off",
        "`systemctl enable --now nvidia-persistenced` on {host}; where there is no such unit, "
        "`nvidia-smi -pm 1`",
        f"{len(off)} of {len(patient.gpus)} GPUs" if len(off) < len(patient.gpus) else "",
        fix=Fix(
            "start nvidia-persistenced, and at boot",
            (
                Run(
                    ("sh", "-c", f"{' '.join(command)} && nvidia-smi -pm 1", "fleet"), title=" ".join(command)
                ),
            ),
        ),
    )


def xids(log: str) -> dict[str, dict[int, tuple[float, str]]]:
    """What the kernel's log says needs a reset, by PCI address: each Xid's last time and its meaning.

    A driver that is loaded anew has reset its cards. The table is the agent's, from NVIDIA's catalogue.
    """
    known = _catalogue()
    found: dict[str, dict[int, tuple[float, str]]] = {}
    for line in log.splitlines():
        match = _LINE.match(line)
        if not match:
            continue
        if match[2].startswith("NVRM: loading"):
            found.clear()
        if not (xid := _XID.match(match[2])):
            continue
        code, rest, mine = int(xid[2]), xid[3], found.setdefault(_bus(xid[1]), {})
        text = known.get(code, "")
        if code == 154 and (action := re.search(r"to 0x\w+ \(([^)]*)\)", rest)):
            if action[1].lower().startswith("none"):
                mine.clear()
                continue
            peer = "P2P" in action[1] and "reset" not in action[1].lower()
            text = "" if peer else action[1].lower()
        if text:
            mine[code] = (float(match[1]), text)
    return found


def _catalogue() -> Mapping[int, str]:
    program = (data_dir("templates") / "fleet-gpu-agent.pl").read_text(encoding="utf-8")
    table = program.partition("my %STOP = (")[2].partition(");")[0]
    found = {int(code): text for code, text in re.findall(r"(\d+)\s*=>\s*'([^']*)'", table)}
    return {**found, _LOST_XID: "GPU lost"}


def _accepted(text: str) -> Mapping[str, tuple[float, int]]:
    rows = (line.split() for line in text.splitlines() if line.startswith("accepted "))
    return {
        row[1]: (float(row[2]), int(row[3]) if len(row) > 3 and row[3].isdigit() else 0)
        for row in rows
        if len(row) > 2 and row[2].isdigit()
    }


def _rows(text: str) -> Mapping[str, Mapping[str, str]]:
    """uuid -> field -> value; no field holds a comma."""
    fields, *lines = text.splitlines() or [""]
    names = fields.split(",")
    rows = ([part.strip() for part in line.split(",")] for line in lines)
    return {row[0]: dict(zip(names, row, strict=True)) for row in rows if len(row) == len(names)}


def _bus(address: str) -> str:
    match = _BUS.search(address)
    return ":".join(str(int(part, 16)) for part in match.groups()) if match else ""


def _whole(text: str) -> int | None:
    return int(text) if text.isdigit() else None


CHECKS = (
    Check(
        "driver",
        "health",
        "a sick card gives errors or wrong answers, or holds up its users",
        check_health,
        lambda host: (HEALTH_PROBE, XID_PROBE, GPU_PROBE, CONTAINERS_PROBE),
    ),
    Check(
        "driver",
        "persistence",
        "without it each start waits for the driver, and settings and error counts are forgotten in between",
        check_persistence,
        lambda host: (HEALTH_PROBE, GPU_PROBE),
    ),
)
