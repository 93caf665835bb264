"""Is a container's memory on its own GPU, and on no other?"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from fleet.gpu.probe import GpuProcess
from fleet.model.slot import Gpu

RISE = 256
"""MiB by which a GPU's memory in use must grow before a model counts as loaded there."""


@dataclass(frozen=True)
class Owner:
    """A container and the GPU it was given, by UUID.

    `before` is the memory in use on each GPU of the host, in MiB by UUID, just before the container was
    started (and after the one it replaces had ended). `busy` are GPUs whose memory may change meanwhile for
    reasons of their own: those of slots that serve, or are moved at the same time.
    """

    container: str
    uuid: str
    before: Mapping[str, int | None] = field(default_factory=dict)
    busy: Collection[str] = ()


@dataclass(frozen=True)
class Finding:
    """`wrong`: memory elsewhere; `none`: none yet; `unknown`: the card does not say; `text` the numbers."""

    state: Literal["right", "wrong", "none", "unknown"]
    text: str


def memory_of(owner: Owner, gpus: Sequence[Gpu] | None, processes: Sequence[GpuProcess] | None) -> Finding:
    """Where the container's memory is.

    nvidia-smi's processes tell, where they name the container; else what has changed since it was started.
    """
    names = {gpu.uuid: f"GPU {gpu.index} ({gpu.uuid})" for gpu in gpus or ()}
    own = [process for process in processes or () if process.container == owner.container]
    if own:
        used: dict[str, int] = {}
        for process in own:
            used[process.gpu_uuid] = used.get(process.gpu_uuid, 0) + (process.memory or 0)
        return _by_processes(owner, used, names)
    if gpus is None:
        return Finding("none", "nvidia-smi does not answer")
    return _by_rise(owner, gpus, names)


def _by_processes(owner: Owner, used: Mapping[str, int], names: Mapping[str, str]) -> Finding:
    elsewhere = [f"{names.get(uuid, uuid)}: {mib} MiB" for uuid, mib in used.items() if uuid != owner.uuid]
    mine = names.get(owner.uuid, owner.uuid)
    if elsewhere:
        return Finding("wrong", f"it holds memory on {', '.join(elsewhere)}; its own is {mine}")
    return Finding("right", f"{used[owner.uuid]} MiB on {mine}")


def _by_rise(owner: Owner, gpus: Sequence[Gpu], names: Mapping[str, str]) -> Finding:
    rises: dict[str, int] = {}
    for gpu in gpus:
        before = owner.before.get(gpu.uuid)
        if gpu.memory_used is not None and before is not None:
            rises[gpu.uuid] = gpu.memory_used - before
    if owner.uuid not in names:
        return Finding("none", f"nvidia-smi does not list its GPU {owner.uuid}")
    others = [
        f"{names[uuid]}: {rise:+} MiB"
        for uuid, rise in rises.items()
        if rise > RISE and uuid != owner.uuid and uuid not in owner.busy
    ]
    if owner.uuid not in rises:
        text = f"{names[owner.uuid]} does not report its memory"
        return Finding("wrong", f"{'; '.join(others)}; {text}") if others else Finding("unknown", text)
    mine = f"{names[owner.uuid]}: {rises[owner.uuid]:+} MiB since it was started"
    if others:
        return Finding("wrong", f"memory in use grew on {', '.join(others)}; its own is {mine}")
    return Finding("right" if rises[owner.uuid] > RISE else "none", mine)
