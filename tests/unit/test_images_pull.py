"""Plans and pulls over several hosts: a real registry on loopback, the real sh and curl, engines that are tables."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fleet.docker.sites import seeds_of
from fleet.errors import InputError, TaskError, UnreachableError
from fleet.images import load, seed
from fleet.images.pull import Pull
from fleet.model.host import Host
from fleet.rollout.stopping import Interrupted
from tests.unit.images_world import LAYERS, Fleet, Quick, serve_from
from tests.unit.registry_world import NAME, Registry, digest, serving


@pytest.fixture
def registry() -> Iterator[Registry]:
    with serving(Registry()) as one:
        yield one


@pytest.fixture
def loads(monkeypatch) -> list[tuple[str, int]]:
    """What was given to engines: the host, and how many layers were left out."""
    given: list[tuple[str, int]] = []

    def take(remote: Any, store: str, manifest: Any, missing: Any, present: int) -> None:
        for blob in missing:
            assert (Path(store) / "blobs" / "sha256" / blob.hex).stat().st_size == blob.size
        given.append((remote.name, present))

    monkeypatch.setattr(load, "load", take)
    return given


def test_the_plan_knows_the_sizes_before_a_byte_of_a_layer_moves(registry, tmp_path):
    top, _ = registry.add(LAYERS, index=True)
    fleet = Fleet(tmp_path, registry, one={}, two={})
    fleet.engines["two"].layers.append([digest(b"raw" + LAYERS[0]), "sha256:other"])
    plan = fleet.plan()
    assert (plan.digest, plan.layers) == (top, 2)
    assert plan.size == sum(map(len, registry.blobs.values()))
    assert [plan.hosts[name].held.present for name in ("one", "two")] == [0, 1]
    assert plan.hosts["two"].held.to_fetch == plan.size - len(LAYERS[0])
    assert not [name for name in registry.sent if name in map(digest, LAYERS)]


def test_every_host_gets_the_same_digest_and_the_engine_names_it(registry, tmp_path, loads):
    registry.auth = "bearer"
    top, _ = registry.add(LAYERS)
    fleet = Fleet(tmp_path, registry, one={}, two={})
    outcome = fleet.pull(fleet.plan())
    assert outcome.states == {"one": "pulled", "two": "pulled"}
    assert sorted(loads) == [("one", 0), ("two", 0)]
    for engine in fleet.engines.values():
        [(operation, arguments)] = engine.asked
        assert (operation, arguments["reference"], arguments["digest"]) == ("pull", registry.image, top)
        assert not list(engine.root.rglob("*"))  # nothing is left behind


def test_a_host_that_has_the_image_is_left_alone_and_one_that_lacks_the_tag_gets_it(
    registry, tmp_path, loads
):
    top, _ = registry.add(LAYERS)
    fleet = Fleet(tmp_path, registry, one={}, two={}, three={})
    fleet.engines["one"].has(registry.image, top)
    fleet.engines["two"].has(f"{registry.host}/{NAME}:old", top)
    outcome = fleet.pull(fleet.plan())
    assert outcome.states == {"one": "there", "two": "pulled", "three": "pulled"}
    assert fleet.engines["one"].asked == []
    assert [operation for operation, _ in fleet.engines["two"].asked] == ["tag"]
    assert loads == [("three", 0)]


def test_the_size_on_a_host_that_has_it_counts_instead_of_an_estimate(registry, tmp_path):
    top, _ = registry.add(LAYERS)
    fleet = Fleet(tmp_path, registry, one={}, two={})
    fleet.engines["one"].has(registry.image, top, size=10**15)
    plan = fleet.plan()
    assert "unpacked (as on another host)" in str(plan.failed["two"])
    outcome = fleet.pull(plan)
    assert outcome.states == {"one": "there", "two": "failed"}


def test_a_tag_that_moves_meanwhile_moves_nobody(registry, tmp_path, loads):
    top, _ = registry.add(LAYERS)
    fleet = Fleet(tmp_path, registry, one={})
    plan = fleet.plan()
    registry.add([b"another"])
    assert fleet.pull(plan).states == {"one": "pulled"}
    assert fleet.engines["one"].asked[0][1]["digest"] == top


def test_many_lost_connections_end_nothing_while_bytes_come(registry, tmp_path, loads):
    registry.add(LAYERS)
    registry.cut = 4_000
    fleet = Fleet(tmp_path, registry, one={})
    plan = fleet.plan()
    wire = fleet.wires["one"]
    real, turn = Quick.run, [0]

    class Flaky(Quick):
        def run(self, argv: Any, **more: Any) -> Any:
            if "fleet-fetch" in argv:
                turn[0] += 1
                if turn[0] % 2 == 0:
                    raise UnreachableError("one: lost")
            return real(self, argv, **more)

    wire.do = lambda work: work(Flaky("one", registry), wire)  # type: ignore[method-assign]
    assert fleet.pull(plan).states == {"one": "pulled"}
    assert registry.sent[digest(LAYERS[0])] == len(LAYERS[0])


def test_one_host_that_fails_ends_alone(registry, tmp_path, loads):
    registry.add(LAYERS)
    fleet = Fleet(tmp_path, registry, one={}, two={})
    plan = fleet.plan()
    fleet.engines["two"].lost = 99
    outcome = fleet.pull(plan)
    assert outcome.states == {"one": "pulled", "two": "failed"}
    assert isinstance(outcome.errors["two"], UnreachableError)


def test_a_seed_needs_room_for_what_others_lack_too(registry, tmp_path, monkeypatch):
    from fleet.images import plan as planning

    top, _ = registry.add(LAYERS)
    fleet = Fleet(tmp_path, registry, a={"site": "x"}, b={"site": "x", "image_seed": True})
    fleet.engines["b"].has(registry.image, top, [digest(b"raw" + each) for each in LAYERS], size=1)
    room = {b"a": 10**9, b"b": 29_000}
    monkeypatch.setattr(planning, "free_script", lambda folder: f"echo {folder}")
    monkeypatch.setattr(planning, "parse_free", lambda out: room[out.strip().rpartition(b"/")[2]])
    assert fleet.plan().failed == {}
    room[b"b"] = 20_000
    assert "are free" in str(fleet.plan().failed["b"])


SITE = {"a": {"site": "x"}, "b": {"site": "x", "image_seed": True}, "c": {"site": "y"}}


def test_a_site_gets_the_image_by_its_seed_and_other_sites_do_not(registry, tmp_path):
    registry.add(LAYERS)
    fleet = Fleet(tmp_path, registry, **SITE)
    plan = fleet.plan()
    assert {name: host.seed for name, host in plan.hosts.items()} == {"a": "b", "b": "", "c": ""}
    assert plan.seeds == ("b",)
    assert not any(host.seed for host in fleet.plan(seeding=False).hosts.values())


def test_two_seeds_in_one_site_are_a_mistake():
    hosts = [Host(name, {"image_seed": True}) for name in ("a", "b")]
    with pytest.raises(InputError, match="both a and b"):
        seeds_of(hosts)


def test_the_registry_sends_each_layer_once_to_a_site(registry, tmp_path, loads, monkeypatch):
    registry.add(LAYERS)
    hosts = {"a": {"site": "x"}, "b": {"site": "x", "image_seed": True}, "c": {"site": "x"}}
    fleet = Fleet(tmp_path, registry, **hosts)
    plan = fleet.plan()
    before = registry.sent.copy()
    with serving(Registry()) as near:
        near.auth = "basic"
        near.blobs = registry.blobs
        events = serve_from(monkeypatch, near)
        outcome = fleet.pull(plan, forks=1)
        assert outcome.states == dict.fromkeys("abc", "pulled"), outcome.errors
        assert near.sent[digest(LAYERS[0])] == 2 * len(LAYERS[0])
    assert registry.sent[digest(LAYERS[0])] - before[digest(LAYERS[0])] == len(LAYERS[0])
    assert events == ["start b", "stop b"]
    assert not [path for engine in fleet.engines.values() for path in engine.root.rglob("*")]


def test_a_seed_that_has_the_image_fetches_it_for_the_others_and_loads_nothing(
    registry, tmp_path, loads, monkeypatch
):
    top, _ = registry.add(LAYERS)
    fleet = Fleet(tmp_path, registry, **SITE)
    fleet.engines["b"].has(registry.image, top)
    with serving(Registry()) as near:
        near.auth = "basic"
        near.blobs = registry.blobs
        serve_from(monkeypatch, near)
        outcome = fleet.pull(fleet.plan())
    assert outcome.states == {"a": "pulled", "b": "there", "c": "pulled"}, outcome.errors
    assert sorted(loads) == [("a", 0), ("c", 0)]


def test_hosts_whose_seed_fails_are_told_so_and_ask_nobody_else(registry, tmp_path, loads, monkeypatch):
    registry.add(LAYERS)
    fleet = Fleet(tmp_path, registry, **SITE)

    def start(*_: object) -> None:
        raise TaskError("b: it cannot seed its site", remedy="install it")

    monkeypatch.setattr(seed, "start", start)
    outcome = fleet.pull(fleet.plan())
    assert outcome.states == {"a": "failed", "b": "failed", "c": "pulled"}
    assert "--no-seed" in outcome.errors["a"].remedy
    assert fleet.engines["a"].asked == []


def test_a_seed_that_cannot_be_looked_at_fails_its_site_too(registry, tmp_path, loads):
    registry.add(LAYERS)
    fleet = Fleet(tmp_path, registry, **SITE)
    fleet.wires["b"].look = lambda *_: (_ for _ in ()).throw(UnreachableError("b: gone"))  # type: ignore[method-assign]
    outcome = fleet.pull(fleet.plan())
    assert outcome.states == {"a": "failed", "b": "failed", "c": "pulled"}


def test_the_engine_can_be_left_to_pull_by_itself(registry, tmp_path, loads):
    registry.add(LAYERS)
    fleet = Fleet(tmp_path, registry, one={})
    top = registry.manifests["v1"][1]
    fleet.wires["one"].ask = lambda call, progress=None: (  # type: ignore[method-assign]
        fleet.engines["one"].asked.append((call.operation, dict(call.arguments))) or digest(top)
    )
    outcome = fleet.pull(fleet.plan(engine=True))
    assert outcome.states == {"one": "pulled"}
    assert [operation for operation, _ in fleet.engines["one"].asked] == ["resolve", "pull"]
    assert not registry.sent


def test_no_more_hosts_work_at_once_than_forks_allow(registry, tmp_path, monkeypatch):
    registry.add(LAYERS)
    fleet = Fleet(tmp_path, registry, **{name: {} for name in "ab"})
    plan = fleet.plan()
    now, most, lock = [0], [0], threading.Lock()

    def take(*_: object) -> None:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        threading.Event().wait(0.02)
        with lock:
            now[0] -= 1

    monkeypatch.setattr(load, "load", take)
    assert set(fleet.pull(plan, forks=1).states.values()) == {"pulled"}
    assert most == [1]


def test_a_pull_that_is_interrupted_keeps_what_came_at_the_seed_too(registry, tmp_path, loads, monkeypatch):
    registry.add(LAYERS)
    fleet = Fleet(tmp_path, registry, **SITE)
    plan = fleet.plan()
    events = serve_from(monkeypatch, registry)

    def listen(host: str, words: str, done: int, total: int) -> None:
        if host == "a":
            raise Interrupted

    with pytest.raises(Interrupted):
        Pull(plan, fleet.planner, fleet.targets, fleet.wires, listen).run()
    assert events[-1] == "stop b"
    store = fleet.engines["b"].root / "fleet-images" / "blobs" / "sha256"
    assert {path.name for path in store.iterdir()} >= {digest(each)[7:] for each in LAYERS}


def test_a_seed_keeps_what_a_host_that_failed_still_lacks(registry, tmp_path, loads, monkeypatch):
    registry.add(LAYERS)
    fleet = Fleet(tmp_path, registry, **SITE)
    plan = fleet.plan()
    serve_from(monkeypatch, registry)
    fleet.engines["a"].lost = 99
    assert fleet.pull(plan).states == {"a": "failed", "b": "pulled", "c": "pulled"}
    assert list(fleet.engines["b"].root.rglob(digest(LAYERS[0])[7:]))


def test_a_seed_that_cannot_be_ended_is_told_and_fails_nothing(registry, tmp_path, loads, monkeypatch):
    registry.add(LAYERS)
    fleet = Fleet(tmp_path, registry, **SITE)
    plan = fleet.plan()
    serve_from(monkeypatch, registry)

    def stop(remote, store):
        raise UnreachableError("b: connection lost")

    monkeypatch.setattr(seed, "stop", stop)
    assert fleet.pull(plan).states == dict.fromkeys("abc", "pulled")
    assert fleet.said[-1] == ("b", "hands the image out for up to 12 h more: b: connection lost")
