"""From which generation of GPUs a PCI device id is: what decides which driver it can have.

The ranges are read off the PCI id database (pci.ids, vendor 10de) up to Ada, and off its entries GB100 to
GB300 for Blackwell. Some generations have several ranges, since ids were given out per chip.
"""

from __future__ import annotations

from enum import IntEnum

PCI_VENDOR = "0x10de"


class Generation(IntEnum):
    """GPU generations in order of age; `NEWER` is any that this table does not know."""

    OLDER = 0
    MAXWELL = 1
    PASCAL = 2
    VOLTA = 3
    TURING = 4
    AMPERE = 5
    ADA = 6
    HOPPER = 7
    BLACKWELL = 8
    NEWER = 9

    @property
    def title(self) -> str:
        """Its name as people write it."""
        return {0: "Kepler or older", 9: "newer than Blackwell"}.get(int(self), self.name.title())


def generation(device: int) -> Generation:
    """The generation of a GPU by its PCI device id, such as 0x1eb8 (a Tesla T4)."""
    for first, last, found in _RANGES:
        if first <= device <= last:
            return found
    return Generation.OLDER if device < _RANGES[0][0] else Generation.NEWER


_RANGES: tuple[tuple[int, int, Generation], ...] = (
    (0x1340, 0x15BF, Generation.MAXWELL),  # GM10x, GM20x
    (0x15C0, 0x15FF, Generation.PASCAL),  # GP100
    (0x1600, 0x16FF, Generation.MAXWELL),  # GM204
    (0x1700, 0x173F, Generation.PASCAL),  # GP100
    (0x1740, 0x1ABF, Generation.MAXWELL),  # GM10x, GM200
    (0x1AC0, 0x1D7F, Generation.PASCAL),  # GP102 to GP108
    (0x1D80, 0x1DFF, Generation.VOLTA),  # GV100
    (0x1E00, 0x1FFF, Generation.TURING),  # TU10x, TU117
    (0x2000, 0x20FF, Generation.AMPERE),  # GA100
    (0x2100, 0x21FF, Generation.TURING),  # TU116
    (0x2200, 0x22FF, Generation.AMPERE),  # GA102
    (0x2300, 0x23FF, Generation.HOPPER),  # GH100
    (0x2400, 0x25FF, Generation.AMPERE),  # GA103 to GA107
    (0x2600, 0x28FF, Generation.ADA),  # AD102 to AD107
    (0x2900, 0x31FF, Generation.BLACKWELL),  # GB100 to GB207, GB110
)
