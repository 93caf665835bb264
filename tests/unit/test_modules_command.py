import pytest

from fleet.model.steps import Run
from fleet.modules.registry import load
from tests.unit.modules_world import Machine, context, plan, typed


def test_a_command_without_conditions_runs_each_time():
    assert load("command").probes(typed("command", {"cmd": "true"}), context()) == ()
    (change,) = plan("command", {"cmd": "mkswap '/a b'", "timeout": 5}, {})
    assert change.summary == "run mkswap '/a b'"
    assert change.steps == (Run(("mkswap", "/a b"), timeout=5.0),)
    assert load("command").verifies is False


def test_ways_to_say_a_command():
    args = {"chdir": "/srv", "stdin": "y\n", "environment": {"A": "1"}}
    (change,) = plan("command", {"shell": "a | b", **args}, {})
    argv = ("env", "--chdir=/srv", "--", "sh", "-c", "a | b")
    assert change.steps == (Run(argv, stdin=b"y\n", timeout=600.0, env={"A": "1"}),)
    (change,) = plan("command", {"argv": ["echo", "$HOME"]}, {})
    assert change.steps[0].argv == ("echo", "$HOME")
    assert "y" not in change.summary


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({}, "exactly one of"),
        ({"cmd": "a", "shell": "b"}, "exactly one of"),
        ({"cmd": ""}, "empty"),
        ({"argv": []}, "empty"),
        ({"cmd": "a", "creates": "b"}, "`creates` must be an absolute path"),
        ({"cmd": "a", "unless": []}, "`unless` is empty"),
        ({"cmd": "a", "timeout": 0}, "more than 0"),
        ({"cmd": "a 'b"}, "No closing quotation"),
    ],
)
def test_wrong_arguments(args, message):
    with pytest.raises(ValueError, match=message):
        typed("command", args)


@pytest.mark.parametrize(
    ("conditions", "runs"),
    [
        ({"creates": "{dir}/there"}, False),
        ({"creates": "{dir}/dangling"}, False),
        ({"creates": "{dir}/not there"}, True),
        ({"removes": "{dir}/there"}, True),
        ({"removes": "{dir}/not there"}, False),
        ({"unless": ["test", "-e", "{dir}/there"]}, False),
        ({"unless": "ls '{dir}/not there'"}, True),
        ({"unless": "exit 0"}, False),
        ({"unless": "exit 3"}, True),
        ({"unless": '[ "$A" = "1 2" ]', "environment": {"A": "1 2"}}, False),
        ({"creates": "{dir}/not there", "unless": "true"}, False),
        ({"creates": "{dir}/not there", "unless": "false"}, True),
    ],
)
def test_conditions_are_asked_of_a_real_machine(tmp_path, conditions, runs):
    (tmp_path / "there").touch()
    (tmp_path / "dangling").symlink_to("nowhere")

    def here(value):
        if isinstance(value, list):
            return [here(item) for item in value]
        return value.replace("{dir}", str(tmp_path)) if isinstance(value, str) else value

    args = {"cmd": "true", **{key: here(value) for key, value in conditions.items()}}
    assert bool(Machine().plan("command", args)) is runs


def test_a_condition_is_true_after_its_command(tmp_path):
    host, made = Machine(), tmp_path / "made here"
    assert host.converge("command", {"shell": f"pwd >'{made}'", "creates": str(made), "chdir": str(tmp_path)})
    assert made.read_text() == f"{tmp_path}\n"
