import pytest

from fleet.errors import TaskError
from fleet.model.facts import Answer
from fleet.model.steps import Run
from fleet.modules._systemd import SYSTEMCTL, full_name, unit_probe
from tests.unit.modules_world import NO_UNIT, RUNNING_UNIT, plan, steps, typed

KEY = "unit:app.service"


def unit(**changed):
    lines = [line.partition("=") for line in RUNNING_UNIT.splitlines()]
    return "".join(f"{key}={changed.get(key, value)}\n" for key, _, value in lines)


def systemd(args, answer):
    return plan("systemd", {"name": "app", **args}, {KEY: answer})


def ctl(verb):
    argv = ("sh", "-c", SYSTEMCTL, "systemctl", verb, "app.service")
    return Run(argv, timeout=300.0, title=f"systemctl {verb} app.service")


def test_a_running_enabled_unit_needs_nothing():
    assert systemd({"state": "started", "enabled": True}, RUNNING_UNIT) == []
    assert systemd({"state": "stopped", "enabled": False}, NO_UNIT) == []


def test_a_stopped_unit_is_enabled_then_started():
    found = unit(ActiveState="inactive", SubState="dead", UnitFileState="disabled")
    changes = systemd({"state": "started", "enabled": True}, found)
    assert steps(changes) == [ctl("enable"), ctl("start")]
    assert [c.diff for c in changes] == [
        "app.service: disabled -> enabled\n",
        "app.service: inactive -> started\n",
    ]


def test_stop_and_disable():
    assert steps(systemd({"state": "stopped", "enabled": False}, RUNNING_UNIT)) == [
        ctl("disable"),
        ctl("stop"),
    ]


@pytest.mark.parametrize("state", ["activating", "reloading"])
def test_a_unit_that_comes_up_is_up(state):
    assert systemd({"state": "started"}, unit(ActiveState=state, SubState="start")) == []


def test_a_unit_that_fails_again_and_again_is_not():
    assert steps(systemd({"state": "started"}, unit(ActiveState="activating", SubState="auto-restart"))) == [
        ctl("start")
    ]


def test_changed_unit_files_are_read_first():
    found = unit(NeedDaemonReload="yes")
    assert steps(systemd({"state": "started"}, found)) == [Run(("systemctl", "daemon-reload"))]
    assert steps(systemd({"state": "restarted"}, found)) == [
        Run(("systemctl", "daemon-reload")),
        ctl("restart"),
    ]
    assert systemd({"state": "started", "daemon_reload": False}, found) == []


@pytest.mark.parametrize(("state", "verb"), [("restarted", "restart"), ("reloaded", "reload-or-restart")])
def test_restarts_always_happen(state, verb):
    assert steps(systemd({"state": state}, RUNNING_UNIT)) == [ctl(verb)]


@pytest.mark.parametrize("word", ["static", "indirect", "generated", "alias"])
def test_units_that_others_pull_in_count_as_enabled(word):
    assert systemd({"enabled": True}, unit(UnitFileState=word)) == []


@pytest.mark.parametrize("word", ["disabled", "enabled-runtime", "linked", ""])
def test_other_units_do_not(word):
    assert steps(systemd({"enabled": True}, unit(UnitFileState=word))) == [ctl("enable")]


def test_masks():
    assert steps(systemd({"masked": True, "state": "stopped"}, RUNNING_UNIT)) == [ctl("stop"), ctl("mask")]
    masked = unit(LoadState="masked", UnitFileState="masked", ActiveState="inactive", SubState="dead")
    assert systemd({"masked": True}, masked) == []
    assert steps(systemd({"masked": False}, masked)) == [ctl("unmask")]


def test_a_host_without_systemd_is_an_error():
    with pytest.raises(TaskError, match="systemd does not answer"):
        systemd({"state": "started"}, Answer(1, b""))


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("ssh", "ssh.service"),
        ("a.socket", "a.socket"),
        ("org.x.y", "org.x.y.service"),
        ("u@1.timer", "u@1.timer"),
    ],
)
def test_unit_names(name, full):
    assert full_name(name) == full
    assert unit_probe(name).key == f"unit:{full}"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"name": "a"}, "at least one of"),
        ({"name": "a b", "state": "started"}, "not a unit's name"),
        ({"name": "--now", "state": "started"}, "not a unit's name"),
        ({"name": "a", "masked": True, "state": "started"}, "neither enabled nor started"),
    ],
)
def test_wrong_arguments(args, message):
    with pytest.raises(ValueError, match=message):
        typed("systemd", args)
