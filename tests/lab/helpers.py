"""What several lab tests ask and wait for."""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.lab.conftest import Lab


def server_states(lab: Lab, slot: str) -> set[str]:
    """A slot's states as the balancer tells them."""
    return {server["status"] for server in slot_servers(lab, slot)}


def slot_servers(lab: Lab, slot: str) -> list[dict[str, str]]:
    """The rows of HAProxy's statistics that are the slot's."""
    csv = lab.sh("lb-01", "echo 'show stat' | socat stdio /run/haproxy/admin.sock").splitlines()
    names = csv[0].lstrip("# ").split(",")
    rows = [dict(zip(names, line.split(","), strict=False)) for line in csv[1:] if line]
    return [row for row in rows if row["svname"] == slot and row["pxname"] == "work"]


def wait_for(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Ask twice a second; fail with `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.5)
