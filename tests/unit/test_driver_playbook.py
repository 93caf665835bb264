"""The shipped playbook's driver tasks: what they do with the inventory's words, and with none."""

from __future__ import annotations

import yaml

from fleet.data import data_dir
from fleet.engine.run import RunOptions, prepare
from fleet.inventory import load
from fleet.inventory.known import FLEET_VARIABLES
from fleet.lab.files import Folder
from fleet.lab.inventory import render
from fleet.lab.spec import LabHost, LabState
from fleet.modules._driver_install import NVIDIA
from fleet.modules.nvidia_driver import NvidiaDriverArgs
from fleet.modules.registry import MODULES
from fleet.playbook.load import load_playbook

OURS = {"name": "nvidia", "uris": "http://mirror.example/nvidia", "suites": "./", "trusted": True}


def bound(tmp_path, variables):
    """The tasks of the GPU hosts' play that are not skipped, by module."""
    file = tmp_path / "hosts.yml"
    host = {"ansible_host": "10.0.0.1", "image": "app:v1", **variables}
    file.write_text(
        yaml.safe_dump(
            {"all": {"children": {"gpu": {"hosts": {"gpu-01": host}}, "balancer": {"hosts": {"lb-01": {}}}}}}
        )
    )
    return tasks(file)


def tasks(file):
    book = load_playbook(data_dir("playbooks") / "provision.yml", MODULES)
    first, *_ = prepare(book, load(file), RunOptions())
    found = {}
    for task in first.tasks["gpu-01"]:
        if not task.skipped:
            found.setdefault(task.task.module, task.args)
    return found


def test_without_a_word_a_working_driver_is_kept_or_nvidias_installed(tmp_path):
    found = bound(tmp_path, {})
    assert found["nvidia_driver"] == NvidiaDriverArgs()
    assert found["nvidia_driver"].repository == NVIDIA
    assert {"nvidia_persistence", "nvidia_fabric_manager", "unattended_upgrades"} <= found.keys()


def test_the_inventorys_arguments_reach_the_module(tmp_path):
    wish = {"min_version": "580.65", "repository": "https://mirror.example/cuda", "modules": "prebuilt"}
    assert bound(tmp_path, {"nvidia_driver": wish})["nvidia_driver"] == NvidiaDriverArgs(**wish)
    assert set(FLEET_VARIABLES["nvidia_driver"].members) == set(NvidiaDriverArgs.__struct_fields__)


def test_a_repository_of_the_inventorys_is_the_only_one(tmp_path):
    found = bound(tmp_path, {"nvidia_repository": OURS, "nvidia_driver": {"branch": 580}})
    assert found["nvidia_driver"] == NvidiaDriverArgs(repository=None, branch=580)


def test_listed_packages_are_installed_instead(tmp_path):
    found = bound(tmp_path, {"nvidia_driver_packages": ["nvidia-driver-cuda"]})
    assert "nvidia_driver" not in found


def test_the_labs_inventory_uses_the_labs_repository(tmp_path):
    hosts = [
        LabHost("gpu-01", "gpu", "127.0.10.1", "10.9.0.2", "", "fleet-lab-x-gpu-01", "running", "debian 13"),
        LabHost("registry-01", "registry", "127.0.10.2", "10.9.0.3", "", "x", "running", "debian 13"),
    ]
    file = tmp_path / "lab.yml"
    file.write_text(render(LabState("lab", hosts=tuple(hosts)), Folder(tmp_path / "lab")))
    found = tasks(file)
    assert found["apt_repository"].uris == "http://registry-01/nvidia"
    assert found["nvidia_driver"].repository is None
