"""What several lab tests ask and wait for."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.lab.conftest import KEEP, Lab


def server_states(lab: Lab, slot: str) -> set[str]:
    """A slot's states as all balancers tell them; one word where they agree."""
    return {row["status"] for balancer in lab.balancers for row in slot_servers(lab, slot, balancer)}


def slot_servers(lab: Lab, slot: str, balancer: str = "lb-01") -> list[dict[str, str]]:
    """The rows of one HAProxy's statistics that are the slot's."""
    csv = haproxy(lab, balancer, "show stat").splitlines()
    names = csv[0].lstrip("# ").split(",")
    rows = [dict(zip(names, line.split(","), strict=False)) for line in csv[1:] if line]
    return [row for row in rows if row["svname"] == slot and row["pxname"] == "work"]


def haproxy(lab: Lab, balancer: str, command: str) -> str:
    """What a balancer's HAProxy answers to a command on its socket."""
    return lab.sh(balancer, f"echo '{command}' | socat stdio /run/haproxy/admin.sock")


def wait_for(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Ask twice a second; fail with `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.5)


def needs(there: object, what: str) -> None:
    """Skip on a kept lab of another shape; the lab of the tests itself must have it."""
    if there:
        return
    if KEEP:
        pytest.skip(what)
    raise AssertionError(what)
