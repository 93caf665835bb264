"""Breaks of the balancers: the program, its configuration, its ways to slots and agents."""

from __future__ import annotations

from tests.lab.breaks.model import Break, Round

_NOTHING = ":"
_CONFIG = "/etc/haproxy/haproxy.cfg"
_BACK = f"restore {_CONFIG}; systemctl reload-or-restart haproxy; sleep 0.3"
_OLD = (
    'printf \'#!/bin/sh\\necho "HAProxy version 2.2.9-2+deb11u6 2023/11/14"\\n'
    'echo "Feature list : +OPENSSL -LUA"\\n\' >/usr/local/sbin/haproxy; chmod 755 /usr/local/sbin/haproxy'
)
_PROGRAM = "a program that says of itself what HAProxy 2.2 does"
_ADDRESS = "$(getent hosts {0} | cut -d' ' -f1)"
_AGENT = f"-p tcp -d {_ADDRESS.format('gpu-01')} --dport 7859 -j DROP"
_PORT = f"-p tcp -d {_ADDRESS.format('gpu-01')} --dport 7860 -j DROP"

WAYS = Round(
    "ways",
    (
        *(
            Break("balancers/reach", "cannot connect to a slot", "lb-02", do, undo, "ip route get", slot)
            for slot, do, undo in (
                ("gpu-02-0", f"ip route add unreachable {_ADDRESS.format('gpu-02')}",
                 f"ip route del unreachable {_ADDRESS.format('gpu-02')}"),
                ("gpu-02-1", _NOTHING, _NOTHING),
            )
        ),
        Break("balancers/agents", "agent does not answer its balancer", "lb-01", f"iptables -I OUTPUT {_AGENT}",
              f"iptables -D OUTPUT {_AGENT}", "port 7859 of gpu-01"),
        Break("balancers/reach", "no answer from a slot's port", "lb-01", f"iptables -I OUTPUT {_PORT}",
              f"iptables -D OUTPUT {_PORT}", "firewalls", "gpu-01-0"),
        Break("balancers/agents", "agent does not answer its balancer", "lb-02", _NOTHING, _NOTHING, "port 7859 of gpu-02"),
        Break("balancers/config", "the configuration on disk is not the one", "lb-01",
              f"keep {_CONFIG}; sed -i 's/FLEET_CONFIG .*/FLEET_CONFIG 0123/' {_CONFIG}", f"restore {_CONFIG}",
              "fleet lb push"),
    ),
)  # fmt: skip

PROGRAMS = Round(
    "programs",
    (
        Break("balancers/software", "HAProxy is not installed", "lb-01", "away /usr/sbin/haproxy",
              "back /usr/sbin/haproxy", "fleet provision --limit lb-01",
              stand_in="the program is taken away, not the package"),
        Break("balancers/software", "HAProxy is too old", "lb-02", _OLD, "rm -f /usr/local/sbin/haproxy",
              "upgrade HAProxy on lb-02", stand_in=_PROGRAM),
        Break("balancers/software", "HAProxy is built without", "lb-02", _NOTHING, _NOTHING,
              "use the distribution's HAProxy", stand_in=_PROGRAM),
        Break("balancers/software", "socat is not installed", "lb-02", "away /usr/bin/socat",
              "back /usr/bin/socat", "apt-get install socat"),
    ),
)  # fmt: skip

_ROLLOUT = "/var/lib/fleet/rollouts/20990101-000000-0000"
_HEADER = '{"id": "20990101-000000-0000", "kind": "upgrade", "image": "app:v2", "digest": "sha256:1", "by": "eve@desk"}'

CONFIGURATIONS = Round(
    "configurations",
    (
        Break("balancers/config", "a configuration that is not fleet's", "lb-01",
              f"keep {_CONFIG}; sed -i '/FLEET_CONFIG/d' {_CONFIG}; systemctl restart haproxy", _BACK,
              "fleet lb diff"),
        Break("balancers/rollout", "an upgrade has not ended, and nobody goes on with it", "lb-01",
              f"mkdir -p {_ROLLOUT}; printf '%s\\n' '{_HEADER}' '{{\"step\": \"draining\"}}' >{_ROLLOUT}/journal",
              f"rm -rf {_ROLLOUT}", "fleet upgrade --resume",
              stand_in="a journal of two lines in place of a controller that was killed"),
        Break("balancers/config", "it does not know every slot", "lb-02",
              f"keep {_CONFIG}; sed -i 's/gpu-02-1\\b/gpu-02-9/g' {_CONFIG}; systemctl reload haproxy; sleep 0.3",
              _BACK, "fleet lb push"),
        Break("balancers/config", "it has servers that are no slots", "lb-02", _NOTHING, _NOTHING, "fleet lb push"),
        Break("balancers/config", "somebody edited the configuration that fleet wrote", "lb-02", _NOTHING, _NOTHING,
              "fleet lb diff"),
    ),
)  # fmt: skip

NGINX = Round(
    "nginx",
    (
        Break("balancers/config", "HAProxy does not answer", "lb-02", "systemctl stop haproxy",
              "systemctl start haproxy", "systemctl status haproxy"),
        Break("balancers/port", "another program has the service's port", "lb-02",
              "apt-get install -y -q nginx >/dev/null 2>&1; systemctl start nginx",
              "systemctl stop nginx || true; apt-get purge -y -q 'nginx*' >/dev/null 2>&1; rm -rf /etc/nginx",
              "systemctl disable --now nginx"),
        Break("balancers/software", "nginx is not installed", "lb-01", _NOTHING, _NOTHING, "fleet provision --limit lb-01"),
        Break("balancers/config", "nginx does not answer", "lb-01", _NOTHING, _NOTHING, "systemctl status nginx"),
        Break("balancers/port", "another program has the service's port", "lb-01", _NOTHING, _NOTHING,
              "balancer_software"),
    ),
    {"lb-01": {"balancer_software": "nginx"}},
)  # fmt: skip

ROUNDS = (WAYS, PROGRAMS, CONFIGURATIONS, NGINX)
