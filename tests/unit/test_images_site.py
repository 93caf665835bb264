"""Images that provision and upgrade need, brought by their sites' seeds."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fleet.docker.probe import IMAGES_PROBE
from fleet.engine.results import HostEvent, TaskFinished, TaskResult
from fleet.errors import TaskError, UnreachableError
from fleet.images import bring, load
from fleet.images.bring import bringer
from fleet.images.site import Sites
from fleet.model.facts import Answer, Facts
from fleet.model.host import Host
from fleet.model.steps import EngineCall, Operation
from fleet.modules.base import Context
from fleet.modules.docker_image import OPERATION, DockerImage, DockerImageArgs
from fleet.rollout.stopping import Interrupted
from tests.unit.images_world import LAYERS, Fleet, serve_from
from tests.unit.registry_world import NAME, Registry, digest, serving

HOSTS = {"a": {"site": "x"}, "b": {"site": "x", "image_seed": True}, "c": {"site": "x"}}


class World:
    """A fleet, its registry, and a seed that is another registry."""

    def __init__(self, tmp: Path, registry: Registry, near: Registry, monkeypatch: Any) -> None:
        self.registry, self.near = registry, near
        self.fleet = Fleet(tmp, registry, **HOSTS)
        self.image, self.top = registry.image, registry.add(LAYERS)[0]
        near.auth, near.blobs = "basic", registry.blobs
        self.events = serve_from(monkeypatch, near)
        self.loads: list[str] = []
        monkeypatch.setattr(load, "load", self._load)
        monkeypatch.setattr(bring, "Wire", lambda name, _: self.fleet.wires[name])
        self.said: list[tuple[str, str]] = []
        self.errors: dict[str, Exception] = {}
        self.stopped = False

    def _load(self, remote: Any, *_: Any) -> None:
        self.loads.append(remote.name)
        self.fleet.engines[remote.name].has(self.image, self.top)

    def sites(self, asking: str = "abc", forks: int = 0) -> Sites:
        hosts = {name: target.host for name, target in self.fleet.targets.items()}
        return Sites(hosts, lambda name: None, tuple(asking), forks=forks)  # type: ignore[arg-type, return-value]

    def ask(self, sites: Sites, host: str, image: str = "") -> threading.Thread:
        """A host's task, in a thread of its own, which tells the run how it ended."""

        def work() -> None:
            say = lambda text: self.said.append((host, text))  # noqa: E731
            arguments = {"reference": image or self.image}
            try:
                sites.operate(host, arguments, say, lambda: self.stopped)
            except Exception as error:
                self.errors[host] = error
            sites.listen(finished(host, "failed" if host in self.errors else "changed"))

        thread = threading.Thread(target=work)
        thread.start()
        return thread

    def waits(self, host: str) -> None:
        deadline = time.monotonic() + 20
        while not any(who == host and "waiting for b" in text for who, text in self.said):
            assert time.monotonic() < deadline
            time.sleep(0.005)

    @property
    def stores(self) -> list[str]:
        return [name for name, each in self.fleet.engines.items() if list(each.root.iterdir())]


def finished(host: str, status: Any, module: str = "docker_image") -> TaskFinished:
    error = TaskError("no") if status == "failed" else None
    return TaskFinished(TaskResult(host, "play", "task", module, status, error=error))


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with serving(Registry()) as registry, serving(Registry()) as near:
        yield World(tmp_path, registry, near, monkeypatch)


def joined(*threads: threading.Thread) -> None:
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()


def test_hosts_wait_for_their_seed_and_the_registry_sends_each_layer_once(world: World) -> None:
    sites = world.sites()
    early = world.ask(sites, "a")
    world.waits("a")
    assert not world.registry.sent
    joined(early, world.ask(sites, "b"))
    # One that comes late gets it from what the seed has kept.
    joined(world.ask(sites, "c"))
    assert world.errors == {}
    assert sorted(world.loads) == ["a", "b", "c"]
    assert world.registry.sent[digest(LAYERS[0])] == len(LAYERS[0])
    assert world.near.sent[digest(LAYERS[0])] == 2 * len(LAYERS[0])
    assert world.stores == ["b"]
    sites.close()
    assert world.stores == []


def test_a_seed_that_has_the_image_fetches_it_for_the_others(world: World) -> None:
    world.fleet.engines["b"].has(world.image, world.top)
    sites = world.sites()
    sites.listen(finished("b", "ok"))
    joined(world.ask(sites, "a"))
    sites.close()
    assert (world.errors, world.loads, world.stores) == ({}, ["a"], [])
    assert "start b" in world.events


@pytest.mark.parametrize(
    "event", [HostEvent("b", "unreachable"), HostEvent("b", "failed"), finished("b", "failed", "apt")]
)
def test_hosts_whose_seed_fails_before_it_comes_so_far_fail_too(world: World, event: Any) -> None:
    sites = world.sites()
    waiting = world.ask(sites, "a")
    world.waits("a")
    sites.listen(event)
    joined(waiting)
    assert "b, which was to seed its site, failed" in str(world.errors["a"])
    assert not world.registry.sent


def test_a_failure_of_the_seed_is_told_by_those_who_waited(world: World) -> None:
    world.fleet.engines["b"].has(world.image, world.top)
    world.fleet.wires["b"].look = lambda *_: (_ for _ in ()).throw(UnreachableError("b: gone"))  # type: ignore[method-assign]
    sites = world.sites()
    sites.listen(finished("b", "ok"))
    joined(world.ask(sites, "a"))
    assert "b: gone" in world.errors["a"].output  # type: ignore[attr-defined]


def test_hosts_ask_the_registry_where_the_seed_is_left_out_of_the_run(world: World) -> None:
    sites = world.sites("ac")
    joined(world.ask(sites, "a"), world.ask(sites, "c"))
    assert (world.errors, world.events) == ({}, [])
    assert world.registry.sent[digest(LAYERS[0])] == 2 * len(LAYERS[0])


def test_hosts_that_take_all_forks_do_not_wait_for_a_seed_that_cannot_come(world: World) -> None:
    sites = world.sites(forks=1)
    joined(world.ask(sites, "a"))
    assert (world.errors, world.loads) == ({}, ["a"])


def test_an_interruption_ends_those_who_wait_and_keeps_what_came(world: World) -> None:
    sites = world.sites()
    waiting = world.ask(sites, "a")
    world.waits("a")
    world.stopped = True
    joined(waiting)
    assert "goes on where it was" in world.errors["a"].remedy  # type: ignore[attr-defined]
    joined(world.ask(sites, "b"))
    assert "interrupted" in str(world.errors["b"])


def test_a_tag_that_moves_during_the_run_moves_nobody(world: World) -> None:
    sites = world.sites()
    joined(world.ask(sites, "b"))
    world.registry.add([b"another"])
    joined(world.ask(sites, "a"))
    asked = [engine.asked[0][1]["digest"] for name, engine in world.fleet.engines.items() if name in "ab"]
    assert asked == [world.top, world.top]


def test_the_module_leaves_the_image_to_its_sites_seed() -> None:
    hosts = {name: Host(name, variables) for name, variables in {**HOSTS, "d": {"site": "y"}}.items()}
    facts = Facts({IMAGES_PROBE.key: Answer(0, b"[]\nfleet 200 2 http://d/images/json\n")})
    planned = {
        name: DockerImage().plan(DockerImageArgs(name=f"r:5000/{NAME}:v1"), facts, Context(host, hosts))[0]
        for name, host in hosts.items()
    }
    assert planned["a"].summary == f"pull r:5000/{NAME}:v1 from b"
    assert planned["b"].summary == planned["d"].summary == f"pull r:5000/{NAME}:v1"
    call = EngineCall("pull", {"reference": f"r:5000/{NAME}:v1"})
    assert planned["d"].steps == (call,)
    assert planned["a"].steps == (Operation(OPERATION, call.arguments, otherwise=call),)


def test_an_upgrade_gets_its_image_by_the_seeds_and_leaves_other_sites_alone(world: World) -> None:
    world.fleet.targets["c"].host = Host("c", {"fleet_address": "127.0.0.1", "site": "y"})
    said: list[tuple[str, str]] = []
    bringer(lambda name: None)(  # type: ignore[arg-type, return-value]
        world.fleet.targets, world.image, world.top, lambda host, text: said.append((host, text))
    )
    assert sorted(world.loads) == ["a", "b"]
    assert world.registry.sent[digest(LAYERS[0])] == len(LAYERS[0])
    assert {host for host, _ in said} == {"a", "b"}
    assert world.stores == []


def test_an_upgrade_whose_seed_fails_has_every_hosts_error(world: World) -> None:
    world.fleet.engines["b"].lost = 99
    with pytest.raises(UnreachableError) as caught:
        bringer(lambda name: None)(world.fleet.targets, world.image, world.top, lambda *_: None)  # type: ignore[arg-type, return-value]
    assert "a: b, which was to seed it, failed" in caught.value.output
    assert world.loads == []


def test_an_upgrade_that_is_to_stop_stops_while_the_image_comes(world: World) -> None:
    def say(*_: str) -> None:
        raise Interrupted

    with pytest.raises(Interrupted):
        bringer(lambda name: None)(world.fleet.targets, world.image, world.top, say)  # type: ignore[arg-type, return-value]
    assert world.loads == []
