"""Ctrl-C once stops at a safe point and says so; twice quits at once. The terminal and the hosts stay sane."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.lab.conftest import ROOT

pytestmark = pytest.mark.lab

BOOK = """
- hosts: gpu-01
  tasks:
    - command: {cmd: sleep 6}
    - command: {cmd: touch /run/second-task}
"""


@pytest.fixture
def running(lab, tmp_path):
    """`fleet run` in the middle of its first task."""
    (tmp_path / "play.yml").write_text(BOOK)
    fleet = str(Path(sys.executable).parent / "fleet")
    process = subprocess.Popen(
        [fleet, "run", str(tmp_path / "play.yml"), "-i", lab.inventory, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        cwd=ROOT,
    )
    for _ in range(100):
        if "sleep 6" in lab.sh("gpu-01", "ps -eo args"):
            break
        time.sleep(0.1)
    yield process
    process.kill()
    lab.sh("gpu-01", "rm -f /run/second-task")


def test_once_ends_after_the_task_that_runs(lab, running):
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert running.returncode == 130
    document = json.loads(out)
    assert document["interrupted"]
    assert [task["status"] for task in document["hosts"]["gpu-01"]["tasks"]] == ["changed"]
    assert lab.sh("gpu-01", "ls /run/second-task 2>&1 || true").startswith("ls:")
    assert b"Traceback" not in err


def test_twice_quits_at_once(lab, running):
    running.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert running.poll() is None
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 130
    assert b"interrupted" in err
    assert b"Traceback" not in err
    assert lab.sh("gpu-01", "ls /run/second-task 2>&1 || true").startswith("ls:")
