"""How long `fleet --help` takes, against the floor of importing typer and rich, in one run.

Whole processes, the median of paired runs. Prints a table and, with --json, a document.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

RUNS = 15
BIN = Path(sys.executable).parent
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "python -c 'import typer, rich'": [sys.executable, "-c", "import typer, rich"],
    "fleet --version": [str(BIN / "fleet"), "--version"],
    "fleet --help": [str(BIN / "fleet"), "--help"],
}


def seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    for command in COMMANDS.values():
        seconds(command)
    rounds = [{name: seconds(command) for name, command in COMMANDS.items()} for _ in range(RUNS)]
    medians = {name: statistics.median(r[name] for r in rounds) for name in COMMANDS}
    floor = "python -c 'import typer, rich'"
    if "--json" in sys.argv:
        print(json.dumps({name: round(value, 4) for name, value in medians.items()}, indent=2))
        return
    for name, value in medians.items():
        ratio = statistics.median(r[name] / r[floor] for r in rounds)
        print(f"{name:32} {value * 1000:7.0f} ms   {ratio:5.2f} x the floor")


main()
