"""Commands of the story: fleet on the controller, and others on the GPU host."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from report import Done, Report

INVENTORY = Path("/root/inventory.yml")


def fleet(report: Report, line: str, *, timeout: float = 120, lines: int = 160) -> Done:
    """Run fleet with the inventory, and report it."""
    return report.run(f"fleet {line} -i inventory.yml", argv(line), timeout=timeout, lines=lines)


def ssh(report: Report, line: str, *, lines: int = 160, quiet: bool = False) -> Done:
    """Run a command on the GPU host, and report it unless `quiet`."""
    return report.run(f"ssh gpu-01 {line}", ["ssh", "gpu-01", line], timeout=60, lines=lines, quiet=quiet)


def document(report: Report, line: str, *, show: bool = False) -> dict[str, Any]:
    """The document that fleet prints with --json."""
    done = subprocess.run(argv(line), capture_output=True, text=True, timeout=120, check=False)
    if show:
        report.write(f"```\n$ fleet {line} -i inventory.yml\n{done.stdout.strip()}\n```")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def argv(line: str) -> list[str]:
    """The process for a fleet command line."""
    words = line.split()
    inventory = [] if "--help" in words else ["-i", str(INVENTORY)]
    return [sys.executable, "-m", "fleet", *words, *inventory]
