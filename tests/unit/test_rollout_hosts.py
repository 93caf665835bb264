"""One GPU host during a rollout, with an engine that is a dictionary and a connection that breaks at will."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from fleet.docker.answers import Container
from fleet.docker.calls import CALLS, Shared
from fleet.docker.probe import CONTAINERS_PROBE, ENGINE_PROBE, IMAGES_PROBE
from fleet.engine.runner import HostRunner
from fleet.errors import StepError, TaskError, UnreachableError
from fleet.gpu.container import ContainerSpec, container_name, create_body, release_of
from fleet.model.steps import EngineCall
from fleet.rollout.hosts import GpuHost
from fleet.rollout.world import LeaseError
from fleet.ssh.remote import Result
from tests.unit import gpu_world as gpu

APP = "registry.example:5000/hunyuan-mt-webui"
V1, V2 = f"{APP}:v1", f"{APP}:v2"
D1, D2, D3 = gpu.DIGEST, "sha256:" + "2" * 64, "sha256:" + "3" * 64
I1, I2, I3 = gpu.IMAGE_ID, "sha256:" + "b" * 64, "sha256:" + "c" * 64
SLOT = gpu.slot(0)
MAIN = container_name(SLOT)
SPEC = ContainerSpec(image=V2)
BLUE, GREEN = release_of(SPEC, D1), release_of(SPEC, D2)
_CHANGES = ("stop", "start", "create", "remove", "rename", "remove_image", "pull", "tag")


class World:
    """The host: what its engine has, which connections were opened, when one breaks.

    `breaks` maps the number of a change (from 1) to "before" or "after": the connection is lost before the
    engine got it, or before its answer came back.
    """

    def __init__(self) -> None:
        self.containers: dict[str, dict[str, Any]] = {}
        self.images: dict[str, dict[str, Any]] = {}
        self.foreign_users: list[str] = []
        self.changes: list[tuple[str, Mapping[str, Any]]] = []
        self.breaks: dict[int, str] = {}
        self.connections: list[Wire] = []
        self.events: list[str] = []
        self.free = 100_000_000
        self.folder_asked = ""

    def host(self) -> GpuHost:
        target = SimpleNamespace(host=gpu.HOST, spec=lambda engine: SPEC, auth=lambda: None, probes=tuple)
        return GpuHost(target, self.open)

    def open(self, name: str) -> tuple[Wire, Runner]:
        wire = Wire(self)
        self.connections.append(wire)
        self.events.append("connect")
        return wire, Runner(wire)

    def has(
        self, digest: str = D1, *, name: str = MAIN, state: str = "running", id_: str = "", image: str = I1
    ) -> str:
        raw = gpu.inspected(SPEC, SLOT, digest, name=name, state=state)
        raw |= {"Id": id_ or raw["Id"], "Image": image}
        self.containers[raw["Id"]] = raw
        return raw["Id"]

    def image(self, id_: str, tags: list[str], digests: list[str], size: int = 5) -> None:
        self.images[id_] = {"Id": id_, "RepoTags": tags, "RepoDigests": digests, "Size": size}

    def now(self) -> dict[str, str]:
        """Name and state of every container."""
        return {raw["Name"].lstrip("/"): raw["State"]["Status"] for raw in self.containers.values()}

    def seen(self) -> tuple[Container, ...]:
        from fleet.docker.probe import parse_containers

        return parse_containers(gpu.containers(*self.containers.values())) or ()

    def done(self, *operations: str) -> list[tuple[str, Mapping[str, Any]]]:
        return [change for change in self.changes if change[0] in (operations or _CHANGES)]

    def ask(self, operation: str, arguments: Mapping[str, Any]) -> Any:
        if operation == "images_in_use":
            return [*(raw["Image"] for raw in self.containers.values()), *self.foreign_users]
        self.changes.append((operation, arguments))
        self.events.append(operation)
        return getattr(self, f"_{operation}")(arguments)

    def _find(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        wanted = arguments.get("id") or arguments["name"]
        for raw in self.containers.values():
            if wanted in (raw["Id"], raw["Name"].lstrip("/")):
                return raw
        raise StepError(f"no such container: {wanted}")

    def _free_name(self, name: str) -> None:
        if name in self.now():
            raise StepError(f"the name {name} is already in use")

    def _stop(self, arguments: Mapping[str, Any]) -> None:
        self._find(arguments)["State"]["Status"] = "exited"

    def _start(self, arguments: Mapping[str, Any]) -> None:
        self._find(arguments)["State"]["Status"] = "running"

    def _remove(self, arguments: Mapping[str, Any]) -> None:
        raw = self._find(arguments)
        if raw["State"]["Status"] == "running" and not arguments.get("force"):
            raise StepError("cannot remove a running container")
        del self.containers[raw["Id"]]

    def _rename(self, arguments: Mapping[str, Any]) -> None:
        self._free_name(arguments["to"])
        self._find(arguments)["Name"] = f"/{arguments['to']}"

    def _create(self, arguments: Mapping[str, Any]) -> str:
        name, body = arguments["name"], arguments["body"]
        self._free_name(name)
        raw = gpu.inspected(SPEC, SLOT, body["Labels"]["fleet.digest"], name=name, state="created")
        raw["Id"] = f"{len(self.changes):064x}"
        raw["Config"]["Labels"] = body["Labels"]
        raw["HostConfig"]["PortBindings"] = body["HostConfig"]["PortBindings"]
        self.containers[raw["Id"]] = raw
        return raw["Id"]

    def _pull(self, arguments: Mapping[str, Any]) -> None:
        pass

    def _tag(self, arguments: Mapping[str, Any]) -> None:
        pass

    def _remove_image(self, arguments: Mapping[str, Any]) -> None:
        assert not arguments.get("force")


class Wire:
    """A connection: answers looks and df, until it is lost or closed."""

    def __init__(self, world: World) -> None:
        self.name = "gpu-01"
        self.world = world
        self.lost = False
        self.closed = False

    def check(self) -> None:
        if self.lost or self.closed:
            raise UnreachableError("gpu-01: the connection was lost")

    def script(self, text: str, *, timeout: float) -> Result:
        self.check()
        if found := re.search(r"df -Pk (\S+)", text):
            self.world.folder_asked = found[1]
            line = f"/dev/sda1 200000000 100000000 {self.world.free} 50% /var\n"
            return Result(
                0, f"Filesystem 1024-blocks Used Available Capacity Mounted on\n{line}".encode(), b""
            )
        answers = {
            ENGINE_PROBE: gpu.engine(),
            CONTAINERS_PROBE: gpu.containers(*self.world.containers.values()),
            IMAGES_PROBE: gpu.framed({"/images/json": list(self.world.images.values())}),
        }
        out = b""
        for probe, answer in answers.items():
            _, asked, after = text.partition(f"{{ (\n{probe.script}\n)")
            if asked:
                trailer = re.search(r"@([0-9a-f]+) (\d+) %s", after)
                assert trailer
                out += answer.out + f"\n@{trailer[1]} {trailer[2]} 0\n".encode()
        return Result(0, out, b"")

    def close(self) -> None:
        self.closed = True


class Runner(HostRunner):
    """Its engine is the world's; a call breaks the connection where the world says so."""

    def __init__(self, wire: Wire) -> None:
        super().__init__(wire, Shared())
        self.wire = wire

    def ask(self, call: EngineCall, progress: Any = None) -> Any:
        assert call.operation in CALLS
        self.wire.check()
        world = self.wire.world
        how = world.breaks.pop(len(world.changes) + 1, "") if call.operation in _CHANGES else ""
        if how == "before":
            self.wire.lost = True
        self.wire.check()
        answer = world.ask(call.operation, call.arguments)
        if how == "after":
            self.wire.lost = True
        self.wire.check()
        return answer


@pytest.fixture
def world() -> World:
    made = World()
    made.image(I1, [V1], [f"{APP}@{D1}"])
    made.image(I2, [V2], [f"{APP}@{D2}"])
    return made


def place(world: World, host: GpuHost | None = None, *, to: str = GREEN, **more: Any) -> Any:
    image, digest = (V2, D2) if to == GREEN else (V1, D1)
    return (host or world.host()).place(
        SLOT, to, image, digest, lambda _: None, rollout="r1", **{"seen": world.seen(), **more}
    )


# The connection


def test_a_thread_whose_connection_failed_does_not_close_the_new_one_of_another(world):
    host = world.host()
    host.containers()
    old = world.connections[0]
    both = threading.Barrier(2)

    def fails(remote: Any, runner: Any) -> str:
        if remote is old:
            both.wait(timeout=30)
            if threading.current_thread().name == "late":
                fresh.wait(timeout=30)
            raise UnreachableError("gpu-01: the connection was lost")
        if threading.current_thread().name != "late":
            fresh.set()
            late.join(timeout=30)
        remote.check()
        return threading.current_thread().name

    fresh, answers = threading.Event(), []
    late = threading.Thread(target=lambda: answers.append(host._try(fails)), name="late")
    early = threading.Thread(target=lambda: answers.append(host._try(fails)), name="early")
    late.start()
    early.start()
    early.join(timeout=60)
    assert sorted(answers) == ["early", "late"]
    assert [wire.closed for wire in world.connections] == [True, False]


def test_a_look_is_repeated_on_a_new_connection(world):
    host = world.host()
    world.has()
    host.containers()
    world.connections[0].lost = True
    assert [each.name for each in host.containers()] == [MAIN]
    assert [wire.closed for wire in world.connections] == [True, False]


@pytest.mark.parametrize("how", ["before", "after"])
@pytest.mark.parametrize("step", [1, 2, 3, 4])
def test_wherever_the_connection_is_lost_placing_goes_on_from_what_is_there(world, step, how):
    world.has(D1)
    world.breaks = {step: how}
    found = place(world)
    assert world.now() == {f"{MAIN}.{BLUE[:8]}": "exited", MAIN: "running"}
    assert {each.name for each in found} == set(world.now())
    assert not world.breaks
    assert len(world.connections) == 2


@pytest.mark.parametrize("how", ["before", "after"])
@pytest.mark.parametrize("step", [1, 2, 3, 4])
def test_the_way_back_goes_on_too_where_green_is_removed(world, step, how):
    world.has(D1, name=f"{MAIN}.{BLUE[:8]}", state="exited", id_="b" * 64)
    world.has(D2, id_="c" * 64, image=I2)
    world.breaks = {step: how}
    place(world, to=BLUE, discard=GREEN)
    assert world.now() == {MAIN: "running"}
    assert list(world.containers) == ["b" * 64]


@pytest.mark.parametrize("how", ["before", "after"])
@pytest.mark.parametrize("step", [1, 2])
def test_green_beside_blue_is_made_once_where_the_connection_is_lost(world, step, how):
    world.has(D1)
    world.breaks = {step: how}
    host = world.host()
    found = host.beside(SLOT, GREEN, V2, D2, lambda _: None, rollout="r1")
    assert world.now() == {MAIN: "running", f"{MAIN}.{GREEN[:8]}": "running"}
    green = next(each for each in found if each.name != MAIN)
    assert [port.host_port for port in green.ports] == [7876]


def test_after_the_second_loss_a_third_one_is_told(world):
    world.has(D1)
    world.breaks = {1: "before", 2: "after"}
    place(world)
    assert world.now()[MAIN] == "running"
    again = World()
    again.image(I2, [V2], [f"{APP}@{D2}"])
    again.has(D1)
    again.breaks = {1: "after", 2: "after", 3: "after"}
    with pytest.raises(UnreachableError):
        place(again)
    assert len(again.done()) == 3


# Whose slot it is


class Fence:
    """A check that refuses from its `limit`-th call on, and notes when it is asked."""

    def __init__(self, world: World, limit: int = 1000) -> None:
        self.world, self.left = world, limit

    def __call__(self) -> None:
        self.world.events.append("allowed")
        self.left -= 1
        if self.left <= 0:
            raise LeaseError("the lease was lost")


def test_every_step_is_allowed_just_before_it(world):
    world.has(D1)
    place(world, allowed=Fence(world), starting=lambda: world.events.append("starting"))
    told = [event for event in world.events if event != "connect"]
    assert told == [
        *("allowed", "stop", "allowed", "rename", "allowed", "create"),
        *("starting", "allowed", "start"),
    ]


@pytest.mark.parametrize("limit", [1, 2, 3, 4])
def test_a_stale_holder_does_nothing_more(world, limit):
    world.has(D1)
    with pytest.raises(LeaseError):
        place(world, allowed=Fence(world, limit))
    assert len(world.done()) == limit - 1


def test_a_holder_that_went_stale_while_its_connection_was_lost_does_nothing_more(world):
    world.has(D1)
    world.breaks = {1: "after"}
    fence = Fence(world, 2)
    with pytest.raises(LeaseError):
        place(world, allowed=fence)
    assert [change for change, _ in world.done()] == ["stop"]
    assert world.events[-2:] == ["connect", "allowed"]


def test_a_connection_that_another_thread_closed_is_opened_before_the_holder_is_asked(world):
    world.has(D1)
    host, fence = world.host(), Fence(world)

    def asked() -> None:
        fence()
        assert not world.connections[-1].closed

    host.containers()
    host.close()
    place(world, host, allowed=asked)
    assert world.events[:3] == ["connect", "connect", "allowed"]


def test_beside_asks_as_well(world):
    world.has(D1)
    with pytest.raises(LeaseError):
        world.host().beside(SLOT, GREEN, V2, D2, lambda _: None, rollout="r1", allowed=Fence(world, 2))
    assert [change for change, _ in world.done()] == ["create"]


def test_a_name_that_went_to_another_container_meanwhile_is_not_what_is_stopped(world):
    mine = world.has(D1, id_="a" * 64)
    seen = world.seen()
    world.containers[mine]["Name"] = f"/{MAIN}.{BLUE[:8]}"
    world.has(D3, id_="d" * 64, image=I3)
    with pytest.raises(StepError):
        place(world, seen=seen)
    assert world.containers["d" * 64]["State"]["Status"] == "running"
    assert world.containers["d" * 64]["Name"] == f"/{MAIN}"


def test_a_release_that_nobody_describes_is_refused_with_words(world):
    world.has(D1)
    for do in (
        lambda: world.host().place(SLOT, "f" * 16, V2, D2, lambda _: None, rollout="r1", seen=world.seen()),
        lambda: world.host().beside(SLOT, "f" * 16, V2, D2, lambda _: None, rollout="r1"),
    ):
        with pytest.raises(TaskError, match="describes another one by now"):
            do()
    assert world.done() == []


# Old containers and images


def pruned(world: World, *digests: str, retain: int = 1, slots: Any = (SLOT,), **more: Any) -> list[str]:
    world.host().prune(slots, retain, [V2], digests, **more)
    return [arguments["reference"] for _, arguments in world.done("remove_image")]


def test_only_images_that_the_fleet_ran_go(world):
    world.has(D2, image=I2)
    world.image(I3, [f"{APP}:dev"], [f"{APP}@{D3}"])
    assert pruned(world, D1, D2) == [f"{APP}@{D1}", V1]


def test_without_digests_no_image_goes(world):
    world.has(D2, image=I2)
    assert pruned(world) == []


def test_the_image_of_a_container_that_goes_is_known_by_its_label(world):
    world.has(D2, image=I2)
    world.image(I3, [], [f"{APP}@{D3}"])
    world.has(D3, name=f"{MAIN}.dddddddd", state="exited", image=I3)
    assert pruned(world, retain=0) == [f"{APP}@{D3}"]


def test_an_image_of_somebodys_stopped_container_stays(world):
    world.has(D2, image=I2)
    world.foreign_users = [I1]
    assert pruned(world, D1, D2) == []


def test_only_the_given_slots_containers_go_and_by_their_ids(world):
    world.has(D2, image=I2)
    old = world.has(D1, name=f"{MAIN}.{BLUE[:8]}", state="exited", id_="b" * 64)
    assert pruned(world, D1, D2, slots=()) == []
    assert old in world.containers
    assert pruned(world, D1, D2, retain=0) == [f"{APP}@{D1}", V1]
    assert world.now() == {MAIN: "running"}
    assert [arguments["id"] for _, arguments in world.done("remove")] == [old]


def test_a_container_that_was_started_meanwhile_is_not_removed_by_force(world):
    old = world.has(D1, name=f"{MAIN}.{BLUE[:8]}", state="exited")

    def started() -> None:
        world.containers[old]["State"]["Status"] = "running"

    with pytest.raises(StepError, match="running"):
        pruned(world, D1, retain=0, allowed=started)
    assert old in world.containers


@pytest.mark.parametrize("step", [1, 2, 3])
def test_pruning_goes_on_where_the_connection_was_lost(world, step):
    world.has(D2, image=I2)
    world.has(D1, name=f"{MAIN}.{BLUE[:8]}", state="exited", id_="b" * 64)
    world.breaks = {step: "after"}
    assert set(pruned(world, D1, D2, retain=0)) == {f"{APP}@{D1}", V1}
    assert world.now() == {MAIN: "running"}


def test_a_stale_holder_prunes_nothing(world):
    world.has(D2, image=I2)
    with pytest.raises(LeaseError):
        pruned(world, D1, allowed=Fence(world, 1))
    assert world.done() == []


# The image


def pulled(world: World, image: str = V2, digest: str = D2) -> list[tuple[str, Mapping[str, Any]]]:
    world.host().pull(image, digest, lambda _: None)
    return world.done()


def test_bytes_that_are_there_get_their_name_by_digest(world):
    assert pulled(world) == [("tag", {"source": f"{APP}@{D2}", "reference": V2})]


def test_bytes_that_were_loaded_from_a_file_get_their_name_by_id(world):
    world.image(I3, [], [])
    assert pulled(world, V2, I3) == [("tag", {"source": I3, "reference": V2})]


@pytest.mark.parametrize(("digest", "image"), [(D2, f"{APP}@{D2}"), (I3, I3), (D3, f"{APP}@{D3}")])
def test_a_container_is_made_from_the_image_as_the_host_knows_it(world, digest, image):
    world.image(I3, ["another/name:v1"], [])
    release = release_of(SPEC, digest)
    host = world.host()
    host.place(SLOT, release, V2, digest, lambda _: None, rollout="r1", seen=())
    host.beside(SLOT, release, V2, digest, lambda _: None, rollout="r1")
    (create,) = world.done("create")
    body = create[1]["body"]
    assert body["Image"] == image
    wanted = create_body(replace(SPEC, image=V2), SLOT, digest)["Labels"]
    assert body["Labels"] == {**wanted, "fleet.rollout": "r1"}


def test_what_is_made_beside_knows_its_image_too(world):
    world.has(D1)
    world.image(I3, [], [])
    release = release_of(SPEC, I3)
    world.host().beside(SLOT, release, V2, I3, lambda _: None, rollout="r1")
    (create,) = world.done("create")
    assert create[1]["body"]["Image"] == I3


def test_an_image_is_not_pulled_where_one_of_its_size_has_no_room(world):
    world.images.clear()
    world.image(I1, [V1], [f"{APP}@{D1}"], 14_000_000_000)
    world.has(D1)
    world.free = 3_027_344
    with pytest.raises(TaskError, match=r"gpu-01: 3.1 GB are free in /var/lib/docker, .* 15.4 GB") as refused:
        pulled(world)
    assert "retain" in refused.value.remedy
    assert world.done() == []
    assert world.folder_asked == "/var/lib/docker"


def test_with_room_or_without_an_estimate_it_is_pulled(world):
    world.images.clear()
    world.image(I1, [V1], [f"{APP}@{D1}"], 14_000_000_000)
    world.free = 0
    assert [change for change, _ in pulled(world)] == ["pull"]
    world.has(D1)
    world.free = 20_000_000
    assert [change for change, _ in pulled(world)] == ["pull", "pull"]


# The engine's own words


class Api:
    """A Docker SDK client's `api` that notes what it is asked."""

    def __init__(self, fails: Exception | None = None) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.fails = fails
        self.api = self

    def containers(self, **how: Any) -> list[dict[str, Any]]:
        self.asked.append(("containers", how))
        return [{"Id": "1", "ImageID": I1}, {"Id": "2", "ImageID": I2}, {"Id": "3", "ImageID": I1}]

    def __getattr__(self, name: str) -> Callable[..., None]:
        def ask(*what: Any, **how: Any) -> None:
            self.asked.append((name, *what))
            if self.fails is not None:
                raise self.fails

        return ask


def ask(api: Api, operation: str, **arguments: Any) -> Any:
    return CALLS[operation](api, arguments, lambda *_: None, Shared())


def test_images_in_use_are_those_of_every_container():
    api = Api()
    assert ask(api, "images_in_use") == sorted({I1, I2})
    assert api.asked == [("containers", {"all": True})]


def test_a_container_is_asked_for_by_id_where_one_is_given_and_told_by_name():
    api = Api()
    for operation, more in (("start", {}), ("stop", {}), ("remove", {}), ("rename", {"to": "other"})):
        ask(api, operation, name=MAIN, id="abc", **more)
        ask(api, operation, name=MAIN, **more)
    assert [what for _, what, *_ in api.asked] == ["abc", MAIN] * 4
    from docker.errors import NotFound

    with pytest.raises(StepError, match=f"cannot start container {MAIN}"):
        ask(Api(NotFound("no such container")), "start", name=MAIN, id="abc")


def test_an_image_that_is_gone_already_counts_as_removed_and_nothing_else_does():
    from docker.errors import APIError, ImageNotFound

    gone, used = Api(ImageNotFound("No such image")), Api(APIError("conflict"))
    ask(gone, "remove_image", reference=V1)
    assert gone.asked == [("remove_image", V1)]
    with pytest.raises(StepError, match="cannot remove image"):
        ask(used, "remove_image", reference=V1)
