"""Watching while fleet works: jobs at a steady rate, and what the GPUs themselves report every second."""

from __future__ import annotations

import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hosts import HERE

_FIELDS = "index,utilization.gpu,memory.used,power.draw,temperature.gpu"
_LOOP = f"while :; do nvidia-smi --query-gpu={_FIELDS} --format=csv,noheader,nounits; sleep 1; done"


@dataclass(frozen=True)
class Sample:
    """One GPU at one moment (time.monotonic): percent, MiB, watts, degrees Celsius; NaN is not reported."""

    moment: float
    gpu: int
    utilization: float
    memory: float
    power: float
    temperature: float


class Samples:
    """What nvidia-smi on a host says, about every second, until `end`."""

    def __init__(self, host: str) -> None:
        self.all: list[Sample] = []
        self._process = subprocess.Popen(
            ["ssh", host, _LOOP], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def since(self, moment: float) -> list[Sample]:
        """The samples taken after `moment`."""
        return [sample for sample in list(self.all) if sample.moment >= moment]

    def end(self) -> None:
        """Stop asking."""
        self._process.kill()
        self._process.wait()

    def _read(self) -> None:
        for line in self._process.stdout or ():
            parts = [_number(part) for part in line.split(",")]
            if len(parts) == 5:
                self.all.append(Sample(time.monotonic(), int(parts[0]), *parts[1:]))


def table(samples: Sequence[Sample]) -> str:
    """A Markdown table of the samples, one row per GPU."""
    rows = [
        "| GPU | samples | utilisation %, median (most) | memory MiB | power W, most | °C, most |",
        "|---|---|---|---|---|---|",
    ]
    for gpu in sorted({sample.gpu for sample in samples}):
        own = [sample for sample in samples if sample.gpu == gpu]
        busy = [sample.utilization for sample in own]
        memory = [sample.memory for sample in own]
        rows.append(
            f"| {gpu} | {len(own)} | {statistics.median(busy):.0f} ({max(busy):.0f}) "
            f"| {min(memory):.0f} to {max(memory):.0f} | {max(each.power for each in own):.0f} "
            f"| {max(each.temperature for each in own):.0f} |"
        )
    return "\n".join(rows)


class Load:
    """Translations at a steady rate through the balancer, each one counted, by lab/bin/load."""

    def __init__(self, url: str, rate: float, log: Path) -> None:
        self.shown = f"lab/bin/load {url} {rate:g}"
        self._log = log
        argv = [sys.executable, str(HERE.parents[1] / "lab/bin/load"), url, str(rate)]
        with log.open("wb") as sink:
            self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink)

    def end(self) -> tuple[int, str]:
        """Wait for the jobs in flight; returns the exit code (0: none failed) and the counts."""
        self._process.send_signal(signal.SIGTERM)
        rc = self._process.wait(timeout=120)
        return rc, self._log.read_text().rstrip()


def _number(text: str) -> float:
    try:
        return float(text.strip())
    except ValueError:
        return float("nan")
