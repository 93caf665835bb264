"""Which playbook provisions: the project's own, else the one that ships with fleet."""

from __future__ import annotations

from pathlib import Path

from fleet.data import data_dir


def provision_playbook(project: Path) -> Path:
    """The project's playbooks/provision.yml where there is one, else the shipped one."""
    own = project / "playbooks" / "provision.yml"
    return own if own.is_file() else data_dir("playbooks") / "provision.yml"
