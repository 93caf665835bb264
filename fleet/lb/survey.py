"""One look at balancers and GPU hosts, and what it means for each balancer's configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from fleet.engine.bind import BoundTask
from fleet.engine.hostrun import Opener, internal
from fleet.engine.observe import Seen, observe
from fleet.errors import FleetError, TaskError
from fleet.inventory import Inventory
from fleet.lb.software import SOFTWARE, Running, Software
from fleet.lb.work import Work
from fleet.model.facts import Facts, Probe
from fleet.model.host import Host
from fleet.model.steps import Change, Upload

NOTHING = Running()
"""What is known of a balancer that could not be looked at."""


@dataclass(frozen=True)
class Planned:
    """One balancer's configuration: what is there, what should be, and the changes between.

    `rendered` is None where `error` tells why. `uploads` are the other files the changes write.
    """

    host: str
    task: BoundTask
    now: Running = NOTHING
    rendered: str | None = None
    changes: tuple[Change, ...] = ()
    error: FleetError | None = None

    @property
    def software(self) -> Software:
        """What balances there."""
        return SOFTWARE[self.task.task.module]

    @property
    def path(self) -> str:
        """The configuration file on the host."""
        return self.software.path

    @property
    def hash(self) -> str | None:
        """The hash of the rendered configuration."""
        return self.software.hash_of(self.rendered or "")

    def writes_config(self, change: Change) -> bool:
        """True for the change that puts a new configuration into use."""
        return any(isinstance(step, Upload) and step.path == self.software.waiting for step in change.steps)

    @property
    def uploads(self) -> tuple[Upload, ...]:
        """The files beside the configuration that are to be written."""
        return tuple(
            step
            for change in self.changes
            for step in change.steps
            if isinstance(step, Upload) and step.path != self.software.waiting
        )


@dataclass(frozen=True)
class Survey:
    """Every balancer's configuration; `troubles` are the GPU hosts that could not be looked at."""

    balancers: tuple[Planned, ...]
    troubles: Mapping[str, FleetError]


def survey(work: Work, inventory: Inventory, opener: Opener, *, forks: int = 0) -> Survey:
    """Look at every host that matters, and plan each balancer's tasks. Nothing is changed."""
    names = dict.fromkeys((*work.balancers, *work.witnesses))

    def probes(host: Host) -> Sequence[Probe]:
        own = [task for task in work.tasks if task.ctx.host.name == host.name]
        tasks = (*own, *work.witnesses.get(host.name, ()))
        extra = [probe for task in own for probe in SOFTWARE[task.task.module].probes]
        return [*(probe for task in tasks for probe in task.probes()), *extra]

    seen = observe([inventory.hosts[name] for name in names], probes, opener, forks=forks)
    fleet = {name: facts for name, facts in seen.items() if isinstance(facts, Facts)}
    return Survey(
        tuple(planned(task, seen[task.ctx.host.name], fleet) for task in work.tasks),
        {
            name: error
            for name, error in seen.items()
            if isinstance(error, FleetError) and name not in work.balancers
        },
    )


def look(
    work: Work, inventory: Inventory, opener: Opener, *, forks: int = 0
) -> Mapping[str, Running | FleetError]:
    """What every balancer has and runs now, without a look at any other host."""

    def probes(host: Host) -> Sequence[Probe]:
        own = (task.task.module for task in work.tasks if task.ctx.host.name == host.name)
        return [probe for module in own for probe in SOFTWARE[module].probes]

    seen = observe([inventory.hosts[name] for name in work.balancers], probes, opener, forks=forks)
    modules = {task.ctx.host.name: task.task.module for task in work.tasks}
    return {
        name: facts if isinstance(facts, FleetError) else SOFTWARE[modules[name]].running(facts)
        for name, facts in seen.items()
    }


def planned(task: BoundTask, seen: Seen, fleet: Mapping[str, Facts]) -> Planned:
    """What one balancer's task means for its host. `seen` is its look, `fleet` all hosts' facts."""
    name = task.ctx.host.name
    if isinstance(seen, FleetError):
        return Planned(name, task, error=seen)
    now = SOFTWARE[task.task.module].running(seen)
    assert task.module is not None
    try:
        changes = tuple(task.module.plan(task.args, seen, replace(task.ctx, fleet=fleet)))
    except FleetError as error:
        error.place = error.place or task.task.place
        return Planned(name, task, now, error=error)
    except Exception as bug:
        return Planned(name, task, now, error=internal(f"task {task.name!r} ({task.task.module})", bug))
    if waits := [change.summary for change in changes if change.deferred]:
        early = TaskError(
            f"cannot be made yet: {'; '.join(waits)}",
            place=task.task.place,
            remedy="run `fleet provision`: it sets the GPU hosts up first",
        )
        return Planned(name, task, now, changes=changes, error=early)
    waiting = SOFTWARE[task.task.module].waiting
    new = [
        step
        for change in changes
        for step in change.steps
        if isinstance(step, Upload) and step.path == waiting
    ]
    # Where the plan writes no configuration, the one on the host is what it should be.
    rendered = new[-1].content.decode() if new else now.deployed
    return Planned(name, task, now, rendered, changes)
