"""`fleet status` on a balancer that runs nginx."""

from __future__ import annotations

import pytest

from fleet.balancer import nginx_probe
from fleet.balancer.probe import RUNTIME_PROBE
from fleet.model.facts import Answer, Facts
from fleet.model.host import Host
from fleet.status import probes, summarise
from fleet.status.probe import HOST_PROBE
from tests.unit.gpu_world import HOST
from tests.unit.test_status import RUNNING, SYSTEM, gpu_host

LB = Host("lb-01", {"balancer_software": "nginx"}, ("balancer",))
SERVERS = "server=gpu-01-0\nserver=gpu-01-1\n"
RUNS = f"nginx version: nginx/1.26.3\nstarted=1772366400\nsite=0123456789abcdef\n{SERVERS}config=0123456789abcdef\n"


def problems(said: str) -> list[str]:
    facts = Facts({HOST_PROBE.key: SYSTEM, nginx_probe.RUNTIME_PROBE.key: Answer(0, said.encode())})
    seen = {HOST.name: gpu_host(*RUNNING), LB.name: facts}
    return [p.what for p in summarise([HOST, LB], seen, whole=True).problems if p.place == LB.name]


def test_nginx_is_asked_and_haproxy_is_not():
    keys = {probe.key for probe in probes(LB)}
    assert nginx_probe.RUNTIME_PROBE.key in keys
    assert RUNTIME_PROBE.key not in keys


def test_nothing_is_wrong_where_nginx_runs_what_it_should():
    assert problems(RUNS) == []


@pytest.mark.parametrize(
    ("said", "what"),
    [
        ("absent\n", "nginx does not run"),
        (RUNS.replace("config=", "#"), "nginx does not run fleet's configuration"),
        (
            RUNS.replace("site=0", "site=1"),
            "nginx runs another configuration than /etc/nginx/conf.d/fleet.conf",
        ),
        (RUNS.replace("server=gpu-01-1\n", ""), "slot gpu-01-1 is not among its servers"),
        (RUNS.replace(SERVERS, f"{SERVERS}server=gpu-01-7\n"), "its server gpu-01-7 is no slot"),
    ],
)
def test_what_is_wrong_is_told(said, what):
    assert problems(said) == [what]
