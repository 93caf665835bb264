"""What a slot's container may: the options reach the engine, show in the diff, and are looked at once it runs."""

from dataclasses import replace
from types import SimpleNamespace

import msgspec
import pytest
import yaml

from fleet.data import data_dir
from fleet.docker.answers import Engine, parse_image_user
from fleet.docker.probe import image_user_probe
from fleet.engine.run import RunOptions, prepare
from fleet.errors import TaskError
from fleet.gpu.container import ContainerSpec, create_body, release_of
from fleet.inventory import FLEET_VARIABLES, load
from fleet.model.facts import Answer, Facts
from fleet.modules._container_spec import container_spec
from fleet.modules.base import Context
from fleet.modules.gpu_containers import GpuContainers, GpuContainersArgs
from fleet.modules.registry import MODULES
from fleet.playbook.load import load_playbook
from fleet.rollout.hosts import GpuHost
from tests.unit import test_rollout_hosts as rollout
from tests.unit.gpu_world import DIGEST, HOST, IMAGE, engine, facts, framed, inspected, slot

MODULE = GpuContainers()
SPEC = ContainerSpec(IMAGE)
USER = image_user_probe(IMAGE).key
CONFINED = {
    "user": "1000:1000",
    "read_only": True,
    "tmpfs": ["/cache:exec,size=4g"],
    "cap_drop": ["all"],
    "cap_add": ["CAP_CHOWN", "net_raw"],
    "no_new_privileges": True,
    "pids_limit": 512,
    "memory": "24GiB",
    "shm_size": "1GiB",
}


def plan(wanted=None, *found, gpus=1, **answers):
    args = msgspec.convert({"image": IMAGE, "settle": 0, **(wanted or {})}, GpuContainersArgs)
    return list(MODULE.plan(args, facts(*found, gpus=gpus, **answers), Context(HOST)))


def made(changes):
    """What the engine is told to create."""
    (body,) = [s.arguments["body"] for c in changes for s in c.steps if s.operation == "create"]
    return body


def as_made(wanted, **differs):
    """The container of these arguments as the engine would show it, but for `differs` in its HostConfig."""
    body = made(plan(wanted))
    raw = inspected(SPEC, slot(0))
    raw["Config"] |= {"Labels": body["Labels"], "User": body.get("User", "")}
    raw["HostConfig"] |= body["HostConfig"] | differs
    return raw


def test_the_engine_is_told_every_limit():
    body = made(plan(CONFINED))
    assert body["User"] == "1000:1000"
    host = body["HostConfig"]
    assert host["ReadonlyRootfs"] is True
    assert host["Tmpfs"] == {"/cache": "exec,size=4g", "/tmp": ""}
    assert (host["CapDrop"], host["CapAdd"]) == (["ALL"], ["CHOWN", "NET_RAW"])
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert (host["PidsLimit"], host["ShmSize"]) == (512, 2**30)
    # Without a word on swap the engine would allow as much of it again.
    assert host["Memory"] == host["MemorySwap"] == 24 * 2**30


def test_without_a_word_nothing_is_limited_and_the_release_is_what_it_always_was():
    limits = {
        "CapDrop",
        "CapAdd",
        "SecurityOpt",
        "PidsLimit",
        "Memory",
        "MemorySwap",
        "Tmpfs",
        "ReadonlyRootfs",
    }
    assert not limits & create_body(SPEC, slot(0), DIGEST)["HostConfig"].keys()
    # These are in the labels of containers that run: another hash would replace every one of them.
    assert release_of(SPEC, DIGEST) == "df68fddee9471ffd"
    older = replace(SPEC, read_only=True, tmpfs=("/tmp",), user="1000")
    assert release_of(older, DIGEST) == "d93945c72eac3df8"


def test_a_read_only_container_from_before_that_has_no_tmp_is_not_replaced():
    old = inspected(replace(SPEC, read_only=True), slot(0))
    del old["HostConfig"]["Tmpfs"]
    assert plan({"read_only": True}, old) == []


@pytest.mark.parametrize(
    ("more", "folders"),
    [
        ({}, {"/tmp": ""}),
        ({"tmpfs": ["/tmp:size=1g"]}, {"/tmp": "size=1g"}),
        ({"tmpfs": ["/tmp/"]}, {"/tmp/": ""}),
        ({"volumes": ["scratch:/tmp"]}, None),
        ({"read_only": False}, None),
    ],
)
def test_a_read_only_container_has_a_tmp_of_some_kind(more, folders):
    assert made(plan({"read_only": True, **more}))["HostConfig"].get("Tmpfs") == folders


def test_a_second_run_changes_nothing_and_the_way_names_are_written_means_nothing():
    right = as_made(CONFINED)
    assert plan(CONFINED, right) == []
    otherwise = CONFINED | {"cap_drop": ["CAP_ALL"], "cap_add": ["NET_RAW", "chown", "CHOWN"]}
    assert plan(otherwise, right) == []
    # Engines differ in how they show what they were given.
    shown = {
        "CapDrop": ["CAP_ALL"],
        "CapAdd": ["CAP_NET_RAW", "CAP_CHOWN"],
        "SecurityOpt": ["no-new-privileges"],
    }
    assert plan(CONFINED, as_made(CONFINED, **shown)) == []


@pytest.mark.parametrize(
    ("option", "shown"),
    [
        ({"user": "1000:1000"}, "user         (none) -> 1000:1000"),
        ({"user": 1000}, "user         (none) -> 1000"),
        ({"read_only": True}, "read_only    false -> true"),
        ({"tmpfs": ["/cache:size=1g"]}, "tmpfs        (none) -> /cache:size=1g"),
        ({"cap_drop": ["ALL"]}, "cap_drop     (none) -> ALL"),
        ({"cap_add": ["CHOWN"]}, "cap_add      (none) -> CHOWN"),
        ({"no_new_privileges": True}, "no_new_privileges (none) -> true"),
        ({"pids_limit": 512}, "pids_limit   (none) -> 512"),
        ({"memory": "1GiB"}, f"memory       (none) -> {2**30}"),
    ],
)
def test_a_changed_limit_replaces_the_container_and_is_shown(option, shown):
    (change,) = plan(option, inspected(SPEC, slot(0)))
    assert change.summary.startswith("replace fleet-gpu-01-0: other ")
    assert next(iter(option)) in change.summary
    assert f"  {shown}" in change.diff.splitlines()
    # And back: what was limited is shown where it is no more.
    (back,) = plan({}, as_made(option))
    if "user" not in option:
        before, _, after = shown.split(None, 1)[1].partition(" -> ")
        assert f"{after} -> {before}" in back.diff


@pytest.mark.parametrize(
    ("differs", "said"),
    [
        ({"PidsLimit": None}, "pids_limit: 512, it has (none)"),
        ({"PidsLimit": 9000}, "pids_limit: 512, it has 9000"),
        ({"Memory": 0}, f"memory: {24 * 2**30}, it has (none)"),
        ({"ReadonlyRootfs": False}, "read_only: true, it has false"),
        ({"CapDrop": []}, "cap_drop: ALL, it has (none)"),
        ({"SecurityOpt": None}, "no_new_privileges: true, it has (none)"),
    ],
)
def test_a_limit_the_engine_left_out_is_told_and_the_container_is_not_stopped(differs, said):
    with pytest.raises(TaskError) as error:
        plan(CONFINED, as_made(CONFINED, **differs))
    assert f"fleet-gpu-01-0 runs without what was asked for it ({said})" in error.value.message
    assert "`docker rm -f fleet-gpu-01-0` there has the next run make it anew" in error.value.remedy


def of_user(user):
    """The engine's answer about an image whose own user this is."""
    return framed({f"/images/{IMAGE}/json": {"Id": "sha256:1", "Config": {"User": user}}})


def non_root(image_user, **more):
    answer = (
        of_user(image_user)
        if image_user is not None
        else Answer(0, b"\nfleet 404 0 http://d/images/x/json\n")
    )
    seen = Facts({**facts(gpus=1), USER: answer})
    args = msgspec.convert({"image": IMAGE, "settle": 0, "non_root": True, **more}, GpuContainersArgs)
    assert USER in {probe.key for probe in MODULE.probes(args, Context(HOST))}
    return list(MODULE.plan(args, seen, Context(HOST)))


@pytest.mark.parametrize("user", ["1000", "1000:0", "app", "app:app", "00010"])
def test_an_image_with_a_user_of_its_own_keeps_it(user):
    (change,) = non_root(user)
    assert "User" not in made([change])


@pytest.mark.parametrize(
    ("user", "said"),
    [
        ("", "runs as root: it names no user"),
        ("root", "runs as root"),
        ("0:1000", "runs as 0:1000"),
        ("00", "runs as 00"),
        (None, "nobody can tell which user"),
    ],
)
def test_an_image_that_would_run_as_root_is_refused_where_that_is_asked(user, said):
    with pytest.raises(TaskError) as error:
        non_root(user)
    assert said in error.value.message
    assert "non_root refuses root" in error.value.message
    assert "`user`" in error.value.remedy
    assert len(non_root(user, user="1000:1000")) == 1


def test_asking_for_no_root_replaces_no_container():
    assert release_of(replace(SPEC, non_root=True), DIGEST) == release_of(SPEC, DIGEST)


def test_the_user_of_an_image_is_asked_by_any_of_its_names():
    for reference in (IMAGE, f"app@{DIGEST}", DIGEST):
        assert f"/images/{reference}/json" in image_user_probe(reference).script
    assert parse_image_user(of_user("app")) == "app"
    assert parse_image_user(framed({"/images/x/json": {"Id": "sha256:1"}})) == ""
    assert parse_image_user(Answer(7)) is None


@pytest.mark.parametrize(("name", "value"), [("pids_limit", 512), ("memory", "24GiB")])
def test_a_limit_without_means_in_the_hosts_kernel_is_told_before_anything_is_replaced(name, value):
    kernel = {"PidsLimit": False, "MemoryLimit": False}
    lacking = {"docker_engine": engine(**kernel)}
    with pytest.raises(TaskError, match=f"{name} cannot be limited on gpu-01") as error:
        plan({name: value}, inspected(SPEC, slot(0)), **lacking)
    assert f"leave {name} out" in error.value.remedy
    assert len(plan({}, **lacking)) == 1


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"user": "a b"}, "user is 'a b'"),
        ({"user": "1000:"}, "user is '1000:'"),
        ({"user": "-1"}, "user is '-1'"),
        ({"user": "4294967296"}, "user is '4294967296'"),
        ({"user": "0:0", "non_root": True}, "user '0:0' is root"),
        ({"user": 0, "non_root": True}, "user '0' is root"),
        ({"cap_drop": ["NET RAW"]}, "cap_drop has 'NET RAW'"),
        ({"cap_add": [""]}, "cap_add has ''"),
        (
            {"cap_drop": ["NET"]},
            "cap_drop has 'NET', which is no capability of Linux; did you mean .*NET_RAW",
        ),
        ({"memory": "1KiB"}, "memory is 1 kB; Docker takes no limit under 6MiB"),
        ({"pids_limit": 0}, "pids_limit is 0"),
        ({"memory": "much"}, "memory: 'much'"),
        ({"tmpfs": ["cache"]}, "tmpfs 'cache'"),
        ({"tmpfs": ["/"]}, "tmpfs '/'"),
        ({"tmpfs": ["/a/../etc"]}, "tmpfs '/a/../etc'"),
        ({"tmpfs": ["/a", "/a/:size=1g"]}, "tmpfs names /a twice"),
    ],
)
def test_what_no_engine_takes_is_refused_by_its_name(wrong, said):
    with pytest.raises(msgspec.ValidationError, match=said):
        msgspec.convert({"image": IMAGE, **wrong}, GpuContainersArgs)


class Upgraded(GpuHost):
    """A host in a rollout whose playbook limits its containers; the engine of its world knows no limits."""

    def __init__(self, world, spec, image_user=""):
        super().__init__(
            SimpleNamespace(host=HOST, spec=lambda engine: spec, auth=lambda: None, probes=tuple), world.open
        )
        self.image_user = image_user

    def look(self, probes=()):
        if not any(probe.key.startswith("docker.user:") for probe in probes):
            return super().look(probes)
        return Facts({probe.key: of_user(self.image_user) for probe in probes})


@pytest.fixture
def world():
    found = rollout.World()
    found.image(rollout.I1, [rollout.V1], [f"{rollout.APP}@{rollout.D1}"])
    found.image(rollout.I2, [rollout.V2], [f"{rollout.APP}@{rollout.D2}"])
    return found


def test_an_upgrade_stops_at_a_container_that_the_engine_did_not_limit(world):
    spec = replace(rollout.SPEC, pids_limit=512)
    for put in ("place", "beside"):
        host = Upgraded(world, spec)
        more = {"seen": world.seen()} if put == "place" else {}
        with pytest.raises(TaskError, match=r"pids_limit: 512, it has \(none\)"):
            getattr(host, put)(
                rollout.SLOT,
                release_of(spec, rollout.D2),
                rollout.V2,
                rollout.D2,
                lambda _: None,
                rollout="r1",
                **more,
            )
        world.containers.clear()


def test_the_way_back_is_not_held_up_by_a_limit(world):
    spec = replace(rollout.SPEC, pids_limit=512)
    blue = release_of(spec, rollout.D1)
    kept = world.has(rollout.D1, state="exited")
    world.containers[kept]["Config"]["Labels"]["fleet.release"] = blue
    host = Upgraded(world, spec)
    host.place(rollout.SLOT, blue, rollout.V1, rollout.D1, lambda _: None, rollout="r1", seen=world.seen())
    assert world.now() == {rollout.MAIN: "running"}


def test_an_upgrade_to_an_image_that_runs_as_root_is_refused_before_any_slot_is_touched(world):
    spec = replace(rollout.SPEC, non_root=True)
    with pytest.raises(TaskError, match="runs as root: it names no user, and non_root refuses root"):
        Upgraded(world, spec).pull(rollout.V2, rollout.D2, lambda _: None)
    Upgraded(world, spec, "app").pull(rollout.V2, rollout.D2, lambda _: None)
    Upgraded(world, rollout.SPEC).pull(rollout.V2, rollout.D2, lambda _: None)


def bound(tmp_path, variables):
    """The arguments of the shipped playbook's container and firewall tasks on a host with these variables."""
    file = tmp_path / "hosts.yml"
    host = {"ansible_host": "10.0.0.1", "image": IMAGE, **variables}
    groups = {"gpu": {"hosts": {"gpu-01": host}}, "balancer": {"hosts": {"lb-01": {}}}}
    file.write_text(yaml.safe_dump({"all": {"children": groups}}))
    book = load_playbook(data_dir("playbooks") / "provision.yml", MODULES)
    first, *_ = prepare(book, load(file), RunOptions())
    return {task.task.module: task.args for task in first.tasks["gpu-01"]}


def test_the_shipped_playbook_hands_every_setting_on(tmp_path):
    found = bound(
        tmp_path, {"slot_safety": {**CONFINED, "user": 1000, "non_root": True}, "slot_firewall": True}
    )
    made = found["gpu_containers"]
    for name, value in CONFINED.items():
        given = getattr(made, name)
        assert (list(given) if isinstance(value, list) else given) == (1000 if name == "user" else value)
    assert made.non_root
    assert found["slot_firewall"].state == "present"


def test_the_shipped_playbook_without_a_word_changes_nothing(tmp_path):
    found = bound(tmp_path, {})
    plain = GpuContainersArgs(image=IMAGE, memory_min="12GiB")
    there, ctx = Engine("28.2", "1.50", cdi=True), Context(HOST)
    assert container_spec(found["gpu_containers"], there, ctx) == container_spec(plain, there, ctx)
    assert found["slot_firewall"].state == "absent"
    assert set(FLEET_VARIABLES["slot_safety"].members) == {*CONFINED, "non_root"}
