"""`fleet trust`: the hosts' SSH keys, seen and pinned."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from fleet.cli.options import ConnectTimeout, Inventories, Json, Limit, SshConfig


def trust(
    hosts: Annotated[
        str, typer.Argument(help="Hosts by name or pattern. Default: all.", show_default=False)
    ] = "",
    inventory: Inventories = None,
    limit: Limit = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Pin new keys without asking.")] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Pin changed keys, too: after a host was set up anew.")
    ] = False,
    connect_timeout: ConnectTimeout = 10.0,
    ssh_config: SshConfig = None,
    json: Json = False,
) -> None:
    """Show the hosts' SSH key fingerprints and pin them after a yes.

    Compare a fingerprint with what the host's console or your provider shows: `ssh-keygen -lf
    /etc/ssh/ssh_host_ed25519_key.pub` on the host. A key that changed since it was pinned is never replaced
    without --replace.
    """
    from fleet.cli.options import agreed, open_inventory, print_json, refuse_examples, ssh_settings
    from fleet.console.trust import show_keys
    from fleet.errors import ExitCode, InputError
    from fleet.trust import pin_keys, scan_hosts

    loaded = open_inventory(inventory)
    refuse_examples(loaded)
    pattern = ":&".join(filter(None, (hosts, limit)))
    chosen = loaded.select(pattern, at_least_one=True) if pattern else tuple(loaded.hosts.values())
    settings = ssh_settings(False, connect_timeout, ssh_config)
    scans = scan_hosts(chosen, settings)
    if not json:
        show_keys(scans)
    wanted = [scan for scan in scans if scan.new or (replace and scan.changed)]
    if wanted and not yes and not json and not sys.stdin.isatty():
        raise InputError("nobody is there to say yes to the new keys", remedy="look at them, then use --yes")
    pinned = bool(wanted) and (
        yes or (not json and agreed(f"Pin the keys of {len(wanted)} hosts?", "no key was pinned"))
    )
    if pinned:
        for path in pin_keys(wanted, settings, replace=replace):
            typer.echo(f"pinned in {path}", err=True)
    left = [scan for scan in scans if scan.changed and not (pinned and replace)]
    if json:
        print_json({"hosts": [scan.as_json() for scan in scans], "pinned": pinned})
    if any(scan.error for scan in scans):
        raise typer.Exit(int(ExitCode.UNREACHABLE))
    if left or (wanted and not pinned):
        raise typer.Exit(int(ExitCode.HOST_FAILED))
