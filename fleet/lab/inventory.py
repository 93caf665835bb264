"""The inventory of a lab: the file users and tests give to `fleet -i`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fleet.lab.files import MARK, Folder
from fleet.lab.spec import REGISTRY, LabHost, LabState

IMAGE = "hunyuan-mt-webui"
"""The repository of the webui image in the lab's registry."""


def render(state: LabState, folder: Folder) -> str:
    """The inventory's text (Ansible's YAML form)."""
    import yaml

    tree = {"all": {"vars": _variables(state, folder), "children": _groups(state.hosts)}}
    return f"{MARK}\n{yaml.safe_dump(tree, sort_keys=False, width=110)}"


def known_hosts(hosts: Iterable[LabHost], keys: Mapping[str, str]) -> str:
    """The known_hosts file of the hosts, whose public keys are given by host name."""
    return "".join(f"{_ssh_name(host)} {' '.join(keys[host.name].split()[:2])}\n" for host in hosts)


def _ssh_name(host: LabHost) -> str:
    return host.address if host.port == 22 else f"[{host.address}]:{host.port}"


def _variables(state: LabState, folder: Folder) -> dict[str, Any]:
    known = folder.file("known_hosts")
    variables: dict[str, Any] = {
        "ansible_user": "fleet",
        "ansible_ssh_private_key_file": str(folder.file("id_ed25519")),
        "fleet_known_hosts": str(known),
        "ansible_ssh_common_args": f"-o UserKnownHostsFile={known} -o IdentitiesOnly=yes",
    }
    if state.url:
        variables["fleet_url"] = state.url
    if any(host.kind == "registry" for host in state.hosts):
        variables |= {
            "image": f"{REGISTRY}:5000/{IMAGE}:v1",
            "registry_username": "fleet",
            "registry_password_file": str(folder.file("registry_password")),
            "registry_ca": {f"{REGISTRY}:5000": str(folder.file("ca.crt"))},
            "nvidia_repository": {
                "name": "nvidia",
                "uris": f"http://{REGISTRY}/nvidia",
                "suites": "./",
                "signed_by": str(folder.file("apt_key.asc")),
            },
        }
    return variables


def _groups(hosts: Sequence[LabHost]) -> dict[str, Any]:
    groups: dict[str, Any] = {"gpu": {"hosts": {}}, "balancer": {"hosts": {}}}
    for host in hosts:
        entry = {
            "ansible_host": host.address,
            "ansible_port": host.port,
            "fleet_address": host.fleet_address,
        }
        groups.setdefault(host.kind, {"hosts": {}})["hosts"][host.name] = entry
    return groups
