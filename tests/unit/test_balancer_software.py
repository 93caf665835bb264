"""Which program a balancer runs, and commands that need HAProxy."""

from __future__ import annotations

import pytest

from fleet.balancer.software import require_haproxy, software
from fleet.errors import InputError
from fleet.model.host import Host

PLAIN = Host("lb-01")
NGINX = Host("lb-02", {"balancer_software": "nginx"})


def test_a_balancer_runs_haproxy_unless_it_says_nginx():
    assert software(PLAIN) == "haproxy"
    assert software(Host("lb-01", {"balancer_software": "haproxy"})) == "haproxy"
    assert software(NGINX) == "nginx"


def test_any_other_word_is_refused():
    with pytest.raises(InputError, match="lb-01: balancer_software is 'caddy'"):
        software(Host("lb-01", {"balancer_software": "caddy"}))


def test_a_command_for_haproxy_alone_says_so():
    require_haproxy([PLAIN], "fleet drain")
    with pytest.raises(InputError, match=r"`fleet drain` needs HAProxy; lb-02 runs nginx") as refused:
        require_haproxy([PLAIN, NGINX], "fleet drain")
    assert refused.value.remedy
