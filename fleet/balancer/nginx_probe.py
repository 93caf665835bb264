"""Questions put to a host that balances with nginx: what is installed, and which configuration runs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from fleet.balancer.nginx import SITE_FILE
from fleet.model.facts import Answer, Probe

ABSENT = "absent"
PID_FILE = "/run/nginx.pid"
DEFAULT_SITE = "/etc/nginx/sites-enabled/default"

PACKAGE_PROBE = Probe(
    "nginx.package",
    f"command -v nginx >/dev/null || {{ echo {ABSENT}; exit 0; }}\nnginx -V 2>&1\nexit 0\n",
)

# bash speaks TCP by itself; a bare host has no client.
ASK = r"""exec 3<>"/dev/tcp/127.0.0.1/$1" && printf "GET /config HTTP/1.0\r\n\r\n" >&3 && cat <&3"""

# Of the workers the newest counts: older ones only finish.
RUNTIME_PROBE = Probe(
    "nginx.runtime",
    f"""\
master=
[ -r {PID_FILE} ] && read -r master < {PID_FILE}
[ -n "$master" ] && [ -d "/proc/$master" ] || {{ echo {ABSENT}; exit 0; }}
nginx -v 2>&1
read -r workers 2>/dev/null < "/proc/$master/task/$master/children"
boot=$(sed -n 's/^btime //p' /proc/stat)
newest=0
for worker in $workers; do
  read -r line 2>/dev/null < "/proc/$worker/stat" || continue
  set -- ${{line##*) }}
  [ "${{20}}" -le "$newest" ] || newest=${{20}}
done
echo "started=$((boot + newest / $(getconf CLK_TCK)))"
sed -n 's/^# fleet-config: /site=/p; s/^ *server .*; # /server=/p' {SITE_FILE} 2>/dev/null
port=$(sed -n 's/^ *listen 127\\.0\\.0\\.1:\\([0-9]*\\);$/\\1/p' {SITE_FILE} 2>/dev/null | tail -n 1)
[ -n "$port" ] || exit 0
timeout 3 bash 2>/dev/null -c '{ASK}' ask "$port" |
  sed -n 's/^\\([0-9a-f]\\{{16\\}}\\)$/config=\\1/p'
exit 0
""",
)

# The page that Debian puts on port 80, as long as nobody made anything of it.
DEFAULT_SITE_PROBE = Probe(
    "nginx.default_site",
    f"""\
[ -e {DEFAULT_SITE} ] || [ -L {DEFAULT_SITE} ] || {{ echo {ABSENT}; exit 0; }}
site=$(readlink -f {DEFAULT_SITE})
shipped=$(dpkg-query -W -f='${{Conffiles}}\\n' nginx-common 2>/dev/null |
  while read -r file sum rest; do [ "$file" != "$site" ] || echo "$sum"; done)
set -- $(md5sum "$site" 2>/dev/null)
[ -n "$shipped" ] && [ "${{1:-}}" = "$shipped" ] || {{ echo used; exit 0; }}
pages=$(ls -A /var/www/html 2>/dev/null | grep -vx index.nginx-debian.html)
[ -z "$pages" ] && echo welcome || echo used
exit 0
""",
)


@dataclass(frozen=True)
class Package:
    """What is installed; `rewrites` tells that it can rewrite answers (http_sub_module)."""

    version: str
    numbers: tuple[int, int]
    rewrites: bool


@dataclass(frozen=True)
class NginxState:
    """A running nginx; `started` is in seconds since the epoch.

    `config_hash` names fleet's configuration in it, None where it runs none; `site_hash` is that of the file
    on the host, and `servers` the slots the file names.
    """

    version: str
    started: int
    config_hash: str | None
    site_hash: str | None = None
    servers: tuple[str, ...] = ()


def parse_package(answer: Answer) -> Package | None:
    """The installed package; None where nginx is absent."""
    found = re.search(r"^nginx version: \S+?/((\d+)\.(\d+)\S*)", answer.text, re.MULTILINE)
    if not found:
        return None
    return Package(found[1], (int(found[2]), int(found[3])), "--with-http_sub_module" in answer.text)


def parse_runtime(answer: Answer) -> NginxState | None:
    """The state out of RUNTIME_PROBE's answer; None where nginx does not run."""
    text = answer.text
    version = re.search(r"^nginx version: \S+?/(\S+)", text, re.MULTILINE)
    if ABSENT in text.splitlines() or version is None:
        return None
    started = re.search(r"^started=(\d+)$", text, re.MULTILINE)
    config = re.search(r"^config=(\S+)$", text, re.MULTILINE)
    site = re.search(r"^site=(\S+)$", text, re.MULTILINE)
    return NginxState(
        version=version[1],
        started=int(started[1]) if started else 0,
        config_hash=config[1] if config else None,
        site_hash=site[1] if site else None,
        servers=tuple(re.findall(r"^server=(\S+)$", text, re.MULTILINE)),
    )


def parse_default_site(answer: Answer) -> Literal["absent", "welcome", "used"]:
    """Whether the distribution's default site is enabled, and whether it is more than its welcome page."""
    word = answer.text.strip()
    return "welcome" if word == "welcome" else "used" if word == "used" else "absent"
