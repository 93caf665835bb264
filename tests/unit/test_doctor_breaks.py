"""Nothing that the doctor finds goes untried: each check, trouble and fix in the code has its break in the lab."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import fleet.doctor
from fleet.doctor.checks import ALL
from tests.lab.breaks import ROUNDS
from tests.lab.breaks.fixes import FIXABLE

BREAKS = [broken for each in ROUNDS for broken in each.breaks]
FOLDER = Path(fleet.doctor.__file__).parent

ONLY_IN_UNIT_TESTS = {
    "its proxy's name is not known there": "a lab host has no proxy",
    " cannot be asked for the image there": "the lab's registry has no second server for tokens",
    "a container is on another GPU than its slot's": "containers are made by their slots; only another version could",
    "the slots' ports are wrong in the inventory": "the inventory, not a host",
}
"""Troubles without a break in the lab, and why."""


def troubles() -> Iterator[tuple[str, bool]]:
    """What the code can name, as far as it stands there in words (of a text with values in it the longest part
    without one), and whether a fix goes with it."""
    for path in sorted(FOLDER.glob("*.py")):
        if path.name == "examine.py":  # mistakes in a check or in the inventory
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and getattr(node.func, "id", "") in ("bad", "Trouble")
                and node.args
            ):
                fix = any(keyword.arg == "fix" for keyword in node.keywords)
                if text := words(node.args[0]):
                    yield text, fix


def words(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return max((str(part.value) for part in node.values if isinstance(part, ast.Constant)), key=len)
    return ""


def covered(text: str, whats: set[str]) -> bool:
    return any(what in text or text.strip() in what for what in whats)


def test_every_check_is_broken_in_the_lab():
    assert {broken.check for broken in BREAKS} == {check.id for check in ALL}


def test_every_trouble_that_the_code_names_is_broken_in_the_lab_or_is_listed_with_the_reason():
    whats = {broken.what for broken in BREAKS}
    missing = {text for text, _ in troubles() if not covered(text, whats)}
    assert missing == set(ONLY_IN_UNIT_TESTS)


def test_every_fix_is_tried_in_the_lab():
    whats = {broken.what for broken, _ in FIXABLE}
    assert [text for text, fix in troubles() if fix and not covered(text, whats)] == []


def test_the_search_for_troubles_finds_them():
    found = dict(troubles())
    assert len(found) > 60
    assert found["Docker is not installed"] is False
    assert found["the Docker Engine does not run"] is True
    assert found[" is not trusted there (TLS)"] is False


@pytest.mark.parametrize("each", ROUNDS, ids=lambda each: each.name)
def test_a_break_names_hosts_of_the_lab_and_tells_apart_what_it_breaks(each):
    assert {broken.host for broken in each.breaks} <= {"gpu-01", "gpu-02", "lb-01", "lb-02"}
    keys = [(broken.told, broken.what) for broken in each.breaks]
    assert len(keys) == len(set(keys))
    assert all(re.search(r"\w", broken.remedy) for broken in each.breaks)
