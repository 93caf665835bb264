"""The starter project."""

from __future__ import annotations

from pathlib import Path

import pytest

from fleet.cli.options import default_inventory
from fleet.errors import InputError
from fleet.inventory import load
from fleet.modules.registry import MODULES
from fleet.playbook.load import load_playbook
from fleet.project import files, init
from fleet.provision.playbook import provision_playbook

NAMES = [
    "README.md",
    "inventories/production.yml",
    "inventories/example.yml",
    "playbooks/provision.yml",
    "playbooks/upgrade.yml",
    "templates/haproxy.cfg.j2",
    ".gitignore",
]


def test_a_project_that_runs_once_addresses_are_filled_in(tmp_path: Path) -> None:
    project = tmp_path / "new" / "project"
    assert init(project) == [project / name for name in NAMES]
    assert all((project / name).read_bytes() == source.read_bytes() for name, source in files().items())
    inventory = load(default_inventory(project))
    assert inventory.groups["gpu"] == ("gpu-01", "gpu-02")
    assert inventory.groups["balancer"] == ("lb-01",)
    assert inventory.unused == ()
    assert all("ansible_host" in host.vars for host in inventory.hosts.values())
    book = load_playbook(provision_playbook(project), MODULES)
    assert book.path == project / "playbooks" / "provision.yml"
    for play in book.plays:
        assert inventory.select(play.hosts)


def test_what_is_commented_out_is_valid_too(tmp_path: Path) -> None:
    init(tmp_path)
    path = tmp_path / "inventories" / "production.yml"
    path.write_text(path.read_text().replace("# registry_", "registry_"))
    assert load(path).hosts["gpu-01"].vars["registry_password_env"] == "REGISTRY_PASSWORD"


def test_a_folder_with_other_files_is_fine(tmp_path: Path) -> None:
    (tmp_path / "LICENSE").write_text("mine")
    init(tmp_path)
    assert (tmp_path / "LICENSE").read_text() == "mine"


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_overwritten(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, match="1 of the project's files exist already") as caught:
        init(tmp_path)
    assert caught.value.output == str(tmp_path / name)
    assert caught.value.remedy
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / name]
    assert (tmp_path / name).read_text() == "mine"


def test_a_dangling_link_counts_as_existing(tmp_path: Path) -> None:
    (tmp_path / "README.md").symlink_to(tmp_path / "gone")
    with pytest.raises(InputError, match="exist already"):
        init(tmp_path)


def test_a_place_where_no_folder_can_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write the project") as caught:
        init(tmp_path / "file")
    assert caught.value.remedy
