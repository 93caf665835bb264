"""GPUs and slots: the places where one container each can run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """One GPU as nvidia-smi reports it.

    Memory in MiB, temperature in degrees Celsius, utilization in percent, power in watts. None stands
    for a value the card does not report (`[N/A]`, `[Not Supported]`): that is an answer, not an error.
    `mig` is true where the card is cut into MIG instances and cannot be used whole.
    """

    index: int
    uuid: str
    name: str
    memory_total: int | None = None
    memory_used: int | None = None
    utilization: int | None = None
    temperature: int | None = None
    power: float | None = None
    driver_version: str | None = None
    pci_bus_id: str | None = None
    mig: bool = False


@dataclass(frozen=True)
class Slot:
    """One GPU's place in the fleet: one container, one HAProxy server, named `HOST-INDEX`.

    `index` is the GPU's number on its host (the driver's index when its first container was made), `port` the
    host port its container publishes, `address` where the balancers reach the host, `weight` its HAProxy
    weight (1 to 256).
    """

    host: str
    index: int
    uuid: str
    address: str
    port: int
    gpu_name: str = ""
    weight: int = 100

    @property
    def name(self) -> str:
        """The slot's name, which is also its container's and its HAProxy server's."""
        return f"{self.host}-{self.index}"
