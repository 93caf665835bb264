"""The story: hosts on this machine, provisioned, looked at, and upgraded under load. run.sh starts it.

The exit code is 1 where a check failed, which the report's last table names.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gpus
import image
import yaml
from commands import INVENTORY, argv, document, fleet, ssh
from hosts import BUNDLE, HERE, Host, control_groups, firewall, network, start, wait
from outside import Registry, serve_images, serve_packages
from replacing import replacing
from report import Report
from seeing import containers
from under_load import URL, under_load
from wanted import Wanted, parse

from fleet.lab.keys import make_key_pair

_NODES = Path("/srv/bench/driver/nodes")


def main() -> int:
    wanted = parse()
    report = Report(wanted.report)
    try:
        if wanted.probe:
            probe(wanted, report)
        else:
            story(wanted, report)
    except Exception as error:
        report.check(
            "the run came to its end", False, f"{type(error).__name__}: {error}".replace("\n", "<br>")
        )
        _last_words(report)
        report.end()
        raise
    return 0 if report.end() else 1


def probe(wanted: Wanted, report: Report) -> None:
    """Whether this machine can do what the story needs: namespaces, network, hosts that boot, their GPUs."""
    report.write("# What this machine can do")
    hosts, kind = boot(wanted)
    for host in hosts:
        wait(host)
    report.check("iptables", bool(kind), kind or "none; Docker will publish ports without it")
    for line in (
        "systemctl is-system-running; systemctl --failed --no-legend",
        "df -h; cat /proc/self/cgroup",
    ):
        ssh(report, line)
    done = ssh(report, "nvidia-smi -L; nvidia-smi; nvidia-smi --query-compute-apps=pid --format=csv")
    report.check("nvidia-smi on the GPU host", "GPU-" in done.text, f"exit code {done.rc}")
    chosen = gpus.toolkit("gpu-01") if wanted.gpu else gpus.standin_toolkit()
    report.check("a toolkit", True, chosen.text)


def boot(wanted: Wanted) -> tuple[tuple[Host, ...], str]:
    """The hosts, started, and the iptables they use, "" where Docker must do without."""
    layer = Path("/srv/bench/driver") if wanted.gpu else gpus.standin_layer(2, 81559)
    nodes = _NODES if wanted.gpu else Path("/dev/null")
    hosts = (Host("gpu-01", "10.77.0.11", (layer,), nodes), Host("lb-01", "10.77.0.21"))
    network(hosts)
    kind = firewall(hosts[0])
    control_groups(hosts)
    login = make_key_pair("real-gpu")
    _ssh(login.private, "".join(start(host, login, kind) for host in hosts))
    return hosts, kind


def story(wanted: Wanted, report: Report) -> None:
    began = time.monotonic()
    if wanted.gpu:
        report.write("# fleet on real GPUs")
    else:
        report.write("# Rehearsal WITHOUT GPUs: nothing here ran on a GPU, and its numbers mean nothing")
    hosts, kind = boot(wanted)
    registry = serve_images()
    layers = image.layers()
    for tag in ("v1", "v2"):
        config = image.config(tag, wanted.mib, wanted.job_seconds, gpu=wanted.gpu)
        image.push(registry, tag, layers, config)
    for host in hosts:
        wait(host)
    toolkit = gpus.toolkit("gpu-01") if wanted.gpu else gpus.standin_toolkit()
    serve_packages(gpus.make_package(toolkit))
    _machine(report, toolkit, time.monotonic() - began)
    inventory(registry, toolkit.package.name, kind)
    provision(report)
    slots = status(report)
    containers(report, slots, wanted)
    under_load(report, slots, wanted)
    replacing(report, slots, wanted)


def inventory(registry: Registry, toolkit: str, iptables: str) -> None:
    variables: dict[str, Any] = {
        "ansible_user": "fleet",
        "ansible_ssh_private_key_file": "/root/.ssh/id_ed25519",
        "fleet_known_hosts": "/root/.ssh/known_hosts",
        "image": f"{registry.name}/{image.NAME}:v1",
        "registry_username": registry.username,
        "registry_password_file": str(registry.password_file),
        "registry_ca": {registry.name: str(registry.ca)},
        "nvidia_toolkit_packages": [toolkit],
        "fleet_url": URL,
    }
    if not iptables:
        variables["daemon_config"] = {"iptables": False, "ip6tables": False}
    children = {
        "gpu": {"hosts": {"gpu-01": {"ansible_host": "10.77.0.11"}}},
        "balancer": {"hosts": {"lb-01": {"ansible_host": "10.77.0.21"}}},
    }
    INVENTORY.write_text(yaml.safe_dump({"all": {"vars": variables, "children": children}}, sort_keys=False))


def provision(report: Report) -> None:
    report.write("## From bare hosts to the service\n\nThe inventory:")
    report.write(f"```yaml\n{INVENTORY.read_text()}```")
    done = fleet(report, "provision", timeout=280)
    report.check("fleet provision ends well", done.rc == 0, f"exit code {done.rc}, {done.seconds:.0f} s")
    if done.rc != 0:
        raise RuntimeError("fleet provision failed; what comes after it was not run")
    report.write("A second run, which must change nothing:")
    fleet(report, "provision", timeout=120)
    again = document(report, "provision --json")
    changed = again.get("changed")
    report.check("a further run changes nothing", changed == 0, f"{changed} changed")


def status(report: Report) -> list[dict[str, Any]]:
    report.write("## fleet status")
    done = fleet(report, "status")
    report.check("fleet status finds nothing wrong", done.rc == 0, f"exit code {done.rc}")
    found = document(report, "status --json", show=True)
    if subprocess.run(argv("doctor --help"), capture_output=True, check=False).returncode == 0:
        report.write("## fleet doctor")
        done = fleet(report, "doctor", lines=300)
        report.check("fleet doctor examined all", done.rc in (0, 1), f"exit code {done.rc}: 1 is a finding")
    slots: list[dict[str, Any]] = found["slots"]
    return slots


def _machine(report: Report, toolkit: gpus.Toolkit, seconds: float) -> None:
    system = re.search(r'PRETTY_NAME="(.*)"', Path("/srv/bench/os-release").read_text())
    memory = int(Path("/proc/meminfo").read_text().split()[1]) // 2**20
    facts = {
        "machine": f"{system[1] if system else ''}, Linux {os.uname().release}, "
        f"{os.cpu_count()} cores, {memory} GiB",
        "hosts": f"`gpu-01`, `lb-01`: Debian with systemd and sshd, in namespaces; up after {seconds:.0f} s",
        "toolkit": toolkit.text,
        "fleet": _commit(),
        "bundle": (BUNDLE / "versions").read_text().strip().replace("\n", ", "),
    }
    report.write(f"Made by `bench/real_gpu/run.sh`, {time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())}.")
    report.write("\n".join(("| | |", "|---|---|", *(f"| {key} | {text} |" for key, text in facts.items()))))
    report.write((HERE / "what-is-real.md").read_text().strip())
    report.write("## The machine")
    if Path("/proc/driver/nvidia/version").exists():
        report.run("cat /proc/driver/nvidia/version", ["cat", "/proc/driver/nvidia/version"])
    ssh(report, "nvidia-smi")
    ssh(report, "nvidia-smi -L")


def _last_words(report: Report) -> None:
    for name in ("gpu-01", "lb-01"):
        line = "systemctl --failed --no-legend; sudo journalctl --no-pager -p warning -n 40; df -h"
        report.run(f"ssh {name} {line}", ["ssh", "-o", "ConnectTimeout=5", name, line], timeout=20)
    line = "sudo docker ps -a; for c in $(sudo docker ps -aq); do sudo docker logs --tail 15 $c; done"
    report.run(f"ssh gpu-01 {line}", ["ssh", "-o", "ConnectTimeout=5", "gpu-01", line], timeout=20)


def _commit() -> str:
    head = HERE.parents[1] / ".git/HEAD"
    text = head.read_text().strip() if head.is_file() else ""
    name = HERE.parents[1] / ".git" / text.removeprefix("ref: ")
    return (name.read_text().strip() if name.is_file() else text) or "a working tree"


def _ssh(private: bytes, known_hosts: str) -> None:
    folder = Path("/root/.ssh")
    folder.mkdir(mode=0o700, exist_ok=True)
    (folder / "id_ed25519").write_bytes(private)
    (folder / "id_ed25519").chmod(0o600)
    (folder / "known_hosts").write_text(known_hosts)
    addresses = "Host gpu-01\n  HostName 10.77.0.11\nHost lb-01\n  HostName 10.77.0.21\n"
    (folder / "config").write_text(f"{addresses}Host *\n  User fleet\n  BatchMode yes\n")
    os.chdir("/root")


if __name__ == "__main__":
    sys.exit(main())
