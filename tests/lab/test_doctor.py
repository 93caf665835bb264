"""`fleet doctor` on real hosts: a healthy fleet gives no warning; each thing that is broken is named, and healed.

Things that do not hide each other are broken together, on different hosts, and looked at in one run. How each is
broken, and what of it is a stand-in, is told in tests/lab/breaks.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from fleet.doctor.checks import ALL
from tests.lab.breaks import ROUNDS, Break, Round
from tests.lab.breaks.fixes import FIXABLE
from tests.lab.breaks.model import PRELUDE
from tests.lab.conftest import SOAK, Done, Lab
from tests.lab.helpers import wait_for

pytestmark = pytest.mark.lab


def doctor(lab: Lab, *more: str) -> Done:
    return lab.fleet("doctor", "--json", *more)


def problems(lab: Lab, *more: str) -> list[dict[str, Any]]:
    done = doctor(lab, *more)
    found: list[dict[str, Any]] = done.json["problems"]
    assert done.code == (1 if found else 0), done.out + done.err
    return found


def connections(lab: Lab, host: str) -> int:
    log = lab.sh(host, "journalctl -q --no-pager -t sshd -t sshd-session -o cat")
    return sum(1 for line in log.splitlines() if line.startswith("Accepted "))


def test_a_healthy_fleet_gives_no_warning_over_one_connection_a_host(lab: Lab) -> None:
    hosts = [*lab.gpu_hosts, *lab.balancers]
    before = {host: connections(lab, host) for host in hosts}
    done = doctor(lab)
    assert done.code == 0, done.out + done.err
    document = done.json
    assert document["problems"] == []
    assert [row for row in document["results"] if row["state"] == "skipped"] == []
    groups = {"gpu": lab.gpu_hosts, "balancer": lab.balancers}
    assert Counter((row["check"], row["host"]) for row in document["results"]) == Counter(
        {(check.id, host) for check in ALL for group in check.on for host in groups[group]}
    )
    assert {host: connections(lab, host) - before[host] for host in hosts} == dict.fromkeys(hosts, 1)
    people = lab.fleet("doctor")
    assert people.out.splitlines()[-1].endswith("all well")


@pytest.mark.parametrize(
    "each", [each for each in ROUNDS if SOAK or not each.long], ids=lambda each: each.name
)
def test_what_is_broken_is_named_with_its_remedy_and_nothing_else_is_and_healed_it_is_gone(
    lab: Lab, each: Round, tmp_path: Path
) -> None:
    only = ("--only", ",".join(sorted({broken.check for broken in each.breaks})))
    more = tmp_path / "more.yml"
    more.write_text(json.dumps({"all": {"hosts": {name: dict(said) for name, said in each.vars.items()}}}))
    try:
        do(lab, each)
        expected = Counter(broken.told for broken in each.breaks)
        # A program that was told to reload, and a balancer's next question to an agent, take a moment.
        deadline = time.monotonic() + 30
        while True:
            done = doctor(lab, *only, *(("-i", str(more)) if each.vars else ()))
            found = done.json["problems"]
            told = Counter((row["check"], row["host"], row["place"]) for row in found)
            words = {row["what"] for row in found}
            named = all(any(broken.what in what for what in words) for broken in each.breaks)
            if (told == expected and named) or time.monotonic() > deadline:
                break
        assert told == expected, done.out
        assert done.code == each.code, done.out + done.err
        for broken in each.breaks:
            rows = [row for row in found if (row["check"], row["host"], row["place"]) == broken.told]
            remedies = [row["remedy"] for row in rows if broken.what in row["what"]]
            assert remedies, (broken.what, rows)
            assert any(broken.remedy in remedy for remedy in remedies), (broken.remedy, remedies)
            assert all(row["why"] for row in rows)
    finally:
        undo(lab, each)
    wait_for(lambda: not doctor(lab, *only).json["problems"], 30, "what was healed is still named")


def do(lab: Lab, each: Round) -> None:
    for host, breaks in by_host(each).items():
        lab.sh(host, PRELUDE + "\n".join(broken.do for broken in breaks))


def undo(lab: Lab, each: Round) -> None:
    """Heal all, also what could not be broken; whether it is healed the next look tells."""
    for host, breaks in by_host(each).items():
        healing = "\n".join(f"(\n{broken.undo}\n)" for broken in reversed(breaks))
        lab.sh(host, f"{PRELUDE}set +e\n{healing}", check=False)


def by_host(each: Round) -> dict[str, list[Break]]:
    """The breaks by the host on which they are made."""
    found: dict[str, list[Break]] = {}
    for broken in each.breaks:
        found.setdefault(broken.on or broken.host, []).append(broken)
    return found


def test_fix_mends_all_that_it_may_and_no_container_and_no_balancer_is_restarted(lab: Lab) -> None:
    before = processes(lab)
    breaks = tuple(broken for broken, _ in FIXABLE)
    both = Round("fixes", breaks)
    try:
        do(lab, both)
        assert lab.fleet("doctor", "--fix").code == 2  # nobody to ask
        told = Counter((broken.check, broken.host) for broken in breaks)
        done = doctor(lab, "--fix", "--yes")
        assert Counter((each["check"], each["host"]) for each in done.json["mended"]) == told, done.out
        assert [each for each in done.json["mended"] if each["error"]] == []
        assert done.json["problems"] == [], done.out
        assert done.code == 0
        for broken, fixed in FIXABLE:
            lab.sh(broken.host, f"{PRELUDE}{fixed}")
    finally:
        undo(lab, both)
    assert processes(lab) == before
    assert problems(lab) == []


def processes(lab: Lab) -> dict[str, str]:
    """What serves on each host, by process and start."""
    form = "'{{.Name}} {{.State.Pid}} {{.State.StartedAt}}'"
    ours = f"docker inspect -f {form} $(docker ps -q --filter label=fleet.slot) | sort"
    workers = "systemctl show -p MainPID -p ActiveEnterTimestampMonotonic haproxy"
    return {host: lab.sh(host, ours) for host in lab.gpu_hosts} | {
        host: lab.sh(host, workers) for host in lab.balancers
    }


def test_provision_refuses_what_cannot_end_before_it_changes_anything(lab: Lab) -> None:
    lab.sh("gpu-02", 'sed -i \'0,/"mig_mode": "[^"]*"/s//"mig_mode": "Enabled"/\' /etc/fleet-lab/gpus.json')
    try:
        done = lab.fleet("provision", "--json", "--limit", "gpu-02")
        assert done.code == 1
        host = done.json["hosts"]["gpu-02"]
        assert "MIG mode" in json.dumps(host["error"])
        assert "--skip-preflight" in host["error"]["remedy"]
        assert host["tasks"] == []
    finally:
        lab.sh("gpu-02", 'sed -i \'s/"mig_mode": "Enabled"/"mig_mode": "[N\\/A]"/\' /etc/fleet-lab/gpus.json')
