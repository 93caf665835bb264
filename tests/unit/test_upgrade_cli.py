"""What `fleet upgrade` says of its argument before any host is looked at."""

from __future__ import annotations

from pathlib import Path

import pytest

from fleet.cli.upgrade_run import refuse_bare
from fleet.errors import InputError
from fleet.inventory import Inventory, load


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
