"""Questions put to a balancer host: what is installed, and what the running HAProxy says."""

from __future__ import annotations

import re
from dataclasses import dataclass

from fleet.balancer.paths import CERTIFICATE_FILE, SOCKET
from fleet.model.facts import Answer, Probe

ABSENT = "absent"

PACKAGE_PROBE = Probe(
    "haproxy.package",
    "command -v haproxy >/dev/null || { echo absent; exit 0; }\n"
    "haproxy -v | head -n 1\n"
    "command -v socat >/dev/null && echo socat\n"
    "exit 0\n",
)

# Only a client of the host's own reaches the socket; socat comes with the module's packages. While HAProxy
# asks an agent it has forgotten what that said last ("* L7OK"), so it is looked at once more a moment later.
RUNTIME_PROBE = Probe(
    "haproxy.runtime",
    f"[ -S {SOCKET} ] && command -v socat >/dev/null || {{ echo {ABSENT}; exit 0; }}\n"
    f"ask() {{ socat -t 5 -T 5 - UNIX-CONNECT:{SOCKET} 2>/dev/null; }}\n"
    "date +now=%s\n"
    "said=$(echo 'show env FLEET_CONFIG; show info; show servers state; show stat; "
    f"show ssl cert {CERTIFICATE_FILE}' | ask) || {{ echo {ABSENT}; exit 0; }}\n"
    "printf '%s\\n\\n' \"$said\"\n"
    "case $said in *',* '*) sleep 0.1; echo 'show stat' | ask ;; esac\n"
    "exit 0\n",
)


@dataclass(frozen=True)
class Package:
    """What is installed: HAProxy's version as printed and as numbers, and whether socat is there."""

    version: str
    numbers: tuple[int, int]
    socat: bool


def parse_package(answer: Answer) -> Package | None:
    """The installed package; None where HAProxy is absent."""
    found = re.search(r"^HA-?Proxy version ((\d+)\.(\d+)\S*)", answer.text, re.MULTILINE | re.IGNORECASE)
    if not found:
        return None
    socat = "socat" in answer.text.splitlines()
    return Package(version=found[1], numbers=(int(found[2]), int(found[3])), socat=socat)
