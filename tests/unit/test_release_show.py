"""`fleet release show`: what is known of one rollout, and where its report lies."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from fleet.console.rollout_history import release_json, show_release
from fleet.rollout.history import Row
from fleet.rollout.operate import ReleaseDetail
from fleet.rollout.report.files import data_file, page_file
from tests.unit.rollout_folders import header

ROW = Row("r1", "upgrade", "app:v2", "sha256:2", "anna@ops-1", 1.0, 2.0, "finished", "", "app:v1", "sha256:1")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))


def report_line() -> str:
    console = Console(file=io.StringIO(), width=100, highlight=False)
    show_release(ReleaseDetail(ROW, header(), (), ()), console)
    assert isinstance(console.file, io.StringIO)
    (line,) = [line for line in console.file.getvalue().splitlines() if line.startswith("report")]
    return line.removeprefix("report").strip()


def test_a_report_on_this_machine_is_named_with_its_data_beside_it(tmp_path: Path) -> None:
    page = page_file("r1")
    assert page == tmp_path / "fleet" / "reports" / "r1.html"
    page.parent.mkdir(parents=True)
    page.write_text("<html>")
    assert report_line() == str(page)
    data_file(page).write_text("{}")
    assert report_line() == f"{page}, and r1.json beside it"
    assert release_json(ReleaseDetail(ROW, header(), (), ()))["report"] == str(page)


def test_where_there_is_none_it_says_who_may_have_it() -> None:
    assert report_line().startswith("not among the reports of this machine; anna@ops-1 ran it")
    assert release_json(ReleaseDetail(ROW, header(), (), ()))["report"] is None
