"""What a rollout looks like from outside: HAProxy's and Docker's own words, never fleet's.

Every balancer is asked ten times a second over one long `docker exec` of the outer engine.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from tests.lab.conftest import Lab

EVERY = 0.1
_ENDED = "==="
_ASK = (
    "while read -r _; do echo 'show servers state work; show stat work 4 -1' |"
    f" socat -t 2 stdio /run/haproxy/admin.sock 2>/dev/null; echo {_ENDED}; done"
)
_RUNNING = "2"  # of srv_op_state
_CONTAINERS = (
    "docker ps -aq --filter label=fleet.slot | xargs -r docker inspect -f '"
    '["{{index .Config.Labels "fleet.slot"}}", "{{.Name}}", "{{.Id}}", "{{.Image}}",'
    ' "{{index .Config.Labels "org.opencontainers.image.version"}}", "{{.State.Status}}",'
    ' "{{.State.StartedAt}}"]\''
)


@dataclass(frozen=True)
class Server:
    """A slot at one balancer: `up` by its checks, `admin` HAProxy's bits (0 is ready), `weight` the one in use."""

    up: bool
    admin: int
    weight: int
    jobs: int

    @property
    def ready(self) -> bool:
        return self.up and self.admin == 0 and self.weight > 0


@dataclass(frozen=True)
class Sample:
    """One balancer's answer, asked at `at` (monotonic seconds); empty where its HAProxy did not answer."""

    at: float
    balancer: str
    text: str

    @cached_property
    def servers(self) -> dict[str, Server]:
        return dict(_servers(self.text))

    @property
    def ready(self) -> int:
        """The weight that takes jobs."""
        return sum(server.weight for server in self.servers.values() if server.ready)


class Eyes:
    """`with Eyes(lab) as eyes:` looks until the block ends; what was seen stays."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.samples: list[Sample] = []
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._look, args=(name,)) for name in lab.balancers]

    def __enter__(self) -> Eyes:
        for thread in self._threads:
            thread.start()
        deadline = time.monotonic() + 10
        while {sample.balancer for sample in list(self.samples) if sample.servers} != set(self.lab.balancers):
            assert time.monotonic() < deadline, "not every balancer can be looked at"
            time.sleep(EVERY)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    @property
    def seen(self) -> list[Sample]:
        """The answers; a HAProxy that restarts gives none."""
        return [sample for sample in list(self.samples) if sample.servers]

    @property
    def whole(self) -> int:
        """The ready weight at the beginning."""
        return self.seen[0].ready

    def lowest(self, balancer: str | None = None) -> Sample:
        """The moment with the least ready weight, at one balancer or at any."""
        return min((s for s in self.seen if balancer in (None, s.balancer)), key=lambda sample: sample.ready)

    def gap(self) -> float:
        """The longest time that a balancer was not looked at, in seconds."""
        found = 0.0
        for name in self.lab.balancers:
            times = [sample.at for sample in self.samples if sample.balancer == name]
            found = max([found, *(b - a for a, b in itertools.pairwise(times))])
        return found

    def out(self) -> dict[str, list[tuple[float, float]]]:
        """By slot: when it took no jobs at one balancer at least (monotonic seconds)."""
        found: dict[str, list[tuple[float, float]]] = {}
        for name in self.lab.balancers:
            since: dict[str, float] = {}
            samples = [sample for sample in self.seen if sample.balancer == name]
            for sample in samples:
                for slot, server in sample.servers.items():
                    if not server.ready:
                        since.setdefault(slot, sample.at)
                    elif slot in since:
                        found.setdefault(slot, []).append((since.pop(slot), sample.at))
            for slot, began in since.items():
                found.setdefault(slot, []).append((began, samples[-1].at))
        return found

    def _look(self, balancer: str) -> None:
        argv = ["docker", "exec", "-i", self.lab.hosts[balancer]["container"], "sh", "-c", _ASK]
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as shell:
            assert shell.stdin is not None
            assert shell.stdout is not None
            due = time.monotonic()
            while not self._over.wait(max(0.0, due - time.monotonic())):
                asked = time.monotonic()
                due = max(due + EVERY, asked)
                print(file=shell.stdin, flush=True)
                lines = []
                while (line := shell.stdout.readline()) not in (f"{_ENDED}\n", ""):
                    lines.append(line)
                self.samples.append(Sample(asked, balancer, "".join(lines)))
                if not line:
                    return


@dataclass(frozen=True)
class Held:
    """A slot's container: `image` is the id of its image's configuration, which is the same for the same bytes."""

    slot: str
    name: str
    id: str
    image: str
    version: str
    state: str
    started: str

    @property
    def running(self) -> bool:
        return self.state == "running"


def containers(lab: Lab, *hosts: str) -> list[Held]:
    """Every container of a slot on these hosts (on all GPU hosts where none is named), running or not."""
    found = []
    for host in hosts or lab.gpu_hosts:
        for line in lab.sh(host, _CONTAINERS).splitlines():
            slot, name, *rest = json.loads(line)
            found.append(Held(slot, name.lstrip("/"), *rest))
    return sorted(found, key=lambda held: (held.slot, held.name))


def running(lab: Lab, *hosts: str) -> dict[str, Held]:
    """By slot: the one container that runs there."""
    found = [held for held in containers(lab, *hosts) if held.running]
    by_slot = {held.slot: held for held in found}
    assert len(by_slot) == len(found), f"a slot runs two containers: {[held.name for held in found]}"
    return by_slot


def one_release(lab: Lab, *hosts: str) -> Held:
    """Any container of the one release that every slot runs, and no slot runs none; fails where it is not so."""
    by_slot = running(lab, *hosts)
    wanted = {slot for slot in slots(lab) if not hosts or slot.rpartition("-")[0] in hosts}
    assert set(by_slot) == wanted, f"no container runs for {sorted(wanted - set(by_slot))}"
    assert len({held.image for held in by_slot.values()}) == 1, {s: h.version for s, h in by_slot.items()}
    return next(iter(by_slot.values()))


def states(lab: Lab) -> dict[str, dict[str, Server]]:
    """By balancer and slot: what HAProxy has now."""
    found = {}
    for name in lab.balancers:
        text = lab.sh(name, f"echo | ({_ASK})", check=False)
        found[name] = Sample(time.monotonic(), name, text.replace(f"{_ENDED}\n", "")).servers
    return found


def slots(lab: Lab) -> list[str]:
    """The names of all slots, as the first balancer has them."""
    return sorted(states(lab)[lab.balancers[0]])


def _servers(text: str) -> Iterator[tuple[str, Server]]:
    """The rows of `show servers state`, with the jobs in flight that `show stat` tells."""
    jobs: dict[str, int] = {}
    names: list[str] = []
    for line in text.splitlines():
        if line.startswith("# pxname,"):
            names = line.lstrip("# ").split(",")
        elif names and line.startswith("work,"):
            row = dict(zip(names, line.split(","), strict=False))
            jobs[row["svname"]] = int(row["scur"] or 0)
    head: list[str] = []
    for line in text.splitlines():
        if line.startswith("# be_id "):
            head = line.lstrip("# ").split()
        elif head and len(words := line.split(" ")) >= len(head) and words[1] == "work":
            row = dict(zip(head, words, strict=False))
            name = row["srv_name"]
            up = row["srv_op_state"] == _RUNNING
            admin, weight = int(row["srv_admin_state"]), int(row["srv_uweight"])
            yield name, Server(up, admin, weight, jobs.get(name, 0))
