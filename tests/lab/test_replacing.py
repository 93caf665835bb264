"""A slot's container is replaced by `fleet provision`: what goes wrong meanwhile costs the slot nothing."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise

import pytest

from tests.lab.conftest import PROVISION, ROOT, Done, Lab
from tests.lab.helpers import wait_for
from tests.soaking import SOAK

pytestmark = pytest.mark.lab

HOST = "gpu-01"
NAMES = [f"fleet-{HOST}-0", f"fleet-{HOST}-1"]
OWN, NEXT = NAMES[0], f"{NAMES[0]}.next"


def provision(lab: Lab, limit: str = HOST, **variables: object) -> Done:
    extra = [word for key, value in variables.items() for word in ("-e", f"{key}={json.dumps(value)}")]
    return lab.fleet("provision", "--limit", limit, "--json", *PROVISION, *extra)


def found(lab: Lab) -> dict[str, str]:
    """Name -> id of each of the host's containers of slots, running or not."""
    out = lab.sh(HOST, "docker ps -a --filter label=fleet.slot --format '{{.Names}} {{.ID}}'")
    return dict(line.split() for line in out.splitlines())


def running(lab: Lab) -> list[str]:
    return sorted(lab.sh(HOST, "docker ps --filter label=fleet.slot --format '{{.Names}}'").split())


@pytest.fixture
def put_back(lab: Lab) -> Iterator[None]:
    yield
    assert lab.fleet("provision", *PROVISION).code == 0
    assert running(lab) == sorted(found(lab)) == NAMES


@pytest.mark.usefixtures("put_back")
@pytest.mark.parametrize(
    ("variables", "said", "touched"),
    [
        # The first one was stopped for the other only where the engine had made that.
        ({"slot_volumes": ["/srv/a:/x", "/srv/b:/x"]}, "Duplicate mount point", False),
        ({"slot_safety": {"user": "nosuch"}}, "unable to find user nosuch", True),
        ({"slot_env": {"PYTHONHOME": "/nonexistent"}}, "it has ended; its log ends with:", True),
        (
            {"slot_env": {"FLEET_LAB_NEVER_READY": "1"}, "slot_ready": 5},
            "no answer at http://127.0.0.1:",
            True,
        ),
    ],
)
def test_what_cannot_run_leaves_what_runs(
    lab: Lab, variables: dict[str, object], said: str, touched: bool
) -> None:
    before, then = found(lab), starts(lab)
    done = provision(lab, **variables)
    assert done.code == 1, done.words
    error = next(task["error"] for task in done.json["hosts"][HOST]["tasks"] if task.get("error"))
    assert said in error["output"]
    assert error["message"].endswith(f"; {OWN} runs again as before") == touched
    assert found(lab) == before
    assert running(lab) == NAMES
    assert [was != now for was, now in zip(then, starts(lab), strict=True)] == [touched, False]
    wait_for(
        lambda: "这是免费赠送的" in lab.fleet("translate", "It's on the house.").out, 60, "it does not serve"
    )


def starts(lab: Lab) -> list[str]:
    return [when for name, when in started(lab).items() if name in NAMES]


def started(lab: Lab) -> dict[str, str]:
    """Name -> when it was started, of each container of a slot in the whole lab."""
    show = (
        "docker ps -aq --filter label=fleet.slot | xargs docker inspect -f '{{.Name}} {{.State.StartedAt}}'"
    )
    lines = [line for host in lab.gpu_hosts for line in lab.sh(host, show).splitlines()]
    return dict(sorted(line.lstrip("/").split() for line in lines))


# What is there and what runs once so many steps are done: made, the old one stopped, the new one started, the old
# one removed. With the fifth the new one has its name.
LEFT = {
    1: ([OWN, NEXT], [OWN]),
    2: ([OWN, NEXT], []),
    3: ([OWN, NEXT], [NEXT]),
    4: ([NEXT], [NEXT]),
    5: ([OWN], [OWN]),
}


@pytest.mark.usefixtures("put_back")
@pytest.mark.parametrize("steps", LEFT if SOAK else [2, 3])
def test_a_run_killed_while_it_replaces_is_gone_on_with_by_the_next(lab: Lab, steps: int) -> None:
    slot_env = {"WHATEVER": "1", **({"FLEET_LAB_JOB_SECONDS": "0.1"} if PROVISION else {})}
    words = ("provision", "--limit", HOST, "-i", lab.inventory, "-e", f"slot_env={json.dumps(slot_env)}")
    done = subprocess.run(
        [sys.executable, "-m", "tests.lab.provision_kill", str(steps), *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        timeout=600,
    )
    assert done.returncode == -signal.SIGKILL, done.stdout + done.stderr
    there, runs = LEFT[steps]
    assert sorted(found(lab)) == sorted([*there, NAMES[1]])
    assert running(lab) == sorted([*runs, NAMES[1]])
    new = found(lab).get(NEXT if steps < 5 else OWN)
    assert provision(lab, slot_env=slot_env).code == 0
    assert running(lab) == sorted(found(lab)) == NAMES
    # One that had started is not made anew.
    assert (found(lab)[OWN] == new) == (steps > 2)
    assert provision(lab, slot_env=slot_env).json["changed"] == 0


@pytest.mark.usefixtures("put_back")
def test_a_service_that_never_answers_costs_the_fleet_one_slot_while_it_is_tried(lab: Lab) -> None:
    wrong = {"slot_env": {"FLEET_LAB_NEVER_READY": "1"}, "slot_ready": 5}
    before = started(lab)
    done = provision(lab, limit="gpu", **wrong)
    assert done.code == 1, done.words
    errors = [
        task["error"] for host in lab.gpu_hosts for task in done.json["hosts"][host]["tasks"] if task["error"]
    ]
    assert len(errors) == len(lab.gpu_hosts)
    assert sum("runs again as before" in error["message"] for error in errors) == 1
    assert sum("was not gone on with" in error["message"] for error in errors) == len(errors) - 1
    after = started(lab)
    assert sum(before[name] != after[name] for name in before) == 1
    assert set(before) == set(after)


@pytest.mark.usefixtures("put_back")
def test_a_good_change_goes_through_the_fleet_one_slot_after_the_other_and_each_answers_before_the_next(
    lab: Lab,
) -> None:
    before = started(lab)
    done = provision(lab, limit="gpu", slot_env={"FLEET_LAB_START_DELAY": "3"})
    assert done.code == 0, done.words
    after = started(lab)
    assert set(before) == set(after)
    assert not set(before.values()) & set(after.values())
    # Each is given three seconds to load and has to answer before the next one is started.
    times = sorted(datetime.fromisoformat(when.rstrip("Z")[:26]) for when in after.values())
    assert all((later - earlier).total_seconds() > 3 for earlier, later in pairwise(times))
