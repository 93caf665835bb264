"""What each GPU host is to run: the tasks of the provision playbook for containers, with another image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from fleet.docker.answers import Engine
from fleet.engine.bind import BoundTask
from fleet.engine.run import RunOptions, prepare
from fleet.errors import InputError
from fleet.gpu.container import ContainerSpec
from fleet.inventory import Inventory
from fleet.model.facts import Probe
from fleet.model.host import Host
from fleet.modules._container_spec import container_spec
from fleet.modules.docker_image import DockerImageArgs, login_of
from fleet.modules.gpu_containers import GpuContainersArgs
from fleet.playbook.model import Playbook
from fleet.rollout.ports import LISTENERS_PROBE

_CONTAINERS = "gpu_containers"
_IMAGE = "docker_image"


@dataclass(frozen=True)
class HostTarget:
    """One GPU host's tasks, bound; `pulling` is None where the playbook does not pull."""

    containers: BoundTask
    pulling: BoundTask | None

    @property
    def host(self) -> Host:
        """The host they are bound to."""
        return self.containers.ctx.host

    @property
    def args(self) -> GpuContainersArgs:
        """The container task's arguments."""
        assert isinstance(self.containers.args, GpuContainersArgs)
        return self.containers.args

    def probes(self) -> tuple[Probe, ...]:
        """The questions whose answers tell what runs and what is there."""
        pulling = self.pulling.probes() if self.pulling else ()
        return (*self.containers.probes(), *pulling, LISTENERS_PROBE)

    def spec(self, engine: Engine) -> ContainerSpec:
        """What the host's slots run on this engine."""
        return container_spec(self.args, engine, self.containers.ctx)

    def auth(self) -> Mapping[str, Any] | None:
        """The registry's login, where there is one; InputError where its password is missing."""
        if self.pulling is None or not isinstance(self.pulling.args, DockerImageArgs):
            return None
        return login_of(self.pulling.args, self.pulling.ctx)


def host_targets(
    book: Playbook, inventory: Inventory, image: str, options: RunOptions
) -> Mapping[str, HostTarget]:
    """The playbook's GPU hosts by name, in the inventory's order, with `image` in place of the inventory's.

    Raises InputError where the playbook starts no containers, or says itself which image they run.
    """
    extra = {**options.extra, "image": image}
    tasks: dict[str, dict[str, BoundTask]] = {}
    for item in prepare(book, inventory, replace(options, extra=extra)):
        for name, bound in item.tasks.items():
            going = (each for each in bound if not each.skipped)
            wanted = {each.task.module: each for each in going if each.task.module in (_CONTAINERS, _IMAGE)}
            tasks.setdefault(name, {}).update(wanted)
    found = {
        name: HostTarget(by_module[_CONTAINERS], by_module.get(_IMAGE))
        for name in inventory.hosts
        if _CONTAINERS in (by_module := tasks.get(name, {}))
    }
    if not found:
        raise InputError(
            f"{book.path} starts containers on none of these hosts",
            remedy=f"add a task with the module {_CONTAINERS}, name another file with --playbook, "
            "or check --limit",
        )
    for target in found.values():
        for task in (target.containers, target.pulling):
            named = getattr(task.args, "image", None) or getattr(task.args, "name", "") if task else image
            if task is not None and named != image:
                raise InputError(
                    f"task {task.name!r} says itself that the image is {named}",
                    place=task.task.place,
                    remedy='write "{{ image }}" there, so that an upgrade can name another one',
                )
    return found
