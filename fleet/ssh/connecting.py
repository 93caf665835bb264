"""One verified, authenticated Fabric connection to a target."""

from __future__ import annotations

import functools
import socket
from typing import TYPE_CHECKING, Any

from fleet.ssh import failures, stack
from fleet.ssh.auth import Login
from fleet.ssh.gateways import Release
from fleet.ssh.known_hosts import Pinned
from fleet.ssh.settings import SshSettings
from fleet.ssh.sockets import proxy_command, tcp
from fleet.ssh.target import Target

if TYPE_CHECKING:
    from fabric import Config, Connection
    from paramiko import Channel, Transport

_AUTH_TIMEOUT = 30.0
_RSA = ("rsa-sha2-512", "rsa-sha2-256")


def open_connection(target: Target, settings: SshSettings) -> tuple[Connection, Release]:
    """Connect, check the host key, log in. Returns the connection and what to call after closing it.

    Raises InputError where the variables or key files are wrong (before anything is sent) and
    UnreachableError, which says why, for everything else.
    """
    stack.load()
    login = Login(target, settings.shared.keys())
    pinned, exact = pinned_keys(target, settings)
    sock, release = open_stream(target, settings)
    try:
        return _handshake(target, login, pinned, exact, sock), release
    except BaseException:
        sock.close()
        release()
        raise


def open_stream(target: Target, settings: SshSettings) -> tuple[socket.socket | Channel, Release]:
    """The byte stream to a target: direct, through its jump hosts, or through its ProxyCommand."""
    if target.jump:
        return settings.shared.gateways().channel(target, settings)
    if target.proxy_command:
        return proxy_command(target), lambda: None
    return tcp(target, settings), lambda: None


def pinned_keys(target: Target, settings: SshSettings) -> tuple[Pinned, bool]:
    """What known_hosts says of the target, and whether it says so under the target's own name.

    As in OpenSSH, a key pinned for the host's name without a port serves on any port; but another key
    there is then only unknown, not changed.
    """
    known = settings.shared.known_hosts(target.known_hosts)
    pinned = known.lookup(target.known_name)
    if pinned.keys or target.port == 22:
        return pinned, True
    plain = known.lookup(target.alias)
    return Pinned(plain.keys, pinned.revoked + plain.revoked, pinned.authorities), False


def key_algorithms(types: tuple[str, ...]) -> tuple[str, ...]:
    """Host key algorithms to ask for so that the server shows a key of a pinned type, if it has one."""
    pinned = [name for kind in types for name in (_RSA if kind == "ssh-rsa" else (kind,))]
    every = ("ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", *_RSA)
    wanted = [name for name in dict.fromkeys(pinned) if name in every]
    return (*wanted, *(name for name in every if name not in wanted))


def _handshake(
    target: Target, login: Login, pinned: Pinned, exact: bool, sock: socket.socket | Channel
) -> Connection:
    from fabric import Connection

    from fleet.ssh.policy import PinnedOnly

    connection = Connection(
        host=target.hostname if target.hostname.count(":") != 1 else f"[{target.hostname}]",
        user=target.user,
        port=target.port,
        gateway=False,
        config=_config(),
        forward_agent=False,
        connect_kwargs={
            "sock": sock,
            "timeout": target.timeout,
            "banner_timeout": target.timeout,
            "auth_timeout": _AUTH_TIMEOUT,
            "channel_timeout": _AUTH_TIMEOUT,
            "auth_strategy": login,
            "transport_factory": functools.partial(_transport, key_algorithms(pinned.types)),
        },
    )
    # Fabric's own default accepts every key, even one that changed.
    connection.client.set_missing_host_key_policy(PinnedOnly(pinned))
    try:
        connection.open()
    except Exception as error:
        connection.client.close()
        raise failures.explain(target, error, pinned, exact) from error
    return connection


def _transport(key_types: tuple[str, ...], sock: Any, **options: Any) -> Transport:
    from paramiko import Transport

    transport = Transport(sock, **options)
    transport.get_security_options().key_types = key_types
    return transport


def _config() -> Config:
    """A Fabric configuration of its own for each connection: Fabric writes into it, unguarded."""
    from fabric import Config
    from paramiko import SSHConfig

    # Everything is resolved in Target: no fabric.yaml, no second reading of ssh_config.
    return Config(lazy=True, ssh_config=SSHConfig())
