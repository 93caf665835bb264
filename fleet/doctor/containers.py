"""The group `containers`: the engine, the toolkit, and the CDI file that names the GPUs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from fleet.docker.probe import ENGINE_PROBE
from fleet.doctor.model import Check, Fix, Trouble, Verdict, bad, judged, skipped, well
from fleet.doctor.patient import ABSENT, Patient
from fleet.gpu.probe import GPU_PROBE
from fleet.model.facts import Answer, Probe
from fleet.model.slot import Gpu
from fleet.model.steps import Run
from fleet.modules._systemd import SYSTEMCTL

OLDEST_ENGINE = 25
"""The first engine that takes CDI devices."""

OWN, REFRESHED = "/etc/cdi/nvidia.yaml", "/var/run/cdi/nvidia.yaml"
"""Where fleet and people put the CDI file, and where the toolkit's own unit (1.18 and later) does.

The second one counts where there are both: what the system made anew at its start is nearer to the truth.
"""

_START = Run(("sh", "-c", SYSTEMCTL, "systemctl", "start", "docker"), title="start docker")

TOOLKIT_PROBE = Probe(
    "doctor.toolkit",
    "command -v nvidia-ctk >/dev/null || exit 127\n"
    "nvidia-ctk --version | sed -n 's/.*version \\([0-9][^ ]*\\).*/\\1/p' | head -n 1\n",
)

# Paths on the host that are gone stop every start; a device whose number moved lets CUDA fail later.
CDI_PROBE = Probe(
    "doctor.cdi",
    f"""\
for file in {REFRESHED} {OWN} /etc/cdi/nvidia.json /var/run/cdi/nvidia.json; do
  [ -f "$file" ] || continue
  echo "file=$file"
  echo "made=$(stat -c %Y "$file")"
  grep -oE 'GPU-[0-9a-fA-F]{{8}}-[0-9a-fA-F-]{{27}}' "$file" | sort -u | sed 's/^/uuid=/'
  grep -oE 'libcuda\\.so\\.[0-9]+\\.[0-9.]+[0-9]' "$file" | sort -u | sed 's/^libcuda.so./mounts=/'
  sed -n 's/^[-" ]*hostPath"*: *"*\\([^",]*\\)"*,*$/\\1/p' "$file" | sort -u | while IFS= read -r path; do
    [ -e "$path" ] || echo "gone=$path"
  done
  sed -n 's/^[ -]*path: *\\(\\/dev\\/[^ ]*\\)$/path \\1/p; s/^ *major: *\\([0-9]*\\)$/major \\1/p' "$file" |
    while read -r what value; do
      case $what in
        path) node=$value ;;
        major) real=$(stat -c %t "$node" 2>/dev/null) || continue
          [ $((0x$real)) -eq "$value" ] || echo "moved=$node" ;;
      esac
    done | sort -u
  break
done
for library in /usr/lib/*/libcuda.so.*.* /usr/lib64/libcuda.so.*.*; do
  [ -e "$library" ] && echo "driver=$(stat -c %Y "$library") ${{library##*.so.}}"
done
exit 0
""",
)

ENGINE_UNIT_PROBE = Probe(
    "doctor.docker",
    """\
systemctl show -p ActiveState,SubState,UnitFileState,LoadState docker.service
command -v dockerd >/dev/null || echo program=absent
journalctl -u docker -n 200 -q --no-pager -o cat 2>/dev/null |
  grep -i -e 'failed to start' -e 'level=fatal' | tail -n 1 | sed 's/^/said=/'
exit 0
""",
)


def check_engine(patient: Patient) -> Verdict:
    """The engine answers, is new enough, and takes CDI devices."""
    engine = patient.engine
    unit = patient.pairs(ENGINE_UNIT_PROBE.key)
    if engine is None:
        # A package that was removed and not purged leaves a unit (made from /etc/init.d) without a program.
        if unit.get("LoadState") == "not-found" or unit.get("program") == "absent":
            return bad("Docker is not installed", PROVISION)
        if unit.get("ActiveState") == "active":
            return bad("the Docker Engine runs and does not answer", _HUNG)
        down = Trouble(
            "the Docker Engine does not run",
            "`systemctl start docker` on {host}; `journalctl -u docker -n 50` there says why it does not run",
            unit.get("said", "") or f"its unit is {unit.get('ActiveState') or 'unknown'}",
            fix=Fix("start docker", (_START,)),
        )
        return judged("", [*([] if _masked(unit) else [down]), *_boot(unit)])
    troubles = []
    if engine.major < OLDEST_ENGINE:
        troubles.append(
            Trouble(
                "the Docker Engine is too old for CDI",
                "set docker_source: docker in the inventory, then " + PROVISION,
                f"{engine.version}; {OLDEST_ENGINE} is the first that has it",
            )
        )
    elif not engine.cdi:
        troubles.append(
            Trouble(
                "the Docker Engine takes no CDI devices (features.cdi)",
                f'{PROVISION} (it sets `"features": {{"cdi": true}}` in /etc/docker/daemon.json and '
                "restarts the engine)",
                engine.version,
            )
        )
    return judged(f"Docker {engine.version}", [*troubles, *_boot(unit)])


def _boot(unit: Mapping[str, str]) -> Iterator[Trouble]:
    """What keeps Docker from starting at boot."""
    if _masked(unit):
        # Somebody's decision: it is told, and not taken back.
        yield Trouble(
            "Docker is masked: nothing can start it",
            f"`systemctl unmask docker` on {{host}}, then {PROVISION}",
            unit.get("ActiveState", ""),
        )
    elif unit.get("UnitFileState") == "disabled":
        yield Trouble(
            "Docker does not start at boot",
            "`systemctl enable docker` on {host}",
            fix=Fix("enable docker", (Run(("systemctl", "enable", "docker.service")),)),
        )


def _masked(unit: Mapping[str, str]) -> bool:
    return unit.get("UnitFileState") in ("masked", "masked-runtime")


def check_live_restore(patient: Patient) -> Verdict:
    """Containers outlive a restart of the engine."""
    if patient.engine is None:
        return skipped("no engine answers")
    if patient.engine.live_restore:
        return well("on")
    return bad(
        "live-restore is off",
        f'{PROVISION} (it sets `"live-restore": true` in /etc/docker/daemon.json and reloads the engine)',
    )


def check_toolkit(patient: Patient) -> Verdict:
    """NVIDIA's container toolkit is there."""
    answer = patient.facts.get(TOOLKIT_PROBE.key, ABSENT)
    if answer.rc == 127:
        return bad("NVIDIA's container toolkit is not installed", PROVISION)
    return well(answer.text.strip() or "installed")


@dataclass(frozen=True)
class Spec:
    """The CDI file that counts; `made` in seconds since the epoch, `drivers` the driver's libraries there.

    `gone` are paths it wants from the host that are not there, `moved` devices whose number changed.
    """

    file: str = ""
    made: float = 0.0
    uuids: frozenset[str] = frozenset()
    mounts: frozenset[str] = frozenset()
    gone: tuple[str, ...] = ()
    moved: tuple[str, ...] = ()
    drivers: tuple[tuple[float, str], ...] = ()


def parse_spec(answer: Answer) -> Spec:
    """The probe's answer; `file` is empty where there is no CDI file."""
    found: dict[str, list[str]] = {}
    for line in answer.text.splitlines():
        name, equals, value = line.partition("=")
        if equals:
            found.setdefault(name, []).append(value)
    drivers = (value.split() for value in found.get("driver", ()))
    return Spec(
        found.get("file", [""])[0],
        float(found.get("made", ["0"])[0] or 0),
        frozenset(found.get("uuid", ())),
        frozenset(found.get("mounts", ())),
        tuple(found.get("gone", ())),
        tuple(found.get("moved", ())),
        tuple((float(row[0]), row[1]) for row in drivers if len(row) == 2 and row[0].isdigit()),
    )


def check_cdi(patient: Patient) -> Verdict:
    """The CDI file names every GPU, and what it names is there."""
    gpus = patient.gpus
    if gpus is None:
        return skipped("no driver answers")
    spec = parse_spec(patient.facts.get(CDI_PROBE.key, ABSENT))
    refresh = spec.file.startswith("/var/run/")
    command = "systemctl restart nvidia-cdi-refresh" if refresh else f"nvidia-ctk cdi generate --output={OWN}"
    fix = Fix(
        "describe the GPUs for containers anew",
        (Run(("sh", "-c", command, "fleet"), timeout=120.0, title=command),),
    )
    remedy = f"`{command}` on {{host}}"
    if not spec.file:
        return bad("no CDI file names the GPUs", remedy, fix=fix)
    reasons = list(_stale(spec, gpus))
    if not reasons:
        return well(spec.file)
    return bad("the CDI file is out of date", remedy, f"{spec.file}: {'; '.join(reasons)}", fix=fix)


def _stale(spec: Spec, gpus: Sequence[Gpu]) -> Iterator[str]:
    if missing := sorted({gpu.uuid for gpu in gpus if not gpu.mig} - spec.uuids):
        yield f"it does not name {', '.join(missing)}"
    if foreign := sorted(spec.uuids - {gpu.uuid for gpu in gpus}):
        yield f"it names {', '.join(foreign)}, not in this host"
    runs = {gpu.driver_version for gpu in gpus if gpu.driver_version}
    mounts = {version for version in spec.mounts if re.fullmatch(r"\d+\.\d+(\.\d+)*", version)}
    if mounts and runs and not runs <= mounts:
        yield f"it is for driver {', '.join(sorted(mounts))}, {', '.join(sorted(runs))} runs"
    elif any(version in runs and changed > spec.made for changed, version in spec.drivers) and not mounts:
        yield "it is older than the driver"
    if spec.gone:
        more = f" and {len(spec.gone) - 1} more" if len(spec.gone) > 1 else ""
        yield f"{spec.gone[0]}{more}, which it mounts, is not there"
    if spec.moved:
        yield f"{spec.moved[0]} has another number than it says"


PROVISION = "`fleet provision --limit {host}`"
_HUNG = (
    "`journalctl -u docker -n 50` on {host} may say why; `systemctl restart docker` there, before which "
    "`fleet drain {host}` is needed only where live-restore is off"
)

CHECKS = (
    Check(
        "containers",
        "engine",
        "without it nothing runs, and only with CDI a container keeps its GPU through a reload of systemd",
        check_engine,
        lambda host: (ENGINE_PROBE, ENGINE_UNIT_PROBE),
    ),
    Check(
        "containers",
        "live-restore",
        "without it every restart of the engine ends all jobs of the host",
        check_live_restore,
        lambda host: (ENGINE_PROBE,),
    ),
    Check(
        "containers",
        "toolkit",
        "it brings the driver into the containers",
        check_toolkit,
        lambda host: (TOOLKIT_PROBE,),
    ),
    Check(
        "containers",
        "cdi",
        "the engine finds GPUs by this file: what it lacks cannot start",
        check_cdi,
        lambda host: (CDI_PROBE, GPU_PROBE),
    ),
)
