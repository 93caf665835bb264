#!/usr/bin/env python3
"""What a fan-out costs the controller: connect to N hosts, run one script on each, close.

Starts its own sshd (own keys, own config, a free high port on all loopback addresses), gives it N inventory
hosts on 127.0.x.y, and measures a fresh process that works on all of them with a thread pool. Prints a table
to stderr and JSON to stdout; exits with 1 where a target is missed.

    python bench/fanout.py --hosts 200 --forks 64
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

CPU_TARGET_MS = 40.0
RSS_TARGET_MB = 250.0
SCRIPT = "echo hello"


def main() -> int:
    """Run the benchmark; see the module's text."""
    parser = argparse.ArgumentParser(description="Controller CPU and memory of connect + one script.")
    parser.add_argument("--hosts", type=int, default=200)
    parser.add_argument("--forks", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        print(json.dumps(work(json.loads(Path(options.work).read_text()))))
        return 0
    measured = measure(options.hosts, options.forks, options.rounds)
    show(measured)
    print(json.dumps(measured, indent=2))
    return 0 if measured["met"] else 1


def measure(hosts: int, forks: int, rounds: int) -> dict[str, Any]:
    """The median of some rounds, each a process of its own, and one with no hosts for comparison."""
    from tests.sshd import Sshd

    with tempfile.TemporaryDirectory(prefix="fleet-fanout-") as folder:
        server = Sshd(
            Path(folder) / "sshd",
            ("MaxStartups 512:30:1024", "MaxSessions 10", "LoginGraceTime 60"),
            listen=("0.0.0.0",),
        )
        try:
            addresses = [f"127.0.{1 + n // 250}.{1 + n % 250}" for n in range(hosts)]
            server.known_hosts.write_text(
                "".join(server.known_line(server.host_keys[0], f"[{a}]:{server.port}") for a in addresses)
            )
            variables = [{**server.variables(), "ansible_host": address} for address in addresses]
            idle = round_of([], forks, Path(folder))
            runs = [round_of(variables, forks, Path(folder)) for _ in range(rounds)]
        finally:
            server.stop()
    wall, cpu, rss = (statistics.median(run[key] for run in runs) for key in ("wall_s", "cpu_s", "rss_mb"))
    per_host = 1000 * (cpu - idle["cpu_s"]) / hosts
    whole = 1000 * cpu / hosts
    return {
        "hosts": hosts,
        "forks": forks,
        "rounds": rounds,
        "processors": os.cpu_count(),
        "python": sys.version.split()[0],
        "wall_s": round(wall, 3),
        "cpu_s": round(cpu, 3),
        "start_cpu_s": round(idle["cpu_s"], 3),
        "cpu_ms_per_host": round(per_host, 2),
        "cpu_ms_per_host_with_start": round(whole, 2),
        "peak_rss_mb": round(rss, 1),
        "targets": {"cpu_ms_per_host_with_start": CPU_TARGET_MS, "peak_rss_mb": RSS_TARGET_MB},
        "met": whole <= CPU_TARGET_MS and rss <= RSS_TARGET_MB,
    }


def round_of(variables: list[dict[str, Any]], forks: int, folder: Path) -> dict[str, float]:
    """One fresh process over these hosts."""
    order = folder / "order.json"
    order.write_text(json.dumps({"hosts": variables, "forks": forks}))
    argv = [sys.executable, str(Path(__file__).resolve()), "--work", str(order)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=600)
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    result: dict[str, float] = json.loads(done.stdout)
    return result


def work(order: dict[str, Any]) -> dict[str, float]:
    """In the measured process: all hosts, then what that took since the process began."""
    from fleet.model.host import Host
    from fleet.ssh import SshSettings, connect, stack

    began = time.perf_counter()
    stack.load()
    settings = SshSettings(connect_timeout=60)
    hosts = [Host(f"host-{number}", variables) for number, variables in enumerate(order["hosts"])]

    def one(host: Host) -> None:
        remote = connect(host, settings)
        try:
            result = remote.script(SCRIPT, timeout=60)
            assert (result.rc, result.out) == (0, b"hello\n"), result
        finally:
            remote.close()

    with ThreadPoolExecutor(max(min(order["forks"], len(hosts)), 1)) as pool:
        for _ in pool.map(one, hosts):
            pass
    wall = time.perf_counter() - began
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "wall_s": wall,
        "cpu_s": used.ru_utime + used.ru_stime,
        "rss_mb": used.ru_maxrss / 1024,
    }


def show(measured: dict[str, Any]) -> None:
    """The table for people."""
    rows = (
        ("hosts / forks", f"{measured['hosts']} / {measured['forks']}"),
        ("wall time", f"{measured['wall_s']:.2f} s"),
        ("controller CPU", f"{measured['cpu_s']:.2f} s, of which start {measured['start_cpu_s']:.2f} s"),
        ("CPU per host", f"{measured['cpu_ms_per_host']:.1f} ms"),
        (
            "CPU per host, start included",
            f"{measured['cpu_ms_per_host_with_start']:.1f} ms (target {CPU_TARGET_MS:g})",
        ),
        ("peak memory", f"{measured['peak_rss_mb']:.0f} MB (target {RSS_TARGET_MB:g})"),
        ("targets", "met" if measured["met"] else "MISSED"),
    )
    for name, value in rows:
        print(f"{name:<30} {value}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
