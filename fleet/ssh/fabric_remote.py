"""An open connection to one host, as the layers above see it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, NoReturn

from fleet.errors import StepError, UnreachableError
from fleet.model.secret import Secret
from fleet.ssh import sudo
from fleet.ssh.exchange import ConnectionLost, DeadlinePassed, Exchange, Spoken
from fleet.ssh.framing import GRACE, Frame, frame, run_orders, script_orders, upload_orders
from fleet.ssh.gateways import Release
from fleet.ssh.pulse import Pulse
from fleet.ssh.remote import Result
from fleet.ssh.settings import SshSettings
from fleet.ssh.streams import Stream
from fleet.ssh.target import Target

if TYPE_CHECKING:
    from fabric import Connection
    from paramiko import Channel

_LOCAL_GRACE = GRACE + 5.0
_SLOWEST_UPLOAD = 50_000
"""Bytes a second below which an upload counts as stuck."""
_TIMED_OUT = (124, 128 + 9, 128 + 15)


class FabricRemote:
    """Implements `fleet.ssh.remote.Remote` over one Fabric connection.

    May be used from several threads: each exchange has a channel of its own.
    """

    def __init__(
        self, target: Target, settings: SshSettings, connection: Connection, release: Release
    ) -> None:
        self.name = target.name
        self.connection = connection
        self._target = target
        self._settings = settings
        self._release = release
        self._password = target.become_password or settings.sudo_password
        self._pulse = Pulse(connection.transport, settings.keepalive, settings.keepalive_count)

    def script(self, text: str, *, timeout: float) -> Result:
        """Run a sh script as root. It runs whole or not at all; its standard input is empty."""
        orders, stdin = script_orders(text)
        return self._exchange(orders, stdin, timeout)

    def run(
        self,
        argv: tuple[str, ...],
        *,
        stdin: bytes | None = None,
        timeout: float = 120.0,
        env: Mapping[str, str] | None = None,
    ) -> Result:
        """Run one command as root. Neither `env` nor `stdin` shows in a process list."""
        return self._exchange(run_orders(argv, env), stdin or b"", timeout)

    def upload(self, path: str, content: bytes, *, mode: str, owner: str, group: str) -> None:
        """Write a file: a temporary one beside it, then a rename. Parent folders are created.

        Raises StepError with what the host said (no space left, read-only file system, no such user).
        """
        orders = upload_orders(path, len(content), mode=mode, owner=owner, group=group)
        result = self._exchange(orders, content, 60 + len(content) / _SLOWEST_UPLOAD)
        if result.rc != 0:
            raise StepError(
                f"{self.name}: cannot write {path}",
                output=result.err.decode("utf-8", "replace").strip(),
                remedy="the old file, if any, is unchanged; mend what the host reports and run again",
            )

    def stream(self, argv: tuple[str, ...], *, timeout: float = 30.0) -> Stream:
        """Start a command as root and talk to it; for protocols such as the Docker API.

        `timeout` in seconds is for its start. Raises StepError where sudo refuses, UnreachableError where
        the connection is dead.
        """
        made = self._frame(run_orders(argv, None), b"", None)
        channel = self._channel(made)
        exchange = Exchange(channel, made, self._pulse, keep_open=True)
        try:
            first = exchange.start(time.monotonic() + timeout)
        except ConnectionLost as error:
            self._lost(error)
        except DeadlinePassed as error:
            self._late(timeout, error)
        if first is None:
            channel.close()
            if self._may_ask(exchange.stderr):
                return self.stream(argv, timeout=timeout)
            raise sudo.refusal(
                self._target,
                Result(channel.exit_status, b"", exchange.stderr),
                had_password=self._password is not None,
            )
        return Stream(self.name, channel, self._pulse, first, exchange.stderr)

    def close(self) -> None:
        """End the connection; never raises."""
        with contextlib.suppress(Exception):
            self.connection.close()
        with contextlib.suppress(Exception):
            self._release()

    def _exchange(self, orders: str, stdin: bytes, timeout: float) -> Result:
        made = self._frame(orders, stdin, timeout)
        started = time.monotonic()
        channel = self._channel(made)
        try:
            spoken = Exchange(channel, made, self._pulse).finish(started + timeout + _LOCAL_GRACE)
        except ConnectionLost as error:
            self._lost(error)
        except DeadlinePassed as error:
            self._late(timeout, error)
        finally:
            channel.close()
        if not spoken.started:
            return self._not_started(spoken, orders, stdin, timeout)
        result = spoken.result
        if result.rc in _TIMED_OUT and time.monotonic() - started >= timeout:
            self._late(timeout, DeadlinePassed(result.out, result.err))
        return result

    def _not_started(self, spoken: Spoken, orders: str, stdin: bytes, timeout: float) -> Result:
        if self._may_ask(spoken.result.err):
            return self._exchange(orders, stdin, timeout)
        raise sudo.refusal(self._target, spoken.result, had_password=self._password is not None)

    def _may_ask(self, stderr: bytes) -> bool:
        """True where sudo wants a password and the user has just given one."""
        if self._password is None and sudo.wants_password(stderr):
            self._password = self._settings.shared.ask_sudo(self._settings)
            return self._password is not None
        return False

    def _frame(self, orders: str, stdin: bytes, timeout: float | None) -> Frame:
        password: Secret | None = self._password
        return frame(orders, stdin, timeout=timeout, become=self._target.become, password=password)

    def _channel(self, made: Frame) -> Channel:
        from paramiko import ChannelException, SSHException

        try:
            channel: Channel = self.connection.create_session()
            channel.exec_command(made.command)
        except ChannelException as error:
            raise UnreachableError(
                f"{self.name}: sshd opened no further session",
                output=str(error),
                remedy="raise MaxSessions in its sshd_config (10 is the default), or check its ForceCommand",
            ) from error
        except (SSHException, EOFError, OSError) as error:
            raise self._gone(str(error)) from error
        return channel

    def _lost(self, error: ConnectionLost) -> NoReturn:
        raise self._gone(str(error)) from error

    def _gone(self, why: str) -> UnreachableError:
        return UnreachableError(
            f"{self.name}: the connection to {self._target.address} was lost",
            output=why,
            remedy="check that the host is up, then run again: what is done already is not done twice",
        )

    def _late(self, timeout: float, error: DeadlinePassed) -> NoReturn:
        raise StepError(
            f"{self.name}: no end within {timeout:g} s; the command was stopped",
            output=(error.err or error.out)[-4000:].decode("utf-8", "replace").strip(),
            remedy="look at what the host is busy with, then run again",
        ) from error
