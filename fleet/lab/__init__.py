"""The lab: a real fleet on one machine, each host a container that boots systemd."""

from fleet.lab.lab import down, remove_snapshot, snapshot, status, up
from fleet.lab.spec import LabHost, LabSpec, LabState

__all__ = ["LabHost", "LabSpec", "LabState", "down", "remove_snapshot", "snapshot", "status", "up"]
