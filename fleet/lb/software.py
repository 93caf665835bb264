"""The programs that balance: where their configuration lies, and how a host tells what it runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fleet.balancer import nginx, nginx_deploy, nginx_probe, probe, render
from fleet.balancer.deploy import NEW_CONFIG
from fleet.balancer.paths import CONFIG_FILE
from fleet.balancer.stats import BalancerState, parse_balancer
from fleet.model.facts import Facts, Probe


@dataclass(frozen=True)
class Running:
    """What a balancer's host has and runs, as far as it is known.

    `deployed` is the configuration file's text, None where there is none; `file_hash` the hash it bears,
    and `edited` tells that it has another one now.
    `version` is the installed program's. `answers` tells that it runs, with the configuration `hash` (None:
    somebody else's); another `generation` is another process. `servers` is HAProxy's account of its own.
    """

    deployed: str | None = None
    file_hash: str | None = None
    edited: bool = False
    version: str | None = None
    answers: bool = False
    hash: str | None = None
    generation: str | None = None
    servers: BalancerState | None = None


@dataclass(frozen=True)
class Software:
    """A balancing program: its configuration's `path`, and where a plan puts a new one first (`waiting`)."""

    name: str
    path: str
    waiting: str
    package: Probe
    runtime: Probe
    read: Callable[[Facts, Probe, Probe], Running]
    hash_of: Callable[[str], str | None]
    edited: Callable[[str], bool]

    @property
    def probes(self) -> tuple[Probe, ...]:
        """The questions whose answers `running` reads."""
        return (self.package, self.runtime, self._file)

    def running(self, facts: Facts) -> Running:
        """What the host has and runs."""
        found = self.read(facts, self.package, self.runtime)
        file = facts[self._file.key]
        text = file.text if file.ok else None
        return Running(
            text,
            self.hash_of(text or ""),
            self.edited(text or ""),
            found.version,
            found.answers,
            found.hash,
            found.generation,
            found.servers,
        )

    @property
    def _file(self) -> Probe:
        return Probe(f"lb.file:{self.path}", f"cat {self.path}")


def _haproxy(facts: Facts, package: Probe, runtime: Probe) -> Running:
    installed = probe.parse_package(facts[package.key])
    state = parse_balancer(facts[runtime.key])
    pid = re.search(r"^Pid: (\d+)$", facts[runtime.key].text, re.MULTILINE)
    return Running(
        version=installed.version if installed else None,
        answers=state is not None,
        hash=state.config_hash if state else None,
        generation=pid[1] if pid else None,
        servers=state,
    )


def _nginx(facts: Facts, package: Probe, runtime: Probe) -> Running:
    installed = nginx_probe.parse_package(facts[package.key])
    state = nginx_probe.parse_runtime(facts[runtime.key])
    return Running(
        version=installed.version if installed else None,
        answers=state is not None,
        hash=state.config_hash if state else None,
        generation=str(state.started) if state else None,
    )


SOFTWARE: Mapping[str, Software] = {
    "haproxy": Software(
        "HAProxy",
        CONFIG_FILE,
        NEW_CONFIG,
        probe.PACKAGE_PROBE,
        probe.RUNTIME_PROBE,
        _haproxy,
        render.config_hash,
        render.edited,
    ),
    "nginx": Software(
        "nginx",
        nginx.SITE_FILE,
        nginx.SITE_FILE + nginx_deploy.NEW,
        nginx_probe.PACKAGE_PROBE,
        nginx_probe.RUNTIME_PROBE,
        _nginx,
        nginx.config_hash,
        nginx.edited,
    ),
}
"""By the name of the module whose tasks are the balancer's configuration."""
