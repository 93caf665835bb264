"""Why a connection could not be made, in words a person can act on."""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING

from fleet.errors import FleetError, UnreachableError
from fleet.ssh.auth import LoginFailed
from fleet.ssh.known_hosts import KnownKey, Pinned
from fleet.ssh.target import Target

if TYPE_CHECKING:
    from paramiko import PKey


def fingerprint(blob: bytes) -> str:
    """A key's fingerprint as ssh-keygen shows it: `SHA256:...`."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def explain(target: Target, error: Exception, pinned: Pinned, exact: bool) -> FleetError:
    """The error to raise for a failed handshake.

    `exact` is whether `pinned` stands under the target's own name.
    """
    from paramiko.ssh_exception import IncompatiblePeer

    from fleet.ssh.policy import UnpinnedKeyError

    if isinstance(error, FleetError):
        return error
    if isinstance(error, UnpinnedKeyError):
        if pinned.keys and exact and not _revoked(error.key, pinned):
            return _changed(target, error.key, pinned)
        return _unknown(target, error.key, pinned)
    if isinstance(error, LoginFailed):
        return _login_failed(target, error)
    if isinstance(error, IncompatiblePeer):
        return UnreachableError(
            f"{target.name}: {target.address} and fleet have no algorithm in common",
            output=str(error),
            remedy="upgrade its OpenSSH: SHA-1 key exchange, ssh-rsa (SHA-1) and DSA are no longer spoken",
        )
    return _broken(target, error)


def _revoked(shown: PKey, pinned: Pinned) -> bool:
    return any(key.base64 == shown.get_base64() for key in pinned.revoked)


def _changed(target: Target, shown: PKey, pinned: Pinned) -> UnreachableError:
    lines = [f"{key.file}:{key.line}: {key.type} {_print_of(key)}" for key in pinned.keys]
    return UnreachableError(
        f"{target.name}: THE HOST KEY OF {target.address} HAS CHANGED. "
        "Someone may be listening in, or the host was installed anew",
        output="\n".join(
            [f"it now shows {shown.get_name()} {fingerprint(shown.asbytes())}", "pinned are:", *lines]
        ),
        remedy=f"compare with the fingerprint on the host's console "
        f"(ssh-keygen -lf /etc/ssh/ssh_host_..._key.pub); only if it is the same: "
        f"fleet trust {target.name} --replace",
    )


def _unknown(target: Target, shown: PKey, pinned: Pinned) -> UnreachableError:
    print_ = fingerprint(shown.asbytes())
    if _revoked(shown, pinned):
        return UnreachableError(
            f"{target.name}: {target.address} shows a host key that is marked as revoked",
            output=f"{shown.get_name()} {print_}",
            remedy="do not connect; give the host a new key and pin that one",
        )
    note = "\nknown_hosts names an authority for it, but host certificates are not supported"
    return UnreachableError(
        f"{target.name}: the host key of {target.address} is not known",
        output=f"it shows {shown.get_name()} {print_}{note if pinned.authorities else ''}",
        remedy=f"run `fleet trust {target.name}` and compare the fingerprint",
    )


def _login_failed(target: Target, error: LoginFailed) -> UnreachableError:
    tried = "; ".join(error.tried) or "nothing: there is no key, no agent and no password"
    lines = [f"tried: {tried}"]
    if error.allowed:
        lines.append(f"the server accepts: {', '.join(error.allowed)}")
    if error.cut_off:
        lines.append("the server closed the connection (too many attempts, or the user may not log in)")
    return UnreachableError(
        f"{target.name}: {target.address} did not let {target.user} in",
        output="\n".join(lines),
        remedy="check ansible_user and ansible_ssh_private_key_file, and that the public key is in "
        f"~{target.user}/.ssh/authorized_keys there",
    )


def _broken(target: Target, error: Exception) -> UnreachableError:
    text = str(error) or type(error).__name__
    if "No existing session" in text:  # what Paramiko says when its own deadline passed
        text = f"no SSH greeting within {target.timeout:g} s"
    if "banner" in text or "greeting" in text or isinstance(error, EOFError | ConnectionError):
        return UnreachableError(
            f"{target.name}: {target.address} accepted the connection, then did not speak SSH",
            output=text,
            remedy="is the host frozen or out of memory? A reset by its console or provider ends that. Or is "
            "ansible_port another program's? A busy sshd also drops connections (MaxStartups, "
            "PerSourcePenalties)",
        )
    return UnreachableError(
        f"{target.name}: the SSH handshake with {target.address} failed",
        output=text,
        remedy=f"`ssh -v {target.user}@{target.hostname}` shows more",
    )


def _print_of(key: KnownKey) -> str:
    try:
        return fingerprint(base64.b64decode(key.base64))
    except ValueError:
        return key.base64
