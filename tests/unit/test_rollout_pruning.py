"""Which images go after a rollout, and whether there is room for another one."""

from __future__ import annotations

import subprocess

import pytest

from fleet.docker.answers import Container, Image
from fleet.errors import TaskError
from fleet.rollout.disk import check_room, estimate, free_script, parse_free
from fleet.rollout.pruning import unneeded

APP = "registry.example:5000/app"
ONE, TWO, THREE = ("sha256:" + str(n) * 64 for n in (1, 2, 3))
IDS = ["sha256:" + letter * 64 for letter in "abc"]


def image(number: int, tags: tuple[str, ...] = (), digests: tuple[str, ...] = (), size: int = 0) -> Image:
    return Image(IDS[number], tags, digests, size)


def test_an_old_image_goes_name_by_name_the_digests_first():
    old = image(0, (f"{APP}:v1", f"{APP}:stable"), (f"{APP}@{ONE}",))
    assert unneeded([old], [], [f"{APP}:v2"], [ONE]) == (f"{APP}@{ONE}", f"{APP}:v1", f"{APP}:stable")


def test_an_image_that_any_container_was_made_from_stays():
    old = image(0, (f"{APP}:v1",), (f"{APP}@{ONE}",))
    assert unneeded([old], [old.id], [f"{APP}:v2"], [ONE]) == ()


def test_an_image_that_this_fleet_never_ran_stays_though_it_is_of_the_same_repository():
    theirs = image(0, (f"{APP}:dev",), (f"{APP}@{THREE}",))
    assert unneeded([theirs], [], [f"{APP}:v2"], [ONE, TWO]) == ()


def test_another_repositorys_name_of_the_same_image_stays():
    old = image(0, (f"{APP}:v1", "mine/app:v1"), (f"{APP}@{ONE}", f"mine/app@{ONE}"))
    assert unneeded([old], [], [APP], [ONE]) == (f"{APP}@{ONE}", f"{APP}:v1")
    other = image(1, ("mine/app:v1",), (f"mine/app@{ONE}",))
    assert unneeded([other], [], [APP], [ONE]) == ()


def test_a_digest_of_another_repository_alone_tells_nothing():
    mixed = image(0, (f"{APP}:dev",), (f"mine/app@{ONE}",))
    assert unneeded([mixed], [], [APP], [ONE]) == ()


def test_an_image_that_was_loaded_from_a_file_goes_by_its_id():
    loaded = image(0, ("app:v1",))
    assert unneeded([loaded], [], ["docker.io/library/app:v2"], [IDS[0]]) == ("app:v1",)
    nameless = image(1, ("<none>:<none>",), ("<none>@<none>",))
    assert unneeded([nameless], [], ["app:v2"], [IDS[1]]) == (IDS[1],)
    assert unneeded([nameless], [], ["app:v2"], [ONE]) == ()
    elsewhere = image(1, ("mine/app:v1",))
    assert unneeded([elsewhere], [], ["app:v2"], [IDS[1]]) == ()


def running(image_id: str, **more: object) -> Container:
    return Container(
        "c1", "fleet-a-0", image_id=image_id, labels={"fleet.slot": "a-0"}, state="running", **more
    )


def test_the_estimate_is_the_largest_image_of_the_repository_that_a_slot_runs_and_a_tenth_more():
    images = [
        image(0, (f"{APP}:v1",), size=14_000_000_000),
        image(1, (), (f"{APP}@{TWO}",), size=9_000_000_000),
        image(2, ("postgres:17",), size=99_000_000_000),
    ]
    containers = [running(each.id) for each in images]
    assert estimate(images, containers, f"{APP}:v2") == 15_400_000_000
    assert estimate(images, containers[1:], f"{APP}:v2") == 9_900_000_000


def test_where_no_slot_runs_the_repository_there_is_no_estimate():
    images = [image(0, (f"{APP}:v1",), size=14)]
    foreign = Container("c1", "x", image_id=IDS[0], state="running")
    stopped = Container("c1", "x", image_id=IDS[0], labels={"fleet.slot": "a-0"}, state="exited")
    assert estimate(images, [foreign, stopped], f"{APP}:v2") is None
    assert estimate(images, [running(IDS[0])], "another/app:v2") is None
    assert estimate([], [], f"{APP}:v2") is None


def test_free_bytes_are_what_df_says_of_a_folders_file_system(tmp_path):
    folder = tmp_path / "a folder's"
    folder.mkdir()
    out = subprocess.run(["sh", "-s"], input=free_script(str(folder)).encode(), capture_output=True).stdout
    want = int(subprocess.check_output(["stat", "-f", "-c", "%a", tmp_path])) * int(
        subprocess.check_output(["stat", "-f", "-c", "%S", tmp_path])
    )
    found = parse_free(out)
    assert found is not None
    assert abs(found - want) < max(want // 10, 1 << 30)


@pytest.mark.parametrize(
    ("line", "free"),
    [
        ("/dev/sda1 100 90 10 90% /", 10 * 1024),
        ("host:/a volume 51474912 48447488 3027424 95% /var/lib/docker", 3027424 * 1024),
        ("tmpfs 0 0 0 - /x", 0),
        ("/dev/sda1 100 105 -5 105% /", 0),
    ],
)
def test_dfs_lines(line, free):
    head = "Filesystem     1024-blocks      Used Available Capacity Mounted on\n"
    assert parse_free(f"{head}{line}\n".encode()) == free


def test_what_is_no_answer_of_df_is_none(tmp_path):
    script = free_script(str(tmp_path / "not there"))
    done = subprocess.run(["sh", "-s"], input=script.encode(), capture_output=True)
    assert parse_free(done.stdout) is None
    assert parse_free(b"") is None


def test_too_little_room_is_told_in_numbers_as_an_estimate_with_a_way_out():
    check_room("gpu-02", "/var/lib/docker", 15_400_000_000, 15_400_000_000)
    with pytest.raises(TaskError) as refused:
        check_room("gpu-02", "/var/lib/docker", 3_100_000_000, 15_400_000_000)
    assert refused.value.message.startswith(
        "gpu-02: 3.1 GB are free in /var/lib/docker, an image like the one that runs needs about 15.4 GB"
    )
    assert "estimate" in refused.value.message
    assert "`docker system df`" in refused.value.remedy
    assert "retain" in refused.value.remedy
