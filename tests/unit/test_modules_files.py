"""The file probe and what is planned from it: copy, template and file share it."""

import os
import subprocess

import pytest

from fleet.errors import TaskError
from fleet.model.facts import Answer, Facts
from fleet.modules import _files
from tests.unit.modules_world import context


def state(path, depth="content"):
    probe = _files.file_probe(str(path), depth)
    done = subprocess.run(["sh", "-c", probe.script], capture_output=True, env={**os.environ, "LC_ALL": "C"})
    return _files.file_state(
        str(path), depth, Facts({probe.key: Answer(done.returncode, done.stdout)}), context()
    )


@pytest.mark.parametrize(
    "content", [b"", b"one\n", b"no newline", b"\x00\xff\n\n", "ü\n".encode(), b"absent\n"]
)
@pytest.mark.parametrize("name", ["plain", "with space", "quote'$x`", "-dash", "tab\there"])
def test_the_probe_tells_any_content_of_any_path(tmp_path, content, name):
    path = tmp_path / name
    path.write_bytes(content)
    path.chmod(0o640)
    seen = state(path)
    assert seen.regular
    assert seen.content == (content or b"")
    assert (seen.mode, seen.size, seen.uid) == ("640", len(content), str(os.getuid()))
    assert seen.mtime == pytest.approx(path.stat().st_mtime, abs=1e-5)
    assert state(path, "hash").same_content(content)
    assert not state(path, "hash").same_content(content + b"x")


def test_a_large_file_is_told_by_its_hash(tmp_path):
    large = os.urandom(_files.CONTENT_LIMIT + 1)
    path = tmp_path / "large"
    path.write_bytes(large)
    seen = state(path)
    assert seen.content is None
    assert seen.same_content(large)
    assert not seen.same_content(large[:-1] + bytes([large[-1] ^ 1]))


def test_the_probe_tells_links_folders_and_nothing(tmp_path):
    (tmp_path / "dangling").symlink_to("no where")
    assert (state(tmp_path / "dangling").kind, state(tmp_path / "dangling").target) == (
        "symbolic link",
        "no where",
    )
    assert state(tmp_path).kind == "directory"
    assert not state(tmp_path / "nothing").exists
    (tmp_path / "file").touch()
    assert not state(tmp_path / "file" / "below").exists


def test_a_host_that_cannot_read_the_path_is_an_error():
    key = _files.file_probe("/x", "content").key
    with pytest.raises(TaskError, match="cannot read /x"):
        _files.file_state("/x", "content", Facts({key: Answer(1, b"")}), context())


def test_a_broken_source_names_every_place(tmp_path):
    with pytest.raises(TaskError) as caught:
        _files.find_source("a.crt", "files", context(search=(tmp_path, tmp_path / "more")))
    assert str(tmp_path / "more" / "files" / "a.crt") in caught.value.output
    (tmp_path / "more" / "files").mkdir(parents=True)
    (tmp_path / "more" / "files" / "a.crt").touch()
    found = _files.find_source("a.crt", "files", context(search=(tmp_path, tmp_path / "more")))
    assert found == tmp_path / "more" / "files" / "a.crt"
    with pytest.raises(TaskError, match="is a folder"):
        _files.find_source("more", "files", context(search=(tmp_path,)))


@pytest.mark.parametrize("path", ["relative", "/a/../b", "/a/./b", "/a\nb", ""])
def test_a_path_says_plainly_where_it_leads(path):
    with pytest.raises(ValueError, match="`path` must"):
        _files.check_path(path)


@pytest.mark.parametrize("mode", [644, 420, "rw", "0999", "07777", ""])
def test_a_mode_is_quoted_octal(mode):
    with pytest.raises(ValueError, match="quoted octal"):
        _files.check_mode(mode)


def test_attributes_only_where_they_differ():
    found = _files.FileState("regular file", "644", "root", "adm", "0", "4")
    assert _files.attributes("/f", found, "0644", "0", "adm") is None
    change = _files.attributes("/f", found, "4755", "daemon", None)
    assert [step.argv for step in change.steps] == [
        ("chown", "-h", "--", "daemon", "/f"),
        ("chmod", "--", "4755", "/f"),
    ]
    assert change.diff == "/f: root:adm 0644 -> daemon:adm 4755\n"
    kept = _files.attributes(
        "/f", _files.FileState("regular file", "4755", "a", "b", "1", "2"), "4755", None, "c"
    )
    assert [step.argv[0] for step in kept.steps] == ["chown", "chmod"]


def test_a_missing_newline_shows_in_the_diff():
    assert _files.text_diff("/f", "a\n", "a") == (
        "--- /f\n+++ /f\n@@ -1 +1 @@\n-a\n+a\n\\ No newline at end of file\n"
    )
