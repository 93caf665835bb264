"""What is wrong with a task's arguments, in a user's words."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from fleet.engine.mistakes import argument_error
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
