"""How long a run takes that has nothing to change: fleet, Ansible, pyinfra and plain ssh, side by side.

Twelve operations (bench/peers/playbook.yml) on lab hosts of its own. Every tool applies once, then the tools
take turns, round by round, so that the machine's mood is shared. A run counts only where the tool itself
says that it looked at everything and changed nothing. Whole processes are timed; processor time is counted
on the controller's side and in the hosts. Prints a table; with --json a document.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from peers.runs import HostUsage, Sample, run
from peers.tools import OPERATIONS, Host, InvalidRunError, tools, version

from fleet import __version__
from fleet.lab import LabSpec, LabState, down, up

LAB = "lab-bench"
TARGETS = {
    "ansible-playbook": ("at least", 25.0),
    "ansible-playbook, no facts": ("at least", 25.0),
    "pyinfra": ("at least", 3.0),
    "ssh, one command per host": ("at most", 2.5),
}
"""What fleet must reach: so many times faster than a peer, at most so many times the floor."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--hosts", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--keep", action="store_true", help="leave the lab up; a later run uses it again")
    parser.add_argument("--json", action="store_true", help="print a JSON document instead of the table")
    parser.add_argument("--strict", action="store_true", help="exit with 1 where a target is missed")
    options = parser.parse_args()
    try:
        document = measure(options.hosts, options.rounds, keep=options.keep)
    except InvalidRunError as error:
        print(f"no figures: {error}", file=sys.stderr)
        return 1
    print(json.dumps(document, indent=2) if options.json else table(document))
    return int(options.strict and not all(t["met"] for t in document["targets"]))


def measure(count: int, rounds: int, *, keep: bool) -> dict:
    """Bring up the lab, let every tool apply, take turns, take the lab down."""
    try:
        state = up(LabSpec(LAB, gpu_hosts=count, gpus=0, balancers=0, registry=False), say)
        hosts = lab_hosts(state)
        with ThreadPoolExecutor(len(hosts)) as pool:
            list(pool.map(install_python, hosts))
        usage = HostUsage([host.container for host in state.hosts])
        with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
            compared = tools(hosts, state.inventory, Path(scratch))
            for tool in compared:
                _, changed = run(tool, hosts, usage)
                say(f"{tool.name}: {changed} changed at first")
            load = [os.getloadavg()[0]]
            samples: dict[str, list[Sample]] = {tool.name: [] for tool in compared}
            for number in range(rounds):
                for tool in compared:
                    sample, changed = run(tool, hosts, usage)
                    if changed:
                        raise InvalidRunError(
                            f"{tool.name} changed {changed} things where nothing was to change"
                        )
                    samples[tool.name].append(sample)
                load.append(os.getloadavg()[0])
                say(
                    f"round {number + 1}: "
                    + ", ".join(f"{t}: {s[-1].wall:.2f} s" for t, s in samples.items())
                )
        return report(samples, count, load)
    finally:
        if not keep:
            down(LAB, say)


def report(samples: Mapping[str, Sequence[Sample]], hosts: int, load: Sequence[float]) -> dict:
    """The figures as a document. Ratios are medians of the rounds' own ratios."""
    own = samples["fleet"]
    figures, targets = {}, []
    for name, found in samples.items():
        ratio = statistics.median(theirs.wall / ours.wall for theirs, ours in zip(found, own, strict=True))
        figures[name] = {
            "median": round(statistics.median(s.wall for s in found), 3),
            "minimum": round(min(s.wall for s in found), 3),
            "cpu": round(statistics.median(s.cpu for s in found), 3),
            "hosts_cpu": round(statistics.median(s.hosts_cpu for s in found), 3),
            "fleet_is_faster_by": round(ratio, 2),
            "samples": [{key: round(value, 4) for key, value in asdict(s).items()} for s in found],
        }
        if name in TARGETS:
            word, bound = TARGETS[name]
            value = ratio if word == "at least" else 1 / ratio
            met = value >= bound if word == "at least" else value <= bound
            targets.append(
                {"against": name, "is": round(value, 2), word.replace(" ", "_"): bound, "met": met}
            )
    return {
        "hosts": hosts,
        "operations": OPERATIONS,
        "rounds": len(own),
        "versions": {
            "fleet": __version__,
            "ansible-core": version("ansible", "ansible-core"),
            "pyinfra": version("pyinfra", "pyinfra"),
            "python": platform.python_version(),
        },
        "machine": {
            "processors": os.cpu_count(),
            "system": platform.platform(),
            "load_highest_between_rounds": round(max(load), 2),
        },
        "tools": figures,
        "targets": targets,
    }


def table(document: Mapping) -> str:
    """The document for people."""
    lines = [
        f"{document['operations']} operations on {document['hosts']} hosts, nothing to change; "
        f"{document['rounds']} rounds in turn; seconds of whole processes",
        f"{'':28} {'median':>8} {'minimum':>8} {'CPU':>8} {'hosts':>8} {'of fleet':>9}",
    ]
    for name, row in document["tools"].items():
        lines.append(
            f"{name:28} {row['median']:8.2f} {row['minimum']:8.2f} {row['cpu']:8.2f} "
            f"{row['hosts_cpu']:8.2f} {row['fleet_is_faster_by']:8.2f}x"
        )
    for target in document["targets"]:
        lines.append(f"{'met   ' if target['met'] else 'MISSED'}  {wording(target)}")
    machine = document["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in document["versions"].items())
    lines.append(
        f"{versions}; {machine['processors']} processors, load up to {machine['load_highest_between_rounds']}"
    )
    return "\n".join(lines)


def wording(target: Mapping) -> str:
    """One target in words."""
    if "at_least" in target:
        return f"{target['is']:.1f} x faster than {target['against']} (target: {target['at_least']:g} x)"
    return f"{target['is']:.2f} x the time of {target['against']} (target: at most {target['at_most']:g} x)"


def lab_hosts(state: LabState) -> list[Host]:
    """The lab's hosts with the key and known hosts beside its inventory."""
    folder = state.folder
    if folder is None:
        raise InvalidRunError("the lab has no inventory")
    return [
        Host(host.name, host.address, 22, "fleet", folder / "id_ed25519", folder / "known_hosts")
        for host in state.hosts
    ]


def install_python(host: Host) -> None:
    """What Ansible needs on a host. (fleet, pyinfra and ssh need nothing.)"""
    script = (
        "command -v python3 >/dev/null && python3 -c 'import apt' 2>/dev/null || { apt-get -qq update &&"
        " DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends python3 python3-apt; }"
    )
    done = subprocess.run(
        host.ssh("sudo -n sh"), input=script, capture_output=True, text=True, timeout=600, check=False
    )
    if done.returncode:
        raise InvalidRunError(f"cannot install Python on {host.name}:\n{done.stdout}{done.stderr}")


def say(line: str) -> None:
    """One line of progress."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
