"""What `fleet upgrade` says of its argument before any host is looked at."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import get_type_hints

import pytest

from fleet.cli import upgrade as commands
from fleet.cli.upgrade_run import refuse_bare
from fleet.errors import InputError
from fleet.inventory import Inventory, load
from fleet.rollout.defaults import load_defaults
from fleet.rollout.model import Share
from fleet.rollout.options import overridden


def inventory(folder: Path, image: str) -> Inventory:
    path = folder / "hosts.yml"
    path.write_text(
        "all:\n  children:\n    gpu:\n      hosts: {g1: {}}\n      vars: {image: '" + image + "'}\n"
        "    balancer: {hosts: {lb: {}}}\n"
    )
    return load([path])


@pytest.mark.parametrize("word", ["v2", "latest", "2026.1"])
def test_a_tag_alone_is_refused_and_the_whole_name_is_offered(tmp_path: Path, word: str) -> None:
    with pytest.raises(InputError, match=f"'{word}' names no image") as caught:
        refuse_bare(word, inventory(tmp_path, "registry.example:5000/app:v1"))
    assert f"registry.example:5000/app:{word}" in caught.value.remedy


@pytest.mark.parametrize("name", ["app:v2", "registry.example/app", "app@sha256:1", "app"])
def test_whole_names_are_taken(tmp_path: Path, name: str) -> None:
    refuse_bare(name, inventory(tmp_path, "app:v1"))


SHARED = ("floor", "max_unavailable", "drain_deadline", "ready_deadline", "strategy", "retain")


def named_default(function: Callable[..., object], name: str) -> str:
    """What the help of an option names as its default."""
    hint = get_type_hints(function, include_extras=True)[name]
    (option,) = hint.__metadata__
    found = re.search(r"Default: (\S+)\.$", option.help)
    assert found, option.help
    return found[1]


@pytest.mark.parametrize("name", ["canary", "ramp", "soak", *SHARED])
def test_the_help_names_the_shipped_defaults(tmp_path: Path, name: str) -> None:
    shipped = load_defaults(tmp_path).options
    other = replace(shipped, **{name: object()})
    assert overridden(other, {name: named_default(commands.upgrade, name)}) == shipped


@pytest.mark.parametrize("name", ["canary", "ramp", "soak", *SHARED])
def test_the_help_of_a_rollback_names_its_own_defaults(tmp_path: Path, name: str) -> None:
    shipped = replace(load_defaults(tmp_path).options, canary=Share(0), ramp=(100,), soak=0.0)
    other = replace(shipped, **{name: object()})
    assert overridden(other, {name: named_default(commands.rollback, name)}) == shipped


def test_the_help_says_where_defaults_are(tmp_path: Path) -> None:
    for function in (commands.upgrade, commands.rollback):
        assert "playbooks/upgrade.yml" in (function.__doc__ or "")
