"""Reboots that go wrong on the way: what is left drained, what the next run does, and who is not touched."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from fleet.balancer.stats import Admin, BalancerState, ServerState
from fleet.cli.main import app
from fleet.control.targets import host_of
from fleet.errors import ExitCode, InputError, TaskError
from fleet.inventory import load
from fleet.model.slot import Slot
from fleet.reboot import Rebooted, Wish, pending, reboot, reboot_operation
from fleet.reboot import host as host_side
from fleet.reboot import run as rebooting
from fleet.reboot.service import _down as not_back
from tests.unit.gpu_world import uuid
from tests.unit.reboot_world import GpuHost

DRIVER = "the driver 580.95.05 needs it"


class Service:
    """The balancers as `fleet.reboot.service.Service` has them: `r` and `d` of each slot."""

    def __init__(self) -> None:
        self.admin = {"gpu-01-0": "r", "gpu-01-1": "r", "gpu-02-0": "r"}
        self.asked = 0
        self.interrupts = False
        self.fenced_out = False

    def __call__(self, *_: object, **__: object) -> Service:
        return self

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def slots(self, hosts: Collection[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        self.asked += 1
        ready = tuple(slot for slot, word in self.admin.items() if word == "r" and host_of(slot) in hosts)
        return ready, ready

    def weights(self) -> Mapping[str, Mapping[str, int]]:
        return {}

    def refuse_last(self, slots: Sequence[str], hosts: Sequence[str]) -> None:
        pass

    def empty(self, slots: Sequence[str], deadline: float, *, cut: bool) -> Mapping[str, int]:
        self.admin |= dict.fromkeys(slots, "d")
        if self.interrupts:
            raise KeyboardInterrupt
        return {}

    def give_back(self, slots: Sequence[str], serving: Sequence[str], timeout: float) -> None:
        self.ready(slots)

    def ready(self, slots: Sequence[str]) -> None:
        self.admin |= dict.fromkeys(slots, "r")

    def check(self) -> None:
        if self.fenced_out:
            raise TaskError("the lease was lost")


class World:
    """Two hosts behind balancers: gpu-01 with two GPUs, gpu-02 with one."""

    def __init__(self, folder: Path, service: Service) -> None:
        slots = [Slot("gpu-01", i, uuid(i), "127.0.0.1", 1) for i in range(2)]
        self.first = GpuHost(folder / "gpu-01", "gpu-01", *slots)
        self.second = GpuHost(folder / "gpu-02", "gpu-02", Slot("gpu-02", 0, uuid(2), "127.0.0.1", 1))
        self.service = service
        inventory = folder / "hosts.yml"
        inventory.write_text(
            "all:\n  children:\n    gpu: {hosts: {gpu-01: {}, gpu-02: {}}}\n    balancer: {hosts: {lb-01: {}}}\n"
        )
        self.inventory = load(inventory)

    def open(self, name: str) -> tuple[Any, Any]:
        return {"gpu-01": self.first, "gpu-02": self.second}[name].open()

    def reboot(self, *names: str, **wish: Any) -> Rebooted:
        wanted = Wish(**{"timeout": 5.0, **wish})
        hosts = names or ("gpu-01", "gpu-02")
        return reboot(hosts, self.inventory, self.open, "fleet reboot gpu", wanted, lambda *_: None)

    def pending(self, *names: str) -> Rebooted:
        return pending(names or ("gpu-01", "gpu-02"), self.inventory, self.open, Wish())

    def admin(self) -> str:
        return "".join(self.service.admin.values())


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(host_side, "PAUSE", 0.01)
    # Whether a container answers is asked of a real one in test_reboot_live.py.
    monkeypatch.setattr(host_side.HostSide, "_silent", lambda *_: "")
    service = Service()
    monkeypatch.setattr(rebooting, "Service", service)
    return World(tmp_path, service)


def test_check_shows_who_waits_and_why_and_touches_nothing(world: World) -> None:
    world.first.needs(DRIVER, "nouveau is loaded")
    done = world.pending()
    assert [(each.host, each.state, each.reason) for each in done.hosts] == [
        ("gpu-01", "due", f"reboot ({DRIVER}; nouveau is loaded)"),
        ("gpu-02", "not needed", ""),
    ]
    assert (world.admin(), world.first.reboots, world.service.asked) == ("rrr", 0, 0)


def test_force_reboots_a_host_that_nothing_asks_it_of(world: World) -> None:
    assert world.reboot("gpu-02").hosts[0].state == "not needed"
    done = world.reboot("gpu-02", force=True)
    assert (done.hosts[0].state, done.hosts[0].reason) == ("rebooted", "reboot (asked for)")
    assert world.second.reboots == 1


def test_several_at_a_time_are_drained_together(world: World) -> None:
    meanwhile: list[str] = []
    for host in (world.first, world.second):
        host.needs(DRIVER).on_reboot = lambda: meanwhile.append(world.admin())
    assert world.reboot(together=2).exit_code == ExitCode.DONE
    assert (meanwhile, world.admin()) == (["ddd", "ddd"], "rrr")


def test_one_of_several_that_is_not_back_keeps_no_other_drained(world: World) -> None:
    world.first.needs(DRIVER).down = 10**6
    world.second.needs(DRIVER)
    done = world.reboot(together=2, timeout=0.05)
    assert [each.state for each in done.hosts] == ["not back", "rebooted"]
    assert world.admin() == "ddr"


def test_ctrl_c_during_the_drain_gives_everything_back(world: World) -> None:
    world.first.needs(DRIVER)
    world.service.interrupts = True
    done = world.reboot()
    assert [(each.state, each.drained) for each in done.hosts] == [
        ("interrupted", False),
        ("not needed", False),
    ]
    assert (world.admin(), world.first.reboots, world.first.state) == ("rrr", 0, "")
    assert done.exit_code == ExitCode.INTERRUPTED


def test_a_lease_that_was_lost_during_the_drain_reboots_nothing(world: World) -> None:
    world.first.needs(DRIVER)
    world.service.fenced_out = True
    assert world.reboot().hosts[0].state == "failed"
    assert world.first.reboots == 0


def test_a_reboot_that_was_killed_before_it_was_told_is_made_by_the_next_run(world: World) -> None:
    world.first.needs(DRIVER)
    host = host_side.HostSide("gpu-01", world.open)
    seen = host.look()
    work = rebooting.work_of(host, seen, "")
    host.remember(replace(work.begun, slots=("gpu-01-0",)))
    world.service.admin["gpu-01-0"] = "d"
    world.service.admin["gpu-01-1"] = "d"
    assert "it has not rebooted yet" in world.pending("gpu-01").hosts[0].reason
    assert world.reboot("gpu-01").hosts[0].state == "rebooted"
    assert (world.admin(), world.first.reboots, world.first.state) == ("rdr", 1, "")


def test_a_host_that_does_not_come_back_stops_the_run_and_stays_drained(world: World) -> None:
    world.first.needs(DRIVER).down = 10**6
    world.second.needs(DRIVER)
    done = world.reboot(timeout=0.05)
    first, second = done.hosts
    assert (first.state, first.drained, second.state) == ("not back", True, "untouched")
    assert first.error is not None
    assert "has not come back" in first.error.message
    assert "connection refused" in first.error.message
    assert (world.admin(), world.second.reboots, done.exit_code) == ("ddr", 0, ExitCode.UNREACHABLE)
    again = world.reboot()
    assert [each.state for each in again.hosts] == ["not reached", "untouched"]
    assert (world.second.reboots, again.exit_code) == (0, ExitCode.UNREACHABLE)

    world.first.away = 0
    last = world.reboot()
    assert [each.state for each in last.hosts] == ["finished", "rebooted"]
    assert (world.admin(), world.first.reboots, world.first.state) == ("rrr", 1, "")


def test_a_host_that_comes_back_without_a_gpu_keeps_its_slots_drained(world: World) -> None:
    world.first.needs(DRIVER).lost = {1}
    done = world.reboot("gpu-01", timeout=0.05)
    error = done.hosts[0].error
    assert error is not None
    assert f"a GPU is missing: {uuid(1)} (nvidia-smi lists 1 of 2)" in error.message
    assert (world.admin(), done.exit_code) == ("ddr", ExitCode.HOST_FAILED)
    assert world.first.state


def test_a_controller_that_was_killed_is_gone_on_after(world: World) -> None:
    class Killed(BaseException):
        pass

    def kill() -> None:
        raise Killed

    world.first.needs(DRIVER).down = 0
    world.first.on_reboot = kill
    with pytest.raises(Killed):
        world.reboot("gpu-01")
    assert world.admin() == "ddr"
    assert (
        "it has rebooted, its slots are not back"
        in pending(("gpu-01",), world.inventory, world.open, Wish()).hosts[0].reason
    )
    assert world.reboot("gpu-01").hosts[0].state == "finished"
    assert (world.admin(), world.first.reboots) == ("rrr", 1)


def test_a_host_without_slots_asks_no_balancer(world: World) -> None:
    world.first.slots = ()
    world.first.needs(DRIVER).reboot()
    world.first.away, world.first.reboots = 0, 0
    world.first.needs(DRIVER)
    (world.first.folder / "containers").write_bytes(b"")
    assert world.reboot("gpu-01").hosts[0].state == "rebooted"
    assert (world.first.reboots, world.service.asked) == (1, 0)


def test_playbook_tasks_reboot_no_other_host_after_one_that_is_not_back(world: World) -> None:
    world.first.needs(DRIVER).down = 10**6
    world.second.needs(DRIVER)
    operate = reboot_operation(world.inventory, world.open, "fleet provision")
    with pytest.raises(Exception, match="gpu-01 has not come back"):
        operate("gpu-01", {"timeout": 0.05}, lambda _: None, lambda: False)
    with pytest.raises(Exception, match="gpu-02 was not rebooted: gpu-01 has not come back"):
        operate("gpu-02", {}, lambda _: None, lambda: False)
    assert (world.second.reboots, world.admin()) == (0, "ddr")


def test_a_balancer_is_no_target(world: World) -> None:
    with pytest.raises(InputError, match="lb-01 is a balancer"):
        world.reboot("lb-01")


def test_a_host_whose_driver_hangs_is_rebooted_all_the_same(world: World) -> None:
    world.first.needs(DRIVER).hangs = True
    done = world.reboot("gpu-01")
    assert (done.hosts[0].state, world.admin(), world.first.reboots) == ("rebooted", "rrr", 1)


def test_gpus_that_no_driver_tells_are_known_by_the_containers_on_them(world: World) -> None:
    world.first.needs(DRIVER).hangs = True
    world.first.lost = {1}
    done = world.reboot("gpu-01", timeout=0.05)
    error = done.hosts[0].error
    assert error is not None
    assert f"a GPU is missing: {uuid(1)} (nvidia-smi lists 1 of 2)" in error.message
    assert world.admin() == "ddr"


def test_a_host_that_refuses_to_reboot_takes_jobs_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.first.needs(DRIVER)

    def refused(_: object) -> None:
        raise TaskError("gpu-01: `systemctl reboot` ended with 1", output="Access denied")

    with monkeypatch.context() as patched:
        patched.setattr(host_side.HostSide, "order", refused)
        done = world.reboot("gpu-01")
    assert (done.hosts[0].state, done.hosts[0].drained, world.admin()) == ("failed", False, "rrr")
    assert (world.first.state, world.first.reboots) == ("", 0)


def server(name: str, **more: object) -> ServerState:
    told = {"backend": "work", "status": "UP", "admin": Admin.READY, "weight": 10, "configured_weight": 10}
    return ServerState(name=name, **{**told, **more})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("state", "ready", "why"),
    [
        ({}, True, ""),
        ({"status": "DRAIN", "admin": Admin.DRAIN}, False, ""),
        (
            {"status": "DOWN", "check_status": "L4CON", "check_detail": "refused"},
            False,
            "lb-01 finds gpu-01-0 down (L4CON refused)",
        ),
        ({"status": "DRAIN", "admin": Admin.DRAIN}, True, "lb-01 sends no jobs to gpu-01-0 (weight 10)"),
        (
            {"weight": 0, "agent_reason": "GPU lost"},
            True,
            "lb-01 sends no jobs to gpu-01-0 (GPU lost)",
        ),
    ],
)
def test_what_a_balancer_finds_of_a_slot_that_comes_back(
    state: dict[str, object], ready: bool, why: str
) -> None:
    seen = {
        "lb-01": BalancerState("3.0", None, 1, 1, (server("gpu-01-0", **state), server("gpu-02-0", weight=0)))
    }
    assert not_back(seen, ("gpu-01-0", "gpu-01-9"), ready) == why


def fleet(world: World, monkeypatch: pytest.MonkeyPatch, *words: str) -> Result:
    """The command itself, in the world's folder."""
    monkeypatch.setattr("fleet.engine.connect.opener", lambda *_: world.open)
    inventory = str(world.first.folder.parent / "hosts.yml")
    return CliRunner().invoke(app, ["reboot", *words, "-i", inventory])


def test_the_command_tells_each_step_and_how_it_ended(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.first.needs(DRIVER)
    done = fleet(world, monkeypatch, "gpu")
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert lines[:3] == [
        "gpu-01: draining gpu-01-0, gpu-01-1",
        "gpu-01: is told to reboot",
        "gpu-01: rebooting",
    ]
    assert "gpu-01: is whole: 2 GPUs, 2 containers answer" in lines
    assert "gpu-01: gpu-01-0, gpu-01-1 take jobs again" in lines
    assert lines[-2].startswith("gpu-01: rebooted in ")
    assert lines[-1] == "gpu-02: nothing asks for a reboot"


def test_the_command_tells_what_is_due_and_nothing_is_told_to_balancers(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.second.needs(DRIVER)
    done = fleet(world, monkeypatch, "gpu", "--check")
    assert (done.exit_code, world.second.reboots) == (0, 0)
    assert done.output.splitlines() == [
        "gpu-01: nothing asks for a reboot",
        f"gpu-02: reboot ({DRIVER})",
    ]


def test_the_document_and_the_exit_code_tell_of_a_host_that_is_not_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.first.needs(DRIVER).down = 10**6
    world.second.needs(DRIVER)
    done = fleet(world, monkeypatch, "gpu", "--timeout", "0.05", "--json")
    assert done.exit_code == ExitCode.UNREACHABLE
    document = json.loads(done.stdout)
    first, second = document["hosts"]
    assert (document["exit_code"], document["interrupted"], document["check"]) == (3, False, False)
    assert (first["name"], first["state"], first["drained"]) == ("gpu-01", "not back", True)
    assert first["slots"] == ["gpu-01-0", "gpu-01-1"]
    assert "has not come back" in first["error"]["message"]
    assert "fleet ready gpu-01" in first["error"]["remedy"]
    assert (second["state"], second["slots"], second["error"]) == ("untouched", [], None)


def test_a_run_that_stopped_says_who_is_done_who_is_not_and_how_to_go_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.second.down = 10**6
    done = fleet(world, monkeypatch, "gpu", "--timeout", "0.05", "--force", "--allow-down")
    assert done.exit_code == ExitCode.UNREACHABLE
    lines = done.output.splitlines()
    assert any(line.startswith("gpu-01: rebooted in ") for line in lines)
    assert "gpu-02: has not come back; gpu-02-0 stays drained" in lines
    assert lines[-2] == "1 rebooted, 1 not back"
    words = "fleet reboot gpu-02 --force --timeout 0.05 --allow-down"
    assert lines[-1] == f"to go on: {words} -i {world.first.folder.parent / 'hosts.yml'}"
