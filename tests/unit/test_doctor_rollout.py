"""The doctor and an upgrade: one that nobody goes on with is a trouble, one at work explains others."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, replace

import pytest

from fleet.balancer.at_work import ROLLOUT_PROBE
from fleet.balancer.rollouts import Claim
from fleet.console.doctor import report_json
from fleet.doctor.checks import ALL
from fleet.doctor.examine import Look, report
from fleet.doctor.model import Report
from fleet.model.facts import Answer
from tests.unit import doctor_world as world
from tests.unit.doctor_world import GPU, LB, NOW, gpu_facts, text
from tests.unit.test_doctor_examine import shown

HEADER = {"id": "20261125-1", "kind": "upgrade", "image": "app:v2", "digest": "sha256:1", "by": "eve@desk"}
WHAT = "the upgrade 20261125-1 to app:v2, begun by eve@desk"
NO_CONTAINER = {"docker.containers": text("")}


def journal(last: str, held: bool) -> Answer:
    now = int(time.time())
    claim = Claim("ab", "eve", "desk", "fleet upgrade app:v2", fence=7, expires=now + 20 * held)
    lines = [f"now {now}", "fence 7", f"lease {json.dumps(asdict(claim))}", f"header {json.dumps(HEADER)}"]
    return text("\n".join([*lines, f"last {json.dumps({'step': last})}"]) + "\n")


def examined(last: str, *, held: bool, changed: dict[str, Answer] | None = None) -> Report:
    gpu, lb = gpu_facts(changed or {}), world.lb_facts({ROLLOUT_PROBE.key: journal(last, held)})
    seen = {"gpu-01": Look(gpu, NOW, NOW + 1), "lb-01": Look(lb, NOW, NOW + 1)}
    return report([GPU, LB], ALL, {"gpu-01": GPU, "lb-01": LB}, seen)


@pytest.mark.parametrize("last", ["finished", "rolled-back"])
def test_one_that_has_ended_is_no_trouble(last: str) -> None:
    assert examined(last, held=False).ok


def test_one_that_nobody_goes_on_with_is_told_with_what_to_do() -> None:
    found = examined("draining", held=False)
    (finding,) = found.findings
    assert (finding.check.id, finding.trouble.detail) == ("balancers/rollout", WHAT)
    assert finding.remedy == "`fleet upgrade --resume`, or `fleet upgrade --abort`"
    assert report_json(found)["note"] is None


def test_one_at_work_is_no_trouble_and_explains_what_others_are() -> None:
    assert examined("draining", held=True).ok
    found = examined("draining", held=True, changed=NO_CONTAINER)
    assert not found.ok
    assert report_json(found)["note"].startswith(f"{WHAT} is at work: ")
    assert f"{WHAT} is at work: what it holds out of traffic is told here, too" in shown(found)


def test_what_else_is_found_waits_for_the_end_of_one_that_was_left() -> None:
    found = examined("draining", held=False, changed=NO_CONTAINER)
    assert len(found.findings) > 1
    assert "\nend the upgrade first: " in shown(found)


def test_one_whose_end_another_balancer_knows_is_no_trouble() -> None:
    lbs = {name: replace(LB, name=name) for name in ("lb-01", "lb-02")}
    lasts = {"lb-01": "finished", "lb-02": "draining"}
    seen = {
        name: Look(world.lb_facts({ROLLOUT_PROBE.key: journal(lasts[name], False)}), NOW, NOW + 1)
        for name in lbs
    }
    checks = [check for check in ALL if check.name == "rollout"]
    assert report(list(lbs.values()), checks, lbs, seen).ok
    assert not report([lbs["lb-02"]], checks, lbs, {"lb-02": seen["lb-02"]}).ok
