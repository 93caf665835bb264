"""Rows of `fleet history` and what an operator means by RELEASE."""

from __future__ import annotations

import pytest

from fleet.errors import InputError
from fleet.rollout.history import Row, find_release, find_row, previous_release, releases, rows_of
from fleet.rollout.model import Entry, Origin
from fleet.rollout.store import Head
from tests.unit.rollout_folders import entry, header

A, B, C = ("sha256:" + letter * 64 for letter in "abc")


def head(last: Entry | None = None, why: Entry | None = None, **other: object) -> Head:
    made = header(digest=B, **other)
    return Head(made.id, made, last, why, last.number if last else 0, 1, 1, False, ("lb-1",))


def row(id: str, digest: str, before: str = "", state: str = "finished", image: str = "") -> Row:
    names = {A: "reg:5000/app:v1", B: "reg:5000/app:v2", C: "reg:5000/app:v3", "": ""}
    image = image or names[digest]
    return Row(id, "upgrade", image, digest, "anna", 1.0, 2.0, state, "", names[before], before)


ROWS = (
    row("20261125-3", C, B, "rolled-back"),
    row("20261125-2", B, A),
    row("20261124-1", A),
)


def test_a_row_says_how_its_rollout_ended_and_why() -> None:
    why = entry(1, "rolling-back", reason="too slow")
    cases = [
        (head(entry(2, "finished")), "finished", ""),
        (head(entry(2, "rolled-back"), why), "rolled-back", "too slow"),
        (
            head(entry(2, "stopped", reason="Ctrl-C"), entry(2, "stopped", reason="Ctrl-C")),
            "stopped",
            "Ctrl-C",
        ),
        (head(entry(2, "ready")), "interrupted", ""),
        (head(), "interrupted", ""),
    ]
    for each, state, reason in cases:
        (made,) = rows_of([each])
        assert (made.state, made.reason) == (state, reason)
    assert [rows_of([head(entry(2, "ready"))], running=id)[0].state for id in ("r1", "r2")] == [
        "running",
        "interrupted",
    ]
    (made,) = rows_of([head(entry(2, "finished"))])
    assert (made.id, made.kind, made.image, made.digest, made.by, made.when, made.seconds) == (
        "r1", "upgrade", "app:v2", B, "anna", 1000.0, 2.0,
    )  # fmt: skip


def test_a_rollout_that_somebody_goes_on_with_is_running_until_its_end() -> None:
    stopped = entry(2, "stopped", reason="Ctrl-C")
    (made,) = rows_of([head(stopped, stopped)], running="r1")
    assert (made.state, made.reason) == ("running", "")
    (made,) = rows_of([head(entry(3, "draining"), entry(2, "rolling-back", reason="slow"))], running="r1")
    assert (made.state, made.reason) == ("running", "slow")
    (made,) = rows_of([head(entry(3, "rolled-back"), entry(2, "rolling-back", reason="slow"))], running="r1")
    assert (made.state, made.reason) == ("rolled-back", "slow")


def test_what_served_before_is_what_most_of_the_replaced_weight_ran() -> None:
    ran = (
        ("g1-0", "app:v1", A, 10),
        ("g1-1", "app:v0", C, 15),
        ("g2-0", "app:v1", A, 10),
        ("g2-1", "app:v2", B, 99),
    )
    origins = tuple(
        Origin(slot, "g", "r", image, digest, weight, False, "n") for slot, image, digest, weight in ran
    )
    (made,) = rows_of([head(entry(1, "finished"), origins=origins)])
    assert (made.before_image, made.before_digest) == ("app:v1", A)


def test_the_previous_release_is_that_before_the_newest_finished_rollout() -> None:
    previous = previous_release(ROWS)
    assert (previous.image, previous.digest) == ("reg:5000/app:v1", A)
    only = previous_release([row("1", B, C)])
    assert (only.image, only.digest, only.rollout) == ("reg:5000/app:v3", C, "")
    assert previous_release([row("2", C), row("1", B)]).digest == B


@pytest.mark.parametrize("rows", [(), (row("1", B),), (row("1", B, A, "rolled-back"),)])
def test_where_nothing_is_known_of_before_it_is_said(rows: tuple[Row, ...]) -> None:
    with pytest.raises(InputError, match="what served before"):
        previous_release(rows)


@pytest.mark.parametrize(
    ("text", "digest"),
    [
        ("20261125-2", B), ("20261124", A),
        ("reg:5000/app:v2", B), ("v1", A), (A, A), ("a" * 12, A), ("sha256:bbbb", B),
        (f"reg:5000/app@{A}", A), (f"reg:5000/app:v9@{A}", A),
    ],
)  # fmt: skip
def test_a_release_goes_by_rollout_image_tag_and_digest(text: str, digest: str) -> None:
    assert find_release(ROWS, text).digest == digest


def test_a_release_that_was_there_before_all_rollouts_is_found() -> None:
    assert find_release([row("1", B, A)], "v1").digest == A
    assert [each.digest for each in releases(ROWS)] == [B, A]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("v9", "no release is known as `v9`"), ("aaa", "no release"), ("", "no release"),
        ("v3", "no release is known as `v3`"),
        (f"other@{A}", "no release"),
        ("20261125-3", "did not finish"), ("2026112", "several rollouts begin"),
    ],
)  # fmt: skip
def test_what_names_no_release_is_refused_with_what_there_is(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as error:
        find_release(ROWS, text)
    if "several" not in said:
        assert "reg:5000/app:v2 bbbbbbbbbbbb (20261125-2)" in error.value.remedy


def test_a_tag_that_moved_is_not_guessed() -> None:
    moved = (row("2", B, image="app:latest"), row("1", A, image="app:latest"))
    for text in ("app:latest", "app", "latest"):
        with pytest.raises(InputError, match="bbbbbbbbbbbb, aaaaaaaaaaaa"):
            find_release(moved, text)
    assert find_release(moved, "1").digest == A


def test_a_rollout_is_found_whether_it_finished_or_not() -> None:
    assert find_row(ROWS, "20261125-3").state == "rolled-back"
    assert find_row(ROWS, "v3").id == "20261125-3"
    assert find_row(ROWS, "v2").id == "20261125-2"
    for text, said in (("2026112", "several rollouts"), ("v9", "no rollout is known"), ("", "no rollout")):
        with pytest.raises(InputError, match=said):
            find_row(ROWS, text)
