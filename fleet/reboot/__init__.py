"""Reboots of hosts that serve: drained first, whole again, and only then back among those that take jobs."""

from fleet.reboot.model import HostOutcome, Rebooted, Wish
from fleet.reboot.operation import reboot_operation
from fleet.reboot.run import pending, reboot

__all__ = ["HostOutcome", "Rebooted", "Wish", "pending", "reboot", "reboot_operation"]
