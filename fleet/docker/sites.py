"""Sites: hosts that reach each other fast, of which one may fetch images for the others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from fleet.errors import InputError
from fleet.model.host import Host

PORT = 7858
"""Where a seed serves, unless its `image_seed_port` says otherwise."""


def site_of(host: Host) -> str:
    """Where a host is; those without `site` are one site."""
    return str(host.vars.get("site") or "")


def seeds_of(hosts: Iterable[Host]) -> Mapping[str, str]:
    """The seeding host of each site, by the inventory. Raises InputError where a site has several."""
    found: dict[str, str] = {}
    for host in hosts:
        if host.vars.get("image_seed") is True:
            site = site_of(host)
            if site in found:
                where = f"site {site}" if site else "the hosts without `site`"
                raise InputError(
                    f"{where}: both {found[site]} and {host.name} have `image_seed: true`",
                    place=host.place,
                    remedy="choose one: it fetches the image for the others of its site",
                )
            found[site] = host.name
    return found


def seed_port(host: Host) -> int:
    """The port on which a seed serves."""
    return int(host.vars.get("image_seed_port") or PORT)
