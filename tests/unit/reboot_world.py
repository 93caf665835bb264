"""GPU hosts that reboot, told as folders and a real sh: boot id, nvidia-smi, Docker's answers, fleet's files."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fleet.docker.probe import CONTAINERS_PROBE
from fleet.errors import StepError, UnreachableError
from fleet.gpu.container import ContainerSpec
from fleet.gpu.probe import GPU_PROBE
from fleet.model.slot import Slot
from fleet.modules._reboot import FLEET_FILE, STATE_FILE
from fleet.ssh.remote import Result
from tests.local import LocalRemote, LocalRunner
from tests.unit.gpu_world import IMAGE, containers, inspected

SPEC = ContainerSpec(IMAGE)
_boots = itertools.count(1)
_PLACES = (
    (GPU_PROBE.script, "cat {}\n", "gpus"),
    (CONTAINERS_PROBE.script, "cat {}\n", "containers"),
    ("/proc/sys/kernel/random/boot_id", "{}", "boot_id"),
    ("/var/run/reboot-required", "{}", "system"),
    (FLEET_FILE, "{}", "required"),
    (STATE_FILE, "{}", "state"),
)


class GpuHost:
    """One host. `down` attempts to reach it fail after a reboot; `lost` GPUs do not come back from it.

    Its nvidia-smi `hangs` until the next one.
    """

    def __init__(self, folder: Path, name: str, *slots: Slot) -> None:
        self.folder = folder
        self.name = name
        self.slots = slots
        self.down = 1
        self.lost: set[int] = set()
        self.hangs = False
        self.reboots = 0
        self.away = 0
        self.on_reboot: Callable[[], None] = lambda: None
        folder.mkdir()
        self._start()

    @property
    def state(self) -> str:
        """What a reboot that has not ended left on the disk."""
        path = self.folder / "state"
        return path.read_text() if path.exists() else ""

    def needs(self, *reasons: str) -> GpuHost:
        """Something asks for a reboot."""
        (self.folder / "required").write_text("".join(f"{reason}\n" for reason in reasons))
        return self

    def reboot(self) -> None:
        """As if the machine had done it: what lies in memory is gone."""
        self.reboots += 1
        self.hangs = False
        self.away = self.down
        (self.folder / "required").unlink(missing_ok=True)
        self._start()
        self.on_reboot()

    def open(self) -> tuple[Any, Any]:
        """Reach it; raises UnreachableError while it is away."""
        if self.away:
            self.away -= 1
            raise UnreachableError(f"{self.name}: connection refused", remedy="look at its console")
        remote = _HostRemote(self)
        return remote, LocalRunner(remote)

    def here(self, script: str) -> str:
        """A script with this host's files in place of the machine's."""
        for text, form, file in _PLACES:
            script = script.replace(text, form.format(shlex.quote(str(self.folder / file))))
        return script

    def _start(self) -> None:
        (self.folder / "boot_id").write_text(f"boot-{next(_boots)}\n")
        cards = [slot for slot in self.slots if slot.index not in self.lost]
        (self.folder / "gpus").write_text(
            "".join(
                f"{number}, {slot.uuid}, Tesla T4, 15360, 3, 0, 38, 9.50, 580.95.05, 00000000:3B:00.0, [N/A]\n"
                for number, slot in enumerate(cards)
            )
            or "No devices were found\n"
        )
        found = (inspected(SPEC, slot) for slot in self.slots)
        (self.folder / "containers").write_bytes(containers(*found).out)


class _HostRemote(LocalRemote):
    def __init__(self, host: GpuHost) -> None:
        super().__init__(host.name)
        self._host = host

    def script(self, text: str, *, timeout: float) -> Result:
        if self._host.hangs and GPU_PROBE.script in text:
            raise StepError(f"{self.name}: no answer within {timeout:g} s")
        return super().script(self._host.here(text), timeout=timeout)

    def run(
        self,
        argv: tuple[str, ...],
        *,
        stdin: bytes | None = None,
        timeout: float = 120.0,
        env: Mapping[str, str] | None = None,
    ) -> Result:
        if any("systemctl reboot" in word for word in argv):
            self._host.reboot()
            raise UnreachableError(f"{self.name}: connection lost")
        mine = tuple(self._host.here(word) for word in argv)
        return super().run(mine, stdin=stdin, timeout=timeout, env=env)

    def upload(self, path: str, content: bytes, *, mode: str, owner: str, group: str) -> None:
        assert path == STATE_FILE
        super().upload(str(self._host.folder / "state"), content, mode=mode, owner=owner, group=group)
