from dataclasses import replace

import msgspec
import pytest

from fleet.docker.answers import Port
from fleet.docker.staying import answers, stays_up
from fleet.errors import TaskError
from fleet.gpu.container import ContainerSpec, create_body, release_of
from fleet.model.facts import Answer
from fleet.model.steps import EngineCall, Run
from fleet.modules.base import Context
from fleet.modules.gpu_containers import GpuContainers, GpuContainersArgs
from tests.unit import gpu_world as world
from tests.unit.gpu_world import DIGEST, HOST, IMAGE, containers, facts, foreign, inspected, slot

MODULE = GpuContainers()
ARGS = GpuContainersArgs(image=IMAGE)
SPEC = ContainerSpec(IMAGE)
CTX = Context(HOST)
SETTLE = Run(("sleep", "3"), timeout=33.0)
OTHER = "sha256:" + "2" * 64


def plan(args=ARGS, seen=None):
    return list(MODULE.plan(args, seen or facts(), CTX))


def both(**changed):
    """The right containers on both GPUs; `changed` tells how the first differs."""
    return inspected(SPEC, slot(0), **changed), inspected(SPEC, slot(1))


def on(operation, name, **more):
    """A step for the container that `inspected` makes under this name."""
    return EngineCall(operation, {"name": name, "id": world.id_of(name), **more})


def stop(name, timeout=120):
    return on("stop", name, timeout=timeout)


def remove(name, **more):
    return on("remove", name, **more)


def create(index, spec=SPEC, place=None, digest=DIGEST):
    place = place or slot(index)
    body = create_body(spec, place, digest)
    return EngineCall("create", {"name": f"fleet-gpu-01-{index}", "body": body})


def replaced(index, *, old=None, digest=DIGEST, holds=True, settle=3, ready=600):
    """The steps by which a slot's container gives way to another one, which is made before that; and the end."""
    name = f"fleet-gpu-01-{index}"
    new, old = f"{name}.next", old or name
    create = EngineCall("create", {"name": new, "body": create_body(SPEC, slot(index), digest)})
    end = replace(stop(old), undo=on("start", old))
    begin = EngineCall("start", {"name": new}, undo=EngineCall("remove", {"name": new, "force": True}))
    wait = [stays_up(new, settle)] if settle else []
    if ready:
        wait.append(answers(new, Port(7860 + index, "7860/tcp", "0.0.0.0"), ready))
    named = EngineCall("rename", {"name": new, "to": name})
    order = (create, end) if holds else (end, create)
    return (*order, begin, *wait), (remove(old, force=True), named)


def finished(index, *, proof=()):
    """The end of a replacement where the new one runs already: what is undone where the proof fails, and the rest."""
    name = f"fleet-gpu-01-{index}"
    begin = replace(on("start", f"{name}.next"), undo=remove(f"{name}.next", force=True))
    end = replace(stop(name), undo=on("start", name))
    return (end, begin, *proof), (remove(name, force=True), on("rename", f"{name}.next", to=name))


def steps_of(change):
    return change.steps, change.then


def start(index):
    return EngineCall("start", {"name": f"fleet-gpu-01-{index}"})


def test_each_gpu_gets_its_container():
    first, second = plan()
    assert first.summary == f"start fleet-gpu-01-0 on GPU 0 (Tesla T4): {IMAGE}"
    assert first.steps == (create(0), start(0))
    assert second.steps == (create(1), start(1), SETTLE)


def test_the_engine_is_told_everything():
    args = GpuContainersArgs(
        image=IMAGE,
        container_port=8080,
        bind="10.0.0.1",
        command=("serve", "--fast"),
        env={"B": "2", "A": 1},
        volumes=("/srv/models:/models:ro",),
        tmpfs=("/tmp",),
        restart="always",
        init=False,
        stop_timeout=60,
        shm_size="1GiB",
        log_max_size="10m",
        log_max_file=5,
        user="1000",
        read_only=True,
        network="translators",
        settle=0,
    )
    (change,) = plan(args, facts(gpus=1))
    call, _ = change.steps
    spec = ContainerSpec(
        IMAGE,
        8080,
        "10.0.0.1",
        ("serve", "--fast"),
        {"A": "1", "B": "2"},
        ("/srv/models:/models:ro",),
        ("/tmp",),
        "always",
        False,
        60,
        2**30,
        "10m",
        5,
        "1000",
        True,
        "translators",
    )
    assert call.arguments["name"] == "fleet-gpu-01-0"
    assert call.arguments["body"] == {
        "Image": IMAGE,
        "Cmd": ["serve", "--fast"],
        "Env": ["A=1", "B=2"],
        "User": "1000",
        "StopTimeout": 60,
        "ExposedPorts": {"8080/tcp": {}},
        "Labels": {
            "fleet.slot": "gpu-01-0",
            "fleet.release": release_of(spec, DIGEST),
            "fleet.image": IMAGE,
            "fleet.digest": DIGEST,
            "fleet.gpu": world.uuid(0),
            "fleet.env": "A,B",
        },
        "HostConfig": {
            "PortBindings": {"8080/tcp": [{"HostIp": "10.0.0.1", "HostPort": "7860"}]},
            "DeviceRequests": [{"Driver": "cdi", "DeviceIDs": [f"nvidia.com/gpu={world.uuid(0)}"]}],
            "RestartPolicy": {"Name": "always"},
            "Init": False,
            "LogConfig": {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "5"}},
            "NetworkMode": "translators",
            "Binds": ["/srv/models:/models:ro"],
            "Tmpfs": {"/tmp": ""},
            "ShmSize": 2**30,
            "ReadonlyRootfs": True,
        },
    }


def test_a_second_run_changes_nothing():
    assert plan(seen=facts(*both())) == []


def test_order_and_defaults_have_no_meaning():
    spec = replace(SPEC, env={"A": "1", "B": "2"}, volumes=("/a:/a", "/b:/b"))
    args = GpuContainersArgs(
        image=IMAGE,
        env={"B": 2, "A": "1"},
        volumes=("/b:/b", "/a:/a"),
        stop_timeout=120,
        restart="unless-stopped",
    )
    assert plan(args, facts(inspected(spec, slot(0)), gpus=1)) == []


def test_the_hash_is_stable():
    # Another value would replace every container of every fleet at the next upgrade of this program.
    assert release_of(SPEC, DIGEST) == "df68fddee9471ffd"
    assert release_of(replace(SPEC, image="mirror.example/same:v1"), DIGEST) == release_of(SPEC, DIGEST)
    assert release_of(replace(SPEC, command=("b", "a")), DIGEST) != release_of(
        replace(SPEC, command=("a", "b")), DIGEST
    )


def test_a_missing_one_is_started_alone():
    (change,) = plan(seen=facts(both()[1]))
    assert change.steps == (create(0), start(0), SETTLE)


def test_a_moved_tag_replaces_one_after_the_other():
    seen = facts(*both(), docker_images=world.images(digests=[OTHER]))
    first, second = plan(seen=seen)
    name = "fleet-gpu-01-0"
    assert first.summary == f"replace {name}: other digest"
    assert first.diff == f"{name}\n  digest       {DIGEST} -> {OTHER}"
    # A bad image costs one slot: the second is not touched until the first has proved itself.
    assert steps_of(first) == replaced(0, digest=OTHER)
    assert steps_of(second) == replaced(1, digest=OTHER)


def test_what_an_upgrade_started_is_not_replaced_by_another_image_without_draining():
    green = inspected(SPEC, slot(0))
    green["Config"]["Labels"]["fleet.rollout"] = "20261125-081500-3f2a"
    assert plan(seen=facts(green, gpus=1)) == []
    with pytest.raises(TaskError) as error:
        plan(seen=facts(green, gpus=1, docker_images=world.images(digests=[OTHER])))
    assert "gpu-01-0 runs" in error.value.message
    assert "since the rollout 20261125-081500-3f2a" in error.value.message
    assert f"fleet upgrade {IMAGE}" in error.value.remedy
    # Other settings of the same bytes are drift, and one that does not run serves nobody.
    other = inspected(replace(SPEC, user="7"), slot(0))
    other["Config"]["Labels"]["fleet.rollout"] = "20261125-081500-3f2a"
    assert len(plan(seen=facts(other, gpus=1))) == 1


def test_an_image_with_another_name_for_the_same_bytes_replaces_nothing():
    index = "sha256:" + "0" * 64
    assert plan(seen=facts(*both(), docker_images=world.images(digests=[index, DIGEST]))) == []


def test_an_image_loaded_from_a_file_is_known_by_its_id():
    seen = facts(docker_images=world.images(digests=()), gpus=1)
    (change,) = plan(seen=seen)
    assert change.steps[0] == create(0, digest=world.IMAGE_ID)
    # Pulled later, it has a digest as well: still the same bytes.
    same = inspected(SPEC, slot(0), digest=world.IMAGE_ID)
    assert plan(seen=facts(same, gpus=1)) == []


def test_the_difference_is_shown_without_secrets():
    old = replace(SPEC, env={"HF_TOKEN": "hf_old", "LANGS": "de,fr", "GONE": "1"})
    args = GpuContainersArgs(image=IMAGE, env={"HF_TOKEN": "hf_new", "LANGS": "de", "API_KEY": "k"}, settle=0)
    (change,) = plan(args, facts(inspected(old, slot(0)), gpus=1))
    assert change.summary == "replace fleet-gpu-01-0: other env.API_KEY, env.HF_TOKEN, env.LANGS, env.GONE"
    assert change.diff.splitlines()[1:] == [
        "  env.API_KEY  (none) -> (hidden)",
        "  env.HF_TOKEN (hidden) -> (hidden)",
        "  env.LANGS    de,fr -> de",
        "  env.GONE     1 -> (none)",
    ]


def test_a_new_container_shows_no_secrets_either():
    args = GpuContainersArgs(image=IMAGE, env={"DB_PASSWORD": "hunter2", "LANGS": "de"})
    (change,) = plan(args, facts(gpus=1))
    assert "hunter2" not in change.diff
    assert "  env.LANGS    de" in change.diff.splitlines()


def test_a_setting_taken_back_is_a_difference():
    old = replace(SPEC, shm_size=2**30)
    (change,) = plan(seen=facts(inspected(old, slot(0)), gpus=1))
    assert change.summary == "replace fleet-gpu-01-0: other settings"
    assert release_of(old, DIGEST) in change.diff


def test_another_gpu_or_port_is_seen_behind_right_labels():
    wrong = inspected(SPEC, slot(0))
    wrong["HostConfig"]["DeviceRequests"][0]["DeviceIDs"] = ["nvidia.com/gpu=all"]
    (change,) = plan(seen=facts(wrong, gpus=1))
    assert change.summary == "replace fleet-gpu-01-0: other gpu"
    moved = inspected(SPEC, slot(0, port=9000))
    (change,) = plan(seen=facts(moved, gpus=1))
    assert change.diff.splitlines()[1:] == ["  port         9000:7860/tcp -> 7860:7860/tcp"]


def test_a_stopped_one_is_started():
    seen = facts(*both(state="exited", exit_code=137, finished="2026-03-01T11:59:59Z"))
    (change,) = plan(seen=seen)
    assert change.summary == "start fleet-gpu-01-0: it had ended with exit code 137"
    assert change.steps == (on("start", "fleet-gpu-01-0"), SETTLE)


NO_CDI = 'could not select device driver "cdi" with capabilities: []'


@pytest.mark.parametrize("code", [255, 143, 128])
def test_one_that_the_engine_lost_is_started_at_once(code):
    seen = facts(*both(state="exited", exit_code=code, finished="2026-03-01T11:59:59Z", error=NO_CDI))
    (change,) = plan(seen=seen)
    assert change.summary == f"start fleet-gpu-01-0: Docker could not give it its GPU ({NO_CDI})"
    assert change.steps == (on("start", "fleet-gpu-01-0"), SETTLE)


def test_one_that_ended_while_the_engine_was_away_is_started_at_once():
    seen = facts(*both(state="exited", exit_code=255, finished="2026-03-01T11:59:59Z"))
    (change,) = plan(seen=seen)
    assert change.summary == "start fleet-gpu-01-0: it had ended with exit code 255"


def test_one_that_was_never_started_is_started():
    (change,) = plan(seen=facts(*both(state="created")))
    assert change.steps == (on("start", "fleet-gpu-01-0"), SETTLE)


def test_a_stopped_wrong_one_is_removed_without_a_stop():
    old = inspected(replace(SPEC, user="7"), slot(0), state="exited")
    (change,) = plan(seen=facts(old, gpus=1))
    assert steps_of(change) == replaced(0, holds=False)


@pytest.mark.parametrize("state", ["created", "exited"])
def test_what_an_interrupted_replacement_left_is_removed(state):
    left = inspected(replace(SPEC, user="7"), slot(0), name="fleet-gpu-01-0.next", state=state)
    old = inspected(replace(SPEC, user="8"), slot(0))
    first, second = plan(seen=facts(old, left, gpus=1))
    assert first.summary == "remove fleet-gpu-01-0.next: a run that was to replace fleet-gpu-01-0 ended early"
    assert first.steps == (remove("fleet-gpu-01-0.next"),)
    assert steps_of(second) == replaced(0)
    # Where the settings were taken back there is nothing but the leftover.
    (change,) = plan(seen=facts(inspected(SPEC, slot(0)), left, gpus=1))
    assert change.steps == first.steps


def test_a_replacement_that_was_interrupted_at_its_end_is_finished_once_it_stayed_up():
    new = inspected(SPEC, slot(0), name="fleet-gpu-01-0.next")
    old = inspected(replace(SPEC, user="7"), slot(0), state="exited")
    (change,) = plan(seen=facts(new, old, gpus=1))
    assert change.summary == "rename fleet-gpu-01-0.next to fleet-gpu-01-0, which it replaces"
    steps, then = finished(0, proof=replaced(0)[0][3:])
    assert steps_of(change) == (steps, then)
    # Without another one that could come back there is nothing to wait for, nor where it answers already.
    (change,) = plan(seen=facts(new, gpus=1))
    assert steps_of(change) == (then[1:], ())
    (change,) = plan(seen=facts(new, old, gpus=1, slots_heard=Answer(0, b"answers 7860\n")))
    assert (steps_of(change), change.throttle) == ((then, ()), None)


def test_one_that_runs_under_the_next_name_has_its_own_before_it_is_replaced_itself():
    new = inspected(replace(SPEC, user="7"), slot(0), name="fleet-gpu-01-0.next")
    first, second = plan(seen=facts(new, gpus=1))
    assert first.steps == finished(0)[1][1:]
    # By then it has its own name.
    steps, then = replaced(0)
    own = {"name": "fleet-gpu-01-0", "id": world.id_of("fleet-gpu-01-0.next")}
    end = EngineCall("stop", {**own, "timeout": 120}, undo=EngineCall("start", own))
    assert second.steps == (steps[0], end, *steps[2:])
    assert second.then == (EngineCall("remove", {**own, "force": True}), then[1])


def test_without_a_settle_time_a_replacement_is_not_waited_for():
    old = inspected(replace(SPEC, user="7"), slot(0))
    for times in ({"settle": 0}, {"ready": 0}, {"settle": 0, "ready": 0}):
        (change,) = plan(replace_args(**times), seen=facts(old, gpus=1))
        assert steps_of(change) == replaced(0, **times)


def most(change):
    """So many hosts may be in it at once; None where it is not throttled."""
    return change.throttle and change.throttle.most


def test_containers_that_answer_are_replaced_a_host_at_a_time_and_others_at_once():
    old = [inspected(replace(SPEC, user="7"), slot(index)) for index in (0, 1)]
    seen = facts(*old, slots_heard=Answer(0, b"silent 7860\nanswers 7861\n"))
    assert [most(change) for change in plan(seen=seen)] == [0, 1]
    assert [most(change) for change in plan(replace_args(throttle=4), seen=seen)] == [0, 4]
    assert [most(change) for change in plan(replace_args(ready=0), seen=seen)] == [None, None]
    assert [most(change) for change in plan(replace_args(throttle=0), seen=seen)] == [0, 1_000_000]
    # One that was started a minute ago may be loading its model.
    loading = inspected(replace(SPEC, user="7"), slot(0), started="2026-03-01T11:59:00Z")
    silent = facts(loading, gpus=1, slots_heard=Answer(0, b"silent 7860\n"))
    assert [most(change) for change in plan(seen=silent)] == [1]
    assert [most(change) for change in plan(replace_args(ready=30), seen=silent)] == [0]
    # Of one that was not asked, or was late, nobody knows.
    assert [most(change) for change in plan(seen=facts(*old))] == [1, 1]
    # Another program on the port of one that does not run serves nobody's jobs.
    stopped = inspected(replace(SPEC, user="7"), slot(0), state="exited")
    (change,) = plan(seen=facts(stopped, gpus=1, slots_heard=Answer(0, b"answers 7860\n")))
    assert most(change) == 0
    # A new slot takes nothing from anybody.
    assert [most(change) for change in plan()] == [None, None]


def test_one_under_the_next_name_that_does_not_answer_gives_way_to_what_is_wanted_now():
    left = inspected(replace(SPEC, user="7"), slot(0), name="fleet-gpu-01-0.next")
    old = inspected(replace(SPEC, user="8"), slot(0), state="exited")
    silent = Answer(0, b"silent 7860\n")
    first, second = plan(seen=facts(left, old, gpus=1, slots_heard=silent))
    assert first.summary == "remove fleet-gpu-01-0.next: a run that was to replace fleet-gpu-01-0 ended early"
    assert steps_of(second) == replaced(0, holds=False)
    for said in (b"answers 7860\n", b""):
        first, second = plan(seen=facts(left, old, gpus=1, slots_heard=Answer(0, said)))
        assert first.summary == "rename fleet-gpu-01-0.next to fleet-gpu-01-0, which it replaces"
        assert most(first) == (None if said else 1)
    # While the right one loads its model it is waited for.
    right = inspected(SPEC, slot(0), name="fleet-gpu-01-0.next")
    (change,) = plan(seen=facts(right, old, gpus=1, slots_heard=silent))
    assert steps_of(change) == finished(0, proof=replaced(0)[0][3:])


def replace_args(**changed):
    return GpuContainersArgs(image=IMAGE, **changed)


@pytest.mark.parametrize(
    "how",
    [
        {"state": "restarting", "exit_code": 3, "restarts": 4},
        {"state": "exited", "exit_code": 3, "finished": "2026-03-01T11:59:58Z"},
        {"state": "exited", "exit_code": 137, "oom": True, "finished": "2026-03-01T11:59:58Z"},
        {"state": "running", "restarts": 2, "started": "2026-03-01T11:59:59.5Z"},
        {
            "state": "exited",
            "exit_code": 127,
            "finished": "2026-03-01T11:59:58Z",
            "error": 'exec: "serve": executable file not found in $PATH',
        },
        {
            "state": "exited",
            "exit_code": 255,
            "started": "2026-03-01T11:59:50Z",
            "finished": "2026-03-01T11:59:58Z",
        },
    ],
)
def test_one_that_does_not_stay_up_fails_with_its_log(how):
    broken = inspected(SPEC, slot(0), **how)
    log = world.log_frames("loading", "CUDA out of memory")
    seen = facts(gpus=1, docker_containers=containers(broken, logs={"fleet-gpu-01-0": log}))
    with pytest.raises(TaskError, match="fleet-gpu-01-0") as caught:
        plan(seen=seen)
    assert caught.value.output == "loading\nCUDA out of memory\n"
    assert "docker logs fleet-gpu-01-0" in caught.value.remedy


def test_one_that_was_restarted_once_is_back():
    killed = inspected(SPEC, slot(0), state="running", restarts=1, started="2026-03-01T11:59:59.5Z")
    assert plan(seen=facts(killed, gpus=1)) == []


def test_a_broken_one_is_replaced_by_another_image():
    broken = inspected(replace(SPEC, user="7"), slot(0), state="restarting", exit_code=1)
    (change,) = plan(seen=facts(broken, gpus=1))
    assert steps_of(change) == replaced(0)


def test_one_that_ended_long_ago_gets_another_chance():
    old = inspected(SPEC, slot(0), state="exited", exit_code=3, finished="2026-03-01T10:00:00Z")
    (change,) = plan(seen=facts(old, gpus=1))
    assert change.steps == (on("start", "fleet-gpu-01-0"), SETTLE)


def test_a_paused_one_is_left_to_who_paused_it():
    with pytest.raises(TaskError, match="paused"):
        plan(seen=facts(*both(state="paused")))


def test_what_runs_for_a_gpu_that_is_gone_is_removed():
    (change,) = plan(seen=facts(*both(), gpus=1))
    assert change.summary == "remove fleet-gpu-01-1: no GPU is slot gpu-01-1"
    assert change.steps == (stop("fleet-gpu-01-1"), remove("fleet-gpu-01-1"))


def test_a_second_container_on_a_gpu_is_removed():
    second = inspected(replace(SPEC, user="7"), slot(0), name="fleet-gpu-01-0-old")
    (change,) = plan(seen=facts(*both(), second))
    assert change.steps == (stop("fleet-gpu-01-0-old"), remove("fleet-gpu-01-0-old"))


def test_a_stopped_one_kept_for_rollback_stays():
    kept = inspected(replace(SPEC, user="7"), slot(0), name="fleet-gpu-01-0-blue", state="exited")
    assert plan(seen=facts(*both(), kept)) == []


def test_a_right_one_under_another_name_is_accepted():
    green = inspected(SPEC, slot(0), name="fleet-gpu-01-0-green")
    blue = inspected(replace(SPEC, user="7"), slot(0), state="exited")
    assert plan(seen=facts(green, blue, gpus=1)) == []


def test_a_kept_one_gives_up_its_name():
    wrong = inspected(replace(SPEC, user="8"), slot(0), name="fleet-gpu-01-0-green")
    kept = inspected(replace(SPEC, user="7"), slot(0), state="exited")
    (change,) = plan(seen=facts(wrong, kept, gpus=1))
    steps, then = replaced(0, old="fleet-gpu-01-0-green")
    release = release_of(replace(SPEC, user="7"), DIGEST)[:8]
    aside = on("rename", "fleet-gpu-01-0", to=f"fleet-gpu-01-0.{release}")
    assert steps_of(change) == (steps, (then[0], aside, then[1]))


def test_gpus_that_the_driver_numbers_in_another_order_keep_their_slots():
    swapped = (
        inspected(SPEC, replace(slot(0), uuid=world.uuid(1))),
        inspected(SPEC, replace(slot(1), uuid=world.uuid(0))),
    )
    assert plan(seen=facts(*swapped)) == []


def test_a_gpu_that_fell_off_takes_its_own_container_along_and_no_other():
    moved = gpu_lines(*(f"{number}, {world.uuid(index)}" for number, index in enumerate((1, 2))))
    (change,) = plan(seen=facts(*(inspected(SPEC, slot(index)) for index in range(3)), gpu=moved))
    assert change.summary == "remove fleet-gpu-01-0: no GPU is slot gpu-01-0"


def test_a_new_gpu_in_the_place_of_one_that_is_gone_gets_its_slot():
    replaced = gpu_lines(f"0, {world.uuid(7)}", f"1, {world.uuid(1)}")
    (change,) = plan(seen=facts(inspected(SPEC, slot(0)), inspected(SPEC, slot(1)), gpu=replaced))
    assert change.summary.startswith("replace fleet-gpu-01-0")
    assert f"gpu          {world.uuid(0)} -> {world.uuid(7)}" in change.diff


def gpu_lines(*firsts):
    rest = "Tesla T4, 15360, 3, 0, 38, 9.50, 580.95.05, 00000000:3B:00.0, [N/A]"
    return Answer(0, "".join(f"{first}, {rest}\n" for first in firsts).encode())


def test_moved_ports_are_freed_before_they_are_used():
    shifted = (inspected(SPEC, slot(0, port=7861)), inspected(SPEC, slot(1, port=7862)))
    changes = plan(seen=facts(*shifted))
    assert [change.summary.split(":")[0] for change in changes] == [
        "remove fleet-gpu-01-0",
        "start fleet-gpu-01-0 on GPU 0 (Tesla T4)",
        "replace fleet-gpu-01-1",
    ]


def test_too_little_memory_is_refused_by_name():
    with pytest.raises(TaskError) as caught:
        plan(GpuContainersArgs(image=IMAGE, memory_min="16GiB"))
    assert caught.value.message == (
        f"GPU 0 of gpu-01 (Tesla T4, {world.uuid(0)}) has 15.0 GiB of memory, "
        f"{IMAGE} needs 16.0 GiB (memory_min)"
    )
    assert plan(GpuContainersArgs(image=IMAGE, memory_min="15GiB"))


def test_unknown_memory_is_no_reason_to_refuse():
    gpu = Answer(0, world.gpu_line(0, name="NVIDIA GB10", total="[N/A]").encode())
    assert plan(GpuContainersArgs(image=IMAGE, memory_min="16GiB"), facts(gpu=gpu))


def test_mig_and_no_gpu_are_refused():
    gpu = Answer(0, world.gpu_line(0, mig="Enabled").encode())
    with pytest.raises(TaskError, match="MIG"):
        plan(seen=facts(gpu=gpu))
    with pytest.raises(TaskError, match="finds no GPU"):
        plan(seen=facts(gpu=Answer(6, b"No devices were found\n")))


@pytest.mark.parametrize(
    ("answers", "when"),
    [
        ({"gpu": Answer(127)}, "once the NVIDIA driver works (nvidia-smi is not installed)"),
        ({"docker_engine": Answer(7)}, "on each of 2 GPUs, once the Docker Engine runs"),
        ({"docker_engine": Answer(127)}, "on each of 2 GPUs, once the Docker Engine runs"),
        ({"docker_containers": Answer(7)}, "on each of 2 GPUs, once the Docker Engine runs"),
        ({"docker_engine": world.engine(cdi=False)}, "once the Docker Engine has CDI"),
        ({"docker_images": world.images(tag="other:v1")}, "on each of 2 GPUs, once it is pulled"),
    ],
)
def test_what_cannot_be_known_yet_is_deferred(answers, when):
    (change,) = plan(seen=facts(**answers))
    assert change.deferred
    assert when in change.summary


def test_older_engines_use_the_nvidia_runtime():
    seen = facts(gpus=1, docker_engine=world.engine("24.0.7", cdi=False, runtimes=["nvidia", "runc"]))
    (change,) = plan(seen=seen)
    spec = replace(SPEC, gpu_driver="nvidia")
    assert change.steps[0] == create(0, spec)
    assert change.steps[0].arguments["body"]["HostConfig"]["DeviceRequests"] == [
        {"Driver": "nvidia", "DeviceIDs": [world.uuid(0)], "Capabilities": [["gpu"]]}
    ]
    old = world.engine("24.0.7", cdi=False)
    with pytest.raises(TaskError, match=r"24\.0\.7 has no CDI"):
        plan(GpuContainersArgs(image=IMAGE, gpu_driver="cdi"), facts(docker_engine=old))


def test_a_foreign_name_is_refused():
    with pytest.raises(TaskError, match=r"fleet-gpu-01-0 exists that fleet did not create"):
        plan(seen=facts(foreign("fleet-gpu-01-0")))


def test_a_foreign_port_is_refused_by_name():
    bindings = {"80/tcp": [{"HostIp": "", "HostPort": "7861"}]}
    with pytest.raises(
        TaskError, match=r"port 7861 of slot gpu-01-1 is taken by the container web \(other:1\)"
    ):
        plan(seen=facts(foreign("web", PortBindings=bindings)))


def test_the_same_port_on_another_address_is_free():
    bindings = {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "7860"}]}
    assert plan(GpuContainersArgs(image=IMAGE, bind="10.0.0.1"), facts(foreign("web", PortBindings=bindings)))


@pytest.mark.parametrize("token", [world.uuid(1), "1"])
def test_a_foreign_container_on_a_gpu_is_refused_by_name(token):
    request = [{"Driver": "", "DeviceIDs": [token], "Capabilities": [["gpu"]]}]
    seen = facts(foreign("trainer", DeviceRequests=request))
    with pytest.raises(TaskError, match=r"GPU 1 of gpu-01 .* is in use by container trainer \(other:1\)"):
        plan(seen=seen)
    assert len(plan(GpuContainersArgs(image=IMAGE, share_gpu=True), seen)) == 2


def test_monitoring_that_sees_all_gpus_is_welcome():
    request = [{"Driver": "nvidia", "Count": -1, "Capabilities": [["gpu"]]}]
    assert len(plan(seen=facts(foreign("dcgm-exporter", DeviceRequests=request)))) == 2


def test_a_foreign_process_on_a_gpu_is_refused_by_name():
    used = Answer(0, f"{world.uuid(0)}, 4711, 9000, python3\t0::/user.slice\n".encode())
    with pytest.raises(TaskError, match=r"in use by python3 \(process 4711, 9000 MiB\)"):
        plan(seen=facts(gpu_processes=used))


def test_our_own_process_may_be_replaced_and_one_beside_a_right_container_disturbs_nothing():
    old = inspected(replace(SPEC, user="7"), slot(0))
    own = Answer(0, f"{world.uuid(0)}, 12, 9000, python3\t0::/docker/{old['Id']}\n".encode())
    assert len(plan(seen=facts(old, gpus=1, gpu_processes=own))) == 1
    alien = Answer(0, f"{world.uuid(0)}, 12, 9000, python3\t0::/user.slice\n".encode())
    assert plan(seen=facts(*both(), gpu_processes=alien)) == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"image": ""}, "image"),
        ({"image": "a b"}, "image"),
        ({"container_port": 0}, "container_port"),
        ({"memory_min": "much"}, "memory_min: 'much'"),
        ({"shm_size": "x"}, "shm_size"),
        ({"log_max_size": "10 MB"}, "log_max_size"),
        ({"log_max_file": 0}, "log_max_file"),
        ({"stop_timeout": -1}, "stop_timeout"),
        ({"network": "host"}, "bridge network"),
        ({"volumes": ["models"]}, "'models' is not"),
        ({"volumes": ["a:b"]}, "'a:b' is not"),
        ({"env": {"A": True}}, r"\$\.env"),
        ({"env": {"A": 1.1}}, r"\$\.env"),
        ({"restart": "sometimes"}, r"\$\.restart"),
        ({"ports": [80]}, "ports"),
        ({"ready": -1}, "ready is -1"),
        ({"throttle": -1}, "throttle is -1"),
    ],
)
def test_wrong_arguments_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        msgspec.convert({"image": IMAGE, **wrong}, GpuContainersArgs)


def test_the_probes_are_all_that_the_plan_reads():
    asked = {probe.key for probe in MODULE.probes(ARGS, CTX)}
    assert asked - {"service.profile"} == set(facts())  # that one is for the balancers


def beside(index, spec=SPEC, **changed):
    """A container of ours on its slot's second port."""
    found = inspected(spec, slot(index), **changed)
    body = create_body(spec, slot(index), DIGEST, slot(index).port + 16)
    found["Config"]["Labels"] = body["Labels"]
    found["HostConfig"]["PortBindings"] = body["HostConfig"]["PortBindings"]
    return found


def test_a_container_on_its_slots_second_port_is_right():
    assert plan(seen=facts(beside(0), inspected(SPEC, slot(1)))) == []
    stopped = beside(0, state="exited")
    assert plan(seen=facts(stopped, inspected(SPEC, slot(1))))[0].steps[0] == on("start", "fleet-gpu-01-0")


def test_a_second_port_that_is_not_labelled_or_not_the_slots_is_not_right():
    unlabelled = beside(0)
    del unlabelled["Config"]["Labels"]["fleet.port"]
    for wrong in (unlabelled, inspected(SPEC, slot(0, 7877))):
        (change,) = plan(seen=facts(wrong, inspected(SPEC, slot(1))))
        assert steps_of(change) == replaced(0)
        assert change.summary == "replace fleet-gpu-01-0: other port"


def test_of_two_that_run_the_right_one_stays_on_whichever_port():
    blue = inspected(replace(SPEC, env={"OLD": "1"}), slot(0))
    green = beside(0, name="fleet-gpu-01-0.green")
    (change,) = plan(seen=facts(blue, green, inspected(SPEC, slot(1))))
    assert change.steps == (stop("fleet-gpu-01-0"), remove("fleet-gpu-01-0"))
    blue = inspected(SPEC, slot(0))
    green = beside(0, replace(SPEC, env={"NEW": "1"}), name="fleet-gpu-01-0.green")
    (change,) = plan(seen=facts(blue, green, inspected(SPEC, slot(1))))
    assert change.steps == (stop("fleet-gpu-01-0.green"), remove("fleet-gpu-01-0.green"))


def test_what_replaces_a_running_container_is_where_the_balancers_look_for_it():
    old = beside(0, replace(SPEC, env={"OLD": "1"}))
    (change,) = plan(seen=facts(old, inspected(SPEC, slot(1))))
    body = create_body(SPEC, slot(0), DIGEST, 7876)
    assert change.steps[0].arguments == {"name": "fleet-gpu-01-0.next", "body": body}
    assert "port" not in change.diff


def test_a_second_port_that_somebody_else_has_is_told():
    old = beside(0, replace(SPEC, env={"OLD": "1"}))
    taken = foreign("web", PortBindings={"80/tcp": [{"HostIp": "", "HostPort": "7876"}]})
    with pytest.raises(TaskError, match="port 7876 of slot gpu-01-0 is taken by the container web"):
        plan(seen=facts(old, inspected(SPEC, slot(1)), taken))
