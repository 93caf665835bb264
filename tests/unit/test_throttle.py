"""What the service feels is done on few hosts at a time: the first one alone, none after a failure."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ClassVar

import pytest

from fleet.engine import bind
from fleet.engine.results import TaskProgress
from fleet.engine.throttle import Throttle
from fleet.errors import ExitCode, HeldBackError, StepError
from fleet.model.facts import Probe
from fleet.model.steps import Change, Run
from fleet.modules.base import Args
from tests.unit.test_engine import Fleet

HOSTS = [f"gpu-{number:02d}" for number in range(1, 8)]


def together(
    most: int, body: Callable[[str], None], stop: Callable[[], bool] = lambda: False
) -> list[Future[None]]:
    """All hosts at once want their turn for `body`."""
    throttle = Throttle()

    def work(host: str) -> None:
        with throttle.turn(host, most, stop, lambda _: None):
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
            number = len(crowds)
        # Those that may go at the same time meet here: all at once, or the six after the first by threes.
        if most == 0 or (most > 1 and number > 1):
            full.wait(10)
        with lock:
            busy.remove(host)

    for future in together(most, body):
        future.result()
    assert max(crowds) == seen
    assert len(crowds) == len(HOSTS)
    assert most == 0 or crowds[:2] in ([1, 1], [1, 2])


def test_after_one_that_failed_none_begins() -> None:
    done: list[str] = []

    def body(host: str) -> None:
        done.append(host)
        if len(done) == 2:
            raise StepError("it never answers")

    errors = [future.exception() for future in together(1, body)]
    assert [type(error) for error in errors].count(StepError) == 1
    held = [str(error) for error in errors if isinstance(error, HeldBackError)]
    assert len(done) == 2
    assert len(held) == len(HOSTS) - 2
    assert all(f"since {done[1]} failed before" in text for text in held)


def test_who_waits_leaves_when_the_run_is_to_end() -> None:
    stop = threading.Event()
    done: list[str] = []

    def body(host: str) -> None:
        done.append(host)
        stop.set()
        # The others leave while this one is at work.
        others.wait(10)

    others = threading.Event()
    throttle = Throttle()
    left: list[str] = []

    def work(host: str) -> None:
        try:
            with throttle.turn(host, 1, stop.is_set, lambda _: None):
                body(host)
        except HeldBackError as error:
            left.append(error.message)
            if len(left) == len(HOSTS) - 1:
                others.set()

    with ThreadPoolExecutor(len(HOSTS)) as pool:
        list(pool.map(work, HOSTS))
    assert len(done) == 1
    assert others.is_set()
    assert all("the run was interrupted" in message for message in left)


class CarefulArgs(Args):
    log: str
    fails: str = ""


class Careful:
    """Something that the service feels."""

    name: ClassVar[str] = "careful"
    args: ClassVar[type[Args]] = CarefulArgs
    verifies = False

    def probes(self, args: CarefulArgs, ctx: Any) -> list[Probe]:
        return []

    def plan(self, args: CarefulArgs, facts: Any, ctx: Any) -> list[Change]:
        def step(word: str) -> Run:
            return Run(("sh", "-c", f"echo {word} {ctx.host.name} >>'{args.log}'"), says=f"{word}s")

        # Only the second of those that begin fails, whoever that is.
        count = f'[ "{args.fails}" != "$(grep -c begin "{args.log}")" ]'
        steps = step("begin"), Run(("sh", "-c", f"sleep 0.1; {count}")), step("end")
        return [Change("be careful", steps=steps, throttle=1)]


@pytest.fixture
def fleet(tmp_path, monkeypatch):
    made = Fleet(tmp_path, monkeypatch)
    monkeypatch.setattr(bind, "load", {"careful": Careful()}.__getitem__)
    return made


def careful(fleet: Fleet, monkeypatch: pytest.MonkeyPatch, fails: str = "") -> Any:
    monkeypatch.setattr("tests.unit.test_engine.MODULES", {"careful": Careful()})
    task = f"- hosts: gpu\n  tasks:\n    - careful: {{log: '{fleet.folder}/log', fails: '{fails}'}}\n"
    return fleet.run(task, hosts="{a: {}, b: {}, c: {}, d: {}}")


def test_a_run_does_such_changes_one_host_after_the_other(fleet, monkeypatch):
    result = careful(fleet, monkeypatch)
    assert result.changed == 4
    words = [line.split() for line in (fleet.folder / "log").read_text().splitlines()]
    assert [word for word, _ in words] == ["begin", "end"] * 4
    assert all(words[n][1] == words[n + 1][1] for n in range(0, 8, 2))
    told = {event.text for event in fleet.events if isinstance(event, TaskProgress)}
    assert {"be careful", "begins"} < told
    assert any(text.startswith("be careful; waits for ") for text in told)


def test_what_fails_on_one_host_is_not_begun_on_the_next(fleet, monkeypatch):
    result = careful(fleet, monkeypatch, fails="2")
    words = [line.split()[0] for line in (fleet.folder / "log").read_text().splitlines()]
    assert words == ["begin", "end", "begin"]
    assert sorted(host.status for host in result.hosts.values()) == ["changed", "failed", "failed", "failed"]
    assert sum(host.held_back for host in result.hosts.values()) == 2
    assert result.exit_code == ExitCode.HOST_FAILED
