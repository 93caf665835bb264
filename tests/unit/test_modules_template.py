import pytest

from fleet.errors import InputError, TaskError
from fleet.model.steps import Upload
from tests.unit.modules_world import ABSENT, file_answer, plan

KEY = "file.content:/etc/motd"
ARGS = {"src": "motd.j2", "dest": "/etc/motd", "mode": "0640", "owner": "app"}


def test_the_rendered_text_is_written(tmp_path):
    (tmp_path / "motd.j2").write_text("Host {{ name }}\n{% if gpus %}\nGPUs: {{ gpus }}\n{% endif %}\n")
    seen = {"search": (tmp_path,), "variables": {"name": "gpu-01", "gpus": 2}}
    (change,) = plan("template", ARGS, {KEY: ABSENT}, **seen)
    assert change.steps == (Upload("/etc/motd", b"Host gpu-01\nGPUs: 2\n", "0640", "app", "root"),)
    right = file_answer(b"Host gpu-01\nGPUs: 2\n", mode="640", owner="app")
    assert plan("template", ARGS, {KEY: right}, **seen) == []


def test_a_templates_folder_is_looked_in(tmp_path):
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "motd.j2").write_text("hello")
    (change,) = plan("template", ARGS, {KEY: ABSENT}, search=(tmp_path,))
    assert change.steps[0].content == b"hello"


def test_an_undefined_variable_names_the_templates_line(tmp_path):
    (tmp_path / "motd.j2").write_text("one\n{{ nothing }}\n")
    with pytest.raises(InputError) as caught:
        plan("template", ARGS, {KEY: ABSENT}, search=(tmp_path,))
    assert str(caught.value.place) == f"{tmp_path / 'motd.j2'}:2"


def test_a_missing_template_is_an_error(tmp_path):
    with pytest.raises(TaskError, match=r"file not found: motd\.j2"):
        plan("template", ARGS, {KEY: ABSENT}, search=(tmp_path,))


def test_a_secret_stays_one(tmp_path):
    (tmp_path / "motd.j2").write_text("{{ password }}\n")
    args = {**ARGS, "secret": True, "mode": None}
    change = plan(
        "template", args, {"file.hash:/etc/motd": ABSENT}, search=(tmp_path,), variables={"password": "hush"}
    )[0]
    assert change.steps[0].mode == "0600"
    assert "hush" not in repr(change)
