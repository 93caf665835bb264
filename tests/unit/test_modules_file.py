import stat

import pytest

from fleet.errors import TaskError
from fleet.model.steps import Run
from tests.unit.modules_world import (
    ABSENT,
    Machine,
    file_answer,
    folder_answer,
    link_answer,
    plan,
    steps,
    typed,
)

KEY = "file.attributes:/srv/models"


def file(args, answer):
    return plan("file", {"path": "/srv/models", **args}, {KEY: answer})


def test_a_folder_is_made_with_its_attributes():
    args = {"state": "directory", "mode": "750", "owner": "app", "group": "adm"}
    (change,) = file(args, ABSENT)
    argv = ("install", "-d", "-m", "0750", "-o", "app", "-g", "adm", "--", "/srv/models")
    assert change.steps == (Run(argv),)
    assert file(args, folder_answer("750", "app", "adm")) == []
    assert steps(file(args, folder_answer("750", "app", "root"))) == [
        Run(("chown", "-h", "--", ":adm", "/srv/models"))
    ]


def test_a_link_is_made_or_turned():
    args = {"state": "link", "src": "/data/models"}
    assert steps(file(args, ABSENT)) == [Run(("ln", "-sfn", "--", "/data/models", "/srv/models"))]
    assert file(args, link_answer("/data/models")) == []
    (change,) = file({**args, "owner": "app"}, link_answer("/old"))
    assert change.diff == "/srv/models: link to /old -> link to /data/models\n"
    assert change.steps[1] == Run(("chown", "-h", "--", "app", "/srv/models"))
    for found in (folder_answer(), file_answer(b"x")):
        with pytest.raises(TaskError, match="does not replace it by a link"):
            file(args, found)


def test_absence():
    assert file({"state": "absent"}, ABSENT) == []
    for found in (folder_answer(), file_answer(b"x"), link_answer("/x")):
        (run,) = steps(file({"state": "absent"}, found))
        assert run.argv == ("rm", "-rf", "--one-file-system", "--", "/srv/models")


def test_an_existing_file_gets_attributes_and_a_missing_one_waits():
    assert steps(file({"mode": "0600"}, file_answer(b"x"))) == [Run(("chmod", "--", "0600", "/srv/models"))]
    (change,) = file({"mode": "0600"}, ABSENT)
    assert change.deferred
    with pytest.raises(TaskError, match="is a folder"):
        file({"mode": "0600"}, folder_answer())
    with pytest.raises(TaskError, match="is a link to /x"):
        file({"mode": "0600"}, link_answer("/x"))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"path": "/", "state": "absent"}, "does not remove /"),
        ({"path": "//usr/", "state": "absent"}, "does not remove"),
        ({"path": "/srv/x", "state": "link"}, "`src` is the target"),
        ({"path": "/srv/x", "src": "y"}, "`src` is the target"),
        ({"path": "/srv/x", "state": "absent", "mode": "0600"}, "`mode` means nothing"),
        ({"path": "/srv/x", "state": "absent", "owner": "a"}, "`owner` and `group` mean nothing"),
        ({"path": "x"}, "absolute path"),
    ],
)
def test_wrong_arguments(args, message):
    with pytest.raises(ValueError, match=message):
        typed("file", args)


def test_on_a_real_machine(tmp_path):
    host, path = Machine(), tmp_path / "a" / "b"
    folder = {"path": f"{path}/", "state": "directory", "mode": "0711"}
    assert host.converge("file", folder) == [f"create folder {path}"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o711
    host.converge("file", {**folder, "mode": "0700"})
    link = tmp_path / "l"
    host.converge("file", {"path": str(link), "state": "link", "src": "a/b"})
    assert host.converge("file", {"path": str(link), "state": "link", "src": "a"}) == [f"link {link} to a"]
    host.converge("file", {"path": f"{link}/", "state": "absent"})
    assert path.is_dir()
    host.converge("file", {"path": str(tmp_path / "a"), "state": "absent"})
    assert list(tmp_path.iterdir()) == []
