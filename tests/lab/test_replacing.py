"""A slot's container is replaced by `fleet provision`: what goes wrong meanwhile costs the slot nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.conftest import PROVISION, ROOT, Done, Lab
from tests.lab.helpers import wait_for
from tests.lab.test_slots import translate

pytestmark = pytest.mark.lab

HOST = "gpu-01"
NAMES = [f"fleet-{HOST}-0", f"fleet-{HOST}-1"]


def provision(lab: Lab, **variables: object) -> Done:
    extra = [word for key, value in variables.items() for word in ("-e", f"{key}={json.dumps(value)}")]
    return lab.fleet("provision", "--limit", HOST, "--json", *PROVISION, *extra)


def found(lab: Lab) -> dict[str, str]:
    """Name -> id of each of the host's containers of slots, running or not."""
    out = lab.sh(HOST, "docker ps -a --filter label=fleet.slot --format '{{.Names}} {{.ID}}'")
    return dict(line.split() for line in out.splitlines())


def running(lab: Lab) -> list[str]:
    return sorted(lab.sh(HOST, "docker ps --filter label=fleet.slot --format '{{.Names}}'").split())


@pytest.fixture
def put_back(lab: Lab) -> Iterator[None]:
    yield
    assert provision(lab).code == 0
    assert running(lab) == sorted(found(lab)) == NAMES


@pytest.mark.usefixtures("put_back")
@pytest.mark.parametrize(
    ("variables", "said", "touched"),
    [
        ({"slot_volumes": ["/srv/a:/x", "/srv/b:/x"]}, "Duplicate mount point", False),
        ({"slot_safety": {"user": "nosuch"}}, "unable to find user nosuch", True),
        ({"slot_env": {"PYTHONHOME": "/nonexistent"}}, "does not stay up", True),
    ],
)
def test_what_cannot_run_leaves_what_runs(
    lab: Lab, variables: dict[str, object], said: str, touched: bool
) -> None:
    before, started = found(lab), starts(lab)
    done = provision(lab, **variables)
    assert done.code == 1, done.words
    error = next(task["error"] for task in done.json["hosts"][HOST]["tasks"] if task.get("error"))
    assert said in error["output"]
    assert error["message"].endswith("; it was undone: all is as before this change")
    assert found(lab) == before
    assert running(lab) == NAMES
    # The first one was stopped for the other only where the engine had made that.
    assert [then != now for then, now in zip(started, starts(lab), strict=True)] == [touched, False]
    wait_for(
        lambda: "这是免费赠送的" in lab.fleet("translate", "It's on the house.").out, 60, "it does not serve"
    )


def starts(lab: Lab) -> list[str]:
    out = lab.sh(HOST, f"docker inspect -f '{{{{.State.StartedAt}}}}' {' '.join(NAMES)}")
    return out.split()


@pytest.mark.usefixtures("put_back")
def test_a_run_killed_while_it_replaces_is_gone_on_with_by_the_next(lab: Lab) -> None:
    wanted = {"slot_env": {"WHATEVER": "1", **({"FLEET_LAB_JOB_SECONDS": "0.1"} if PROVISION else {})}}
    words = (
        "provision",
        "--limit",
        HOST,
        "-i",
        lab.inventory,
        "-e",
        f"slot_env={json.dumps(wanted['slot_env'])}",
    )
    process = subprocess.Popen(
        [str(Path(sys.executable).parent / "fleet"), *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
        cwd=ROOT,
    )
    try:
        wait_for(lambda: f"{NAMES[0]}.next" in running(lab), 60, "no replacement began")
    finally:
        process.kill()
        process.wait()
    assert sorted(found(lab)) == [NAMES[0], f"{NAMES[0]}.next", NAMES[1]]
    assert running(lab) == [f"{NAMES[0]}.next", NAMES[1]]
    translate(lab.url)
    new = found(lab)[f"{NAMES[0]}.next"]
    assert provision(lab, **wanted).code == 0
    assert running(lab) == sorted(found(lab)) == NAMES
    assert found(lab)[NAMES[0]] == new
    assert provision(lab, **wanted).json["changed"] == 0
