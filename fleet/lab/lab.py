"""A lab's life: up, status, down."""

from __future__ import annotations

import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from fleet.data import data_dir
from fleet.errors import FleetError, InputError
from fleet.lab import addresses, hosts
from fleet.lab.cgroups import layout
from fleet.lab.engine import connect
from fleet.lab.files import Folder
from fleet.lab.hosts import LAB_LABEL
from fleet.lab.images import IMAGE_LABEL, host_image
from fleet.lab.inventory import known_hosts, render
from fleet.lab.registry import read_file, registry_image
from fleet.lab.spec import REGISTRY, HostSpec, LabHost, LabSpec, LabState, Report
from fleet.lab.webui import webui_images
from fleet.model.secret import Secret

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container
    from docker.models.networks import Network

_KINDS = ("gpu", "balancer", "registry")


def up(spec: LabSpec, report: Report) -> LabState:
    """Bring the lab up as `spec` says, or complete what is there; returns when every host answers.

    Doing it again changes nothing. After a failure or an interrupt, `up` goes on and `down` cleans.
    """
    began = time.monotonic()
    client = connect(report, install=True)
    folder = Folder(spec.inventory_path())
    folder.check_ours()
    _check_same(client, spec, folder)
    network = _network(client, spec)
    folder.create()
    images = _images(client, spec, report)
    _create_missing(client, spec, network, folder, images, report)
    state = _observe(client, spec.name)
    report(f"starting {len(state.hosts)} hosts")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(hosts.start, _containers(client, spec.name)))
        list(pool.map(lambda host: hosts.wait(client, host, report), state.hosts))
    state = _observe(client, spec.name)
    _write(client, state, folder)
    report(f"lab {spec.name} is up after {time.monotonic() - began:.0f} s: {folder.inventory}")
    return _observe(client, spec.name)


def status(name: str) -> LabState:
    """The lab as the engine has it; without hosts when there is none of that name."""
    return _observe(connect(lambda line: None), name)


def down(name: str, report: Report, *, images: bool = False) -> None:
    """Remove the lab: hosts, volumes, network, control groups, inventory, keys. `images`: the cache too."""
    client = connect(report)
    containers = _containers(client, name)
    report(f"removing {len(containers)} hosts of lab {name}")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(_remove, containers))
    for volume in client.volumes.list(filters={"label": f"{LAB_LABEL}={name}"}):
        volume.remove(force=True)
    layout(client.info()["CgroupVersion"]).remove(name)
    network = _find_network(client, name)
    if network is not None:
        Folder(Path(network.attrs["Labels"]["fleet.lab.inventory"])).remove()
        network.remove()
    if images:
        _remove_images(client, report)


def _check_same(client: DockerClient, spec: LabSpec, folder: Folder) -> None:
    """A lab that exists is completed, never changed under its users' feet."""
    existing = {host.name: host for host in _observe(client, spec.name).hosts}
    for wanted in spec.hosts():
        found = existing.get(wanted.name)
        if found and (found.os, found.gpus) != (f"debian {wanted.debian}", wanted.gpus):
            raise InputError(
                f"lab {spec.name} has a host {found.name} with {found.os} and {found.gpus} GPUs, "
                f"not debian {wanted.debian} and {wanted.gpus}",
                remedy=f"Run `fleet lab down --name {spec.name}` first, or choose another name.",
            )
    network = _find_network(client, spec.name)
    if network and network.attrs["Labels"]["fleet.lab.inventory"] != str(folder.inventory):
        raise InputError(
            f"lab {spec.name} exists with the inventory {network.attrs['Labels']['fleet.lab.inventory']}",
            remedy="Name that inventory, or choose another lab name.",
        )
    if existing and not folder.complete():
        raise FleetError(
            f"files of lab {spec.name} are missing from {folder.path}",
            remedy=f"Run `fleet lab down --name {spec.name}` first.",
        )


def _network(client: DockerClient, spec: LabSpec) -> Network:
    """The lab's network, made first: its labels tell `down` what there is to remove."""
    from docker.types import IPAMConfig, IPAMPool

    with addresses.allocation_lock():
        found = _find_network(client, spec.name)
        if found is not None:
            return found
        subnet = addresses.free_subnet(
            pool["Subnet"]
            for network in client.networks.list()
            for pool in (network.attrs["IPAM"]["Config"] or ())
            if "Subnet" in pool
        )
        labels = {LAB_LABEL: spec.name, "fleet.lab.inventory": str(spec.inventory_path())}
        client.networks.create(
            f"fleet-lab-{spec.name}",
            ipam=IPAMConfig(pool_configs=[IPAMPool(subnet=subnet)]),
            labels=labels,
            check_duplicate=True,
        )
    network = _find_network(client, spec.name)
    assert network is not None
    return network


def _images(client: DockerClient, spec: LabSpec, report: Report) -> dict[str, str]:
    """The image of each host, by host name. What is missing is made side by side."""
    assets = data_dir("lab")
    wanted = spec.hosts()
    with ThreadPoolExecutor(4) as pool:
        bases = {
            release: pool.submit(host_image, client, release, assets, report)
            for release in {host.debian for host in wanted}
        }
        webui = pool.submit(webui_images, client, assets, report) if spec.registry else None
        images = {host.name: bases[host.debian].result() for host in wanted}
        if webui is not None:
            images[REGISTRY] = registry_image(client, images[REGISTRY], webui.result(), assets, report)
    return images


def _create_missing(
    client: DockerClient,
    spec: LabSpec,
    network: Network,
    folder: Folder,
    images: dict[str, str],
    report: Report,
) -> None:
    cgroups = layout(client.info()["CgroupVersion"])
    subnet = network.attrs["IPAM"]["Config"][0]["Subnet"]
    existing = {host.name for host in _observe(client, spec.name).hosts}
    missing = [host for host in spec.hosts() if host.name not in existing]
    if missing:
        report(f"creating {len(missing)} hosts")
    with addresses.allocation_lock():
        taken = _taken(client)
        for host in missing:
            place = _place(spec.name, host, str(network.name), subnet, images[host.name], taken)
            taken |= {place.address, place.service}
            hosts.create(client, host, place, cgroups, folder)


def _place(
    lab: str, host: HostSpec, network: str, subnet: str, image: str, taken: Iterable[str]
) -> hosts.Placement:
    return hosts.Placement(
        lab=lab,
        network=network,
        image=image,
        address=addresses.free_address(addresses.SSH_ADDRESSES, taken),
        fleet_address=addresses.fleet_address(subnet, host),
        service=addresses.free_address(addresses.SERVICE_ADDRESSES, taken)
        if host.kind == "balancer"
        else "",
    )


def _taken(client: DockerClient) -> set[str]:
    labels = [found.labels for found in client.containers.list(all=True, filters={"label": LAB_LABEL})]
    return {each.get(f"fleet.lab.{kind}", "") for each in labels for kind in ("address", "service")}


def _write(client: DockerClient, state: LabState, folder: Folder) -> None:
    keys = {
        container.labels["fleet.lab.address"]: container.labels["fleet.lab.host-key"]
        for container in _containers(client, state.name)
    }
    folder.write("known_hosts", known_hosts(keys).encode())
    for host in state.hosts:
        if host.kind == "registry":
            container = client.containers.get(host.container)
            folder.write("apt_key.asc", read_file(container, "/srv/www/nvidia/key.asc"))
    folder.inventory.write_text(render(state, folder))


def _observe(client: DockerClient, name: str) -> LabState:
    found = [_host(container) for container in _containers(client, name)]
    found.sort(key=lambda host: (_KINDS.index(host.kind), host.name))
    network = _find_network(client, name)
    inventory = Path(network.attrs["Labels"]["fleet.lab.inventory"]) if network else None
    service = next((host.service for host in found if host.service), "")
    password = ""
    if inventory and Folder(inventory).file("asks_password").exists():
        password = Folder(inventory).text("asks_password")
    return LabState(
        name=name,
        url=f"http://{service}" if service else "",
        inventory=inventory,
        hosts=tuple(found),
        asks_password=Secret(password),
    )


def _host(container: Container) -> LabHost:
    labels = container.labels
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
    )


def _containers(client: DockerClient, name: str) -> list[Container]:
    return client.containers.list(all=True, filters={"label": f"{LAB_LABEL}={name}"})


def _find_network(client: DockerClient, name: str) -> Network | None:
    found = client.networks.list(filters={"label": f"{LAB_LABEL}={name}"})
    return found[0] if found else None


def _remove(container: Container) -> None:
    import docker

    try:
        container.remove(force=True, v=True)
    except docker.errors.NotFound:
        return


def _remove_images(client: DockerClient, report: Report) -> None:
    """Remove the images no other lab runs on."""
    import docker

    for image in client.images.list(filters={"label": IMAGE_LABEL}):
        for tag in image.tags:
            try:
                client.images.remove(tag)
            except docker.errors.APIError:
                report(f"kept {tag}, which another lab uses")
