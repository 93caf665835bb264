"""The lab's folder on this machine: keys, certificates, passwords. And the archives sent into containers."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from fleet.errors import InputError
from fleet.lab.keys import make_authority, make_key_pair, make_password

MARK = "# Written by `fleet lab up`; `fleet lab down` removes it."
"""First line of every inventory the lab writes; a file without it is never overwritten or removed."""

_FILES = (
    "apt_key.asc",
    "asks_password",
    "ca.crt",
    "ca.key",
    "id_ed25519",
    "id_ed25519.pub",
    "known_hosts",
    "registry_password",
)


@dataclass(frozen=True)
class Folder:
    """The folder beside a lab's inventory."""

    inventory: Path

    @property
    def path(self) -> Path:
        """The folder itself."""
        return self.inventory.with_suffix("")

    def file(self, name: str) -> Path:
        """One of the lab's files."""
        if name not in _FILES:
            raise KeyError(name)
        return self.path / name

    def text(self, name: str) -> str:
        """A file's text without the newline at its end."""
        return self.file(name).read_text().rstrip("\n")

    def create(self) -> None:
        """Make what is missing: keys, certificate authority, passwords."""
        self.check_ours()
        self.path.mkdir(parents=True, exist_ok=True)
        if not self.file("id_ed25519").exists():
            pair = make_key_pair("fleet-lab")
            self.write("id_ed25519.pub", f"{pair.public}\n".encode())
            self.write("id_ed25519", pair.private)
        if not self.file("ca.key").exists():
            authority = make_authority("fleet lab")
            self.write("ca.crt", authority.certificate)
            self.write("ca.key", authority.key)
        for name in ("asks_password", "registry_password"):
            if not self.file(name).exists():
                self.write(name, f"{make_password()}\n".encode())

    def write(self, name: str, content: bytes) -> None:
        """Write one file, readable by its owner only."""
        _write(self.file(name), content, 0o600)

    def write_inventory(self, text: str) -> None:
        """Write the inventory, whole or not at all."""
        _write(self.inventory, text.encode(), 0o644)

    def check_ours(self) -> None:
        """Refuse to touch an inventory that a person wrote."""
        if self.inventory.exists() and not self.inventory.read_text("utf-8", "replace").startswith(MARK):
            raise InputError(
                f"{self.inventory} exists and was not written by the lab",
                remedy="Choose another lab name or another inventory path.",
            )

    def complete(self) -> bool:
        """True when no key or password is missing."""
        return all(self.file(name).exists() for name in _FILES if name != "apt_key.asc")

    def remove(self) -> None:
        """Remove the inventory and the lab's files; anything else in the folder stays."""
        self.check_ours()
        for name in _FILES:
            self.file(name).unlink(missing_ok=True)
            _partial(self.file(name)).unlink(missing_ok=True)
        _partial(self.inventory).unlink(missing_ok=True)
        self.inventory.unlink(missing_ok=True)
        with suppress(OSError):
            self.path.rmdir()

    def pack(self) -> bytes:
        """An archive of the files a snapshot keeps."""
        return archive(
            Entry(name, self.file(name).read_bytes(), mode=0o600)
            for name in _FILES
            if name != "known_hosts" and self.file(name).exists()
        )

    def unpack(self, packed: bytes) -> None:
        """Write the files of `pack`, where there are none yet."""
        self.check_ours()
        self.path.mkdir(parents=True, exist_ok=True)
        with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
            for member in tar.getmembers():
                name = Path(member.name).name
                source = tar.extractfile(member) if member.isfile() and name in _FILES else None
                if source is not None and not self.file(name).exists():
                    self.write(name, source.read())


@dataclass(frozen=True)
class Entry:
    """A file of an archive, or a folder when `content` is None."""

    path: str
    content: bytes | None
    mode: int = 0o644
    owner: int = 0


def archive(entries: Iterable[Entry]) -> bytes:
    """A tar archive of the entries."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for entry in entries:
            info = tarfile.TarInfo(entry.path)
            info.mode, info.uid, info.gid = entry.mode, entry.owner, entry.owner
            if entry.content is None:
                info.type = tarfile.DIRTYPE
                tar.addfile(info)
            else:
                info.size = len(entry.content)
                tar.addfile(info, io.BytesIO(entry.content))
    return buffer.getvalue()


def _write(path: Path, content: bytes, mode: int) -> None:
    partial = _partial(path)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as handle:
        handle.write(content)
    partial.rename(path)


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")
