"""What the service feels is done on few hosts at a time: the first one alone, none after a failure."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ClassVar

import pytest

from fleet.engine import bind
from fleet.engine.results import TaskProgress
from fleet.engine.turns import Turns
from fleet.errors import ExitCode, HeldBackError, StepError
from fleet.model.facts import Probe
from fleet.model.steps import Change, Run, Throttle
from fleet.modules.base import Args
from fleet.rollout.world import LeaseError
from tests.unit.test_engine import Fleet

HOSTS = [f"gpu-{number:02d}" for number in range(1, 8)]


def together(throttle: Turns, most: int, body: Callable[[str], None]) -> list[Future[None]]:
    """All hosts at once want their turn for `body`."""

    def work(host: str) -> None:
        with throttle.turn(host, Throttle(most, host), lambda: False, lambda _: None) as turn:
            assert turn is not None
            turn.begun = True
            body(host)

    with ThreadPoolExecutor(len(HOSTS)) as pool:
        return [pool.submit(work, host) for host in HOSTS]


@pytest.mark.parametrize(("most", "seen"), [(1, 1), (3, 3), (0, len(HOSTS))])
def test_the_first_goes_alone_and_then_as_many_as_may(most: int, seen: int) -> None:
    full = threading.Barrier(seen)
    lock = threading.Lock()
    busy: list[str] = []
    crowds: list[int] = []

    def body(host: str) -> None:
        with lock:
            busy.append(host)
            crowds.append(len(busy))
            first = len(crowds) == 1
        if most and first:
            time.sleep(0.3)  # all others want to come
            assert busy == [host]
        # Those that may go at the same time meet here: all at once, or the six after the first by threes.
        elif seen > 1:
            full.wait(10)
        with lock:
            busy.remove(host)

    for future in together(Turns(), most, body):
        future.result()
    assert max(crowds) == seen
    assert len(crowds) == len(HOSTS)


@pytest.mark.parametrize("most", [1, 0])
def test_after_one_that_failed_none_begins(most: int) -> None:
    done: list[str] = []

    def body(host: str) -> None:
        done.append(host)
        if len(done) == 2:
            raise StepError("it never answers")

    throttle = Turns()
    if most:
        errors = [future.exception() for future in together(throttle, most, body)]
        assert [type(error) for error in errors].count(StepError) == 1
        held = [str(error) for error in errors if isinstance(error, HeldBackError)]
        assert len(done) == 2
        assert len(held) == len(HOSTS) - 2
        assert all(f"since {done[1]} failed before" in text for text in held)
    else:
        together(throttle, most, body)
    with pytest.raises(HeldBackError, match=r"nothing more was done on \S+, since \S+ failed before"):
        enter(throttle, "late", most)


def enter(throttle: Turns, host: str, most: int = 1) -> None:
    with throttle.turn(host, Throttle(most, host), lambda: False, lambda _: None):
        pass


def test_one_that_failed_before_it_began_holds_nobody_back() -> None:
    throttle = Turns()
    with pytest.raises(StepError), throttle.turn("a", Throttle(1, "a"), lambda: False, lambda _: None):
        raise StepError("its connection is gone")
    enter(throttle, "b")


def test_while_others_are_at_work_nobody_has_a_turn() -> None:
    def may(away: Collection[str], wait: bool, say: object) -> None:
        asked.append((tuple(away), wait))
        raise LeaseError("somebody upgrades")

    asked: list[tuple[tuple[str, ...], bool]] = []
    throttle = Turns(may)
    with pytest.raises(LeaseError):
        enter(throttle, "a")
    with pytest.raises(HeldBackError):
        enter(throttle, "b")
    assert asked == [(("a",), True)]


def test_who_waits_leaves_when_the_run_is_to_end() -> None:
    stop, others = threading.Event(), threading.Event()
    got: list[bool] = []
    throttle = Turns()

    def work(host: str) -> None:
        with throttle.turn(host, Throttle(1, host), stop.is_set, lambda _: None) as turn:
            got.append(turn is not None)
            if turn is None:
                if got.count(False) == len(HOSTS) - 1:
                    others.set()
                return
            stop.set()
            # The others leave while this one is at work.
            others.wait(10)

    with ThreadPoolExecutor(len(HOSTS)) as pool:
        list(pool.map(work, HOSTS))
    assert got.count(True) == 1
    assert others.is_set()


class CarefulArgs(Args):
    log: str
    fails: str = ""


class Careful:
    """Something that the service feels, until the host's name is in its file."""

    name: ClassVar[str] = "careful"
    args: ClassVar[type[Args]] = CarefulArgs

    def probes(self, args: CarefulArgs, ctx: Any) -> list[Probe]:
        return [Probe("careful", f"cat '{args.log}' 2>/dev/null")]

    def plan(self, args: CarefulArgs, facts: Any, ctx: Any) -> list[Change]:
        if f"end {ctx.host.name}\n" in facts["careful"].text:
            return []

        def step(word: str) -> Run:
            return Run(("sh", "-c", f"echo {word} {ctx.host.name} >>'{args.log}'"), says=f"{word}s")

        # Only the second of those that begin fails, whoever that is.
        count = f'[ "{args.fails}" != "$(grep -c begin "{args.log}")" ]'
        steps = step("begin"), Run(("sh", "-c", f"sleep 0.1; {count}")), step("end")
        return [Change("be careful", steps=steps, throttle=Throttle(1, ctx.host.name))]


@pytest.fixture
def fleet(tmp_path, monkeypatch):
    made = Fleet(tmp_path, monkeypatch)
    modules = {"careful": Careful()}
    monkeypatch.setattr(bind, "load", modules.__getitem__)
    monkeypatch.setattr("tests.unit.test_engine.MODULES", modules)
    return made


def careful(fleet: Fleet, fails: str = "") -> Any:
    task = f"- hosts: gpu\n  tasks:\n    - careful: {{log: '{fleet.folder}/log', fails: '{fails}'}}\n"
    return fleet.run(task, hosts="{a: {}, b: {}, c: {}, d: {}}")


def test_a_run_does_such_changes_one_host_after_the_other(fleet):
    result = careful(fleet)
    assert result.changed == 4
    words = [line.split() for line in (fleet.folder / "log").read_text().splitlines()]
    assert [word for word, _ in words] == ["begin", "end"] * 4
    assert all(words[n][1] == words[n + 1][1] for n in range(0, 8, 2))
    told = {event.text for event in fleet.events if isinstance(event, TaskProgress)}
    assert {"be careful", "begins"} < told


def test_what_fails_on_one_host_is_not_begun_on_the_next(fleet):
    result = careful(fleet, fails="2")
    words = [line.split()[0] for line in (fleet.folder / "log").read_text().splitlines()]
    assert words == ["begin", "end", "begin"]
    assert sorted(host.status for host in result.hosts.values()) == ["changed", "failed", "failed", "failed"]
    assert sum(host.held_back for host in result.hosts.values()) == 2
    assert result.exit_code == ExitCode.HOST_FAILED


def test_what_somebody_else_did_while_a_host_waited_is_not_done_again(fleet):
    log = fleet.folder / "log"

    class Meanwhile(list):
        """Everything is done for b, c and d while a has the first turn."""

        def append(self, event):
            super().append(event)
            if isinstance(event, TaskProgress) and event.text == "begins":
                with log.open("a") as file:
                    file.write("".join(f"end {name}\n" for name in "abcd" if name != event.host))

    fleet.events = Meanwhile()
    result = careful(fleet)
    assert result.exit_code == ExitCode.DONE
    assert log.read_text().count("begin") == 1


def test_who_stands_back_for_another_command_says_so_by_the_exit_code(fleet, monkeypatch):
    def may(away: Collection[str], wait: bool, say: object) -> None:
        raise LeaseError("somebody upgrades")

    monkeypatch.setattr("fleet.engine.run.Turns", lambda _: Turns(may))
    result = careful(fleet)
    assert result.exit_code == ExitCode.LEASE_HELD
    assert not (fleet.folder / "log").exists()
