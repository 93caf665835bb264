"""Balancers' folders of rollouts on this machine, worked on by the real scripts with a real sh."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fleet.balancer.rollouts import Claim
from fleet.errors import UnreachableError
from fleet.model.steps import Run
from fleet.rollout.model import Entry, Header, Origin
from fleet.ssh.remote import Result
from tests.local import LocalRemote

HOSTILE = 'O\'Brien "x" $(touch pwned) `id` \\n \\ ; & | \n second line \t %s ünï \x1b[31m'


class Balancer:
    """One balancer; `down` it cannot be reached. No file there grows above `room` blocks (512 bytes) if given."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.home = folder / name
        self.home.mkdir(parents=True)
        self.down = False
        self.room = 0
        self.opened = 0

    @property
    def root(self) -> Path:
        return self.home / "rollouts"

    def journal(self, id: str = "r1") -> Path:
        return self.root / id / "journal"


class Network:
    """Several balancers, whose folder goes by one name on each: `root`."""

    root = "/ROLLOUTS"

    def __init__(self, folder: Path, *names: str) -> None:
        self.balancers = {name: Balancer(folder, name) for name in names or ("lb-1",)}

    def __getitem__(self, name: str) -> Balancer:
        return self.balancers[name]

    def open(self, name: str) -> LocalRemote:
        balancer = self[name]
        if balancer.down:
            raise UnreachableError(f"{name}: no route to host")
        balancer.opened += 1
        return Connection(balancer, self.root)

    def remotes(self) -> dict[str, LocalRemote]:
        return {name: Connection(each, self.root) for name, each in self.balancers.items()}

    def run(self, name: str, step: Run) -> Result:
        assert step.stdin is None or isinstance(step.stdin, bytes)
        return Connection(self[name], self.root).run(step.argv, stdin=step.stdin, timeout=step.timeout)


class Connection(LocalRemote):
    """An open connection, which is dead while its balancer is down."""

    def __init__(self, balancer: Balancer, root: str) -> None:
        super().__init__(balancer.name)
        self._balancer = balancer
        self._root = root

    def run(
        self,
        argv: tuple[str, ...],
        *,
        stdin: bytes | None = None,
        timeout: float = 120.0,
        env: Mapping[str, str] | None = None,
    ) -> Result:
        if self._balancer.down:
            raise UnreachableError(f"{self.name}: connection lost")
        there = tuple(str(self._balancer.root) if word == self._root else word for word in argv)
        if self._balancer.room:
            there = ("sh", "-c", f'ulimit -f {self._balancer.room}; exec "$@"', "sh", *there)
        return super().run(there, stdin=stdin, timeout=timeout, env=env)


def claim(holder: str = "aa", **other: Any) -> Claim:
    return Claim(**{"holder": holder, "by": "anna", "host": "desk", "command": "fleet upgrade", **other})


def header(id: str = "r1", **other: Any) -> Header:
    slots = ("g1-0", "g1-1", "g2-0")
    origins = tuple(
        Origin(slot, slot[:2], "old", "app:v1", "sha256:11", 10, False, "new", **other.pop("origin", {}))
        for slot in slots
    )
    values: dict[str, Any] = {
        "kind": "upgrade",
        "image": "app:v2",
        "digest": "sha256:22",
        "by": "anna",
        "started": 1000.0,
        "floor": 15.0,
        "total": 30,
        "waves": (("g1-0",), ("g1-1", "g2-0")),
        "origins": origins,
        "options": {"floor": "50%", "ramp": [10, 100]},
    }
    return Header(id=id, **{**values, **other})


def entry(number: int, step: str = "pulled", *slots: str, wave: int = 0, **detail: Any) -> Entry:
    return Entry(number, 1000.0 + number, step, slots, wave, detail)
