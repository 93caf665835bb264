"""A control-group tree for each lab host, so that systemd and Docker inside it manage their own.

On a unified machine the host's private control-group namespace is enough: its entry point makes the mount
writable. On a hybrid machine (version 1 with version 2 beside it) the engine gives containers no version 2
tree, so each host gets a folder of the machine's, mounted on its /sys/fs/cgroup, and its first process moves
there and makes it the root of a namespace. Either way a host sees no path of the machine around it.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

from fleet.errors import FleetError

_BOOT_ID = "{ sh /usr/lib/fleet-lab/boot-id.sh || :; }"
"""Each start of a host is another boot to those who ask; one without that still serves."""

_UNIFIED_ENTRY = (
    "/bin/sh",
    "-c",
    f"mount -o remount,rw /sys/fs/cgroup && {_BOOT_ID} && exec /lib/systemd/systemd",
)
_REMOVE_DEADLINE = 10.0

_HYBRID_ENTRY = (
    "/bin/sh",
    "-c",
    f"echo $$ > /sys/fs/cgroup/cgroup.procs && {_BOOT_ID} && exec unshare --cgroup /lib/systemd/systemd",
)


class Unified:
    """Version 2 only: nothing to create, nothing to remove."""

    entry = _UNIFIED_ENTRY
    namespace = "private"

    def bind(self, lab: str, host: str) -> str | None:
        """No mount is needed."""
        return None

    def remove(self, lab: str) -> None:
        """The engine removes the groups with the containers."""


class Hybrid:
    """Version 1, with the version 2 tree mounted at `root`."""

    entry = _HYBRID_ENTRY
    namespace = "host"

    def __init__(self, root: Path = Path("/sys/fs/cgroup/unified")) -> None:
        self.root = root

    def bind(self, lab: str, host: str) -> str | None:
        """The mount of a host's own folder, which is created here."""
        folder = self.root / "fleet-lab" / lab / host
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FleetError(
                f"the control group {folder} cannot be created: {error.strerror}",
                remedy="Run this as root, with a cgroup2 file system mounted at /sys/fs/cgroup/unified "
                "(`mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 none /sys/fs/cgroup/unified`).",
            ) from None
        return f"{folder}:/sys/fs/cgroup:rw"

    def remove(self, lab: str) -> None:
        """Remove the groups of a lab, innermost first, once the last processes in them have ended."""
        top = self.root / "fleet-lab"
        deadline = time.monotonic() + _REMOVE_DEADLINE
        while (top / lab).is_dir():
            for folder, _, _ in os.walk(top / lab, topdown=False):
                with suppress(OSError):
                    os.rmdir(folder)
            if time.monotonic() > deadline:
                raise FleetError(
                    f"the control groups under {top / lab} are still in use",
                    remedy="Run `fleet lab down` again as root.",
                )
            time.sleep(0.02)
        with suppress(OSError):
            top.rmdir()


def layout(cgroup_version: str) -> Unified | Hybrid:
    """The layout of an engine that reports this control-group version ("1" or "2")."""
    return Unified() if cgroup_version == "2" else Hybrid()
