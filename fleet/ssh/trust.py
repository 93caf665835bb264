"""Pinning host keys: see which keys a host shows, then write them to known_hosts."""

from __future__ import annotations

import base64
import fcntl
import hmac
import os
import secrets
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fleet.errors import InputError, UnreachableError
from fleet.model.host import Host
from fleet.ssh.known_hosts import KnownKey, parse_line, stands_for
from fleet.ssh.settings import SshSettings

if TYPE_CHECKING:
    from fleet.ssh.target import Target

Status = Literal["new", "pinned", "changed"]

_KINDS = (
    ("ssh-ed25519",),
    ("ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521"),
    ("rsa-sha2-512", "rsa-sha2-256"),
)


@dataclass(frozen=True)
class ScannedKey:
    """A key a host shows. `name` is what known_hosts calls the host (`[host]:port` off port 22).

    `status` is "changed" where another key of the same type is pinned for that name. `fingerprint` is what
    `ssh-keygen -lf` shows on the host.
    """

    type: str
    base64: str
    fingerprint: str
    status: Status
    name: str


def known_hosts_file(host: Host, settings: SshSettings | None = None) -> Path:
    """The file where a host's keys belong: `fleet_known_hosts`, else the user's own known_hosts."""
    from fleet.ssh.target import target_of

    return target_of(host, settings or SshSettings()).own_known_hosts


def scan(host: Host, timeout: float = 10.0, settings: SshSettings | None = None) -> tuple[ScannedKey, ...]:
    """The keys a host shows, one of each kind it has. Nothing is sent but the start of a handshake.

    Goes where a connection would go: same port, same jump hosts (whose keys must be trusted already).
    Raises UnreachableError where nothing there speaks SSH.
    """
    from fleet.ssh import failures, stack
    from fleet.ssh.connecting import pinned_keys
    from fleet.ssh.target import target_of

    stack.load()
    shared = settings or SshSettings()
    target = replace(target_of(host, shared), timeout=timeout)
    pinned, exact = pinned_keys(target, shared)
    with ThreadPoolExecutor(len(_KINDS)) as pool:
        tries = [pool.submit(_show, target, shared, kinds) for kinds in _KINDS]
    shown: list[ScannedKey] = []
    trouble: list[Exception] = []
    for each in tries:
        error = each.exception()
        if isinstance(error, Exception):
            trouble.append(error)
        elif error is not None:
            raise error
        elif (key := each.result()) is not None:
            print_ = failures.fingerprint(base64.b64decode(key.base64))
            status = _status(key, pinned.keys, exact)
            shown.append(ScannedKey(key.type, key.base64, print_, status, target.known_name))
    if not shown and trouble:
        raise failures.explain(target, trouble[0], pinned, exact) from trouble[0]
    if not shown:
        raise UnreachableError(
            f"{target.name}: {target.address} has no host key of a kind that is still spoken",
            remedy="upgrade its OpenSSH, or run `ssh-keygen -A` there",
        )
    return tuple(shown)


def pin(
    keys: Sequence[ScannedKey], path: Path, *, replace: bool = False, hashed: bool = False
) -> tuple[ScannedKey, ...]:
    """Write keys to a known_hosts file, and return those that were written.

    Pinned keys are left alone. A changed key is written, and the old one removed, only with `replace`;
    otherwise InputError is raised and nothing is written. A new file gets mode 0600. With `hashed` the
    host's name is not readable in the file (ssh's HashKnownHosts).
    """
    changed = [key for key in keys if key.status == "changed"]
    if changed and not replace:
        raise InputError(
            f"{changed[0].name}: the {changed[0].type} key has changed; the pinned one was kept",
            output="\n".join(f"{key.type} {key.fingerprint}" for key in changed),
            remedy="compare the fingerprint with the host's console, then replace it with --replace",
        )
    wanted = tuple(key for key in keys if key.status != "pinned")
    if not wanted:
        return ()
    path = Path(os.path.realpath(path))
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(path.parent / f".{path.name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            _rewrite(path, wanted, changed, hashed=hashed)
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror}", remedy="check the folder's owner and permissions"
        ) from error
    return wanted


def _show(target: Target, settings: SshSettings, kinds: tuple[str, ...]) -> KnownKey | None:
    """The host's key of these kinds; None where it has none."""
    from paramiko import Transport
    from paramiko.ssh_exception import IncompatiblePeer

    from fleet.ssh.connecting import open_stream

    sock, release = open_stream(target, settings)
    try:
        transport = Transport(sock)
        try:
            transport.banner_timeout = target.timeout
            transport.get_security_options().key_types = kinds
            transport.start_client(timeout=target.timeout)
            key = transport.get_remote_server_key()
            return KnownKey(key.get_name(), key.get_base64())
        except IncompatiblePeer as error:
            if "host key" in str(error):
                return None
            raise
        finally:
            transport.close()
    finally:
        sock.close()
        release()


def _status(key: KnownKey, pinned: Sequence[KnownKey], exact: bool) -> Status:
    if key in pinned:
        return "pinned"
    return "changed" if exact and any(each.type == key.type for each in pinned) else "new"


def _rewrite(
    path: Path, wanted: Sequence[ScannedKey], changed: Sequence[ScannedKey], *, hashed: bool
) -> None:
    try:
        text, mode = path.read_text(encoding="utf-8", errors="surrogateescape"), path.stat().st_mode & 0o777
    except FileNotFoundError:
        text, mode = "", 0o600
    lines = [kept for line in text.splitlines() if (kept := _without(line, changed)) is not None]
    lines += [f"{_hash(key.name) if hashed else key.name} {key.type} {key.base64}" for key in wanted]
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write("\n".join(lines) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def _without(line: str, changed: Sequence[ScannedKey]) -> str | None:
    """The line without the names whose key changed; None where nothing is left of it."""
    parsed = parse_line(line)
    if parsed is None or parsed.marker:
        return line
    gone = [key.name for key in changed if key.type == parsed.key.type and parsed.matches(key.name)]
    if not gone:
        return line
    names = [name for name in parsed.names if not any(stands_for(name, old) for old in gone)]
    rest = line.split(None, 1)[1]
    return f"{','.join(names)} {rest}" if names else None


def _hash(name: str) -> str:
    salt = secrets.token_bytes(20)
    digest = hmac.digest(salt, name.encode(), "sha1")
    return f"|1|{base64.b64encode(salt).decode()}|{base64.b64encode(digest).decode()}"
