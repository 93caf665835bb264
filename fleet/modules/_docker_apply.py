"""Steps that make a running Docker Engine take up its configuration without stopping what it runs."""

from __future__ import annotations

import hashlib

from fleet.model.steps import Run

LOADED = "/run/fleet/docker-engine.loaded"
"""Which content of the configuration a running engine has reloaded: its invocation id and a SHA-256.

It lies on /run: an engine that starts after it reads the file anew, and another invocation id makes it void.
"""

TIMEOUT = 300.0


def reload_engine(content: bytes) -> Run:
    """Have the engine reload its file, whose content is given, and remember that it did."""
    argv = ("sh", "-c", _RELOAD, "reload", hashlib.sha256(content).hexdigest(), LOADED)
    return Run(argv, timeout=TIMEOUT, title="systemctl reload docker.service")


def restart_engine(*, live_restore: bool, stop_containers: bool) -> Run:
    """Restart the engine. With `live_restore` it is switched on in the running engine first.

    Where containers would stop nevertheless, the step fails before the restart, unless `stop_containers`.
    """
    flags = ("yes" if live_restore else "no", "yes" if stop_containers else "no")
    return Run(("sh", "-c", _RESTART, "restart", *flags), timeout=TIMEOUT, title="restart Docker")


def refuse_to_stop_containers() -> Run:
    """Fail where a restart would stop containers, before anything was touched."""
    return Run(("sh", "-c", _FUNCTIONS + "may_stop", "check"), timeout=TIMEOUT, title="look for containers")


_RELOAD = """\
set -e
systemctl reload docker.service
mkdir -p "${2%/*}"
printf '%s %s\\n' "$(systemctl show -p InvocationID --value docker.service)" "$1" >"$2"
"""

_FUNCTIONS = """\
info() { docker info --format "$1" 2>/dev/null; }
may_stop() {
  [ "$(info '{{.LiveRestoreEnabled}}')" != true ] || return 0
  running=$(info '{{.ContainersRunning}}')
  [ "${running:-0}" != 0 ] || return 0
  echo "a restart of Docker would stop $running running container(s): the engine has no live-restore." >&2
  echo "Drain the host first, or say stop_containers: true." >&2
  return 1
}
"""

# An engine that was reloaded with live-restore leaves its containers running when it stops.
_RESTART = (
    _FUNCTIONS
    + """\
live=$1 force=$2
if [ "$force" = no ] && systemctl is-active --quiet docker.service; then
  if [ "$live" = yes ]; then
    systemctl reload docker.service
    tries=0
    until [ "$(info '{{.LiveRestoreEnabled}}')" = true ] || [ $tries -ge 50 ]; do
      tries=$((tries + 1)); sleep 0.2
    done
  fi
  may_stop || exit 1
fi
systemctl reset-failed docker.service 2>/dev/null
systemctl restart docker.service && exit 0
{ echo "last lines of its journal:"; journalctl -u docker.service -n 15 --no-pager -o cat; } >&2
exit 1
"""
)
