"""What is wrong with a task's arguments, in a user's words."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from fleet.engine.mistakes import argument_error
from fleet.errors import Place
from fleet.modules.gpu_containers import GpuContainersArgs
from fleet.modules.nvidia_driver import NvidiaDriverArgs
from fleet.modules.registry import MODULES
from fleet.playbook.load import load_playbook


@pytest.mark.parametrize(
    ("args", "message", "remedy"),
    [
        ({"min_version": 570.1}, "`min_version` must be text, not a number", "write it in quotes"),
        ({"branch": "580"}, "`branch` must be a whole number or nothing, not text", ""),
        ({"hold": [1]}, "`hold` must be true or false or nothing, not a list", ""),
        (
            {"state": "brnch"},
            "`state` cannot be 'brnch'; did you mean 'branch'?",
            "write one of: present, branch",
        ),
        ({"modules": "x"}, "`modules` cannot be 'x'", "write one of: dkms, prebuilt"),
        ({"branch": 99}, "`branch` is a driver's first number, such as 580, not 99", ""),
    ],
)
def test_a_wrong_argument_in_words(
    tmp_path: Path, args: dict[str, object], message: str, remedy: str
) -> None:
    path = tmp_path / "play.yml"
    path.write_text("- hosts: gpu\n  tasks:\n    - nvidia_driver: {}\n")
    (task,) = load_playbook(path, MODULES).plays[0].tasks
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert(args, NvidiaDriverArgs)
    error = argument_error("", str(caught.value), task, args, NvidiaDriverArgs)
    assert (error.message, error.remedy, error.place) == (message, remedy, task.place)


@pytest.mark.parametrize(
    ("name", "value", "said"), [("cap_drop", ["NET"], "cap_drop has 'NET'"), ("user", "a b", "user is 'a b'")]
)
def test_what_a_module_says_of_an_argument_is_told_at_its_place_in_the_inventory(
    tmp_path: Path, name: str, value: object, said: str
) -> None:
    path = tmp_path / "play.yml"
    template = f"{{{{ slot_safety.{name} }}}}"
    path.write_text(f"- hosts: gpu\n  tasks:\n    - gpu_containers: {{image: x, {name}: '{template}'}}\n")
    (task,) = load_playbook(path, MODULES).plays[0].tasks
    rendered = {"image": "x", name: value}
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert(rendered, GpuContainersArgs)
    error = argument_error("", str(caught.value), task, rendered, GpuContainersArgs)
    assert error.message.startswith(said)
    there = Place("inventories/fleet.yml", 7, 5)
    error.trace({"slot_safety": {name: value}}, {"slot_safety": there}.get)
    assert error.place == there
