"""What each container sees of the GPUs, and whether fleet tells what the hardware says."""

from __future__ import annotations

import re
from typing import Any

from commands import ssh
from report import Report
from wanted import Wanted


def containers(report: Report, slots: list[dict[str, Any]], wanted: Wanted) -> None:
    """Which GPUs each container sees, before and after systemd was reloaded, and what it printed."""
    report.write("## What each container sees")
    ssh(report, "sudo cat /etc/cdi/nvidia.yaml", lines=150)
    see(report, slots, wanted, "")
    report.write(
        "After `systemctl daemon-reload`, which takes the GPU from containers of NVIDIA's older hook:"
    )
    ssh(report, "sudo systemctl daemon-reload")
    see(report, slots, wanted, " after daemon-reload")


def see(report: Report, slots: list[dict[str, Any]], wanted: Wanted, when: str) -> None:
    """Ask each container by nvidia-smi and by CUDA which GPUs it has; `when` ends the check's name."""
    columns = '{{.Names}} {{.Label "fleet.slot"}} {{.Label "fleet.gpu"}}'
    named = ssh(report, f"sudo docker ps --filter label=fleet.slot --format '{columns}'")
    seen = 0
    for line in named.text.splitlines():
        name, slot, uuid = line.split()
        seen += 1
        listed = ssh(report, f"sudo docker exec {name} nvidia-smi -L")
        found = re.findall(r"GPU-[0-9a-f-]{36}", listed.text)
        report.check(
            f"{slot} sees its own GPU only{when}", found == [uuid], f"nvidia-smi: {', '.join(found)}"
        )
        if wanted.gpu:
            told = ssh(report, f"sudo docker exec {name} python3 /app/cuda_work.py")
            found = re.findall(r"GPU-[0-9a-f-]{36}", told.text)
            report.check(
                f"CUDA in {slot} sees its own GPU only{when}", found == [uuid], f"CUDA: {', '.join(found)}"
            )
            ssh(report, f"sudo docker exec {name} sh -c 'ls -l /dev/nvidia*'")
            ssh(report, f"sudo docker logs --tail 5 {name}")
    report.check(f"one container per GPU{when}", seen == len(slots), f"{seen} containers, {len(slots)} GPUs")


def true_numbers(report: Report, told_by_fleet: dict[str, Any], wanted: Wanted) -> None:
    """Hold the status document's memory against the hardware's own number."""
    asked = ssh(report, "nvidia-smi --query-gpu=uuid,memory.used --format=csv,noheader,nounits", quiet=True)
    used = {row.split(",")[0]: int(row.split(",")[1]) for row in asked.text.splitlines()}
    for slot in told_by_fleet["slots"]:
        told, true = slot["memory_used"] or 0, used.get(slot["uuid"], 0)
        right = told >= wanted.mib and abs(told - true) < 64
        report.check(f"status tells {slot['name']}'s memory", right, f"{told} MiB; nvidia-smi: {true} MiB")
