"""What a wave of `fleet upgrade` costs beyond pulling, draining and loading the model, in one run.

On a lab of its own, upgrades with ramp and soak set to nothing, there and back, with users' jobs coming in.
Times are those of the journal. The load is measured apart, as the floor: the same container started by hand
on the same host, until its first right translation. The rehearsals are the model's own time, and are shown
apart: `rehearsals: 0` in playbooks/upgrade.yml saves them. Prints a table; --json prints a document;
with --strict it ends with 1 where any wave misses the target of 2 s.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FLEET = str(Path(sys.executable).parent / "fleet")
LAB = "lab-bench-up"
TARGET = 2.0
IMAGE = "registry-01:5000/hunyuan-mt-webui"

REHEARSALS = 3

# By hand on a GPU host, as a rollout does it: stop what is there, start it again, wait for a translation.
LOAD = """\
api="http://127.0.0.1:$2/gradio_api/call/translate"
translate() {
  event=$(curl -s -m 9 -H 'Content-Type: application/json' -d '{"data": ["Good morning.", "Chinese"]}' "$api")
  event=${event#*'"event_id":"'}
  curl -s -m 9 "$api/${event%%'"'*}" | grep -q complete
}
now() { date +%s%3N; }
docker stop -t 120 "$1" >/dev/null
began=$(now)
docker start "$1" >/dev/null
until translate; do sleep 0.05; done
loaded=$(now)
translate
echo $((loaded - began)) $(($(now) - loaded))
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--turns", type=int, default=2, help="upgrades there and back")
    parser.add_argument("--floor", default="75%", help="of the four slots; 75%% makes four waves, 50%% two")
    parser.add_argument("--rate", type=float, default=2.0, help="jobs a second meanwhile")
    parser.add_argument("--keep", action="store_true", help="leave the lab up; a later run uses it again")
    parser.add_argument("--json", action="store_true", help="print a JSON document instead of the table")
    parser.add_argument("--strict", action="store_true", help="exit with 1 where the target is missed")
    options = parser.parse_args()
    document = measure(options.turns, options.floor, options.rate, keep=options.keep)
    print(json.dumps(document, indent=2) if options.json else table(document))
    return int(options.strict and not document["met"])


def measure(turns: int, floor: str, rate: float, *, keep: bool) -> dict:
    fleet("lab", "up", "--name", LAB)
    inventory = str(ROOT / "inventories" / f"{LAB}.yml")
    try:
        state = json.loads(fleet("lab", "status", "--name", LAB, "--json"))
        fleet("provision", "-i", inventory, "-e", f"image={running(state, inventory)}")
        tries = [by_hand(state) for _ in range(3)]
        load, job = (statistics.median(each) for each in zip(*tries, strict=True))
        waves = []
        with tempfile.NamedTemporaryFile() as counts:
            users = subprocess.Popen(
                [sys.executable, str(ROOT / "lab/bin/load"), state["url"], str(rate)], stdout=counts
            )
            try:
                for turn in range(2 * turns):
                    tag = "v2" if running(state, inventory).endswith(":v1") else "v1"
                    waves += upgraded(f"{IMAGE}:{tag}", inventory, floor, load, job, turn)
            finally:
                users.send_signal(signal.SIGTERM)
                users.wait(60)
            said = Path(counts.name).read_text().splitlines()[0]
    finally:
        if not keep:
            fleet("lab", "down", "--name", LAB)
    overheads = [wave["overhead"] for wave in waves]
    return {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, load {os.getloadavg()[0]:.1f}",
        "users": said,
        "load_floor": load,
        "job": job,
        "waves": waves,
        "overhead_median": statistics.median(overheads),
        "overhead_most": max(overheads),
        "rehearsals": REHEARSALS * job,
        "target": TARGET,
        "met": max(overheads) <= TARGET,
    }


def upgraded(image: str, inventory: str, floor: str, load: float, job: float, turn: int) -> list[dict]:
    """Upgrade, and what each wave took, by the journal's times."""
    how = (
        "--ramp",
        "none",
        "--soak",
        "0",
        "--canary",
        "0",
        "--floor",
        floor,
        "--retain",
        "1",
        "--yes",
        "--json",
    )
    report = json.loads(fleet("upgrade", image, "-i", inventory, *how))
    entries = report["entries"]
    pulled = next(entry["at"] for entry in entries if entry["step"] == "pulled")
    rows = []
    before = pulled
    for number in sorted({entry["wave"] for entry in entries if entry["wave"]}):
        mine = [entry for entry in entries if entry["wave"] == number]
        at = {entry["step"]: entry["at"] for entry in mine}
        first = {entry["step"]: entry["at"] for entry in reversed(mine)}
        whole = at["accepted"] - before
        drain = at["drained"] - first["draining"]
        rows.append(
            {
                "upgrade": turn + 1,
                "wave": number,
                "slots": sum(entry["step"] == "ready" for entry in mine),
                "whole": whole,
                "before_drain": first["draining"] - before,
                "drain": drain,
                "exchange_and_check": at["ready"] - first["moving"],
                "load_floor": load,
                "admit": at["accepted"] - at["ready"],
                "rehearsals": REHEARSALS * job,
                "overhead": whole - drain - load - REHEARSALS * job,
            }
        )
        before = at["accepted"]
    return rows


def by_hand(state: dict) -> tuple[float, float]:
    """Seconds from a container's start until its first translation, without fleet, and of one more."""
    host = next(host for host in state["hosts"] if host["kind"] == "gpu")
    script = [
        "docker",
        "exec",
        host["container"],
        "sh",
        "-c",
        LOAD,
        "load",
        f"fleet-{host['name']}-0",
        "7860",
    ]
    said = subprocess.run(script, capture_output=True, text=True, check=True).stdout.split()
    return int(said[0]) / 1000, int(said[1]) / 1000


def running(state: dict, inventory: str) -> str:
    """The image that the first slot runs; the lab's first one where nothing runs yet."""
    slots = json.loads(fleet("status", "-i", inventory, "--json", codes=(0, 1, 3)))["slots"]
    return next((slot["image"] for slot in slots if slot.get("image")), f"{IMAGE}:v1")


def table(document: dict) -> str:
    columns = ("upgrade", "wave", "slots", "whole", "drain", "load_floor", "rehearsals", "overhead")
    lines = [
        f"{document['machine']}; users: {document['users']}",
        "  ".join(f"{name:>10}" for name in columns) + "   (seconds)",
    ]
    for wave in document["waves"]:
        cells = (
            f"{wave[name]:>10.2f}" if isinstance(wave[name], float) else f"{wave[name]:>10}"
            for name in columns
        )
        lines.append("  ".join(cells))
    word = "met" if document["met"] else "missed"
    median, most = document["overhead_median"], document["overhead_most"]
    lines.append(
        f"overhead a wave: median {median:.2f} s, most {most:.2f} s; target {TARGET:g} s: {word}; "
        f"median with the rehearsals: {median + document['rehearsals']:.2f} s"
    )
    lines.append("load_floor: the same container started by hand, until its first translation; median of 3")
    return "\n".join(lines)


def fleet(*arguments: str, codes: tuple[int, ...] = (0,)) -> str:
    done = subprocess.run([FLEET, *arguments], capture_output=True, text=True, cwd=ROOT)
    if done.returncode not in codes:
        sys.exit(f"fleet {' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
