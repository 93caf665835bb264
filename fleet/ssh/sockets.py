"""The byte stream under an SSH connection: TCP with the options that matter, or a ProxyCommand."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time

from fleet.errors import UnreachableError
from fleet.ssh.settings import SshSettings
from fleet.ssh.target import Target


def tcp(target: Target, settings: SshSettings) -> socket.socket:
    """A connected socket. Every address of the name is tried within one connect timeout.

    Without TCP_NODELAY each exchange waits 40 ms for a delayed acknowledgement. The keepalive options let
    the kernel end a connection whose peer is gone, at no cost here. Raises UnreachableError.
    """
    deadline = time.monotonic() + target.timeout
    last: OSError | None = None
    for family, kind, proto, _, address in _addresses(target):
        sock = socket.socket(family, kind, proto)
        try:
            sock.settimeout(max(deadline - time.monotonic(), 0.01))
            sock.connect(address)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _keep_alive(sock, settings)
            return sock
        except OSError as error:
            sock.close()
            last = error
            if deadline <= time.monotonic():
                break
    assert last is not None
    raise _unreachable(target, last) from last


def proxy_command(target: Target) -> socket.socket:
    """A socket whose other end is the standard input and output of a ProxyCommand."""
    command = target.proxy_command
    for token, value in (("%h", target.hostname), ("%p", str(target.port)), ("%r", target.user)):
        command = command.replace(token, value)
    ours, theirs = socket.socketpair()
    with theirs:
        subprocess.Popen(  # it ends by itself when our end of the pair is closed
            ["/bin/sh", "-c", f"exec {command.replace('%%', '%')}"],
            stdin=theirs.fileno(),
            stdout=theirs.fileno(),
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    return ours


def _addresses(target: Target) -> list[tuple[int, int, int, str, tuple[object, ...]]]:
    try:
        return list(socket.getaddrinfo(target.hostname, target.port, type=socket.SOCK_STREAM))
    except (socket.gaierror, UnicodeError) as error:
        raise UnreachableError(
            f"{target.name}: the name {target.hostname} cannot be resolved",
            output=str(error),
            remedy="set ansible_host to the host's address, or mend DNS",
        ) from error


def _keep_alive(sock: socket.socket, settings: SshSettings) -> None:
    span = max(int(settings.keepalive), 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    with contextlib.suppress(OSError, AttributeError):  # these names are Linux's
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, span)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, span)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, settings.keepalive_count)
        patience = int(settings.keepalive * (settings.keepalive_count + 1) * 1000)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, patience)


def _unreachable(target: Target, error: OSError) -> UnreachableError:
    if isinstance(error, TimeoutError):
        return UnreachableError(
            f"{target.name}: no answer from {target.address} within {target.timeout:g} s",
            remedy="check that the host is up and that no firewall drops its SSH port",
        )
    if isinstance(error, ConnectionRefusedError):
        return UnreachableError(
            f"{target.name}: {target.address} refused the connection",
            remedy="check that sshd runs there, and ansible_port",
        )
    return UnreachableError(
        f"{target.name}: cannot connect to {target.address}: {error.strerror or error}",
        remedy="check ansible_host and the route to it",
    )
