"""A lab's life: up, status, snapshot, down."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from fleet.data import data_dir
from fleet.errors import FleetError, InputError
from fleet.lab import addresses, hosts, snapshots
from fleet.lab.cgroups import layout
from fleet.lab.engine import connect
from fleet.lab.files import Folder
from fleet.lab.found import (
    INVENTORY_LABEL,
    addresses_taken,
    containers,
    find_network,
    inventory_of,
    observe,
    subnet_of,
    subnets_taken,
)
from fleet.lab.hosts import LAB_LABEL
from fleet.lab.images import host_image, remove_images
from fleet.lab.inventory import known_hosts, render
from fleet.lab.registry import empty_registry, filled_registry, read_file
from fleet.lab.snapshots import Snapshot
from fleet.lab.spec import REGISTRY, HostSpec, LabSpec, LabState, Report
from fleet.lab.webui import webui_images

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container
    from docker.models.networks import Network


def up(spec: LabSpec, report: Report) -> LabState:
    """Bring the lab up as `spec` says, or complete what is there; returns when every host answers.

    Doing it again changes nothing. After a failure or an interrupt, `up` goes on and `down` cleans.
    """
    began = time.monotonic()
    client = connect(report, install=True)
    folder = Folder(spec.inventory_path())
    folder.check_ours()
    _check_same(client, spec, folder)
    kept = None
    if spec.snapshot:
        kept = snapshots.find(client, spec.snapshot, {host.name: host for host in spec.hosts()})
    network = _network(client, spec, kept)
    if kept:
        folder.unpack(kept.files)
    folder.create()
    missing = _missing(client, spec)
    if missing:
        if kept:
            images = {host.name: kept.image(host.name) for host in missing}
        else:
            images = _images(client, missing, report)
        _create(client, missing, spec.name, network, folder, images, kept, report)
    found = containers(client, spec.name)
    asleep = [container for container in found if container.status != "running"]
    if asleep:
        report(f"starting {len(asleep)} hosts")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(hosts.start, asleep))
        state = observe(client, spec.name)
        list(pool.map(lambda host: hosts.wait(client, host, report), state.hosts))
    _write(found, state, folder)
    report(f"lab {spec.name} is up after {time.monotonic() - began:.0f} s: {folder.inventory}")
    return observe(client, spec.name)


def status(name: str) -> LabState:
    """The lab as the engine has it; without hosts when there is none of that name."""
    return observe(connect(lambda line: None), name)


def snapshot(name: str, tag: str, report: Report) -> None:
    """Keep the lab's hosts as they are, for `up` with that snapshot. They are stopped for some seconds."""
    client = connect(report)
    state = observe(client, name)
    network = find_network(client, name)
    if network is None or not state.hosts:
        raise InputError(f"there is no lab {name}", remedy=f"Start one: `fleet lab up --name {name}`.")
    snapshots.save(client, state, tag, subnet_of(network), report)


def remove_snapshot(tag: str, report: Report) -> None:
    """Remove a snapshot; nothing happens when there is none of that name."""
    snapshots.remove(connect(report), tag, report)


def down(name: str, report: Report, *, images: bool = False) -> None:
    """Remove the lab: hosts, volumes, network, control groups, inventory, keys.

    With `images`, what was kept to make the next lab quickly goes too, snapshots included.
    """
    client = connect(report)
    found = containers(client, name)
    network = find_network(client, name)
    if found or network:
        report(f"removing {len(found)} hosts of lab {name}")
    else:
        report(f"there is no lab {name}")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(_remove, found))
    for volume in client.volumes.list(filters={"label": f"{LAB_LABEL}={name}"}):
        volume.remove(force=True)
    layout(client.info()["CgroupVersion"]).remove(name)
    inventory = inventory_of(network)
    if inventory:
        Folder(inventory).remove()
    if network:
        network.remove()
    if images:
        for tag in snapshots.tags(client):
            snapshots.remove(client, tag, report)
        remove_images(client, report)


def _check_same(client: DockerClient, spec: LabSpec, folder: Folder) -> None:
    """A lab that exists is completed, never changed under its users' feet."""
    state = observe(client, spec.name)
    existing = {host.name: host for host in state.hosts}
    for wanted in spec.hosts():
        found = existing.get(wanted.name)
        if found and (found.os, found.gpus) != (f"debian {wanted.debian}", wanted.gpus):
            raise InputError(
                f"lab {spec.name} has a host {found.name} with {found.os} and {found.gpus} GPUs, "
                f"not debian {wanted.debian} and {wanted.gpus}",
                remedy=f"Run `fleet lab down --name {spec.name}` first, or choose another name.",
            )
    if state.inventory and state.inventory != folder.inventory:
        raise InputError(
            f"lab {spec.name} exists, and its inventory is {state.inventory}, not {folder.inventory}",
            remedy="Name that inventory, or choose another lab name.",
        )
    if existing and not folder.complete():
        raise FleetError(
            f"files of lab {spec.name} are missing from {folder.path}",
            remedy=f"Run `fleet lab down --name {spec.name}` first.",
        )


def _network(client: DockerClient, spec: LabSpec, kept: Snapshot | None) -> Network:
    """The lab's network, made first: its labels tell `down` what there is to remove."""
    from docker.types import IPAMConfig, IPAMPool

    with addresses.allocation_lock():
        found = find_network(client, spec.name)
        if found is None:
            subnet = addresses.free_subnet(subnets_taken(client), kept.subnet if kept else None)
            client.networks.create(
                f"fleet-lab-{spec.name}",
                ipam=IPAMConfig(pool_configs=[IPAMPool(subnet=subnet)]),
                labels={LAB_LABEL: spec.name, INVENTORY_LABEL: str(spec.inventory_path())},
            )
            found = find_network(client, spec.name)
    assert found is not None
    return found


def _missing(client: DockerClient, spec: LabSpec) -> list[HostSpec]:
    """The hosts of the lab that are still to be created."""
    for container in containers(client, spec.name):
        # Left by an `up` that was killed: it may lack its keys.
        if container.status == "created":
            _remove(container)
    existing = {host.name for host in observe(client, spec.name).hosts}
    return [host for host in spec.hosts() if host.name not in existing]


def _images(client: DockerClient, wanted: Sequence[HostSpec], report: Report) -> dict[str, str]:
    """The image of each host, by host name. What is not there yet is made side by side."""
    assets = data_dir("lab")
    registry = any(host.kind == "registry" for host in wanted)
    with ThreadPoolExecutor(4) as pool:
        bases = {
            release: pool.submit(host_image, client, release, assets, report)
            for release in {host.debian for host in wanted}
        }
        webui = pool.submit(webui_images, client, assets, report) if registry else None
        images = {host.name: bases[host.debian].result() for host in wanted}
        if webui:
            empty = empty_registry(client, images[REGISTRY], assets, report)
            images[REGISTRY] = filled_registry(client, empty, webui.result(), report)
    return images


def _create(
    client: DockerClient,
    missing: Sequence[HostSpec],
    lab: str,
    network: Network,
    folder: Folder,
    images: Mapping[str, str],
    kept: Snapshot | None,
    report: Report,
) -> None:
    cgroups = layout(client.info()["CgroupVersion"])
    report(f"creating {len(missing)} hosts")
    if kept:
        filled = [host.name for host in missing if host.kind != "registry"]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda h: snapshots.restore_volume(client, kept, lab, h), filled))
    with addresses.allocation_lock():
        taken = addresses_taken(client)
        for host in missing:
            place = _place(lab, host, network, images[host.name], taken)
            taken |= {place.address, place.service}
            hosts.create(client, host, place, cgroups, folder)


def _place(lab: str, host: HostSpec, network: Network, image: str, taken: Iterable[str]) -> hosts.Placement:
    service = ""
    if host.kind == "balancer":
        service = addresses.free_address(addresses.SERVICE_ADDRESSES, taken)
    address = addresses.free_address(addresses.SSH_ADDRESSES, taken)
    wanted = {hosts.SSH_PORT: address}
    if host.kind == "balancer":
        wanted |= dict.fromkeys(hosts.BALANCER_PORTS, service)
    if host.kind == "registry":
        wanted |= dict.fromkeys(hosts.REGISTRY_PORTS, address)
    return hosts.Placement(
        lab=lab,
        network=str(network.name),
        image=image,
        address=address,
        fleet_address=addresses.fleet_address(subnet_of(network), host),
        service=service,
        published={port: (at, addresses.free_port(at, port)) for port, at in wanted.items()},
    )


def _write(found: Iterable[Container], state: LabState, folder: Folder) -> None:
    keys = {each.labels["fleet.lab.host"]: each.labels["fleet.lab.host-key"] for each in found}
    folder.write("known_hosts", known_hosts(state.hosts, keys).encode())
    for container in found:
        if container.labels["fleet.lab.kind"] == "registry":
            folder.write("apt_key.asc", read_file(container, "/srv/www/nvidia/key.asc"))
    folder.write_inventory(render(state, folder))


def _remove(container: Container) -> None:
    import docker

    try:
        container.remove(force=True, v=True)
    except docker.errors.NotFound:
        return
