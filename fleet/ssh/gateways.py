"""Jump hosts: one verified connection to each, shared by every host behind it.

A bastion's sshd starts to refuse at ten unauthenticated connections (MaxStartups); it does not count
the channels of one that is logged in.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fleet.errors import FleetError, UnreachableError
from fleet.ssh.settings import SshSettings
from fleet.ssh.target import Target, hop_target

if TYPE_CHECKING:
    from fabric import Connection
    from paramiko import Channel

Release = Callable[[], None]


@dataclass
class _Gateway:
    lock: threading.Lock = field(default_factory=threading.Lock)
    users: int = 0
    connection: Connection | None = None
    trouble: FleetError | None = None
    release: Release = lambda: None


class Gateways:
    """The open jump connections of a run, by ProxyJump value."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[str, _Gateway] = {}

    def channel(self, target: Target, settings: SshSettings) -> tuple[Channel, Release]:
        """A stream to the target through its jump hosts, and what to call when it is done with."""
        gateway = self._acquire(target.jump)
        released = threading.Event()

        def release() -> None:
            if not released.is_set():
                released.set()
                self._release(target.jump, gateway)

        try:
            connection = self._connected(gateway, target, settings)
            return _channel(connection, target), release
        except BaseException:
            release()
            raise

    def _acquire(self, jump: str) -> _Gateway:
        with self._lock:
            gateway = self._open.setdefault(jump, _Gateway())
            gateway.users += 1
            return gateway

    def _release(self, jump: str, gateway: _Gateway) -> None:
        with self._lock:
            gateway.users -= 1
            if gateway.users:
                return
            if self._open.get(jump) is gateway:
                del self._open[jump]
        if gateway.connection is not None:
            gateway.connection.close()
            gateway.release()

    def _connected(self, gateway: _Gateway, target: Target, settings: SshSettings) -> Connection:
        from fleet.ssh.connecting import open_connection

        with gateway.lock:
            # Hosts that waited here fail with the first one: not each after a timeout of its own.
            if gateway.trouble is None and not (gateway.connection and gateway.connection.is_connected):
                gateway.release()
                try:
                    hop = _last_hop(target.jump, settings)
                    gateway.connection, gateway.release = open_connection(hop, settings)
                except FleetError as error:
                    gateway.trouble = error
            if gateway.trouble is not None:
                raise _through(target, gateway.trouble)
            assert gateway.connection is not None
            return gateway.connection


def _through(target: Target, trouble: FleetError) -> FleetError:
    """The jump host's trouble as the target's."""
    return type(trouble)(
        f"{target.name}: its jump host cannot be used: {trouble.message}",
        place=trouble.place,
        output=trouble.output,
        remedy=trouble.remedy,
    )


def _last_hop(jump: str, settings: SshSettings) -> Target:
    """The hop next to the target; those before it are how it is reached."""
    before, _, last = jump.rpartition(",")
    hop = hop_target(last, settings)
    names = {last, hop.name, hop.hostname}
    if before:
        return _with_jump(hop, before)
    # `Host *` with a ProxyJump also matches the jump host: it is not its own way.
    return _with_jump(hop, "") if names & set(hop.jump.split(",")) else hop


def _with_jump(hop: Target, jump: str) -> Target:
    from dataclasses import replace

    return replace(hop, jump=jump, proxy_command="")


def _channel(connection: Connection, target: Target) -> Channel:
    from paramiko import SSHException

    address = (target.hostname, target.port)
    try:
        channel: Channel = connection.transport.open_channel(
            "direct-tcpip", address, ("", 0), timeout=target.timeout
        )
    except (SSHException, EOFError) as error:
        raise UnreachableError(
            f"{target.name}: the jump host {target.jump} cannot connect to {target.address}",
            output=str(error),
            remedy="check the address as the jump host sees it, and its AllowTcpForwarding",
        ) from error
    return channel
