"""Several hosts: how many are away together, what Ctrl-C leaves, and what a playbook's run answers."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from fleet.engine.results import RunResult
from fleet.engine.run import RunOptions, prepare, run
from fleet.errors import ExitCode, InputError
from fleet.modules._reboot import Begun, RebootSeen
from fleet.modules.registry import MODULES
from fleet.playbook.load import load_playbook
from fleet.reboot import Wish, reboot_operation, room
from fleet.reboot import host as host_side
from fleet.reboot import run as rebooting
from fleet.reboot.batch import Work
from fleet.reboot.host import HostSeen, HostSide
from fleet.reboot.model import HostOutcome, Rebooted, State
from fleet.rollout.model import Share
from tests.unit.reboot_world import GpuHost
from tests.unit.test_reboot import DRIVER, Service, World

FOUR = {"gpu-01-0": 10, "gpu-02-0": 10, "gpu-03-0": 10, "gpu-04-0": 10}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(host_side, "PAUSE", 0.01)
    monkeypatch.setattr(host_side.HostSide, "_silent", lambda *_: "")
    service = Service()
    monkeypatch.setattr(rebooting, "Service", service)
    return World(tmp_path, service)


class Scales:
    """Balancers with these weights; the last answer stays."""

    def __init__(self, *answers: Mapping[str, int]) -> None:
        self.answers = list(answers)

    def weights(self) -> Mapping[str, Mapping[str, int]]:
        now = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return {"lb-01": now}


def work(number: int, *, serves: bool = True, back: bool = False) -> Work:
    def nobody(_: str) -> Any:
        raise AssertionError("nobody is to be reached")

    seen = HostSeen(RebootSeen("boot-1"), frozenset(), None, docker=serves)
    return Work(HostSide(f"gpu-{number:02}", nobody), seen, "", Begun("boot-1"), back)


def chosen(scales: Scales, works: Sequence[Work], **wish: Any) -> list[str]:
    chooser = room.Room(scales, Wish(**wish), lambda *_: None)
    return [each.name for each in chooser.choose(works)]


@pytest.mark.parametrize(
    ("wish", "names"),
    [
        ({}, ["gpu-01"]),
        ({"together": 2}, ["gpu-01", "gpu-02"]),
        ({"together": 4}, ["gpu-01", "gpu-02"]),
        ({"together": 4, "floor": Share(25, percent=True)}, ["gpu-01", "gpu-02", "gpu-03"]),
        ({"together": 4, "floor": Share(21)}, ["gpu-01"]),
        ({"together": 4, "allow_down": True}, ["gpu-01", "gpu-02", "gpu-03", "gpu-04"]),
    ],
)
def test_as_many_hosts_go_together_as_are_wished_and_the_floor_lets(
    wish: dict[str, Any], names: list[str]
) -> None:
    assert chosen(Scales(FOUR), [work(n) for n in range(1, 5)], **wish) == names


def test_one_host_alone_may_go_below_the_floor_that_nobody_asked_for() -> None:
    scales = Scales({"gpu-01-0": 80, "gpu-02-0": 10})
    assert chosen(scales, [work(1), work(2)], together=2) == ["gpu-02"]
    assert chosen(scales, [work(1)], together=2) == ["gpu-01"]


@pytest.mark.parametrize(("before", "code"), [("not needed", 2), ("rebooted", 1), ("finished", 1)])
def test_a_floor_that_ends_a_run_is_invalid_input_only_where_nothing_was_done(
    before: State, code: int
) -> None:
    short = HostOutcome("gpu-02", "failed", error=InputError("the floor is 32"))
    assert Rebooted((HostOutcome("gpu-01", before), short)).exit_code == code


def test_hosts_that_serve_nothing_take_nothing_from_the_floor() -> None:
    works = [work(1), work(2, serves=False), work(3, serves=False), work(4)]
    scales = Scales({"gpu-01-0": 10, "gpu-04-0": 10})
    assert chosen(scales, works, together=4) == ["gpu-01", "gpu-02", "gpu-03"]


def test_hosts_that_an_earlier_run_left_come_first_and_by_themselves() -> None:
    assert chosen(Scales(FOUR), [work(1), work(2, back=True)], together=2) == ["gpu-02"]


def test_a_floor_that_was_asked_for_and_leaves_no_host_to_go_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "PATIENCE", 0.0)
    with pytest.raises(InputError) as caught:
        chosen(Scales(FOUR), [work(1)], floor=Share(80, percent=True))
    assert caught.value.message == "rebooting gpu-01 leaves lb-01 weight 30 of 40, the floor is 32 (80%)"
    assert caught.value.remedy == "bring more slots into service first, or lower --floor to 75%"


def test_slots_that_come_back_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_PAUSE", 0.0)
    scales = Scales({**FOUR, "gpu-04-0": 0}, FOUR)
    assert chosen(scales, [work(1)], floor=Share(30)) == ["gpu-01"]


def test_a_percentage_is_of_the_most_that_was_ready_in_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "PATIENCE", 0.0)
    chooser = room.Room(
        Scales(FOUR, {"gpu-01-0": 10, "gpu-02-0": 10}), Wish(floor=Share(50, percent=True)), lambda *_: None
    )
    assert chooser.choose([work(1)])
    with pytest.raises(InputError, match=r"weight 10 of 40, the floor is 20 \(50%\)"):
        chooser.choose([work(2)])


def test_ctrl_c_gives_up_the_host_that_is_away_and_keeps_what_became_of_the_other(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.first.needs(DRIVER)
    world.second.needs(DRIVER).down = 10**6

    def interrupted(ending: Sequence[Future[Any]]) -> None:
        ending[0].result()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("fleet.reboot.batch.wait", interrupted)
        done = world.reboot(together=2, timeout=600.0)
    assert [(each.state, each.drained) for each in done.hosts] == [("rebooted", False), ("interrupted", True)]
    assert (world.admin(), done.exit_code, done.left) == ("rrd", ExitCode.INTERRUPTED, ("gpu-02",))

    world.second.away = 0
    assert [each.state for each in world.reboot().hosts] == ["not needed", "finished"]
    assert world.admin() == "rrr"


def play(world: World, folder: Path, timeout: float = 5.0, forks: int = 1) -> RunResult:
    """A playbook that reboots both hosts where they need it, and then does something else."""
    book = folder / "play.yml"
    book.write_text(
        f"- hosts: gpu\n  tasks:\n    - reboot: {{timeout: {timeout}}}\n    - command: {{argv: ['true']}}\n"
    )
    options = RunOptions(forks=forks)
    bound = prepare(load_playbook(book, MODULES), world.inventory, options)
    operations = {"reboot": reboot_operation(world.inventory, world.open, "fleet run play.yml")}
    return run(bound, world.inventory, world.open, lambda _: None, options, operations=operations)


def test_hosts_that_a_run_held_back_after_one_that_is_not_back_leave_it_at_unreachable(
    world: World, tmp_path: Path
) -> None:
    world.first.needs(DRIVER).down = 10**6
    world.second.needs(DRIVER)
    result = play(world, tmp_path, timeout=0.05)
    assert [host.status for host in result.hosts.values()] == ["unreachable", "failed"]
    (held,) = result.hosts["gpu-02"].tasks
    assert "gpu-02 was not rebooted: gpu-01 has not come back" in str(held.error)
    assert (result.exit_code, world.second.reboots, world.admin()) == (ExitCode.UNREACHABLE, 0, "ddr")


def test_hosts_that_a_run_held_back_after_one_that_failed_leave_it_at_failed(
    world: World, tmp_path: Path
) -> None:
    world.first.needs(DRIVER).lost = {1}
    world.second.needs(DRIVER)
    result = play(world, tmp_path, timeout=0.05)
    assert [host.status for host in result.hosts.values()] == ["failed", "failed"]
    assert (result.exit_code, world.second.reboots, world.admin()) == (ExitCode.HOST_FAILED, 0, "ddr")


def test_a_playbook_reboots_hosts_that_serve_one_at_a_time_whatever_forks_says(
    world: World, tmp_path: Path
) -> None:
    meanwhile: list[str] = []
    for host in (world.first, world.second):
        host.needs(DRIVER).on_reboot = lambda: meanwhile.append(world.admin())
    result = play(world, tmp_path, forks=2)
    assert sorted(meanwhile) == ["ddr", "rrd"]
    assert [task.status for host in result.hosts.values() for task in host.tasks] == ["changed"] * 4


def test_hosts_without_slots_reboot_at_the_same_time(world: World) -> None:
    both = threading.Barrier(2)
    for host in (world.first, world.second):
        _empty(host)
        host.needs(DRIVER).on_reboot = lambda: both.wait(20)
    operate = reboot_operation(world.inventory, world.open, "fleet provision")
    with ThreadPoolExecutor(2) as pool:
        for each in [
            pool.submit(operate, name, {"timeout": 5.0}, lambda _: None, lambda: False)
            for name in ("gpu-01", "gpu-02")
        ]:
            each.result()
    assert (world.first.reboots, world.second.reboots, world.service.asked) == (1, 1, 0)


def _empty(host: GpuHost) -> None:
    host.slots = ()
    host.reboot()
    host.reboots = host.away = 0
    (host.folder / "containers").write_bytes(b"")
