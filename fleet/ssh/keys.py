"""Private keys: loaded once per run, with errors that say what is wrong with a file."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fleet.errors import InputError, Place

if TYPE_CHECKING:
    from paramiko import Agent, PKey


@dataclass(frozen=True)
class Identity:
    """A key that can sign, and what people call it."""

    label: str
    key: PKey


class EncryptedKeyError(Exception):
    """The file needs a passphrase, which only an agent can give."""


class Keys:
    """The files loaded so far; safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loaded: dict[tuple[Path, Path | None], PKey] = {}

    def required(self, path: Path, certificate: Path | None, place: Place | None) -> Identity:
        """The key a user named. Raises InputError where it cannot be used."""
        try:
            return Identity(str(path), self.load(path, certificate))
        except EncryptedKeyError:
            if (found := _in_agent(path)) is not None:
                return found
            raise InputError(
                f"key file {path} is encrypted and not in the SSH agent",
                place=place,
                remedy=f"run `ssh-add {path}` first",
            ) from None
        except FileNotFoundError:
            remedy = "check ansible_ssh_private_key_file, or the option that names the key"
            raise InputError(f"key file {path} does not exist", place=place, remedy=remedy) from None
        except OSError as error:
            raise InputError(
                f"key file {path} cannot be read: {error.strerror}",
                place=place,
                remedy=f"check its owner and permissions with `ls -l {path}`",
            ) from error
        except ValueError as error:
            raise InputError(
                f"key file {path} holds no private key that can be used: {error}",
                place=place,
                remedy="give the private key (not the .pub file): RSA, ECDSA or Ed25519",
            ) from error

    def load(self, path: Path, certificate: Path | None = None) -> PKey:
        """The key of a file, with its certificate (`FILE-cert.pub`, or the one given).

        Raises EncryptedKeyError, OSError, or ValueError for what is no usable key.
        """
        from paramiko import PKey, SSHException

        with self._lock:
            if (known := self._loaded.get((path, certificate))) is not None:
                return known
            try:
                key = PKey.from_path(path)
                if certificate is not None:
                    key.load_certificate(str(certificate))
            except TypeError:  # cryptography: "password was not given but private key is encrypted"
                raise EncryptedKeyError(str(path)) from None
            except OSError:
                raise
            except Exception as error:  # three libraries, each with its own
                if isinstance(error, SSHException) or "encrypted" not in str(error):
                    raise ValueError(str(error) or "not a private key") from error
                raise EncryptedKeyError(str(path)) from None
            self._loaded[(path, certificate)] = key
            return key


def agent_identities(agent: Agent) -> Iterator[Identity]:
    """The keys an agent holds."""
    for key in agent.get_keys():
        yield Identity(f"{key.comment or key.get_name()} (agent)", key)


def public_blob(path: Path) -> bytes | None:
    """The public half that lies beside a private key; None where there is none."""
    from paramiko.pkey import PublicBlob

    with suppress(Exception):
        return bytes(PublicBlob.from_file(f"{path}.pub").key_blob)
    return None


def _in_agent(path: Path) -> Identity | None:
    wanted = public_blob(path)
    if wanted is None or not os.environ.get("SSH_AUTH_SOCK"):
        return None
    from paramiko import Agent

    return next((each for each in agent_identities(Agent()) if each.key.asbytes() == wanted), None)
