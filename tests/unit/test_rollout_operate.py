"""Opening the balancers for a rollout, or only to read what they keep of earlier ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fleet.engine.run import RunOptions
from fleet.errors import UnreachableError
from fleet.inventory import load
from fleet.playbook.model import Playbook
from fleet.rollout.defaults import Defaults
from fleet.rollout.operate import Operation
from fleet.rollout.setting import Setting

INVENTORY = """\
all:
  children:
    gpu: {hosts: {gpu-01: {}}}
    balancer: {hosts: {lb-01: {}, lb-02: {}}}
"""


class Balancers:
    """Connections that can be opened, but for those that are away; every one is closed in the end."""

    def __init__(self, *away: str) -> None:
        self.away, self.open = away, set[str]()

    def __call__(self, name: str) -> tuple[Any, Any]:
        if name in self.away:
            raise UnreachableError(f"{name}: no answer")
        self.open.add(name)
        return Remote(name, self.open), None


class Remote:
    def __init__(self, name: str, opened: set[str]) -> None:
        self.name, self._opened = name, opened

    def close(self) -> None:
        self._opened.discard(self.name)


def setting(folder: Path, opener: Balancers) -> Setting:
    path = folder / "hosts.yml"
    path.write_text(INVENTORY)
    return Setting(load([path]), Playbook(path, ()), Defaults(), opener, RunOptions())  # type: ignore[arg-type]


def test_a_rollout_needs_every_balancer_and_leaves_no_connection_behind(tmp_path: Path) -> None:
    balancers = Balancers("lb-02")
    with pytest.raises(UnreachableError, match="lb-02") as error, Operation(setting(tmp_path, balancers)):
        pass
    assert error.value.remedy.endswith("; where it is gone for good, take it out of the inventory")
    assert balancers.open == set()


def test_what_was_rolled_out_is_read_from_the_balancers_that_answer(tmp_path: Path) -> None:
    balancers = Balancers("lb-02")
    with Operation(setting(tmp_path, balancers), reading=True):
        assert balancers.open == {"lb-01"}
    assert balancers.open == set()


def test_where_none_answers_nothing_can_be_read(tmp_path: Path) -> None:
    with (
        pytest.raises(UnreachableError, match="no answer"),
        Operation(setting(tmp_path, Balancers("lb-01", "lb-02")), reading=True),
    ):
        pass
