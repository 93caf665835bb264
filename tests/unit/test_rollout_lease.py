"""The lease on balancers and what it fences, with the real scripts."""

from __future__ import annotations

import json
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest

from fleet.balancer import rollouts
from fleet.balancer.holder import is_alive, is_dead, machine, this_process
from fleet.balancer.rollouts_script import HELD, LATE
from fleet.errors import ExitCode, StepError, UnreachableError
from fleet.model.steps import Run
from fleet.rollout.acting import BalancerError
from fleet.rollout.lease import EVERY, TTL, Lease, fenced_out
from fleet.rollout.reaching import PATIENCE, Reach
from fleet.rollout.world import LeaseError
from fleet.ssh.remote import Result
from tests.unit.rollout_folders import HOSTILE, Connection, Network, claim

ELSEWHERE = {"machine": "another boot", "pid": 1, "started": 5}


@pytest.fixture
def two(tmp_path: Path) -> Network:
    return Network(tmp_path, "lb-1", "lb-2")


def lease_of(network: Network, holder: rollouts.Claim | None = None, **other: object) -> Lease:
    options = {"ttl": 30, "every": 8.0, "root": network.root, **other}
    holder = holder or this_process("anna", "fleet upgrade app:v2")
    return Lease(tuple(network.balancers), network.open, holder, **options)  # type: ignore[arg-type]


def until(what: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not what():
        assert time.monotonic() < end
        time.sleep(0.02)


def seen(network: Network, name: str) -> rollouts.LeaseSeen:
    found = rollouts.parse_lease(network.run(name, rollouts.look_lease(network.root)).out)
    assert found is not None
    return found


def write(network: Network, name: str, fence: int, file: str) -> int:
    """A write under the lease; the exit code."""
    step = rollouts.fenced(Run(("touch", str(network[name].home / file))), fence, root=network.root)
    return network.run(name, step).rc


def test_a_lease_is_given_on_every_balancer_under_one_number(two: Network) -> None:
    with lease_of(two) as lease:
        assert lease.acquire() == 1
        for name in ("lb-1", "lb-2"):
            found = seen(two, name)
            assert found.fence == 1
            assert found.held is not None
            assert (found.held.fence, found.held.by, found.held.host) == (1, "anna", socket.gethostname())
            assert 0 < found.held.expires - found.now <= 31
            assert stat.S_IMODE(two[name].root.stat().st_mode) == 0o700
        lease.check()
    assert seen(two, "lb-1") == replace(seen(two, "lb-1"), fence=1, claim=None)


def test_the_number_is_above_the_highest_of_all_balancers(two: Network) -> None:
    assert two.run("lb-2", rollouts.take(41, claim(), 30, root=two.root)).rc == 0
    assert two.run("lb-2", rollouts.release(41, claim(), root=two.root)).rc == 0
    with lease_of(two) as lease:
        assert lease.acquire() == 42
        assert [seen(two, name).fence for name in ("lb-1", "lb-2")] == [42, 42]


def test_a_lease_that_another_holds_is_refused_and_told(two: Network) -> None:
    assert (
        two.run("lb-2", rollouts.take(5, claim("bb", by="berta", host="lap", pid=77), 30, root=two.root)).rc
        == 0
    )
    with lease_of(two) as lease, pytest.raises(LeaseError) as refused:
        lease.acquire()
    assert refused.value.exit_code is ExitCode.LEASE_HELD
    for word in ("berta on lap (process 77)", "`fleet upgrade`", "lb-2", "since 20", "it expires in"):
        assert word in refused.value.message
    assert seen(two, "lb-1") == replace(seen(two, "lb-1"), fence=0, claim=None)
    held = seen(two, "lb-2").held
    assert held is not None
    assert held.holder == "bb"


def test_where_one_balancer_refuses_the_others_are_taken_back(
    two: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = lease_of(two)
    look = lease._look

    def then_another_takes(name: str) -> rollouts.LeaseSeen:
        found = look(name)
        if name == "lb-2" and found.fence == 0:
            two.run(name, rollouts.take(1, claim("bb"), 30, root=two.root))
        return found

    monkeypatch.setattr(lease, "_look", then_another_takes)
    with lease, pytest.raises(LeaseError, match="lb-2"):
        lease.acquire()
    assert seen(two, "lb-1").claim is None
    held = seen(two, "lb-2").held
    assert held is not None
    assert held.holder == "bb"


def test_where_one_balancer_cannot_be_reached_nobody_gets_the_lease(two: Network) -> None:
    two["lb-2"].down = True
    with lease_of(two) as lease, pytest.raises(UnreachableError):
        lease.acquire()
    assert seen(two, "lb-1").claim is None


def test_of_many_who_race_exactly_one_gets_the_lease_at_a_time(two: Network) -> None:
    inside: list[int] = []
    most: list[int] = []
    fences: list[int] = []
    refused: list[LeaseError] = []
    start = threading.Barrier(6)

    def race() -> None:
        start.wait()
        with lease_of(two) as lease:
            try:
                fence = lease.acquire()
            except LeaseError as error:
                refused.append(error)
                return
            inside.append(fence)
            most.append(len(inside))
            fences.append(fence)
            time.sleep(0.3)
            inside.remove(fence)

    threads = [threading.Thread(target=race) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(fences) + len(refused) == 6
    assert fences
    assert max(most) == 1
    assert len(set(fences)) == len(fences)


def test_two_who_ask_one_balancer_for_the_same_number_do_not_both_get_it(tmp_path: Path) -> None:
    one = Network(tmp_path)
    codes: list[int] = []

    def take(holder: str) -> None:
        codes.append(one.run("lb-1", rollouts.take(1, claim(holder), 30, root=one.root)).rc)

    threads = [threading.Thread(target=take, args=(f"a{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(codes) == [0] + [HELD] * 7
    one.run("lb-1", rollouts.release(1, claim(seen(one, "lb-1").claim.holder), root=one.root))  # type: ignore[union-attr]
    assert one.run("lb-1", rollouts.take(1, claim("bb"), 30, root=one.root)).rc == LATE


def test_a_repeated_taking_is_harmless_for_its_holder(tmp_path: Path) -> None:
    one = Network(tmp_path)
    assert [one.run("lb-1", rollouts.take(1, claim(), 30, root=one.root)).rc for _ in range(2)] == [0, 0]
    assert seen(one, "lb-1").fence == 1


def test_an_expired_lease_is_waited_for_and_its_holder_refused_afterwards(tmp_path: Path) -> None:
    one = Network(tmp_path)
    stale = claim("bb", **ELSEWHERE)
    assert one.run("lb-1", rollouts.take(1, stale, 1, root=one.root)).rc == 0
    assert write(one, "lb-1", 1, "first") == 0
    waited: list[float] = []
    with lease_of(one) as lease:
        assert lease.acquire(wait=60, waiting=lambda held, seconds: waited.append(seconds)) == 2
        assert waited
        assert max(waited) <= 2
        step = rollouts.fenced(Run(("touch", str(one["lb-1"].home / "second"))), 1, root=one.root)
        refused = one.run("lb-1", step)
        assert rollouts.is_fenced_out(refused.rc)
        assert not (one["lb-1"].home / "second").exists()
        by = rollouts.taken_by(refused.err)
        assert by is not None
        assert (by.by, by.fence) == ("anna", 2)
        error = fenced_out(StepError("tell HAProxy ended with 75", output=refused.err.decode()))
        assert error is not None
        assert "anna" in error.message
        assert one.run("lb-1", rollouts.renew(1, stale, 30, root=one.root)).rc == refused.rc
        one.run("lb-1", rollouts.release(1, stale, root=one.root))
        assert seen(one, "lb-1").held is not None
        assert write(one, "lb-1", 2, "third") == 0


def test_the_lease_of_a_holder_who_renews_is_not_waited_for_to_the_end(tmp_path: Path) -> None:
    one = Network(tmp_path)
    other = claim("bb", **ELSEWHERE)
    one.run("lb-1", rollouts.take(1, other, 20, root=one.root))
    told: list[str] = []

    def renews(held: rollouts.Claim, seconds: float) -> None:
        told.append(held.holder)
        one.run("lb-1", rollouts.renew(1, other, 40, root=one.root))

    with lease_of(one) as lease, pytest.raises(LeaseError):
        lease.acquire(wait=3600, waiting=renews)
    assert told == ["bb"]


def test_a_process_that_proc_hides_is_neither_known_dead_nor_known_alive(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As with hidepid=2, of another user's process."""
    theirs = this_process("berta", "fleet upgrade")
    gone = subprocess.Popen(["true"])
    gone.wait()

    def hidden(path: Path) -> bytes:
        raise FileNotFoundError(path)

    def kill(pid: int, signal: int) -> None:
        raise ProcessLookupError if pid == gone.pid else PermissionError

    monkeypatch.setattr(Path, "read_bytes", hidden)
    monkeypatch.setattr("os.kill", kill)
    assert not is_dead(theirs)
    assert not is_alive(theirs)
    assert is_dead(replace(theirs, pid=gone.pid))


def test_the_lease_of_a_process_that_was_killed_is_taken_at_once(tmp_path: Path) -> None:
    one = Network(tmp_path)
    code = "import sys; sys.path[:0] = [sys.argv[1]]; from fleet.balancer.holder import this_process as t\n"
    code += "from fleet.balancer.rollouts import plain; from dataclasses import asdict\n"
    code += "print(plain(asdict(t('berta', 'fleet upgrade'))).decode(), flush=True); sys.stdin.read()"
    here = str(Path(__file__).parents[2])
    process = subprocess.Popen(
        [sys.executable, "-c", code, here], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    holder = rollouts.parse_claim(process.stdout.readline().encode())
    assert holder is not None
    assert one.run("lb-1", rollouts.take(1, holder, 3600, root=one.root)).rc == 0
    with lease_of(one) as lease:
        assert is_alive(holder)
        with pytest.raises(LeaseError, match="berta"):
            lease.acquire(take_from_dead=True, wait=3600)
        with pytest.raises(LeaseError, match="berta"):
            lease.refuse_held()
        process.kill()
        until(lambda: is_dead(holder))  # a zombie holds nothing
        process.wait()
        assert is_dead(holder)
        with pytest.raises(LeaseError, match="berta"):
            lease.acquire()
        lease.refuse_held()
        assert lease.acquire(take_from_dead=True) == 2


def test_a_process_of_another_machine_or_with_a_number_used_again_is_not_taken_for_another() -> None:
    me = this_process("anna", "fleet")
    assert me.machine == machine() != ""
    assert is_alive(me)
    assert not is_dead(me)
    assert is_dead(replace(me, started=me.started + 1))
    assert not is_dead(replace(me, started=me.started + 1, machine="another boot"))
    assert not is_dead(replace(me, started=me.started + 1, host="another host"))
    assert not is_dead(replace(me, started=me.started + 1, machine=""))


def test_a_lease_is_renewed_while_it_is_held(two: Network) -> None:
    with lease_of(two, ttl=3, every=0.2) as lease:
        lease.acquire()
        lease.about("20261125-081500-3f2a")
        first = [seen(two, name).claim for name in ("lb-1", "lb-2")]

        def renewed() -> bool:
            now = [seen(two, name).claim for name in ("lb-1", "lb-2")]
            assert all(a and b and a.since == b.since for a, b in zip(first, now, strict=True))
            return all(
                a and b and b.expires > a.expires and b.rollout for a, b in zip(first, now, strict=True)
            )

        until(renewed)
        lease.check()
        assert not lease.lost.is_set()


def test_who_was_taken_over_is_told_and_may_not_write(tmp_path: Path) -> None:
    one = Network(tmp_path)
    with lease_of(one, every=0.1) as lease:
        lease.acquire()
        ours = seen(one, "lb-1").claim
        assert ours is not None
        taken = rollouts.take(2, claim("bb", by="berta"), 30, over=ours.holder, root=one.root)
        assert one.run("lb-1", taken).rc == 0
        until(lease.lost.is_set)
        with pytest.raises(LeaseError, match="berta") as lost:
            lease.check()
        assert lost.value.exit_code is ExitCode.LEASE_HELD
    held = seen(one, "lb-1").held
    assert held is not None
    assert held.holder == "bb"


def test_a_lease_is_lost_where_a_balancer_cannot_be_reached_for_as_long_as_it_lasts(two: Network) -> None:
    with lease_of(two, ttl=1, every=0.1) as lease:
        lease.acquire()
        two["lb-2"].down = True
        until(lease.lost.is_set)
        assert "lb-2" in lease.reason
        assert "connection lost" in lease.reason or "no route" in lease.reason
        with pytest.raises(BalancerError, match="lb-2") as lost:
            lease.check()
        assert "--resume" in lost.value.remedy


def test_who_learns_after_a_silence_that_another_took_over_is_told_so(two: Network) -> None:
    with lease_of(two, ttl=1, every=60.0) as lease:
        lease.acquire()
        until(lease.lost.is_set)
        with pytest.raises(BalancerError):
            lease.check()
        take = rollouts.take(2, claim("bb", by="berta"), 30, root=two.root)
        until(lambda: two.run("lb-1", take).rc == 0)
        lease._renew("lb-1")
        with pytest.raises(LeaseError, match="berta"):
            lease.check()


def asleep(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that this machine has slept, to be set."""
    real, slept = time.clock_gettime, [0.0]
    monkeypatch.setattr(
        time, "clock_gettime", lambda clock: real(clock) + slept[0] * (clock == time.CLOCK_BOOTTIME)
    )
    return slept


def test_a_machine_that_slept_for_longer_than_the_lease_lasts_has_lost_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept = asleep(monkeypatch)
    with lease_of(Network(tmp_path), every=60.0) as lease:
        lease.acquire()
        lease.check()
        slept[0] = 31.0
        with pytest.raises(BalancerError, match="slept"):
            lease.check()


def test_a_lease_outlasts_the_minute_that_a_balancer_may_be_out_of_reach(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, passed = Network(tmp_path), asleep(monkeypatch)
    with lease_of(one, ttl=TTL) as lease:
        lease.acquire()
        one["lb-1"].down = True
        passed[0] = EVERY + PATIENCE + 20
        lease.check()
        passed[0] = TTL + 1.0
        with pytest.raises(BalancerError, match="lb-1"):
            lease.check()


class Flow(Connection):
    """A connection whose other end may fall silent, so that every command on it meets its deadline."""

    dead = False
    limits: ClassVar[list[float]] = []

    def run(
        self,
        argv: tuple[str, ...],
        *,
        stdin: bytes | None = None,
        timeout: float = 120.0,
        env: Mapping[str, str] | None = None,
    ) -> Result:
        if self.dead:
            self.limits.append(timeout)
            raise StepError(f"{self.name}: no end within {timeout:g} s; the command was stopped")
        return super().run(argv, stdin=stdin, timeout=timeout, env=env)


def test_a_renewal_that_hangs_ends_soon_and_the_next_has_another_connection(tmp_path: Path) -> None:
    one = Network(tmp_path)
    flows: list[Flow] = []

    def open_one(name: str) -> Flow:
        flows.append(Flow(one[name], one.root))
        return flows[-1]

    with Lease(("lb-1",), open_one, claim(), ttl=60, every=0.1, root=one.root) as lease:
        lease.acquire()
        before = seen(one, "lb-1").claim
        assert before is not None
        flows[0].dead = True

        def renewed() -> bool:
            now = seen(one, "lb-1").claim
            return len(flows) == 2 and now is not None and now.expires > before.expires

        until(renewed)
        assert flows[0].closed
        assert flows[0].limits == [5.0]
        lease.check()


def test_a_connection_that_is_busy_is_not_taken_for_a_dead_one(tmp_path: Path) -> None:
    one = Network(tmp_path)
    reach = Reach("lb-1", one.open)
    file = one["lb-1"].home / "go"
    step = Run(("sh", "-c", f"touch {file}.began; until [ -e {file} ]; do sleep 0.05; done"))
    thread = threading.Thread(target=reach.run, args=(step,))
    thread.start()
    until(Path(f"{file}.began").exists)
    with pytest.raises(StepError, match="another command"):
        reach.run(Run(("true",)), queue=0.1)
    file.touch()
    thread.join()
    assert reach.run(Run(("true",))).rc == 0
    assert one["lb-1"].opened == 1


def test_a_balancer_that_comes_back_in_time_costs_nothing(two: Network) -> None:
    with lease_of(two, ttl=60, every=0.1) as lease:
        lease.acquire()
        two["lb-2"].down = True
        until(lambda: "lb-2" in lease._trouble)
        two["lb-2"].down = False
        before = two["lb-2"].opened
        until(lambda: "lb-2" not in lease._trouble)
        assert two["lb-2"].opened == before + 1
        lease.check()


def test_a_lease_that_somebody_removed_by_hand_is_lost(tmp_path: Path) -> None:
    one = Network(tmp_path)
    with lease_of(one, every=0.1) as lease:
        lease.acquire()
        (one["lb-1"].root / "lease").unlink()
        until(lease.lost.is_set)
    assert not (one["lb-1"].root / "lease").exists()


def test_a_wrapped_command_keeps_arguments_input_environment_and_exit_code(tmp_path: Path) -> None:
    one = Network(tmp_path)
    one.run("lb-1", rollouts.take(7, claim(), 30, root=one.root))
    script = 'cat; printf "<%s>" "$@"; printf "%s" "$GIVEN"; umask; echo err >&2; exit 3'
    step = Run(
        ("sh", "-c", script, "sh", HOSTILE, "", "two words"), b"in\0put", env={"GIVEN": "v"}, ok_codes=(3,)
    )
    wrapped = rollouts.fenced(step, 7, root=str(one["lb-1"].root))
    assert (wrapped.stdin, wrapped.env, wrapped.ok_codes) == (step.stdin, step.env, step.ok_codes)
    plain, fenced = (
        subprocess.run(
            each.argv, input=b"in\0put", env={"GIVEN": "v", "PATH": "/bin:/usr/bin"}, capture_output=True
        )
        for each in (step, wrapped)
    )
    assert (fenced.returncode, fenced.stdout, fenced.stderr) == (3, plain.stdout, b"err\n")
    assert b"in\0put" in fenced.stdout


def test_the_fence_alone_can_be_asked_for(tmp_path: Path) -> None:
    one = Network(tmp_path)
    assert rollouts.is_fenced_out(one.run("lb-1", rollouts.check_fence(1, root=one.root)).rc)
    one.run("lb-1", rollouts.take(3, claim(), 30, root=one.root))
    codes = [one.run("lb-1", rollouts.check_fence(number, root=one.root)).rc for number in (2, 3, 4)]
    assert [rollouts.is_fenced_out(code) for code in codes] == [True, False, True]
    assert codes[1] == 0


def test_a_fence_that_is_no_number_lets_nobody_in(tmp_path: Path) -> None:
    one = Network(tmp_path)
    one.run("lb-1", rollouts.take(3, claim(), 30, root=one.root))
    (one["lb-1"].root / "fence").write_text("")
    assert one.run("lb-1", rollouts.check_fence(3, root=one.root)).rc == 1
    with lease_of(one) as lease, pytest.raises(StepError, match="lb-1") as error:
        lease.acquire()
    assert "does not hold a number" in error.value.output


def test_nobody_takes_the_lease_while_a_write_is_under_way_but_its_holder_renews_it(tmp_path: Path) -> None:
    one = Network(tmp_path)
    one.run("lb-1", rollouts.take(1, claim(), 30, root=one.root))
    go = one["lb-1"].home / "go"
    script = f"touch {go}.began; until [ -e {go} ]; do sleep 0.05; done; touch {go}.done"
    step = rollouts.fenced(Run(("sh", "-c", script)), 1, root=str(one["lb-1"].root))
    writing = subprocess.Popen(step.argv)
    until(Path(f"{go}.began").exists)
    assert one.run("lb-1", rollouts.renew(1, claim(), 1, root=one.root)).rc == 0
    assert write(one, "lb-1", 1, "beside") == 0
    found = seen(one, "lb-1").claim
    assert found is not None
    done: list[bool] = []

    def take() -> None:
        assert one.run("lb-1", rollouts.take(2, claim("bb"), 30, over="aa", root=one.root)).rc == 0
        done.append(Path(f"{go}.done").exists())

    taking = threading.Thread(target=take)
    taking.start()
    time.sleep(0.3)
    assert not done
    go.touch()
    taking.join()
    assert writing.wait() == 0
    assert done == [True]


@pytest.mark.parametrize("key", ["by", "command", "host", "rollout"])
def test_what_people_write_means_nothing_to_the_shell(tmp_path: Path, key: str) -> None:
    one = Network(tmp_path)
    me = claim(**{key: HOSTILE})
    assert one.run("lb-1", rollouts.take(1, me, 30, root=one.root)).rc == 0
    assert one.run("lb-1", rollouts.renew(1, me, 30, root=one.root)).rc == 0
    found = seen(one, "lb-1").held
    assert found is not None
    assert getattr(found, key) == HOSTILE
    assert (one["lb-1"].root / "lease").read_text().count("\n") == 1
    refused = one.run("lb-1", rollouts.check_fence(9, root=one.root))
    by = rollouts.taken_by(refused.err)
    assert by is not None
    assert getattr(by, key) == HOSTILE
    assert not list(tmp_path.rglob("pwned"))
    assert not Path("pwned").exists()
    with lease_of(one) as lease, pytest.raises(LeaseError) as error:
        lease.acquire()
    assert error.value.message.isprintable()


def test_a_lease_that_looks_like_another_within_a_value_is_not_taken_for_one(tmp_path: Path) -> None:
    one = Network(tmp_path)
    me = claim(by='{"fence":99,"holder":"bb","expires":1,"since":1,')
    one.run("lb-1", rollouts.take(1, me, 30, root=one.root))
    assert one.run("lb-1", rollouts.take(2, claim("bb"), 30, root=one.root)).rc == HELD


def test_a_newer_fleets_lease_is_read_and_one_that_is_garbage_is_none(tmp_path: Path) -> None:
    one = Network(tmp_path)
    one.run("lb-1", rollouts.take(1, claim(), 30, root=one.root))
    file = one["lb-1"].root / "lease"
    file.write_text(json.dumps({**json.loads(file.read_text()), "more": [1]}, separators=(",", ":")) + "\n")
    assert seen(one, "lb-1").held is not None
    assert one.run("lb-1", rollouts.take(2, claim("bb"), 30, root=one.root)).rc == HELD
    file.write_bytes(b"\x00\x00garbage")
    with lease_of(one) as lease:
        assert lease.acquire() == 2
