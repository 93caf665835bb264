"""What nvidia-smi says about a host's GPUs and about who uses them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from fleet.model.facts import Answer, Probe
from fleet.model.slot import Gpu

# The name stands between fields that cannot hold a comma, so that a name may.
_FIELDS = (
    "index",
    "uuid",
    "name",
    "memory.total",
    "memory.used",
    "utilization.gpu",
    "temperature.gpu",
    "power.draw",
    "driver_version",
    "pci.bus_id",
    "mig.mode.current",
)
_AFTER_NAME = len(_FIELDS) - 3

# nvidia-smi writes its errors on stdout or stderr depending on the version.
GPU_PROBE = Probe("gpu", f"nvidia-smi --query-gpu={','.join(_FIELDS)} --format=csv,noheader,nounits 2>&1\n")

# A process of a container is told from others by the container's id in its cgroup path.
GPU_PROCESSES_PROBE = Probe(
    "gpu.processes",
    """\
fields=gpu_uuid,pid,used_memory,process_name
apps=$(nvidia-smi --query-compute-apps=$fields --format=csv,noheader,nounits 2>&1)
rc=$?
printf '%s\\n' "$apps" | while IFS= read -r app; do
  pid=${app#*, }; pid=${pid%%,*}; cgroup=
  case $pid in ''|*[!0-9]*) ;; *)
    [ -r "/proc/$pid/cgroup" ] && while read -r line; do cgroup="$cgroup $line"; done < "/proc/$pid/cgroup"
  esac
  printf '%s\\t%s\\n' "$app" "$cgroup"
done
exit $rc
""",
)

LOST_WORDS = ("GPU is lost", "device handle")
"""What nvidia-smi says where a GPU has fallen off the bus; it then lists no other, either."""

_NO_DEVICES = re.compile(r"^No devices (were )?found", re.IGNORECASE | re.MULTILINE)
_INDEX = re.compile("[0-9]{1,4}")
_PID = re.compile("[0-9]{1,10}")
_CONTAINER = re.compile(r"\b([0-9a-f]{64})\b")


@dataclass(frozen=True)
class GpuProcess:
    """A process that holds a GPU. `memory` in MiB; `container` is the id of the container it runs in."""

    gpu_uuid: str
    pid: int
    name: str
    memory: int | None = None
    container: str | None = None


def parse_gpus(answer: Answer) -> tuple[Gpu, ...] | None:
    """The GPUs in the driver's order; none for a driver without GPUs; None where no driver answers.

    One that does not even tell its UUID is left out: nothing can be given to it; `faulty_gpus` names it.
    """
    if _NO_DEVICES.search(answer.text):
        return ()
    if not answer.ok:
        return None
    gpus = (_gpu(line) for line in answer.text.splitlines())
    return tuple(gpu for gpu in gpus if gpu is not None)


def faulty_gpus(answer: Answer) -> tuple[str, ...]:
    """The GPUs that are listed and cannot be told apart from others, each with what it says of itself."""
    rows = (_row(line) for line in answer.text.splitlines()) if answer.ok else ()
    return tuple(
        f"GPU {row[0]} ({_known(row[-2]) or 'at an unknown place'}) tells no UUID: {row[1] or 'nothing'}"
        for row in rows
        if row is not None and _known(row[1]) is None
    )


def driver_problem(answer: Answer) -> str | None:
    """Why no driver answers, in nvidia-smi's own words; None where one does."""
    if parse_gpus(answer) is not None:
        return None
    if answer.rc == 127:
        return "nvidia-smi is not installed"
    return answer.text.strip() or f"nvidia-smi ended with exit code {answer.rc}"


def tells_of_lost_gpu(text: str) -> bool:
    """Whether these words of nvidia-smi's are those for a GPU that has fallen off the bus."""
    return any(words in text for words in LOST_WORDS)


def parse_gpu_processes(answer: Answer) -> tuple[GpuProcess, ...] | None:
    """The processes that hold a GPU; None where nvidia-smi cannot tell."""
    if not answer.ok:
        return None
    processes = []
    for line in answer.text.splitlines():
        app, _, cgroup = line.partition("\t")
        parts = [part.strip() for part in app.split(",", 3)]
        if len(parts) < 4 or not _PID.fullmatch(parts[1]):
            continue
        container = _CONTAINER.search(cgroup)
        processes.append(
            GpuProcess(
                gpu_uuid=parts[0],
                pid=int(parts[1]),
                name=parts[3],
                memory=_whole(parts[2]),
                container=container[1] if container else None,
            )
        )
    return tuple(processes)


def _row(line: str) -> list[str] | None:
    parts = [part.strip() for part in line.split(",")]
    if len(parts) < len(_FIELDS) or not _INDEX.fullmatch(parts[0]):
        return None  # a warning before the table, such as one of an infoROM
    return parts


def _gpu(line: str) -> Gpu | None:
    parts = _row(line)
    if parts is None or _known(parts[1]) is None:
        return None
    name = ", ".join(parts[2:-_AFTER_NAME])
    total, used, utilization, temperature, power, driver, bus, mig = parts[-_AFTER_NAME:]
    return Gpu(
        index=int(parts[0]),
        uuid=parts[1],
        name=name,
        memory_total=_whole(total),
        memory_used=_whole(used),
        utilization=_whole(utilization),
        temperature=_whole(temperature),
        power=_number(power),
        driver_version=_known(driver),
        pci_bus_id=_known(bus),
        mig=mig == "Enabled",
    )


def _known(text: str) -> str | None:
    return None if not text or text.startswith("[") or text in ("N/A", "ERR!") else text


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _whole(text: str) -> int | None:
    number = _number(text)
    return int(number) if number is not None and math.isfinite(number) else None
