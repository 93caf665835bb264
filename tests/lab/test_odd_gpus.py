"""Cards that are not as they should be, on running hosts: no command breaks, and each finds the right words.

Two hosts at a time are made odd, each in its own way, and every command is asked once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from tests.lab.conftest import Done, Lab
from tests.lab.helpers import wait_for
from tests.lab.test_reboot import all_serve
from tests.lab.upgrade_images import Registry

pytestmark = pytest.mark.lab

GPUS = "/etc/fleet-lab/gpus.json"
NUMBERS = (
    "memory_total",
    "memory_used",
    "utilization",
    "temperature",
    "power_draw",
    "power_limit",
    "ecc_errors",
)

Cards = list[dict[str, Any]]
Odd = Callable[[Cards], Cards]


def each(**values: Any) -> Odd:
    """Every card with these values."""
    return lambda cards: [card | values for card in cards]


def first(**values: Any) -> Odd:
    """The first card with these values, the others as they are."""
    return lambda cards: [cards[0] | values, *cards[1:]]


def none_at_all(_: Cards) -> Cards:
    """The driver works, and lists nothing."""
    return []


@dataclass(frozen=True)
class Said:
    """What every command answers."""

    status: Done
    doctor: Done
    provision: Done
    upgrade: Done

    def problems(self, host: str) -> list[str]:
        """What the status finds wrong with a host and its slots."""
        found = self.status.json["problems"]
        return [row["what"] for row in found if row["place"].startswith(host)]

    def checks(self, host: str) -> list[tuple[str, str, str]]:
        """What the doctor finds wrong there: check, words, detail."""
        found = self.doctor.json["problems"]
        return [(row["check"], row["what"], row["detail"]) for row in found if row["place"].startswith(host)]

    def errors(self, host: str) -> str:
        """Why provisioning ends on a host; empty where it would not."""
        document = self.provision.json["hosts"][host]
        errors = [document.get("error"), *(task.get("error") for task in document["tasks"])]
        return " ".join(f"{error['message']} {error['remedy']}" for error in errors if error)

    def changes(self, host: str) -> list[str]:
        """What provisioning would change there."""
        tasks = self.provision.json["hosts"][host]["tasks"]
        return [change["summary"] for task in tasks for change in task["changes"]]


@contextmanager
def odd(lab: Lab, cards: Mapping[str, Odd]) -> Iterator[None]:
    """Hosts with such cards; afterwards all serve as before."""
    were = {host: lab.sh(host, f"cat {GPUS}") for host in cards}
    try:
        for host, change in cards.items():
            described = json.loads(were[host])
            described["gpus"] = change(described["gpus"])
            lab.sh(host, f"cat > {GPUS} <<'END'\n{json.dumps(described, indent=2)}\nEND")
        yield
    finally:
        for host, text in were.items():
            lab.sh(host, f"cat > {GPUS} <<'END'\n{text}END")


def ask(lab: Lab) -> Said:
    """All of them; none changes anything. `fleet` itself fails for a traceback."""
    return Said(
        lab.fleet("status", "--json"),
        lab.fleet("doctor", "--json"),
        lab.fleet("provision", "--check", "--json"),
        lab.fleet("upgrade", Registry(lab).reference("v2"), "--blue-green", "--check"),
    )


@pytest.fixture
def pair(lab: Lab) -> Iterator[tuple[str, str]]:
    one, other = lab.gpu_hosts[:2]
    yield one, other
    wait_for(
        lambda: all_serve(lab, one) and all_serve(lab, other), 90, "the slots do not serve after the test"
    )


def test_values_that_cards_do_not_tell_change_nothing(lab: Lab, pair: tuple[str, str]) -> None:
    one, other = pair
    silent = each(**dict.fromkeys(NUMBERS))
    unsupported = each(**dict.fromkeys(NUMBERS, "[Not Supported]"), mig_mode="[Not Supported]")
    with odd(lab, {one: silent, other: unsupported}):
        told = lab.sh(one, "nvidia-smi --query-gpu=memory.total,memory.used --format=csv,noheader")
        assert set(told.splitlines()) == {"[N/A], [N/A]"}
        said = ask(lab)
        shown = lab.fleet("status")
    assert said.status.code == 0, said.status.out
    assert said.doctor.code == 0, said.doctor.out
    assert (said.provision.code, said.provision.json["changed"]) == (0, 0), said.provision.out
    assert said.upgrade.code == 0, said.upgrade.words
    rows = {slot["name"]: slot for slot in said.status.json["slots"]}
    assert {rows[f"{host}-{n}"]["memory_total"] for host in pair for n in (0, 1)} == {None}
    assert shown.code == 0, shown.out


def test_a_card_that_is_cut_into_instances_and_a_host_without_any_card(
    lab: Lab, pair: tuple[str, str]
) -> None:
    one, other = pair
    with odd(lab, {one: first(mig_mode="Enabled"), other: none_at_all}):
        said = ask(lab)
    assert (said.status.code, said.doctor.code, said.provision.code) == (1, 1, 1)
    assert "GPU 0 (Tesla T4) is cut into MIG instances and cannot be used whole" in said.problems(one)
    assert "the NVIDIA driver finds no GPU" in said.problems(other)
    assert any("a GPU is in MIG mode" in what for _, what, _ in said.checks(one))
    assert ("driver/gpus", "the driver finds no GPU") in [row[:2] for row in said.checks(other)]
    assert "a GPU is in MIG mode" in said.errors(one)
    assert "-mig 0" in said.errors(one)
    assert "finds no GPU" in said.errors(other)
    assert said.upgrade.code == 1
    assert f"{other}: the NVIDIA driver finds no GPU" in said.upgrade.words


def test_a_card_that_fell_off_and_one_that_does_not_tell_its_uuid(lab: Lab, pair: tuple[str, str]) -> None:
    one, other = pair
    with odd(lab, {one: first(lost=True), other: first(uuid="[Unknown Error]", name="[Unknown Error]")}):
        said = ask(lab)
    assert (said.status.code, said.doctor.code) == (1, 1)
    assert any("GPU is lost" in what for what in said.problems(one))
    assert any("tells no UUID: [Unknown Error]" in what for what in said.problems(other))
    assert ("driver/versions", "a GPU has fallen off the bus") in [row[:2] for row in said.checks(one)]
    assert any("does not tell its UUID" in what for _, what, _ in said.checks(other))
    # Its neighbours keep their names, and the balancers' servers are all shown.
    shown = {slot["name"] for slot in said.status.json["slots"]}
    assert {f"{one}-1", f"{other}-1"} <= shown
    servers = {server["server"] for server in said.status.json["servers"]}
    assert {f"{host}-{n}" for host in pair for n in (0, 1)} <= servers
    # A container that serves is not touched for what its neighbour has.
    assert not any(f"fleet-{host}-1" in change for host in pair for change in said.changes(host))
