"""What is listed, and what goes: the rows of hosts' images."""

from __future__ import annotations

import json

from fleet.docker.answers import Container, Image
from fleet.docker.probe import CONTAINERS_PROBE, IMAGES_PROBE, parse_images
from fleet.errors import UnreachableError
from fleet.images.listing import host_rows, listing
from fleet.images.prune import choose
from fleet.model.facts import Answer, Facts
from fleet.model.host import Host
from tests.unit.gpu_world import framed

APP = "registry.example:5000/app"
ONE, TWO, THREE, FOUR = ("sha256:" + str(n) * 64 for n in (1, 2, 3, 4))
IDS = ["sha256:" + letter * 64 for letter in "abcd"]


def image(number: int, tag: str, digest: str, created: int = 0) -> Image:
    return Image(IDS[number], (f"{APP}:{tag}",) if tag else (), (f"{APP}@{digest}",), 10, created)


def container(number: int, slot: str, state: str = "running", release: str = "r1") -> Container:
    return Container(
        id=slot + state,
        name=f"fleet-{slot}",
        image_id=IDS[number],
        labels={"fleet.slot": slot, "fleet.release": release},
        state=state,
    )


def seen(images: list[dict[str, object]]) -> Facts:
    body = json.dumps(images).encode()
    framed = body + f"\nfleet 200 {len(body)} http://d/images/json\n".encode()
    return Facts({IMAGES_PROBE.key: Answer(0, framed), CONTAINERS_PROBE.key: Answer(0)})


def raw(number: int, tag: str, digest: str) -> dict[str, object]:
    return {"Id": IDS[number], "RepoTags": [f"{APP}:{tag}"], "RepoDigests": [f"{APP}@{digest}"], "Size": 5}


def test_an_image_without_a_name_has_none_whatever_the_engine_writes():
    """Engines before 24 write something."""
    body = [{"Id": IDS[1], "RepoTags": ["<none>:<none>"], "RepoDigests": ["<none>@<none>"], "Size": 5}]
    (image,) = parse_images(framed({"/images/json": body}))
    assert (image.tags, image.digests) == ((), ())


def test_a_row_tells_who_runs_an_image_and_which_release_keeps_it():
    found = host_rows(
        "gpu-01",
        [image(0, "v1", ONE), image(1, "v2", TWO), Image(IDS[2], ("other:v1",), (), 5)],
        [
            container(1, "gpu-01-0"),
            container(1, "gpu-01-1"),
            container(0, "gpu-01-0", "exited", "0123456789"),
        ],
        f"{APP}:v2",
    )
    assert [(row.names, row.used, row.kept, row.wanted) for row in found] == [
        ((f"{APP}:v2",), ("gpu-01-0", "gpu-01-1"), (), True),
        ((f"{APP}:v1",), (), ("01234567",), False),
    ]


def test_hosts_that_lack_the_image_or_have_another_of_its_name_are_problems():
    hosts = [Host(f"gpu-0{n}") for n in range(1, 6)]
    found = listing(
        hosts,
        {
            "gpu-01": seen([raw(0, "v1", ONE)]),
            "gpu-02": seen([raw(0, "v1", ONE)]),
            "gpu-03": seen([raw(1, "v1", TWO)]),
            "gpu-04": seen([]),
            "gpu-05": UnreachableError("gpu-05: no answer", remedy="look there"),
        },
        f"{APP}:v1",
    )
    assert [(problem.place, problem.what) for problem in found.problems] == [
        ("gpu-05", "no answer"),
        ("gpu-03", f"its {APP}:v1 is 222222222222, that of most others 111111111111"),
        ("gpu-04", f"it lacks {APP}:v1"),
    ]
    assert list(found.failed) == ["gpu-05"]


def gone(images: list[Image], containers: list[Container], used: list[str], keep: int) -> tuple[str, ...]:
    rows = host_rows("gpu-01", images, containers, f"{APP}:v4")
    return choose(images, rows, used, f"{APP}:v4", keep)[1]


def test_what_any_container_was_made_from_and_what_the_inventory_names_stays():
    images = [
        image(0, "v1", ONE, 1),
        image(1, "v2", TWO, 2),
        image(2, "v3", THREE, 3),
        image(3, "v4", FOUR, 4),
    ]
    kept = container(1, "gpu-01-0", "exited")
    assert gone(images, [kept], [IDS[1]], 0) == (f"{APP}@{ONE}", f"{APP}:v1", f"{APP}@{THREE}", f"{APP}:v3")
    # Somebody else's container counts, too.
    assert gone(images, [], IDS[:3], 0) == ()
    # Where another image is asked for, the inventory's stays all the same.
    rows = host_rows("gpu-01", images, [], f"{APP}:v1")
    left, _ = choose(images, rows, [], f"{APP}:v1", 0, [f"{APP}:v3"])
    assert sorted(row.names for row in left) == [(f"{APP}:v2",), (f"{APP}:v4",)]


def test_the_newest_of_the_others_stay_as_many_as_are_asked_for():
    images = [image(0, "v1", ONE, 1), image(1, "v2", TWO, 2), image(2, "v3", THREE, 3)]
    assert gone(images, [], [], 1) == (f"{APP}@{ONE}", f"{APP}:v1", f"{APP}@{TWO}", f"{APP}:v2")
    assert gone(images, [], [], 2) == (f"{APP}@{ONE}", f"{APP}:v1")
    assert gone(images, [], [], 3) == ()


def test_other_repositories_names_and_images_stay():
    shared = Image(IDS[0], (f"{APP}:v1", "mine/app:v1"), (f"{APP}@{ONE}", f"mine/app@{ONE}"), 1)
    assert gone([shared, Image(IDS[1], ("mine/app:v2",), (f"mine/app@{TWO}",), 1)], [], [], 0) == (
        f"{APP}@{ONE}",
        f"{APP}:v1",
    )


def test_an_image_loaded_from_a_file_goes_by_its_name():
    loaded = Image(IDS[0], (f"{APP}:v1",), (), 1)
    assert gone([loaded], [], [], 0) == (f"{APP}:v1",)
