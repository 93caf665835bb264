"""What the PCI bus says of NVIDIA's devices: it knows the GPUs whether or not a driver does."""

from __future__ import annotations

import re
from dataclasses import dataclass

from fleet.gpu.architecture import Generation, generation
from fleet.model.facts import Answer, Probe

PCI_FOLDER = "/sys/bus/pci/devices"

# Class 0x03 is a display controller of any kind; 0x0680 a bridge, which is what an NVSwitch is.
PCI_PROBE = Probe(
    "gpu.pci",
    f"""\
for d in {PCI_FOLDER}/*; do
  [ -r "$d/vendor" ] && read -r vendor <"$d/vendor" && [ "$vendor" = 0x10de ] || continue
  read -r class <"$d/class" && read -r device <"$d/device" || continue
  driver=-
  [ -e "$d/driver" ] && driver=$(readlink "$d/driver") && driver=${{driver##*/}}
  echo "${{d##*/}} $class $device $driver"
done
exit 0
""",
)

GIVEN_AWAY = ("vfio-pci", "pci-stub")
"""Kernel drivers of cards that are passed through to virtual machines: those are not the host's to use."""

_LINE = re.compile(r"(\S+) 0x([0-9a-f]{6}) 0x([0-9a-f]{1,4}) (\S+)")


@dataclass(frozen=True)
class PciGpu:
    """A GPU on the bus: its address (`0000:3b:00.0`), device id, and the kernel driver that has it."""

    address: str
    device: int
    driver: str = ""

    @property
    def generation(self) -> Generation:
        """Which generation it is of."""
        return generation(self.device)


@dataclass(frozen=True)
class PciSeen:
    """NVIDIA's devices on one host's bus: GPUs in the bus's order, and how many NVSwitches."""

    gpus: tuple[PciGpu, ...] = ()
    switches: int = 0


def parse_pci(answer: Answer) -> PciSeen:
    """What PCI_PROBE saw. A host without a PCI bus has nothing on it."""
    gpus, switches = [], 0
    for line in answer.text.splitlines():
        match = _LINE.fullmatch(line)
        if not match:
            continue
        address, kind, device, driver = match.groups()
        if driver in GIVEN_AWAY:
            continue
        if kind.startswith("03"):
            gpus.append(PciGpu(address.lower(), int(device, 16), "" if driver == "-" else driver))
        elif kind.startswith("0680"):
            switches += 1
    return PciSeen(tuple(gpus), switches)


def same_address(one: str, other: str) -> bool:
    """Whether two addresses mean one device: nvidia-smi writes more digits than the kernel."""
    return _address(one) == _address(other)


def _address(text: str) -> tuple[int, str]:
    domain, _, rest = text.partition(":")
    return (int(domain, 16) if re.fullmatch("[0-9a-fA-F]+", domain) else -1, rest.lower())
