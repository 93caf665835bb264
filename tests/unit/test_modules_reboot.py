"""The module `reboot`: what asks for one, read by a real sh, and what a run does for it."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from fleet.engine.results import HostEvent, TaskProgress
from fleet.engine.run import RunOptions, prepare, run
from fleet.errors import ExitCode, StepError, TaskError
from fleet.inventory import load
from fleet.model.facts import Answer, Facts
from fleet.model.host import Host
from fleet.model.steps import Change, Operation
from fleet.modules._reboot import (
    FLEET_FILE,
    REBOOT_PROBE,
    STATE_FILE,
    Begun,
    RebootSeen,
    parse_reboot,
    parse_state,
    state_text,
)
from fleet.modules.base import Context
from fleet.modules.reboot import Reboot, RebootArgs
from fleet.modules.registry import MODULES
from fleet.playbook.load import load_playbook
from tests.local import LocalRemote, LocalRunner

HOST = Host("gpu-01", {}, ("gpu",))
BEGUN = Begun("boot-1", ("gpu-01-0",), ("gpu-01-0",), ("GPU-a",), ("gpu-01-0",), ("driver",), "eve@desk", 7)


def asked(folder: Path, **files: str) -> RebootSeen:
    """What the probe finds on a host with these files."""
    script = REBOOT_PROBE.script
    names = {"fleet": FLEET_FILE, "system": "/var/run/reboot-required", "state": STATE_FILE}
    for name, text in files.items():
        (folder / name).write_text(text)
    for name, path in names.items():
        script = script.replace(path, shlex.quote(str(folder / name)).strip("'"))
    done = subprocess.run(["sh", "-c", script], capture_output=True, check=True)
    return parse_reboot(Answer(0, done.stdout))


def plan(out: str, **args: Any) -> tuple[Change, ...]:
    facts = Facts({REBOOT_PROBE.key: Answer(0, out.encode())})
    return tuple(Reboot().plan(RebootArgs(**args), facts, Context(HOST)))


def test_nothing_asks_for_a_reboot(tmp_path: Path) -> None:
    seen = asked(tmp_path)
    assert seen.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert (seen.reasons, seen.begun) == ((), None)


def test_every_reason_is_told_once(tmp_path: Path) -> None:
    files = {
        "fleet": "the driver is new\nnouveau is loaded\nthe driver is new\n",
        "system": "*** restart ***\n",
    }
    (tmp_path / "system.pkgs").write_text("linux-image-6.12\nlibc6\nlinux-image-6.12\n")
    assert asked(tmp_path, **files).reasons == (
        "the driver is new",
        "nouveau is loaded",
        "the system asks for it (libc6, linux-image-6.12)",
    )


def test_an_empty_file_asks_for_it_too(tmp_path: Path) -> None:
    assert asked(tmp_path, fleet="").reasons == (f"{FLEET_FILE} is there",)


def test_what_an_unfinished_reboot_left_is_read_back_whole(tmp_path: Path) -> None:
    seen = asked(tmp_path, state=state_text(BEGUN))
    assert seen.begun == BEGUN
    assert seen.is_back


@pytest.mark.parametrize("line", ["", "not JSON", "[]", "{}", '{"boot_id": 7}'])
def test_what_is_no_state_is_none(line: str) -> None:
    assert parse_state(line) is None


def test_a_state_of_a_newer_fleet_is_read_as_far_as_it_is_known() -> None:
    assert parse_state('{"boot_id": "a", "slots": ["s"], "later": {"x": 1}}') == Begun("a", ("s",))


def test_a_host_that_needs_none_gets_none() -> None:
    assert plan("boot a\n") == ()


def test_the_plan_is_one_operation_with_its_reasons() -> None:
    wish = {
        "force": False,
        "system": True,
        "deadline": 60.0,
        "cut": True,
        "timeout": 900.0,
        "allow_down": False,
    }
    assert plan("boot a\nfleet\nreason nouveau is loaded\n", deadline=60.0, cut=True) == (
        Change("reboot (nouveau is loaded)", steps=(Operation("reboot", wish),)),
    )


def test_the_systems_own_wish_can_be_left_to_others() -> None:
    assert plan("boot a\nsystem\npackage libc6\n", system=False) == ()
    assert plan("boot a\nsystem\npackage libc6\n")[0].summary == "reboot (the system asks for it (libc6))"


def test_force_needs_no_reason() -> None:
    assert plan("boot a\n", force=True)[0].summary == "reboot (asked for)"


@pytest.mark.parametrize(
    ("now", "left"), [("boot-1", "not rebooted yet"), ("boot-2", "its slots are not back")]
)
def test_a_reboot_that_has_not_ended_is_gone_on_with(now: str, left: str) -> None:
    (change,) = plan(f"boot {now}\nstate {state_text(BEGUN)}")
    assert change.summary.startswith("go on with the reboot, begun by eve@desk: ")
    assert left in change.summary


def test_a_balancer_is_not_rebooted() -> None:
    facts = Facts({REBOOT_PROBE.key: Answer(0, b"boot a\nsystem\n")})
    with pytest.raises(TaskError, match="lb-01 is a balancer"):
        Reboot().plan(RebootArgs(), facts, Context(Host("lb-01", {}, ("balancer",))))


class Fleet:
    """One host and a playbook that reboots it; how often it was connected, and what was said."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.opened: list[LocalRemote] = []
        self.said: list[str] = []

    def open(self, name: str) -> tuple[LocalRemote, LocalRunner]:
        self.opened.append(LocalRemote(name))
        return self.opened[-1], LocalRunner(self.opened[-1])

    def run(self, operate: Callable[..., None] | None) -> Any:
        (self.folder / "play.yml").write_text(
            "- hosts: gpu\n  tasks:\n    - reboot: {force: true}\n    - command: {argv: ['true']}\n"
        )
        (self.folder / "hosts.yml").write_text("all: {children: {gpu: {hosts: {a: {}}}}}\n")
        inventory = load(self.folder / "hosts.yml")
        options = RunOptions()
        work = prepare(load_playbook(self.folder / "play.yml", MODULES), inventory, options)
        operations = {"reboot": operate} if operate else {}
        return run(work, inventory, self.open, self._listen, options, operations=operations)

    def _listen(self, event: object) -> None:
        if isinstance(event, TaskProgress | HostEvent):
            self.said.append(event.text if isinstance(event, TaskProgress) else event.state)


def test_a_run_connects_anew_after_the_reboot_and_goes_on(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    done: list[tuple[str, Mapping[str, Any]]] = []

    def operate(host: str, arguments: Mapping[str, Any], say: Any, stop: Any) -> None:
        assert not stop()
        say("is back after 3 s")
        done.append((host, arguments))

    result = fleet.run(operate)
    assert [(task.module, task.status) for task in result.hosts["a"].tasks] == [
        ("reboot", "changed"),
        ("command", "changed"),
    ]
    assert (len(fleet.opened), all(remote.closed for remote in fleet.opened)) == (2, True)
    assert done[0][0] == "a"
    assert done[0][1]["force"] is True
    assert "is back after 3 s" in fleet.said


def test_a_host_whose_reboot_fails_ends_there(tmp_path: Path) -> None:
    def operate(*_: object) -> None:
        raise TaskError("a is back, but not whole")

    result = Fleet(tmp_path).run(operate)
    assert [task.status for task in result.hosts["a"].tasks] == ["failed"]
    assert result.exit_code == ExitCode.HOST_FAILED


def test_a_run_that_cannot_reboot_says_so(tmp_path: Path) -> None:
    result = Fleet(tmp_path).run(None)
    (task,) = (task for task in result.hosts["a"].tasks if task.module == "reboot")
    assert "cannot reboot hosts" in str(task.error)


def test_a_runner_alone_does_no_operation() -> None:
    from fleet.docker.calls import Shared
    from fleet.engine.runner import HostRunner

    with pytest.raises(StepError, match="from the host alone: reboot"):
        HostRunner(LocalRemote("a"), Shared()).execute(Operation("reboot"), lambda *_: None)
