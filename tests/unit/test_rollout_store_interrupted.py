"""Ctrl-C while balancers are read: nobody waits for their answers."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

SCRIPT = """
import os, threading
from fleet.rollout.store import Store
class Silent:
    name = "lb-01"
    def run(self, argv, **more):
        print("asked", flush=True)
        threading.Event().wait()
try:
    Store({"lb-01": Silent()}).heads()
except KeyboardInterrupt:
    print("interrupted", flush=True)
    os._exit(0)
"""


def test_who_reads_the_rollouts_waits_for_no_balancer_after_ctrl_c() -> None:
    with subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == "asked\n"
            time.sleep(0.2)  # until the pool itself knows its thread
            process.send_signal(signal.SIGINT)
            out, _ = process.communicate(timeout=60)
            assert out == "interrupted\n"
        finally:
            process.kill()
