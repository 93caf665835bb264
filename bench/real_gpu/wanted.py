"""What a run is asked to do."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Wanted:
    """A container's GPU memory in MiB, a job's GPU work in seconds, jobs a second for each GPU."""

    report: Path
    gpu: bool
    probe: bool
    mib: int
    job_seconds: float
    rate: float


def parse() -> Wanted:
    """The command line; what run.sh sets itself is not shown."""
    parser = argparse.ArgumentParser(prog="run.sh ... --")
    parser.add_argument("--report", type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--gpu", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--probe", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--mib", type=int, default=14336, help="GPU memory each container holds (14336)")
    parser.add_argument("--job-seconds", type=float, default=0.3, help="GPU work of a job (0.3)")
    parser.add_argument("--rate", type=float, default=1.0, help="jobs a second for each GPU (1)")
    return Wanted(**vars(parser.parse_args()))
