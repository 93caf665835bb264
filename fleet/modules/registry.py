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
    "nginx": "nginx:Nginx",
    "keepalived": "keepalived:Keepalived",
    "nvidia_container_toolkit": "nvidia_container_toolkit:NvidiaContainerToolkit",
    "systemd": "systemd:Systemd",
    "template": "template:Template",
}
"""Task key -> "file:Class" inside this package. Adding a module is a line here and its file."""


@cache
def load(name: str) -> Module[Any]:
    """The module a task names. Raises KeyError for a name not in MODULES."""
    file, _, cls = MODULES[name].partition(":")
    found: Module[Any] = getattr(import_module(f"fleet.modules.{file}"), cls)()
    return found
