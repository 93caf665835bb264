"""The module docker_image: what it plans from what hosts have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fleet.docker.probe import IMAGES_PROBE
from fleet.errors import InputError, Place
from fleet.model.facts import Answer, Facts
from fleet.model.host import Host
from fleet.model.secret import Secret
from fleet.model.steps import Change, EngineCall
from fleet.modules.base import Context
from fleet.modules.docker_image import DockerImage, DockerImageArgs

NAME = "registry.example:5000/app:v1"
REPO = "registry.example:5000/app"
D1, D2 = f"sha256:{'1' * 64}", f"sha256:{'2' * 64}"


def facts(*images: tuple[list[str], list[str]]) -> Facts:
    body = json.dumps(
        [
            {"Id": f"sha256:{number}", "RepoTags": tags, "RepoDigests": digests, "Size": 1}
            for number, (tags, digests) in enumerate(images)
        ]
    )
    text = f"{body}\nfleet 200 {len(body)} http://d/images/json\n"
    return Facts({IMAGES_PROBE.key: Answer(0, text.encode())})


NO_ENGINE = Facts({IMAGES_PROBE.key: Answer(7)})
HELD = facts(([NAME], [f"{REPO}@{D1}"]))


def plan(
    own: Facts, *, fleet: dict[str, Facts] | None = None, search: tuple[Path, ...] = (), **args: Any
) -> list[Change]:
    ctx = Context(Host("gpu-01"), fleet=fleet or {}, search=search, place=Place("play.yml", 7))
    return list(DockerImage().plan(DockerImageArgs(**{"name": NAME, **args}), own, ctx))


def pulled(changes: list[Change]) -> dict[str, Any]:
    [change] = changes
    [step] = change.steps
    assert isinstance(step, EngineCall)
    assert step.operation == "pull"
    return dict(step.arguments)


def test_what_is_there_is_left_alone() -> None:
    assert plan(HELD) == []
    assert plan(facts(([NAME], []))) == []  # loaded from a file
    assert plan(facts((["app:latest"], [])), name="app") == []


def test_what_is_missing_is_pulled() -> None:
    changes = plan(facts())
    assert pulled(changes) == {"reference": NAME}
    assert changes[0].summary == f"pull {NAME}"
    assert pulled(plan(facts(([f"{REPO}:v2"], [f"{REPO}@{D1}"])))) == {"reference": NAME}


def test_the_digest_other_hosts_have_is_the_one_pulled() -> None:
    fleet = {"gpu-02": facts(([NAME], [f"{REPO}@{D2}"])), "gpu-03": HELD, "gpu-04": HELD, "lb-01": Facts()}
    assert pulled(plan(facts(), fleet=fleet)) == {"reference": NAME, "digest": D1}
    assert pulled(plan(facts(), fleet={"gpu-01": HELD, "gpu-02": NO_ENGINE})) == {"reference": NAME}


def test_the_run_tells_it_what_other_hosts_have() -> None:
    assert DockerImage.needs_fleet, "else `fleet` is empty, and each new host gets what the tag means by then"


def test_a_digest_is_insisted_on() -> None:
    assert plan(HELD, digest=D1) == []
    assert pulled(plan(HELD, digest=D2)) == {"reference": NAME, "digest": D2}
    other_tag = facts(([f"{REPO}:v2"], [f"{REPO}@{D1}"]))
    assert pulled(plan(other_tag, digest=D1)) == {"reference": NAME, "digest": D1}
    assert plan(other_tag, name=f"{REPO}@{D1}") == []
    assert pulled(plan(facts(), name=f"{NAME}@{D1}"))["digest"] == D1


def test_without_an_engine_the_pull_is_for_later() -> None:
    [change] = plan(NO_ENGINE)
    assert change.deferred
    assert change.summary == f"pull {NAME}"


def test_a_login_from_the_environment_or_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGISTRY_PASSWORD", "hunter2")
    auth = {"username": "me", "password": Secret("hunter2")}
    changes = plan(facts(), username="me", password_env="REGISTRY_PASSWORD")
    assert pulled(changes)["auth"] == auth
    assert "hunter2" not in repr(changes)
    (tmp_path / "password").write_text("hunter2\n")
    assert pulled(plan(facts(), username="me", password_file=str(tmp_path / "password")))["auth"] == auth
    assert pulled(plan(facts(), username="me", password_file="password", search=(tmp_path,)))["auth"] == auth


@pytest.mark.parametrize("own", [facts(), NO_ENGINE])
def test_a_password_that_is_not_there(own: Facts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REGISTRY_PASSWORD", raising=False)
    with pytest.raises(InputError, match="REGISTRY_PASSWORD") as caught:
        plan(own, username="me", password_env="REGISTRY_PASSWORD")
    assert caught.value.place == Place("play.yml", 7)
    assert caught.value.remedy
    with pytest.raises(InputError, match="cannot read password file"):
        plan(own, username="me", password_file=str(tmp_path / "none"))
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(InputError, match="is empty"):
        plan(own, username="me", password_file=str(tmp_path / "empty"))


def test_no_login_is_needed_where_nothing_is_pulled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REGISTRY_PASSWORD", raising=False)
    assert plan(HELD, username="me", password_env="REGISTRY_PASSWORD") == []


@pytest.mark.parametrize(
    ("args", "why"),
    [
        ({"name": "App"}, "small letters"),
        ({"name": NAME, "digest": "v1"}, "not a digest"),
        ({"name": f"{NAME}@{D1}", "digest": D2}, "two different digests"),
        ({"name": NAME, "username": "me"}, "a login needs"),
        ({"name": NAME, "password_env": "X"}, "a login needs"),
        ({"name": NAME, "username": "me", "password_env": "X", "password_file": "y"}, "only one of"),
    ],
)
def test_wrong_arguments(args: dict[str, Any], why: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=why):
        msgspec.convert(args, DockerImageArgs)


def test_empty_texts_count_as_not_given() -> None:
    given = {"name": NAME, "username": "", "password_env": "", "password_file": "", "digest": ""}
    assert msgspec.convert(given, DockerImageArgs) == DockerImageArgs(name=NAME)
