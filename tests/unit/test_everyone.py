"""Asking many hosts at once: all answers, errors as values, and Ctrl-C that waits for nobody."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time

import pytest

from fleet.engine.everyone import ask_all, parted
from fleet.errors import TaskError


def test_everybody_answers_in_the_order_of_the_names_and_errors_are_answers():
    def ask(name: str) -> str:
        if name == "b":
            raise TaskError("b: it does not")
        if name == "c":
            raise KeyError("a mistake of ours")
        return name.upper()

    answers = ask_all(iter("dcba"), ask, "asking them")
    assert list(answers) == ["d", "c", "b", "a"]
    found, failed = parted(answers)
    assert (found, list(failed)) == ({"d": "D", "a": "A"}, ["c", "b"])
    assert failed["b"].message == "b: it does not"
    assert "asking them" in failed["c"].message
    assert "KeyError" in failed["c"].message + failed["c"].output


def test_they_are_asked_side_by_side_and_no_more_of_them_than_wished():
    together = threading.Barrier(3, timeout=20)
    now: list[str] = []
    most = 0

    def ask(name: str) -> None:
        nonlocal most
        now.append(name)
        most = max(most, len(now))
        together.wait()
        now.remove(name)

    assert set(ask_all("abcdef", ask, "asking", at_once=3).values()) == {None}
    assert most == 3
    assert ask_all((), ask, "asking") == {}


@pytest.mark.parametrize("see_through", [False, True])
def test_ctrl_c_waits_for_nobody_unless_the_work_must_not_be_cut(see_through):
    script = f"""
import os, sys, threading
from fleet.engine.everyone import ask_all
go_on = threading.Event()
def ask(name):
    print("asked", flush=True)
    go_on.wait(600)
    print("done", flush=True)
threading.Thread(target=lambda: (sys.stdin.read(), go_on.set()), daemon=True).start()
try:
    ask_all(["a"], ask, "asking", see_through={see_through})
except KeyboardInterrupt:
    print("interrupted", flush=True)
    os._exit(0)
"""
    asked = [sys.executable, "-c", script]
    with subprocess.Popen(asked, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline() == "asked\n"
        time.sleep(0.2)  # until the pool itself knows its thread
        process.send_signal(signal.SIGINT)
        if see_through:
            # What it waits for ends only now; without it, it must come to its end with nothing said here.
            process.stdin.close()
        assert process.stdout.read() == ("done\ninterrupted\n" if see_through else "interrupted\n")
