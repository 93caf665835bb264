"""Status names a rollout that has not ended: asked by a real sh of real journals."""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from fleet.balancer.at_work import parse_at_work
from fleet.balancer.holder import this_process
from fleet.balancer.rollouts import ROOT, Claim
from fleet.model.facts import Answer
from fleet.model.problem import Problem
from fleet.rollout import journal
from fleet.rollout.model import Entry, Header
from fleet.status.rollout import ROLLOUT_PROBE, rollout_problems, unfinished_first


def asked(root: Path) -> Answer:
    script = ROLLOUT_PROBE.script.replace(ROOT, str(root))
    done = subprocess.run(["sh", "-c", script], capture_output=True)
    return Answer(done.returncode, done.stdout)


def write(root: Path, id_: str, *steps: str) -> None:
    header = Header(id_, "upgrade", 'app:"v2"', "sha256:1", "eve@host", 1.0, 10.0, 20, (("a-0",),), ())
    lines = [journal.encode_header(header, 7)]
    lines += [journal.encode_entry(Entry(number, 2.0, step), 7) for number, step in enumerate(steps, 1)]
    (root / id_).mkdir(parents=True)
    (root / id_ / "journal").write_bytes(b"".join(line + b"\n" for line in lines))


def lease(root: Path, expires: float, holder: Claim | None = None) -> None:
    holder = holder or Claim("ab", "eve", "host", "fleet upgrade app:v2")
    held = replace(holder, fence=7, expires=int(expires))
    (root / "lease").write_text(json.dumps(asdict(held)) + "\n")


def test_a_fleet_that_was_never_upgraded_has_nothing_to_say(tmp_path: Path) -> None:
    assert list(rollout_problems([asked(tmp_path / "none"), asked(tmp_path)])) == []


@pytest.mark.parametrize("end", ["finished", "rolled-back"])
def test_what_has_ended_is_no_problem(tmp_path: Path, end: str) -> None:
    write(tmp_path, "20261124-1", "pulled", "stopped")
    write(tmp_path, "20261125-1", "pulled", end)
    assert list(rollout_problems([asked(tmp_path)])) == []


def test_one_that_nobody_goes_on_with_is_named_once_with_what_to_do(tmp_path: Path) -> None:
    write(tmp_path, "20261124-1", "finished")
    write(tmp_path, "20261125-1", "pulled", "draining")
    lease(tmp_path, time.time() - 5)
    (problem,) = rollout_problems([asked(tmp_path), asked(tmp_path)])
    assert problem.what == 'the upgrade 20261125-1 to app:"v2", begun by eve@host, has not ended'
    assert problem.remedy == "`fleet upgrade --resume`, or `fleet upgrade --abort`"


def test_one_whose_lease_is_held_goes_on_and_is_no_problem(tmp_path: Path) -> None:
    write(tmp_path, "20261125-1", "pulled", "draining")
    lease(tmp_path, time.time() + 20)
    found = parse_at_work(asked(tmp_path)).unfinished
    assert found is not None
    assert (found.id, found.step, found.going) == ("20261125-1", "draining", True)
    assert list(rollout_problems([asked(tmp_path)])) == []


def test_one_whose_process_was_killed_on_this_machine_is_named_before_its_lease_ends(tmp_path: Path) -> None:
    write(tmp_path, "20261125-1", "pulled", "draining")
    mine = this_process("eve", "fleet upgrade app:v2")
    lease(tmp_path, time.time() + 20, mine)
    assert list(rollout_problems([asked(tmp_path)])) == []
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    lease(tmp_path, time.time() + 20, replace(mine, pid=gone.pid))
    (problem,) = rollout_problems([asked(tmp_path)])
    assert problem.what.endswith("has not ended")


def test_a_journal_that_cannot_be_read_is_not_guessed_at(tmp_path: Path) -> None:
    (tmp_path / "20261125-1").mkdir()
    (tmp_path / "20261125-1" / "journal").write_text("garbage\n")
    assert list(rollout_problems([asked(tmp_path)])) == []


@pytest.mark.parametrize("later", [(), ("20261126-1",)])
def test_one_that_ended_while_a_balancer_was_away_is_no_problem(
    tmp_path: Path, later: tuple[str, ...]
) -> None:
    back, stayed = tmp_path / "back", tmp_path / "stayed"
    write(back, "20261125-1", "pulled", "draining")
    write(stayed, "20261125-1", "pulled", "draining", "finished")
    for id_ in later:
        write(stayed, id_, "finished")
    for answers in ((asked(back), asked(stayed)), (asked(stayed), asked(back))):
        assert list(rollout_problems(answers)) == []
    assert len(list(rollout_problems([asked(back)]))) == 1


def test_one_that_began_while_a_balancer_was_away_is_told(tmp_path: Path) -> None:
    back, stayed = tmp_path / "back", tmp_path / "stayed"
    write(back, "20261124-1", "finished")
    write(stayed, "20261125-1", "pulled", "draining")
    (problem,) = rollout_problems([asked(back), asked(stayed), asked(tmp_path / "new")])
    assert "20261125-1" in problem.what


def test_what_provision_would_mend_waits_for_the_rollout_that_keeps_it_from_that() -> None:
    waiting = Problem("rollout", "it has not ended", "`fleet upgrade --resume`")
    stopped = Problem("a-0", "its container has exited", "run `fleet provision`; its log: `docker logs x`")
    assert unfinished_first(stopped, waiting).remedy == "end the rollout first: `fleet upgrade --resume`"
    other = Problem("lb-01", "HAProxy does not answer", "`systemctl status haproxy` there")
    assert unfinished_first(other, waiting) == other
