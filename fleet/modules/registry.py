"""Which module a task's key names; a module's file is imported when a playbook first uses it."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

from fleet.modules.base import Module

MODULES: dict[str, str] = {
    "apt": "apt:Apt",
    "package": "apt:Apt",
    "apt_repository": "apt_repository:AptRepository",
    "command": "command:Command",
    "copy": "copy:Copy",
    "docker_engine": "docker_engine:DockerEngine",
    "docker_image": "docker_image:DockerImage",
    "file": "file:File",
    "gpu_agent": "gpu_agent:GpuAgent",
    "gpu_containers": "gpu_containers:GpuContainers",
    "haproxy": "haproxy:Haproxy",
    "hold": "hold:Hold",
    "nginx": "nginx:Nginx",
    "keepalived": "keepalived:Keepalived",
    "model_weights": "model_weights:ModelWeights",
    "nvidia_container_toolkit": "nvidia_container_toolkit:NvidiaContainerToolkit",
    "nvidia_driver": "nvidia_driver:NvidiaDriver",
    "nvidia_fabric_manager": "nvidia_fabric_manager:NvidiaFabricManager",
    "nvidia_persistence": "nvidia_persistence:NvidiaPersistence",
    "reboot": "reboot:Reboot",
    "slot_firewall": "slot_firewall:SlotFirewall",
    "systemd": "systemd:Systemd",
    "template": "template:Template",
    "unattended_upgrades": "unattended_upgrades:UnattendedUpgrades",
}
"""Task key -> "file:Class" inside this package. Adding a module is a line here and its file."""


@cache
def load(name: str) -> Module[Any]:
    """The module a task names. Raises KeyError for a name not in MODULES."""
    file, _, cls = MODULES[name].partition(":")
    found: Module[Any] = getattr(import_module(f"fleet.modules.{file}"), cls)()
    return found
