"""Which ports of a host answer, asked of real servers."""

from __future__ import annotations

import socket
import subprocess
from contextlib import ExitStack

from fleet.docker.staying import PORTS, answering, answering_probe
from fleet.model.facts import Answer, Facts
from tests.unit.test_profile import PLAIN, service


def ask(*firsts: int) -> frozenset[int]:
    probe = answering_probe(*firsts)
    done = subprocess.run(["sh", "-c", probe.script], capture_output=True, timeout=30)
    return answering(Facts({probe.key: Answer(done.returncode, done.stdout)}))


def test_ports_that_answer_are_told_whatever_they_say_but_an_errors_of_a_proxy() -> None:
    with ExitStack() as stack:
        good = stack.enter_context(service(PLAIN))
        closed = stack.enter_context(service({}, 401))
        proxy = stack.enter_context(service({}, 503))
        assert {good, closed} <= ask(good, closed, proxy)
        assert proxy not in ask(proxy)
        assert good not in ask(good + 1, good - PORTS)
        assert good in ask(good - PORTS + 1)
    assert not {good, closed} & ask(good, closed)


def test_silent_ports_are_asked_side_by_side_and_left_after_two_seconds() -> None:
    with ExitStack() as stack:
        # One after the other these would take longer than the question may.
        silent = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(PORTS)]
        good = stack.enter_context(service(PLAIN))
        ports = [each.getsockname()[1] for each in silent]
        found = ask(*ports, good)
        assert good in found
        assert not found & set(ports)


def test_a_port_is_asked_at_the_address_where_it_listens() -> None:
    with service(PLAIN, address="127.0.0.9") as port:
        assert port in ask(port)
