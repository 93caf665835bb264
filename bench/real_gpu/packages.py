"""Debian packages made on the spot, and the index of a repository."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Package:
    """A package to make; `files` has each file's content by its path on the host, all of them programs."""

    name: str
    version: str
    description: str
    files: Mapping[str, Path | str] = field(default_factory=dict)


def make(package: Package, folder: Path) -> Path:
    """Write the package to `folder`."""
    made = folder / f"{package.name}_{package.version}_amd64.deb"
    with tempfile.TemporaryDirectory() as temporary:
        tree = Path(temporary) / "tree"
        for path, content in package.files.items():
            target = tree / path.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, Path):
                shutil.copyfile(content, target)
            else:
                target.write_text(content)
            target.chmod(0o755)
        (tree / "DEBIAN").mkdir(parents=True)
        (tree / "DEBIAN/control").write_text(
            f"Package: {package.name}\nVersion: {package.version}\nArchitecture: amd64\n"
            f"Maintainer: fleet <fleet@localhost>\nSection: admin\nPriority: optional\n"
            f"Description: {package.description}\n"
        )
        tree.chmod(0o755)
        argv = ["dpkg-deb", "--root-owner-group", "-Zgzip", "--build", str(tree), str(made)]
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
    return made


def index(folder: Path) -> bytes:
    """The file Packages of the packages in `folder`."""
    entries = []
    for path in sorted(folder.glob("*.deb")):
        fields = subprocess.run(
            ["dpkg-deb", "--field", str(path)], check=True, capture_output=True, text=True
        ).stdout.strip()
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        size = path.stat().st_size
        entries.append(f"{fields}\nFilename: ./{path.name}\nSize: {size}\nSHA256: {digest}\n")
    return "\n".join(entries).encode()
