"""What a balancer host needs on disk, and the steps that bring a configuration into use."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from fleet.balancer.paths import CONFIG_FILE, LUA_FILE, PORTS_FILE, SOCKET, STATE_FILE
from fleet.balancer.render import Settings
from fleet.data import data_dir
from fleet.errors import Place
from fleet.model.steps import Run, Step, Upload
from fleet.playbook.templating import render_text

SAVE_STATE = "/usr/local/sbin/fleet-haproxy-save-state"
UNIT_FILE = "/etc/systemd/system/haproxy.service.d/fleet.conf"
NEW_CONFIG = f"{CONFIG_FILE}.new"
TIMEOUT = 60.0

# What HAProxy takes for "nothing saved yet" without a warning.
EMPTY_STATE = b"1\n"

# The distribution's reload forgets drains and weights. This one saves them first, whoever reloads, as does a
# stop: packages upgraded at night restart the service without asking fleet.
_UNIT = f"""\
# Written by fleet: what was decided at run time survives reloads, restarts and reboots.
[Service]
ExecReload=
ExecReload=/usr/sbin/haproxy -Ws -f $CONFIG -c -q $EXTRAOPTS
ExecReload=-{SAVE_STATE} reload
ExecReload=/bin/kill -USR2 $MAINPID
ExecStop=-{SAVE_STATE}
"""

DAEMON_RELOAD = Run(("systemctl", "daemon-reload"))


@dataclass(frozen=True)
class SupportFile:
    """A file HAProxy or its unit needs beside the configuration."""

    path: str
    content: bytes
    mode: str = "0644"


@dataclass(frozen=True)
class DeployedServer:
    """A server that the configuration on the host has."""

    name: str
    address: str
    port: int
    weight: int


def support_files(settings: Settings) -> tuple[SupportFile, ...]:
    """The files beside the configuration."""
    files = [
        SupportFile(SAVE_STATE, save_state_script(settings).encode(), "0755"),
        SupportFile(UNIT_FILE, _UNIT.encode()),
    ]
    if settings.lua:
        files.append(SupportFile(LUA_FILE, (data_dir("templates") / "haproxy-sessions.lua").read_bytes()))
    return tuple(files)


def save_state_script(settings: Settings, config_file: str = CONFIG_FILE) -> str:
    """The script that saves the servers' run-time state for the next HAProxy."""
    path = data_dir("templates") / "haproxy-save-state.sh.j2"
    variables = {"settings": settings, "config_file": config_file}
    return render_text(path.read_text(encoding="utf-8"), variables, Place(str(path), 1))


def empty_state() -> Upload:
    """The state file before anything was saved."""
    return Upload(STATE_FILE, EMPTY_STATE, mode="0600")


def deploy(text: str, config_hash: str) -> tuple[Step, ...]:
    """Put a configuration into use, or leave everything as it was.

    HAProxy on the host must accept it before it takes the old one's place, and must be seen running it
    afterwards; else the old one comes back.
    """
    return (
        Upload(NEW_CONFIG, text.encode()),
        Run(("haproxy", "-c", "-f", NEW_CONFIG), title="haproxy -c (check the new configuration)"),
        Run(
            ("sh", "-c", _DEPLOY, "deploy", config_hash),
            timeout=TIMEOUT,
            title="switch HAProxy's configuration",
        ),
    )


def start(config_hash: str) -> tuple[Step, ...]:
    """Have HAProxy run the configuration that is on the host: start it, or reload it where it runs."""
    return (
        Run(("sh", "-c", _START, "start", config_hash), timeout=TIMEOUT, title="start or reload HAProxy"),
    )


def enable() -> tuple[Step, ...]:
    """Start HAProxy at boot."""
    return (Run(("systemctl", "enable", "haproxy.service")),)


def deployed_servers(config: str) -> tuple[DeployedServer, ...]:
    """The servers of backend `work` in a configuration's text."""
    return tuple(_deployed(config))


_SERVER = re.compile(r"server\s+(\S+)\s+(\S+):(\d+)\s(?:.*\s)?weight\s+(\d+)\b")


def _deployed(config: str) -> Iterator[DeployedServer]:
    section = ""
    for line in config.splitlines():
        words = line.split()
        if words and not line[0].isspace():
            section = " ".join(words[:2])
        elif section == "backend work" and (found := _SERVER.match(line.strip())):
            name, address, port, weight = found.groups()
            yield DeployedServer(name, address.strip("[]"), int(port), int(weight))


# A reload has happened when another worker answers, with the configuration meant. What runs somebody else's
# configuration is restarted: a reload would inherit its sockets with their permissions, and no sessions.
_COMMON = f"""\
set -u
wanted=$1 config={CONFIG_FILE}
ask() {{ echo "$1" | socat -t 2 -T 2 - UNIX-CONNECT:{SOCKET} 2>/dev/null; }}
worker() {{ ask "show info" | sed -n 's/^Pid: //p'; }}
apply() {{
  old=$(worker)
  if ask "show env FLEET_CONFIG" | grep -q "^FLEET_CONFIG="; then systemctl reload haproxy.service || return 1
  else systemctl reset-failed -q haproxy.service; systemctl restart haproxy.service || return 1; fi
  tries=0
  until [ "$(worker)" != "$old" ] && ask "show env FLEET_CONFIG" | grep -qx "FLEET_CONFIG=$wanted"; do
    case $(systemctl show -p SubState --value haproxy.service) in
      failed | dead | auto-restart*) return 1 ;;
    esac
    tries=$((tries + 1)); [ $tries -lt 75 ] || return 1
    sleep 0.2
  done
}}
tell() {{ echo "last lines of HAProxy's journal:"; journalctl -u haproxy.service -n 15 --no-pager -o cat; }}
"""

_START = (
    _COMMON
    + """\
apply || { tell >&2; exit 1; }
"""
)

# HAProxy's own check does not try addresses and ports, and a reload onto one that it cannot have stops the
# service a while. A port told at run time gives way to a configuration that changes the slot's port: that was
# made from what runs. One that says what the configuration before said may just not know of the other port.
_DEPLOY = (
    _COMMON
    + f"ports={PORTS_FILE}\n"
    + """\
give_way() {
  rm -f "$ports.old"
  [ -e "$ports" ] || return 0
  flock -w 10 9 && cp -p "$ports" "$ports.old" && cp -p "$ports" "$ports.new" || return 1
  before=$config.old
  [ -e "$before" ] || before=/dev/null
  awk '
    part != "told" && $1 == "server" {
      n = split($3, word, ":")
      if (work && part == "new") after[$2] = word[n]
      else if (work) before[$2] = word[n]
    }
    part != "told" && /^[a-z]/ { work = $1 == "backend" && $2 == "work" }
    part == "told" && $1 in before && before[$1] == after[$1]
  ' part=old "$before" part=new "$config" part=told "$ports" > "$ports.new" || return 1
  if [ -s "$ports.new" ]; then mv -f "$ports.new" "$ports"; else rm -f "$ports.new" "$ports"; fi
}
for port in $(sed -n 's/^ *bind [^ ]*:\\([0-9][0-9]*\\)\\( .*\\)*$/\\1/p' "$config.new"); do
  taken=$(ss -Hltnp "sport = :$port" 2>/dev/null | grep -v '"haproxy"')
  [ -z "$taken" ] || { printf 'port %s is taken by another program:\\n%s\\n' "$port" "$taken" >&2; exit 1; }
done
nonlocal=$(cat /proc/sys/net/ipv4/ip_nonlocal_bind 2>/dev/null)
numeric='s/^ *bind \\[*\\([0-9a-fA-F.:]*[0-9a-fA-F]\\)\\]*:[0-9][0-9]*\\( .*\\)*$/\\1/p'
for address in $(sed -n "$numeric" "$config.new"); do
  case $nonlocal/$address in 1/* | */0.0.0.0) continue ;; */*.*.*.* | */*:*) ;; *) continue ;; esac
  ip route get "$address" 2>/dev/null | grep -q '^local' && continue
  echo "$address, on which HAProxy is to listen, is no address of this host" >&2; exit 1
done
rm -f "$config.old"
[ ! -e "$config" ] || cp -p "$config" "$config.old" || exit 1
mv -f "$config.new" "$config" || exit 1
give_way 9< "${ports%/*}" && apply && { rm -f "$ports.old"; exit 0; }
tell >&2
[ ! -e "$ports.old" ] || mv -f "$ports.old" "$ports"
mv -f "$config" "$config.failed"
if [ -e "$config.old" ]; then
  cp -p "$config.old" "$config"
  wanted=$(sed -n 's/^ *setenv FLEET_CONFIG //p' "$config")
  if [ -z "$wanted" ]; then systemctl reload-or-restart haproxy.service; else apply; fi &&
    echo "the configuration before is back in use; the new one is kept in $config.failed" >&2
fi
exit 1
"""
)
