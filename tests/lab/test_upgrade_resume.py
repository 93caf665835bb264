"""The controller killed with SIGKILL after a step; another machine goes on, or goes back. Nothing is lost either way.

`make soak` kills after every single step of the journal, as many as there are; a sample here.
"""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.conftest import ROOT, SOAK, Done, Lab
from tests.lab.upgrade_images import Registry
from tests.lab.upgrades import (
    HALF,
    all_serve,
    floor_kept,
    gentle,
    module,
    other,
    resume,
    row,
    runs,
    settle,
    under_load,
    unharmed,
)

pytestmark = [pytest.mark.lab, pytest.mark.soak]


@pytest.fixture(scope="module", autouse=True)
def releases(lab: Lab) -> Iterator[None]:
    yield from module(lab)


class Elsewhere:
    """Another machine's place: nothing of the first one's files is there."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab, self._folder = lab, folder
        self._places = itertools.count(1)

    def goes_on(self, how: str) -> Done:
        home = self._folder / str(next(self._places))
        home.mkdir()
        names = ("HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME")
        done = resume(self.lab, how, cwd=home, env=dict.fromkeys(names, str(home)))
        assert not list(home.rglob("*.jsonl")), "the journal is the balancers', not this machine's"
        return done


@pytest.fixture
def elsewhere(lab: Lab, tmp_path: Path) -> Elsewhere:
    return Elsewhere(lab, tmp_path)


def killed(lab: Lab, tag: str, steps: int) -> bool:
    """An upgrade that dies once its journal has so many steps; False where it came to its end before."""
    image = Registry(lab).reference(tag)
    command = ("upgrade", image, "--blue-green", "--yes", "--json", *HALF, "-i", lab.inventory)
    done = subprocess.run(
        [sys.executable, "-m", "tests.lab.upgrade_kill", str(steps), *command],
        capture_output=True,
        text=True,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        timeout=600,
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stdout + done.stderr
    return done.returncode != 0


def died_and_went_on(lab: Lab, elsewhere: Elsewhere, steps: int, how: str) -> tuple[bool, int]:
    """One death and what follows; whether it died at all, and how long the journal was in the end."""
    version = settle(lab)
    died: list[bool] = []

    def work() -> Done:
        died.append(killed(lab, other(version), steps))
        return elsewhere.goes_on(how)

    done, jobs, eyes = under_load(lab, work, gentle(lab))
    unharmed(jobs)
    floor_kept(eyes, 0.5)
    row(f"the controller killed after step {steps}, then {how}", jobs, "")
    ended = not died[0] or not done.out.startswith("{") or "entries" not in done.json
    if ended:
        # The last step was written, so there is nothing to go on with.
        assert done.code in (0, 2), done.words
        assert runs(lab, other(version)), done.words
    elif how == "--resume":
        assert done.code == 0, done.words
        assert done.json["state"] == "finished"
        assert runs(lab, other(version))
    else:
        assert done.code in (0, 4), done.words
        assert done.json["state"] == "rolled-back"
        assert runs(lab, version)
    assert all_serve(lab)
    return died[0], 0 if ended else len(done.json["entries"])


if SOAK:

    @pytest.mark.timeout(4 * 3600)
    @pytest.mark.parametrize("how", ["--resume", "--abort"])
    def test_killed_after_every_step(lab: Lab, elsewhere: Elsewhere, how: str) -> None:
        """All that goes wrong is told at the end: one bad step does not hide those after it."""
        wrong = {}
        for steps in itertools.count():
            try:
                died, _ = died_and_went_on(lab, elsewhere, steps, how)
            except AssertionError as error:
                wrong[steps] = str(error)[:600]
                continue
            if not died:
                break
        assert not wrong, "\n".join(f"after step {steps}: {text}" for steps, text in wrong.items())
        assert steps > 10, "an upgrade of four slots has more steps than that"

else:

    def test_killed_after_an_early_a_middle_and_a_late_step(lab: Lab, elsewhere: Elsewhere) -> None:
        died, length = died_and_went_on(lab, elsewhere, 2, "--resume")
        assert died
        # The journal above may have a few steps twice: those that were begun before the death, and again after it.
        assert died_and_went_on(lab, elsewhere, length // 2, "--abort")[0]
        assert died_and_went_on(lab, elsewhere, length - 6, "--resume")[0]
