"""The slots of a host: one for each of its GPUs."""

from __future__ import annotations

from fleet.docker.probe import CONTAINERS_PROBE, parse_containers
from fleet.errors import InputError
from fleet.gpu.numbers import numbers
from fleet.gpu.probe import GPU_PROBE, parse_gpus
from fleet.gpu.weights import weight_for
from fleet.model.facts import Answer, Facts
from fleet.model.host import Host
from fleet.model.slot import Slot

DEFAULT_PORT_BASE = 7860
DEFAULT_PORT_BESIDE = 16
_LAST_PORT = 65535
_ABSENT = Answer(255)


def slots_of(host: Host, facts: Facts) -> tuple[Slot, ...] | None:
    """The host's slots in the order of their index; None where its GPUs are not known.

    A slot's index is its GPU's number (`fleet.gpu.numbers`): that of its containers, where these were asked
    for. Its port is `slot_port_base` (7860) plus that; `ports_of` gives its second one, too.
    """
    answer = facts.get(GPU_PROBE.key)
    gpus = parse_gpus(answer) if answer else None
    if gpus is None:
        return None
    containers = parse_containers(facts.get(CONTAINERS_PROBE.key, _ABSENT))
    number = numbers(host, gpus, containers or ())
    base = port_base(host)
    _check_room(host, base, max(number.values(), default=0))
    return tuple(
        Slot(
            host=host.name,
            index=number[gpu.uuid],
            uuid=gpu.uuid,
            address=host.address,
            port=base + number[gpu.uuid],
            gpu_name=gpu.name,
            weight=weight_for(gpu, host.vars),
        )
        for gpu in sorted(gpus, key=lambda gpu: number[gpu.uuid])
    )


def ports_of(host: Host, slot: Slot) -> tuple[int, int]:
    """The two host ports of a slot: its usual one, and the one on which another container runs beside."""
    return slot.port, slot.port + port_beside(host)


def port_base(host: Host) -> int:
    """The host port of GPU 0, from the variable `slot_port_base`; InputError where it is no port."""
    return _number(host, "slot_port_base", DEFAULT_PORT_BASE, "a port")


def port_beside(host: Host) -> int:
    """How far a slot's second port is above its usual one, from the variable `slot_port_beside` (16).

    InputError where it is no number that ports may be apart.
    """
    return _number(host, "slot_port_beside", DEFAULT_PORT_BESIDE, "a number of ports")


def _check_room(host: Host, base: int, last: int) -> None:
    """InputError where the ports of GPUs 0 to `last` run out, or one's second port is another's usual one."""
    beside = port_beside(host)
    if base + last > _LAST_PORT:
        raise InputError(
            f"{host.name}: slot_port_base {base} leaves no ports for its GPUs (up to {base + last})",
            place=host.place,
            remedy=f"set slot_port_base lower, such as {DEFAULT_PORT_BASE}",
        )
    if last >= beside:
        raise InputError(
            f"{host.name}: slot_port_beside {beside} makes GPU 0's second port that of GPU {beside}",
            place=host.place,
            remedy=f"set slot_port_beside to at least {last + 1}",
        )
    if base + beside + last > _LAST_PORT:
        raise InputError(
            f"{host.name}: slot_port_base {base} and slot_port_beside {beside} leave no second ports "
            f"for its GPUs (up to {base + beside + last})",
            place=host.place,
            remedy=f"set slot_port_base lower, such as {DEFAULT_PORT_BASE}",
        )


def _number(host: Host, name: str, default: int, what: str) -> int:
    value = host.vars.get(name, default)
    text = str(value).strip()
    if isinstance(value, bool) or not text.isdecimal() or not 1 <= int(text) <= _LAST_PORT:
        raise InputError(
            f"{host.name}: {name} is {value!r}, not {what}",
            place=host.place,
            remedy=f"set {name} to a number from 1 to 65535, such as {default}",
        )
    return int(text)
