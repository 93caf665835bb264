"""Jobs all the while: the GPUs' own numbers, an upgrade by swap, another side by side."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import image
from commands import document, fleet, ssh
from report import Report
from seeing import see, true_numbers
from wanted import Wanted
from watching import Load, Samples, table

URL = "http://10.77.0.21"
_QUICK = "--ramp 10,50,100 --soak 5s --yes"


def under_load(report: Report, slots: list[dict[str, Any]], wanted: Wanted) -> None:
    """Jobs all the while: the GPUs' own numbers, an upgrade by swap, another side by side."""
    repository = f"registry-01:5000/{image.NAME}"
    rate = wanted.rate * len(slots)
    samples = Samples("gpu-01")
    idle = time.monotonic()
    time.sleep(4)
    report.write(
        f"## Under load: {rate:g} jobs a second\n\nBefore the first job:\n\n{table(samples.since(idle))}"
    )
    load = Load(URL, rate, Path("/root/load.txt"))
    steady = time.monotonic()
    time.sleep(15)
    ssh(report, "nvidia-smi")
    ssh(report, "nvidia-smi --query-compute-apps=gpu_uuid,pid,process_name,used_memory --format=csv")
    fleet(report, "status")
    true_numbers(report, document(report, "status --json"), wanted)
    report.write(f"The first {time.monotonic() - steady:.0f} s of load:\n\n{table(samples.since(steady))}")
    if wanted.gpu:
        busiest = max((sample.utilization for sample in samples.since(steady)), default=0)
        report.check("the hardware reports the work", busiest > 0, f"utilisation up to {busiest:.0f} %")
    for tag, strategy in (("v2", "swap"), ("v1", "side-by-side")):
        report.write(f"## Upgrade to {tag} under load, {strategy}")
        before = time.monotonic()
        line = f"upgrade {repository}:{tag} --blue-green --strategy {strategy} {_QUICK}"
        done = fleet(report, f"{line} --report {report.path.parent}/upgrade-{strategy}.html", timeout=200)
        report.check(
            f"the upgrade to {tag} ({strategy}) ends well",
            done.rc == 0,
            f"exit code {done.rc}, {done.seconds:.0f} s",
        )
        seen = samples.since(before)
        report.write(f"Meanwhile:\n\n{table(seen)}")
        most = max((sample.memory for sample in seen), default=0)
        if strategy == "side-by-side":
            beside = most > 2 * wanted.mib
            report.check("both releases' memory was on one GPU at once", beside, f"up to {most:.0f} MiB")
        after = document(report, "status --json")["slots"]
        images = {slot["image"] for slot in after}
        report.check(f"every slot runs {tag}", images == {f"{repository}:{tag}"}, ", ".join(map(str, images)))
        ssh(report, "sudo docker ps -a --filter label=fleet.slot")
    rc, counts = load.end()
    samples.end()
    report.write("## What the clients counted, from before the first upgrade to after the second")
    report.write(f"```\n$ {load.shown}\n{counts}\n```")
    report.check("no job failed", rc == 0, counts.splitlines()[0] if counts else "no count")
    fleet(report, "history")
    see(report, slots, wanted, " after both upgrades")
