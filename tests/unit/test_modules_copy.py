import os
import stat

import pytest

from fleet.errors import StepError, TaskError
from fleet.model.steps import Run, Upload
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

KEY = "file.content:/etc/app.conf"
TEXT = {"dest": "/etc/app.conf", "content": "a = 1\n"}


def test_a_new_file_has_sane_attributes():
    (change,) = plan("copy", TEXT, {KEY: ABSENT})
    assert change.summary == "create /etc/app.conf"
    assert change.steps == (Upload("/etc/app.conf", b"a = 1\n", "0644", "root", "root"),)
    assert change.diff == "--- /dev/null\n+++ /etc/app.conf\n@@ -0,0 +1 @@\n+a = 1\n"


def test_a_right_file_is_left_alone():
    assert plan("copy", TEXT, {KEY: file_answer(b"a = 1\n", mode="600", owner="app")}) == []


def test_a_changed_file_keeps_what_is_not_named():
    (change,) = plan(
        "copy", {**TEXT, "group": "adm"}, {KEY: file_answer(b"a = 2\n", mode="600", owner="app")}
    )
    assert change.steps == (Upload("/etc/app.conf", b"a = 1\n", "0600", "app", "adm"),)
    assert change.diff.startswith("/etc/app.conf: app:root -> app:adm\n--- /etc/app.conf\n")


def test_attributes_alone_need_no_upload():
    (change,) = plan("copy", {**TEXT, "mode": "600"}, {KEY: file_answer(b"a = 1\n")})
    assert change.steps == (Run(("chmod", "--", "0600", "/etc/app.conf")),)
    assert change.diff == "/etc/app.conf: 0644 -> 0600\n"


def test_a_link_is_replaced_and_a_folder_is_not():
    (change,) = plan("copy", TEXT, {KEY: link_answer("/etc/other")})
    assert change.steps == (Upload("/etc/app.conf", b"a = 1\n", "0644", "root", "root"),)
    assert change.diff.startswith("/etc/app.conf: symbolic link to /etc/other -> file\n")
    with pytest.raises(TaskError, match="is a directory, not a file"):
        plan("copy", TEXT, {KEY: folder_answer()})


def test_a_secret_is_compared_by_hash_and_never_shown():
    key = "file.hash:/etc/key"
    args = {"dest": "/etc/key", "content": "hush", "secret": True}
    (change,) = plan("copy", args, {key: ABSENT})
    (upload,) = change.steps
    assert upload == Upload("/etc/key", b"hush", "0600", "root", "root", secret=True)
    assert "hush" not in repr(change)
    assert "hush" not in change.diff


def test_binary_content_is_told_by_size(tmp_path):
    (tmp_path / "blob").write_bytes(b"\0\1\2")
    args = {"dest": "/etc/app.conf", "src": "blob"}
    (change,) = plan("copy", args, {KEY: file_answer(b"text\n")}, search=(tmp_path,))
    assert change.diff == "/etc/app.conf: 5 -> 3 bytes\n"
    assert steps([change])[0].content == b"\0\1\2"


def test_validation_comes_before_the_rename():
    (change,) = plan("copy", {**TEXT, "validate": "check -f %s"}, {KEY: ABSENT})
    upload, run = change.steps
    assert upload.path == "/etc/app.conf.fleet-new"
    assert run.argv[4:] == (
        "/etc/app.conf.fleet-new",
        "/etc/app.conf",
        "check",
        "-f",
        "/etc/app.conf.fleet-new",
    )
    assert run.title == "check -f /etc/app.conf"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"dest": "/a"}, "exactly one of `src` and `content`"),
        ({"dest": "/a", "src": "b", "content": "c"}, "exactly one of `src` and `content`"),
        ({"dest": "a", "src": "b"}, "absolute path"),
        ({"dest": "/a/", "src": "b"}, "name the file itself"),
        ({"dest": "/a", "src": "b", "mode": 644}, "quoted octal"),
        ({"dest": "/a", "src": "b", "validate": "check"}, "must contain %s"),
    ],
)
def test_wrong_arguments(args, message):
    with pytest.raises(ValueError, match=message):
        typed("copy", args)


def test_on_a_real_machine(tmp_path):
    host, path = Machine(), tmp_path / "new folder" / "f"
    mine = {"owner": str(os.getuid()), "group": str(os.getgid())}
    args = {"dest": str(path), "content": "a\n", **mine}
    assert host.converge("copy", args) == [f"create {path}"]
    assert host.converge("copy", args) == []
    assert host.converge("copy", {**args, "content": "b", "mode": "0640"}) == [f"change {path}"]
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("b", 0o640)
    host.converge("copy", {**args, "content": "c\n", "backup": True})
    assert [old.read_text() for old in path.parent.glob("f.*.bak")] == ["b"]


def test_a_refused_file_never_takes_the_place(tmp_path):
    host, path = Machine(), tmp_path / "f"
    args = {"dest": str(path), "content": "good\n", "validate": "grep -q good %s"}
    host.converge("copy", args)
    with pytest.raises(StepError):
        host.apply("copy", {**args, "content": "bad\n"})
    assert path.read_text() == "good\n"
    assert list(tmp_path.iterdir()) == [path]
