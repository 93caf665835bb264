"""One look at balancers and GPU hosts, and what it means for each balancer's configuration."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from fleet.balancer.probe import PACKAGE_PROBE, RUNTIME_PROBE, parse_package
from fleet.balancer.render import config_hash
from fleet.balancer.stats import BalancerState, parse_balancer
from fleet.engine.bind import BoundTask
from fleet.engine.hostrun import Opener, internal
from fleet.engine.observe import Seen, observe
from fleet.errors import FleetError, TaskError
from fleet.inventory import Inventory
from fleet.lb.work import CONFIGS, Work
from fleet.model.facts import Facts, Probe
from fleet.model.host import Host
from fleet.model.steps import Change, Upload


@dataclass(frozen=True)
class Running:
    """What a balancer's host has and runs, as far as it is known.

    `deployed` is the configuration file's text, None where there is none. `version` is the installed
    HAProxy's; `state` and `pid` those of the HAProxy that answers.
    """

    deployed: str | None = None
    version: str | None = None
    state: BalancerState | None = None
    pid: int | None = None

    @property
    def file_hash(self) -> str | None:
        """The hash that the configuration on disk bears; None where it has none."""
        return config_hash(self.deployed or "")


@dataclass(frozen=True)
class Planned:
    """One balancer's configuration: what is there, what should be, and the changes between.

    `rendered` is None where `error` tells why. `uploads` are the other files the changes write.
    """

    host: str
    task: BoundTask
    now: Running = Running()
    rendered: str | None = None
    changes: tuple[Change, ...] = ()
    error: FleetError | None = None

    @property
    def path(self) -> str:
        """The configuration file on the host."""
        return CONFIGS[self.task.task.module].path

    @property
    def hash(self) -> str | None:
        """The hash of the rendered configuration."""
        return config_hash(self.rendered or "")

    def writes_config(self, change: Change) -> bool:
        """True for the change that puts a new configuration into use."""
        return any(isinstance(step, Upload) and step.path == self._waiting for step in change.steps)

    @property
    def uploads(self) -> tuple[Upload, ...]:
        """The files beside the configuration that are to be written."""
        return tuple(
            step
            for change in self.changes
            for step in change.steps
            if isinstance(step, Upload) and step.path != self._waiting
        )

    @property
    def _waiting(self) -> str:
        return CONFIGS[self.task.task.module].waiting


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
        extra = [probe for task in own for probe in _probes(task.task.module)]
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
        return [probe for module in own for probe in _probes(module)]

    seen = observe([inventory.hosts[name] for name in work.balancers], probes, opener, forks=forks)
    modules = {task.ctx.host.name: task.task.module for task in work.tasks}
    return {
        name: facts if isinstance(facts, FleetError) else _running(modules[name], facts)
        for name, facts in seen.items()
    }


def _probes(module: str) -> tuple[Probe, ...]:
    return (PACKAGE_PROBE, RUNTIME_PROBE, _file_probe(CONFIGS[module].path))


def _file_probe(path: str) -> Probe:
    return Probe(f"lb.file:{path}", f"cat {path}")


def planned(task: BoundTask, seen: Seen, fleet: Mapping[str, Facts]) -> Planned:
    """What one balancer's task means for its host. `seen` is its look, `fleet` all hosts' facts."""
    name = task.ctx.host.name
    if isinstance(seen, FleetError):
        return Planned(name, task, error=seen)
    now = _running(task.task.module, seen)
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
    waiting = CONFIGS[task.task.module].waiting
    new = [
        step
        for change in changes
        for step in change.steps
        if isinstance(step, Upload) and step.path == waiting
    ]
    # Where the plan writes no configuration, the one on the host is what it should be.
    rendered = new[-1].content.decode() if new else now.deployed
    return Planned(name, task, now, rendered, changes)


def _running(module: str, facts: Facts) -> Running:
    file = facts[_file_probe(CONFIGS[module].path).key]
    package = parse_package(facts[PACKAGE_PROBE.key])
    runtime = facts[RUNTIME_PROBE.key]
    pid = re.search(r"^Pid: (\d+)$", runtime.text, re.MULTILINE)
    return Running(
        deployed=file.text if file.ok else None,
        version=package.version if package else None,
        state=parse_balancer(runtime),
        pid=int(pid[1]) if pid else None,
    )
