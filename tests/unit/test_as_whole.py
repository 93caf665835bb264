"""Before the next slot is taken away the balancers send jobs to those before it: real HAProxy tells."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fleet.balancer.stats import Admin
from fleet.control import Wait, drain
from fleet.errors import TaskError
from fleet.inventory import Inventory, load
from fleet.model.slot import Slot
from fleet.rollout.as_whole import AsWhole
from fleet.rollout.world import LeaseError
from tests.unit.control_world import BalancerRemote, Gradio, balancing, hosts
from tests.unit.haproxy_world import Balancer
from tests.unit.test_at_work import hold
from tests.unit.test_control import control

SLOTS = ("gpu-01-0", "gpu-01-1", "gpu-02-0")


class World:
    """A balancer with three slots of which each is a server that can be ended and started anew."""

    def __init__(self, folder: Path, balancer: Balancer, services: dict[str, Gradio]) -> None:
        self.balancer, self.services = balancer, services
        path = folder / "hosts.yml"
        path.write_text(
            "all:\n  children:\n    balancer:\n      hosts:\n        lb-01: {}\n        lb-02: {}\n"
        )
        self.inventory: Inventory = load(path)
        self.said: list[str] = []

    def asked(self, **more: Any) -> AsWhole:
        opener = hosts(lb_01=self.balancer, lb_02=None)
        return AsWhole(self.inventory, opener, "fleet provision", pause=0.05, **{"patience": 10.0, **more})

    def end(self, slot: str) -> None:
        self.services[slot].close()
        self.balancer.until(lambda: self.balancer.look().slot(slot).down)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    services = {name: Gradio() for name in SLOTS}
    slots = [
        Slot(name[:6], int(name[-1]), f"GPU-{name}", "127.0.0.1", service.port, "T4")
        for name, service in services.items()
    ]
    with balancing(tmp_path / "lb", slots, check_interval=1, check_retry=1, fall=1) as balancer:
        yield World(tmp_path, balancer, services)
    for service in services.values():
        service.close()


def test_what_was_away_is_waited_for_and_named(world: World) -> None:
    asked = world.asked(patience=0.5)
    asked((SLOTS[0],), True, world.said.append)
    assert world.said == []
    world.end(SLOTS[0])
    # While it is away for its own turn, or beside others' turns, that is as it should be.
    asked((SLOTS[0],), True, world.said.append)
    asked((SLOTS[1], SLOTS[0]), True, world.said.append)
    with pytest.raises(TaskError, match=r"lb-01 sends no jobs to gpu-01-0 \(L4CON") as error:
        asked((SLOTS[1],), True, world.said.append)
    assert "slot_ready=0" in error.value.remedy
    assert world.said[0].startswith("waits: lb-01 sends no jobs to gpu-01-0 (L4CON")
    asked((SLOTS[1],), False, world.said.append)


def test_one_that_is_back_is_waited_for_no_longer(world: World) -> None:
    asked = world.asked(patience=60.0)
    asked((SLOTS[0],), True, world.said.append)
    balancer = world.balancer
    server = balancer.look().slot(SLOTS[0])
    balancer.ask(f"set server {server.backend}/{SLOTS[0]} health down")
    balancer.until(lambda: balancer.look().slot(SLOTS[0]).down)
    # Its checks find it again by themselves.
    asked((SLOTS[1],), True, world.said.append)
    assert balancer.look().slot(SLOTS[0]).takes_jobs
    assert world.said


def test_what_took_no_jobs_before_or_was_drained_since_holds_nobody_back(world: World) -> None:
    world.end(SLOTS[0])
    asked = world.asked(patience=0.5)
    asked((SLOTS[1],), True, world.said.append)
    with control(lb_01=world.balancer) as balancers:
        drain(balancers, [SLOTS[2]], Wait())
    assert world.balancer.look().slot(SLOTS[2]).admin is Admin.DRAIN
    asked((SLOTS[1],), True, world.said.append)
    assert world.said == []


def test_while_somebody_upgrades_no_turn_begins(world: World) -> None:
    asked = world.asked()
    asked((SLOTS[0],), True, world.said.append)
    hold(Path(BalancerRemote("lb-01", world.balancer).here("/var/lib/fleet/rollouts")))
    with pytest.raises(LeaseError, match="`fleet provision` would change what another command works on"):
        asked((SLOTS[1],), True, world.said.append)
    with pytest.raises(LeaseError):
        asked((SLOTS[1],), False, world.said.append)
