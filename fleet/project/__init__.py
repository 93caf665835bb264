"""A starter project: an inventory, the playbook and the template, ready to fill in."""

from __future__ import annotations

from pathlib import Path

from fleet.data import data_dir
from fleet.errors import InputError, Place

_STARTER = Path(__file__).parent / "starter"


def files() -> dict[str, Path]:
    """The project's files and what each is copied from, in the order a reader wants them."""
    return {
        "README.md": _STARTER / "README.md",
        "inventories/production.yml": _STARTER / "production.yml",
        "inventories/example.yml": data_dir("inventories") / "example.yml",
        "playbooks/provision.yml": data_dir("playbooks") / "provision.yml",
        "playbooks/upgrade.yml": data_dir("playbooks") / "upgrade.yml",
        "templates/haproxy.cfg.j2": data_dir("templates") / "haproxy.cfg.j2",
        ".gitignore": _STARTER / "gitignore",
    }


def init(directory: Path) -> list[Path]:
    """Write the starter project into a folder, made if needed; returns the files written.

    Raises InputError, and writes nothing, where any of the files is there already.
    """
    wanted = {directory / name: source for name, source in files().items()}
    standing = [path for path in wanted if path.exists() or path.is_symlink()]
    if standing:
        raise InputError(
            f"{len(standing)} of the project's files exist already; nothing was written",
            place=Place(str(directory)),
            output="\n".join(str(path) for path in standing),
            remedy="choose another folder, or move these files away",
        )
    try:
        contents = {path: source.read_bytes() for path, source in wanted.items()}
        for path, content in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as file:  # never over a file that appeared meanwhile
                file.write(content)
    except OSError as error:
        raise InputError(
            f"cannot write the project: {error.strerror}",
            place=Place(str(error.filename or directory)),
            remedy="choose a folder you may write to",
        ) from error
    return list(wanted)
