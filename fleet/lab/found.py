"""What there is of a lab on the engine. Labels are the only record: nothing is kept in local files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from fleet.lab.files import Folder
from fleet.lab.hosts import LAB_LABEL, SERVICE_PORT, SSH_PORT
from fleet.lab.spec import LabHost, LabState
from fleet.model.secret import Secret

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container
    from docker.models.networks import Network

INVENTORY_LABEL = "fleet.lab.inventory"
"""Label of a lab's network; its value is the inventory's path."""

_KINDS = ("gpu", "balancer", "registry")


def observe(client: DockerClient, name: str) -> LabState:
    """The lab as it is; without hosts when there is none of that name."""
    found = [_host(container) for container in containers(client, name)]
    found.sort(key=lambda host: (_KINDS.index(host.kind), host.name))
    inventory = inventory_of(find_network(client, name))
    password = ""
    if inventory and Folder(inventory).file("asks_password").exists():
        password = Folder(inventory).text("asks_password")
    return LabState(
        name=name,
        url=next((_url(host) for host in found if host.service), ""),
        inventory=inventory,
        hosts=tuple(found),
        asks_password=Secret(password),
    )


def containers(client: DockerClient, name: str) -> list[Container]:
    """The containers of a lab's hosts, running or not."""
    return client.containers.list(
        all=True, ignore_removed=True, filters={"label": [f"{LAB_LABEL}={name}", "fleet.lab.host"]}
    )


def find_network(client: DockerClient, name: str) -> Network | None:
    """The lab's network."""
    found = client.networks.list(filters={"label": f"{LAB_LABEL}={name}"})
    return found[0] if found else None


def subnet_of(network: Network) -> str:
    """The addresses of a lab's network."""
    return str(network.attrs["IPAM"]["Config"][0]["Subnet"])


def inventory_of(network: Network | None) -> Path | None:
    """Where a lab's inventory is; its network knows."""
    return Path(network.attrs["Labels"][INVENTORY_LABEL]) if network else None


def addresses_taken(client: DockerClient) -> set[str]:
    """Every loopback address that a lab on this engine has."""
    every = client.containers.list(all=True, ignore_removed=True, filters={"label": LAB_LABEL})
    return {
        container.labels.get(f"fleet.lab.{kind}", "")
        for container in every
        for kind in ("address", "service")
    }


def subnets_taken(client: DockerClient) -> list[str]:
    """The addresses of every network on this engine."""
    return [
        pool["Subnet"]
        for network in client.networks.list()
        for pool in (network.attrs["IPAM"]["Config"] or ())
        if "Subnet" in pool
    ]


def _host(container: Container) -> LabHost:
    labels = container.labels
    ports = json.loads(labels.get("fleet.lab.ports", "{}"))
    return LabHost(
        name=labels["fleet.lab.host"],
        kind=labels["fleet.lab.kind"],
        address=labels["fleet.lab.address"],
        fleet_address=labels["fleet.lab.fleet-address"],
        service=labels["fleet.lab.service"],
        container=str(container.name),
        state=container.status,
        os=f"debian {labels['fleet.lab.debian']}",
        gpus=int(labels["fleet.lab.gpus"]),
        port=ports.get(str(SSH_PORT), SSH_PORT),
        ports=ports,
    )


def _url(balancer: LabHost) -> str:
    port = balancer.ports.get(str(SERVICE_PORT), SERVICE_PORT)
    return f"http://{balancer.service}" if port == 80 else f"http://{balancer.service}:{port}"
