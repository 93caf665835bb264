"""Reboots of hosts that serve, on a real HAProxy, with hosts that a real sh answers for."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fleet.errors import ExitCode, InputError
from fleet.inventory import load
from fleet.model.slot import Slot
from fleet.reboot import Rebooted, Wish, reboot
from fleet.reboot import host as host_side
from fleet.rollout.world import LeaseError
from tests.unit.control_world import Gradio, Job, balancing, hosts
from tests.unit.gpu_world import uuid
from tests.unit.haproxy_world import Balancer
from tests.unit.reboot_world import GpuHost
from tests.unit.test_at_work import claim, hold

DRIVER = "the driver 580.95.05 needs it"


class World:
    """One balancer and two hosts: gpu-01 with two GPUs, gpu-02 with one."""

    def __init__(self, folder: Path, balancer: Balancer, slots: list[Slot]) -> None:
        self.balancer = balancer
        self.first = GpuHost(folder / "gpu-01", "gpu-01", *slots[:2])
        self.second = GpuHost(folder / "gpu-02", "gpu-02", slots[2])
        inventory = folder / "hosts.yml"
        inventory.write_text(
            "all:\n  children:\n    gpu: {hosts: {gpu-01: {}, gpu-02: {}}}\n    balancer: {hosts: {lb-01: {}}}\n"
        )
        self.inventory = load(inventory)
        self.said: list[tuple[str, str]] = []

    def open(self, name: str) -> tuple[Any, Any]:
        for host in (self.first, self.second):
            if host.name == name:
                return host.open()
        opened: tuple[Any, Any] = hosts(lb_01=self.balancer)(name)
        return opened

    def reboot(self, *names: str, **wish: Any) -> Rebooted:
        wanted = Wish(**{"timeout": 5.0, **wish})
        return reboot(
            names or ("gpu-01", "gpu-02"), self.inventory, self.open, "fleet reboot gpu", wanted, self._say
        )

    def admin(self) -> str:
        """The state of gpu-01-0, gpu-01-1 and gpu-02-0, as letters: r(eady), d(rained)."""
        return "".join(server.admin.value[0] for server in self.balancer.look().slots())

    def _say(self, place: str, text: str) -> None:
        self.said.append((place, text))


@pytest.fixture(scope="module")
def gradio() -> Iterator[Gradio]:
    server = Gradio()
    yield server
    server.close()


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory, gradio: Gradio
) -> Iterator[tuple[Balancer, list[Slot]]]:
    where = (("gpu-01", 0), ("gpu-01", 1), ("gpu-02", 0))
    slots = [
        Slot(host, index, uuid(number), "127.0.0.1", gradio.port, weight=100)
        for number, (host, index) in enumerate(where)
    ]
    with balancing(tmp_path_factory.mktemp("lb"), slots, check_interval=60) as balancer:
        yield balancer, slots


@pytest.fixture
def world(
    running: tuple[Balancer, list[Slot]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gradio: Gradio
) -> Iterator[World]:
    monkeypatch.setattr(host_side, "PAUSE", 0.01)
    draining = importlib.import_module("fleet.control.drain")
    monkeypatch.setattr(draining, "_SETTLE", 0.05)
    monkeypatch.setattr(draining, "_SETTLING_POLL", 0.02)
    balancer, slots = running
    shutil.rmtree(balancer.folder / "rollouts", ignore_errors=True)
    for slot in slots:
        balancer.ask(f"set server work/{slot.name} state ready; set weight work/{slot.name} 100")
    yield World(tmp_path, balancer, slots)
    gradio.finish()
    (balancer.folder / "rollouts" / "lease").unlink(missing_ok=True)


def test_hosts_are_drained_one_after_the_other_and_take_jobs_again_once_they_are_whole(world: World) -> None:
    meanwhile: list[str] = []
    for host in (world.first, world.second):
        host.needs(DRIVER).on_reboot = lambda: meanwhile.append(world.admin())
    world.balancer.ask("set server work/gpu-01-1 state drain")
    done = world.reboot()
    assert [(each.state, each.slots) for each in done.hosts] == [
        ("rebooted", ("gpu-01-0",)),
        ("rebooted", ("gpu-02-0",)),
    ]
    assert meanwhile == ["ddr", "rdd"]
    assert (world.admin(), world.first.state, world.first.reboots) == ("rdr", "", 1)
    assert ("gpu-01", "is whole: 2 GPUs, 2 containers answer") in world.said
    assert done.exit_code == ExitCode.DONE


def test_jobs_that_do_not_end_keep_the_host_up_and_it_takes_jobs_again(world: World, gradio: Gradio) -> None:
    world.second.needs(DRIVER)
    world.balancer.ask("set server work/gpu-01-0 state drain; set server work/gpu-01-1 state drain")
    job = Job(world.balancer).fetch()
    world.balancer.ask("set server work/gpu-01-0 state ready; set server work/gpu-01-1 state ready")
    done = world.reboot("gpu-02", deadline=0.1)
    error = done.hosts[0].error
    assert error is not None
    assert "1 of gpu-02-0" in error.message
    assert (world.admin(), world.second.reboots, world.second.state) == ("rrr", 0, "")
    gradio.finish()
    assert job.wait()


def test_a_rollout_at_work_is_stood_back_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fleet.reboot.service._LEASE_WAIT", 0.0)
    world.first.needs(DRIVER)
    hold(world.balancer.folder / "rollouts", who=claim())
    done = world.reboot("gpu-01")
    assert isinstance(done.hosts[0].error, LeaseError)
    assert (world.admin(), world.first.reboots, done.exit_code) == ("rrr", 0, ExitCode.LEASE_HELD)


def test_the_only_host_that_takes_jobs_is_not_rebooted(world: World) -> None:
    world.first.needs(DRIVER)
    world.balancer.ask("set server work/gpu-02-0 state drain")
    done = world.reboot("gpu-01")
    error = done.hosts[0].error
    assert isinstance(error, InputError)
    assert "the service would be down" in error.message
    assert "--allow-down" in error.remedy
    assert (world.admin(), world.first.reboots, done.exit_code) == ("rrd", 0, ExitCode.INVALID)
