"""A slot's container is replaced by `fleet provision`: what goes wrong meanwhile costs the slot nothing."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import datetime

import pytest

from tests.lab.conftest import PROVISION, ROOT, Done, Lab
from tests.lab.helpers import haproxy, wait_for
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
    assert sum("nothing more was done on" in error["message"] for error in errors) == len(errors) - 1
    after = started(lab)
    assert sum(before[name] != after[name] for name in before) == 1
    assert set(before) == set(after)


@pytest.mark.usefixtures("put_back")
def test_a_good_change_goes_from_slot_to_slot_and_each_has_jobs_again_before_the_next_is_away(
    lab: Lab,
) -> None:
    wait_for(lambda: not any(away(lab).values()), 60, "not all slots are up before the test")
    before = started(lab)
    crowds: list[set[str]] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.5):
            crowds.extend(away(lab).values())

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        # So long that the balancers take each for dead, and need some time after its start to believe in it again.
        done = provision(lab, slot_env={"FLEET_LAB_START_DELAY": "12"})
    finally:
        over.set()
        watching.join()
    assert done.code == 0, done.words
    after = started(lab)
    assert {name for name in before if before[name] != after[name]} == set(NAMES)
    one, other = sorted(datetime.fromisoformat(after[name].rstrip("Z")[:26]) for name in NAMES)
    assert (other - one).total_seconds() > 12
    assert {slot for crowd in crowds for slot in crowd} == {f"{HOST}-0", f"{HOST}-1"}
    assert max(map(len, crowds)) == 1, crowds


def away(lab: Lab) -> dict[str, set[str]]:
    """Balancer -> the slots to which it sends no jobs now."""
    found = {}
    for balancer in lab.balancers:
        rows = csv.DictReader(haproxy(lab, balancer, "show stat").lstrip("# ").splitlines())
        found[balancer] = {
            row["svname"]
            for row in rows
            if row["svname"].startswith("gpu-") and not row["status"].startswith("UP")
        }
    return found
