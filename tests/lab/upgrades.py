"""How the lab's tests roll out: the real `fleet upgrade`, in the foreground or beside the test, and the way back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.lab import soak
from tests.lab.conftest import PROVISION, ROOT, SOAK, Done, Lab
from tests.lab.helpers import server_states, wait_for
from tests.lab.upgrade_eyes import Eyes, one_release, running, slots, states
from tests.lab.upgrade_images import Registry
from tests.lab.upgrade_load import Clients, Jobs, Load

# Neither a ramp nor a soak: what a rollout does anyway.
PLAIN = ("--ramp", "none", "--soak", "0")
HALF = ("--floor", "50%", *PLAIN)
LEAST_JOBS = 20


def upgrade(lab: Lab, tag: str, *options: str, **more: Any) -> Done:
    """`fleet upgrade` to a tag of the lab's image, to its end."""
    return lab.fleet(
        "upgrade", Registry(lab).reference(tag), "--blue-green", "--yes", "--json", *options, **more
    )


def resume(lab: Lab, how: str, **more: Any) -> Done:
    """`fleet upgrade --resume` or `--abort`. It waits for a dead holder's lease itself."""
    return lab.fleet("upgrade", how, "--yes", "--json", **more)


def other(version: str) -> str:
    """The release to go to from this one."""
    return "v2" if version == "v1" else "v1"


class Going:
    """A `fleet` command that goes on beside the test."""

    def __init__(self, lab: Lab, *args: str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="fleet-upgrade-")
        self._files = [Path(self._folder.name) / name for name in ("out", "err")]
        with self._files[0].open("wb") as out, self._files[1].open("wb") as err:
            self.process = subprocess.Popen(
                [str(Path(sys.executable).parent / "fleet"), *args, "-i", lab.inventory],
                stdout=out,
                stderr=err,
                stdin=subprocess.DEVNULL,
                cwd=ROOT,
                env={**os.environ, "COLUMNS": "140"},
            )

    def tell(self, word: signal.Signals) -> None:
        self.process.send_signal(word)

    def done(self, timeout: float = 600) -> Done:
        """Its end."""
        code = self.process.wait(timeout)
        out, err = (file.read_text("utf-8") for file in self._files)
        assert "Traceback" not in err, err
        return Done(code, out, err)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._folder.cleanup()


@contextmanager
def going(lab: Lab, tag: str, *options: str) -> Iterator[Going]:
    """An upgrade beside the test; it ends with the block at the latest."""
    command = Going(lab, "upgrade", Registry(lab).reference(tag), "--blue-green", "--yes", "--json", *options)
    try:
        yield command
    finally:
        command.close()


def wait_out(lab: Lab, command: Going, among: Sequence[str]) -> str:
    """Wait until a slot among these is drained; its name."""
    found: list[str] = []

    def drained() -> bool:
        assert command.process.poll() is None, command.done().words
        found[:] = [slot for slot in among if any(s[slot].admin for s in states(lab).values() if slot in s)]
        return bool(found)

    wait_for(drained, 120, f"none of {among} is drained")
    return found[0]


def under_load(lab: Lab, work: Callable[[], Done], clients: Clients) -> tuple[Done, Jobs, Eyes]:
    """Do something to the fleet while clients work and the balancers are looked at."""
    with Eyes(lab) as eyes, Load(clients) as load:
        began = time.monotonic()
        done = work()
        wait_for(lambda: len(load.so_far().all) >= LEAST_JOBS, 120, "too few jobs to tell anything")
        jobs = load.stop()
    return done, jobs.between(began, time.monotonic()), eyes


def gentle(lab: Lab, **more: Any) -> Clients:
    """A few jobs a second from all kinds of clients, for tests that ask whether any fails and not how long it took."""
    return Clients(**{"urls": tuple(lab.urls.values()), "rate": 3.0, "pages": 6, "deadline": 60.0, **more})


def unharmed(jobs: Jobs) -> None:
    """No job failed, none was refused, none hangs."""
    assert len(jobs.all) >= LEAST_JOBS
    assert not jobs.failed, f"{jobs}: {jobs.failed[:5]}"


def floor_kept(eyes: Eyes, share: float) -> float:
    """The least ready weight, as a share of the whole; never below the floor on any balancer."""
    assert eyes.gap() < 5, f"nobody looked for {eyes.gap():.1f} s"
    lowest = eyes.lowest()
    told = {slot: (server.up, server.admin, server.weight) for slot, server in lowest.servers.items()}
    assert lowest.ready >= share * eyes.whole - 1e-9, (
        f"{lowest.ready} of {eyes.whole} at {lowest.balancer}: {told}"
    )
    return lowest.ready / eyes.whole


def runs(lab: Lab, tag: str) -> bool:
    """True where every slot runs the bytes of this tag."""
    by_slot = running(lab)
    wanted = Registry(lab)
    return set(by_slot) == set(slots(lab)) and {held.image for held in by_slot.values()} <= {
        wanted.image(tag),
        wanted.digest(tag),
    }


def all_serve(lab: Lab) -> bool:
    """True where every balancer sends jobs to every slot, with equal words for equal cards."""
    found = states(lab)
    ready = [server for servers in found.values() for server in servers.values()]
    return all(server.ready for server in ready) and len({server.weight for server in ready}) == 1


def entries(document: Mapping[str, Any], step: str) -> list[dict[str, Any]]:
    """The steps of one kind in an upgrade's JSON."""
    return [entry for entry in document["entries"] if entry["step"] == step]


def settle(lab: Lab, version: str = "") -> str:
    """Have the fleet serve one release, v1 or v2 (or the one asked for), with nothing drained and nothing unfinished.

    Tests begin and end here; where one left a mess, this clears it up with fleet's own commands. The version.
    """
    if _ended(lab) and _fine(lab, version):
        return one_release(lab).version
    aborted = resume(lab, "--abort")
    lab.fleet("ready", "all")
    # A host that was lost may hold the container that it was to start when it went away; upgrading starts it.
    if _come_back(lab, 30):
        for tag in (version,) if version else ("v1", "v2"):
            if runs(lab, tag):
                return tag
    tag = version or "v1"
    done = upgrade(lab, tag, *HALF)
    if not _fine(lab, tag):
        again = lab.fleet("provision", "--json")
        ready = lab.fleet("ready", "all")
        _come_back(lab, 90)
        said = "\n".join(each.words[:2000] for each in (aborted, done, again, ready))
        assert runs(lab, tag), said
    return tag


def module(lab: Lab) -> Iterator[None]:
    """For a module's fixture: containers as `fleet upgrade` makes them, and in the end v1 as all other tests expect it."""
    if SOAK:
        # The soak's jobs are shorter than an upgrade's own settings say.
        assert lab.fleet("provision", "--json").code == 0
    settle(lab)
    yield
    settle(lab, "v1")
    if SOAK:
        assert lab.fleet("provision", "--json", *PROVISION).code == 0


def row(case: str, jobs: Jobs, note: str) -> None:
    """One line of the soak's page."""
    soak.record(case, "both", jobs.tally(), None, note)


def _ended(lab: Lab) -> bool:
    """True where the newest journal of the first balancer has an end, or there is none."""
    newest = "cd /var/lib/fleet/rollouts 2>/dev/null && tail -qn 1 $(ls -d [0-9]*/ | tail -n 1)journal"
    last = lab.sh(lab.balancers[0], newest, check=False).strip()
    return not last or json.loads(last).get("step") in ("finished", "rolled-back")


def _fine(lab: Lab, version: str) -> bool:
    tags = (version,) if version else ("v1", "v2")
    return all_serve(lab) and any(runs(lab, tag) for tag in tags)


def _come_back(lab: Lab, seconds: float) -> bool:
    """True once every slot is up on every balancer; False where that takes longer."""
    names = slots(lab)
    deadline = time.monotonic() + seconds
    while not all(server_states(lab, slot) == {"UP"} for slot in names):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.5)
    return True
