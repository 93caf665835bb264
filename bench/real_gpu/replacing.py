"""Containers are replaced by `fleet provision`: by some that end at once, that never answer, that serve."""

from __future__ import annotations

from typing import Any

from commands import fleet, ssh
from report import Report
from seeing import see
from wanted import Wanted

_IDS = "sudo docker ps --no-trunc --filter label=fleet.slot --format '{{.Names}} {{.ID}}'"


def replacing(report: Report, slots: list[dict[str, Any]], wanted: Wanted) -> None:
    """What cannot run gives the GPU back to the container before it; what can has it and no other one."""
    report.write("## fleet provision replaces the containers\n\nBy some that end at once:")
    before = sorted(ssh(report, _IDS).text.split())
    done = fleet(report, 'provision -e slot_env={"PYTHONHOME":"/nonexistent"}', timeout=200)
    after = sorted(ssh(report, _IDS).text.split())
    report.check("provision tells that they do not stay up", done.rc == 1, f"exit code {done.rc}")
    report.check("the containers before them run again", after == before, f"{len(after) // 2} run")
    report.write("By some that run and never answer:")
    done = fleet(report, 'provision -e slot_env={"FLEET_LAB_NEVER_READY":"1"} -e slot_ready=20', timeout=200)
    after = sorted(ssh(report, _IDS).text.split())
    report.check("provision tells that they do not answer", done.rc == 1, f"exit code {done.rc}")
    report.check("the containers before them run again once more", after == before, f"{len(after) // 2} run")
    report.write("By some with another variable in their environment:")
    done = fleet(report, 'provision -e slot_env={"WHATEVER":"1"}', timeout=200)
    after = sorted(ssh(report, _IDS).text.split())
    names = [word for word in after if word.startswith("fleet-")]
    report.check("provision replaces them", done.rc == 0, f"exit code {done.rc}, {done.seconds:.0f} s")
    replaced = not set(before) & set(after) - set(names) and names == [each["container"] for each in slots]
    report.check("every container is another one of the same name", replaced, ", ".join(names))
    see(report, slots, wanted, " after they were replaced")
