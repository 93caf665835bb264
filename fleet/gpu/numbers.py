"""Which number each of a host's GPUs has: the one its container was made with, else the driver's index.

The driver numbers GPUs by their place on the bus at each boot. One that is gone, or two that are found in
another order, would else turn every slot behind them into another GPU's, and containers that serve would be
replaced.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from fleet.docker.answers import Container
from fleet.model.host import Host
from fleet.model.slot import Gpu

_NEVER = datetime.min.replace(tzinfo=UTC)


def numbers(host: Host, gpus: Iterable[Gpu], containers: Iterable[Container]) -> Mapping[str, int]:
    """Each GPU's number by its UUID; every number once.

    Where two GPUs claim one number, that of the container that runs, or ran last, has it. A GPU without a
    container gets its own index where that is free, else the lowest number that is.
    """
    present = sorted(gpus, key=lambda gpu: gpu.index)
    claimed = _claimed(host, containers)
    found = {gpu.uuid: claimed[gpu.uuid] for gpu in present if gpu.uuid in claimed}
    taken = set(found.values())
    for gpu in present:
        if gpu.uuid not in found:
            free = itertools.chain((gpu.index,), itertools.count())
            found[gpu.uuid] = next(number for number in free if number not in taken)
            taken.add(found[gpu.uuid])
    return found


def _claimed(host: Host, containers: Iterable[Container]) -> Mapping[str, int]:
    """What containers say, by UUID: of each slot the best one, and of each GPU the best slot."""
    by_number: dict[int, str] = {}
    for container in sorted(containers, key=lambda each: (each.running, each.started or _NEVER)):
        name, _, index = (container.slot or "").rpartition("-")
        uuid = container.labels.get("fleet.gpu", "")
        if name == host.name and index.isdecimal() and uuid:
            by_number.pop(int(index), None)
            by_number[int(index)] = uuid
    return {uuid: number for number, uuid in by_number.items()}
