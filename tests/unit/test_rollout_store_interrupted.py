"""Ctrl-C while balancers are asked: who reads waits for no answer, who writes does."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

SCRIPT = """
import os, sys, threading
from fleet.rollout.model import Header
from fleet.rollout.store import Store
from fleet.ssh.remote import Result
go_on = threading.Event()
class Silent:
    name = "lb-01"
    def run(self, argv, **more):
        print("asked", flush=True)
        go_on.wait(600)
        print("answered", flush=True)
        return Result(0, b"", b"")
class Held:
    fence = 1
    def check(self):
        pass
threading.Thread(target=lambda: (sys.stdin.read(), go_on.set()), daemon=True).start()
store = Store({"lb-01": Silent()}, Held())
try:
    DO
except KeyboardInterrupt:
    print("interrupted", flush=True)
    os._exit(0)
"""
READ = "store.heads()"
WRITE = "store.begin(Header('1', 'upgrade', 'app:v2', 'sha256:1', 'eve', 1.0, 10.0, 20, (('a-0',),), ()))"


@pytest.mark.parametrize(
    ("do", "said"), [(READ, "interrupted\n"), (WRITE, "answered\ninterrupted\n")], ids=["reading", "writing"]
)
def test_after_ctrl_c_answers_are_waited_for_by_who_writes_and_not_by_who_reads(do: str, said: str) -> None:
    asked = [sys.executable, "-c", SCRIPT.replace("DO", do)]
    with subprocess.Popen(asked, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdin
            assert process.stdout
            assert process.stdout.readline() == "asked\n"
            time.sleep(0.2)  # until the pool itself knows its thread
            process.send_signal(signal.SIGINT)
            if do == WRITE:
                time.sleep(0.2)
                process.stdin.close()
            assert process.stdout.read() == said
        finally:
            process.kill()
