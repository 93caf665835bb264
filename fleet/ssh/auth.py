"""Proving who we are: the key that is named, or else what `ssh` would try, in its order."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from fleet.ssh.keys import EncryptedKeyError, Identity, Keys, agent_identities, public_blob
from fleet.ssh.target import Target

if TYPE_CHECKING:
    from paramiko import Agent, Transport

Attempt = Callable[["Transport"], list[str]]


class LoginFailed(Exception):  # noqa: N818 - an outcome, turned into UnreachableError by the caller
    """Nothing that was tried was taken. `tried` says what, `allowed` what the server takes."""

    def __init__(self, tried: list[str], allowed: list[str], cut_off: bool) -> None:
        super().__init__("authentication failed")
        self.tried = tried
        self.allowed = allowed
        self.cut_off = cut_off


class Login:
    """How to authenticate at one target; Paramiko's SSHClient calls `authenticate`.

    Where a key file is named it is the only key offered: no agent is asked, nothing else is tried, so a
    server's MaxAuthTries is never met. Raises InputError at once where that file cannot be used.
    """

    def __init__(self, target: Target, keys: Keys) -> None:
        self._target = target
        self._keys = keys
        self._skipped: list[str] = []
        self._agent: Agent | None = None
        self._named: Identity | None = None
        if target.key_file is not None:
            certificate = target.certificates[0] if target.certificates else None
            self._named = keys.required(target.key_file, certificate, target.place)

    def authenticate(self, transport: Transport) -> None:
        """Try each source until the server is content. Raises LoginFailed."""
        from paramiko import AuthenticationException, BadAuthenticationType, SSHException

        tried: list[str] = []
        allowed: list[str] = []
        try:
            for label, attempt in self._attempts():
                try:
                    missing = attempt(transport)
                except BadAuthenticationType as error:
                    tried.append(f"{label} (kind not accepted)")
                    allowed = list(error.allowed_types)
                    continue
                except (AuthenticationException, SSHException, EOFError) as error:
                    tried.append(label)
                    if not transport.is_active():
                        raise LoginFailed(tried, allowed, cut_off=True) from error
                    continue
                if not missing:
                    return
                tried.append(f"{label} (accepted, but the server also wants: {', '.join(missing)})")
                allowed = list(missing)
            raise LoginFailed(tried + self._skipped, allowed, cut_off=False)
        finally:
            if self._agent is not None:
                self._agent.close()

    def _attempts(self) -> Iterator[tuple[str, Attempt]]:
        if self._named is not None:
            yield self._public_key(self._named)
            yield from self._password()
            return
        yield from self._password()
        for identity in self._identities():
            yield self._public_key(identity)

    def _identities(self) -> Iterator[Identity]:
        """Agent keys the configuration names, then the agent's others, then files."""
        held = {each.key.asbytes(): each for each in self._from_agent()}
        files = [path for path in self._target.identities if path.is_file()]
        for path in files:
            blob = public_blob(path)
            if blob is not None and (identity := held.pop(blob, None)) is not None:
                files = [each for each in files if each != path]
                yield identity
        if not self._target.identities_only:
            yield from held.values()
        for path in files:
            try:
                yield Identity(str(path), self._keys.load(path))
            except EncryptedKeyError:
                self._skipped.append(f"{path} (encrypted and not in the agent: `ssh-add {path}`)")
            except (OSError, ValueError) as error:
                self._skipped.append(f"{path} (unusable: {error})")

    def _from_agent(self) -> Iterator[Identity]:
        if not self._target.use_agent or not os.environ.get("SSH_AUTH_SOCK"):
            return
        from paramiko import Agent, SSHException

        try:
            self._agent = Agent()
            yield from agent_identities(self._agent)
        except SSHException as error:
            self._skipped.append(f"the SSH agent ({error})")

    def _public_key(self, identity: Identity) -> tuple[str, Attempt]:
        user = self._target.user
        return identity.label, lambda transport: transport.auth_publickey(user, identity.key)

    def _password(self) -> Iterator[tuple[str, Attempt]]:
        password, user = self._target.password, self._target.user
        if password is not None:
            # Servers that only speak keyboard-interactive get the password that way.
            yield "the password", lambda transport: transport.auth_password(user, password.reveal())
