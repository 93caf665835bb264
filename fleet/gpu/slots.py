"""The slots of a host: one for each of its GPUs."""

from __future__ import annotations

from fleet.errors import InputError
from fleet.gpu.probe import GPU_PROBE, parse_gpus
from fleet.gpu.weights import weight_for
from fleet.model.facts import Facts
from fleet.model.host import Host
from fleet.model.slot import Slot

DEFAULT_PORT_BASE = 7860
_LAST_PORT = 65535


def slots_of(host: Host, facts: Facts) -> tuple[Slot, ...] | None:
    """The host's slots in the order of their index; None where its GPUs are not known.

    A slot's port is `slot_port_base` (7860) plus the GPU's index.
    """
    answer = facts.get(GPU_PROBE.key)
    gpus = parse_gpus(answer) if answer else None
    if gpus is None:
        return None
    base = port_base(host)
    if (last := base + max((gpu.index for gpu in gpus), default=0)) > _LAST_PORT:
        raise InputError(
            f"{host.name}: slot_port_base {base} leaves no ports for its GPUs (up to {last})",
            place=host.place,
            remedy=f"set slot_port_base lower, such as {DEFAULT_PORT_BASE}",
        )
    return tuple(
        Slot(
            host=host.name,
            index=gpu.index,
            uuid=gpu.uuid,
            address=host.address,
            port=base + gpu.index,
            gpu_name=gpu.name,
            weight=weight_for(gpu, host.vars),
        )
        for gpu in sorted(gpus, key=lambda gpu: gpu.index)
    )


def port_base(host: Host) -> int:
    """The host port of GPU 0, from the variable `slot_port_base`; InputError where it is no port."""
    value = host.vars.get("slot_port_base", DEFAULT_PORT_BASE)
    text = str(value).strip()
    if isinstance(value, bool) or not text.isdecimal() or not 1 <= int(text) <= _LAST_PORT:
        raise InputError(
            f"{host.name}: slot_port_base is {value!r}, not a port",
            place=host.place,
            remedy=f"set slot_port_base to a number from 1 to 65535, such as {DEFAULT_PORT_BASE}",
        )
    return int(text)
