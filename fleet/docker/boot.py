"""What starts slots again that the engine lost when it started: a unit of systemd and its script.

Engines older than 28.2 restore containers before they know of CDI (moby #49989): every container with a CDI
device then stays down, in spite of its restart policy. Any engine loses containers whose GPU is not ready yet
when it restores them. The engine writes the reason into the container's state; a container that somebody
stopped, or whose program ended, has none there.
"""

from __future__ import annotations

from fleet.docker.answers import Container
from fleet.docker.probe import SOCKET

UNIT = "fleet-slots.service"
UNIT_FILE = f"/etc/systemd/system/{UNIT}"
WANTS_LINK = f"/etc/systemd/system/docker.service.wants/{UNIT}"
SCRIPT_FILE = "/usr/local/sbin/fleet-start-slots"

_WORDS = ("device driver", "CDI", "nvidia-container")
_RESTORED_DEAD = 255
"""The engine's exit code for a container that ended while the engine did not run."""


def lost(container: Container) -> bool:
    """True for an ended container that the engine could not give its GPU, or that ended without the engine.

    A program may end with that exit code too, so without an error of the engine's the container must have run
    for a while.
    """
    if container.state != "exited" or container.started is None:
        return False
    if any(word in container.error for word in _WORDS):
        return True
    ran = container.finished is not None and (container.finished - container.started).total_seconds() >= 60
    return container.exit_code == _RESTORED_DEAD and not container.error and ran


UNIT_TEXT = f"""\
# Written by fleet.
[Unit]
Description=Start the GPU containers that Docker could not start itself
Documentation=https://github.com/moby/moby/issues/49989
After=docker.service
PartOf=docker.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh {SCRIPT_FILE}
TimeoutStartSec=15min

[Install]
WantedBy=docker.service
"""

# curl, because the engine may be there without its client. In an inspected container the state comes first,
# and a quote inside a text is escaped, so the first "Error" is the engine's own.
SCRIPT_TEXT = f"""\
#!/bin/sh
# Written by fleet. Docker older than 28.2 starts containers before it knows of CDI (moby #49989), and those
# with a GPU stay down after a restart of Docker or of the host. This starts them again: containers of slots
# that ran, that are to be restarted by their policy, and whose last start failed for want of the GPU.
# One that was stopped by hand bears no such error and is left alone.
set -f
ask() {{ curl -s -g --max-time 60 --unix-socket {SOCKET} "$@"; }}

is_lost() {{
  case $1 in *'"RestartPolicy":{{"Name":"no"'* | *'"RestartPolicy":{{"Name":""'*) return 1 ;; esac
  error=${{1#*'"Error":"'}}
  case ${{error#*'","StartedAt":"'}} in 0001-*) return 1 ;; esac
  error=${{error%%'","StartedAt":"'*}}
  case $error in {" | ".join(f"*'{word}'*" for word in _WORDS)}) return 0 ;; esac
  # The next attempt may have failed for another reason.
  case $tried in *"$id"*) [ -n "$error" ] ;; *) return 1 ;; esac
}}

filters=%7B%22label%22%3A%5B%22fleet.slot%22%5D%2C%22status%22%3A%5B%22exited%22%5D%7D
tried=
for pause in 1 2 4 8 15 30 60 0; do
  failed=
  if list=$(ask -f "http://d/containers/json?all=1&filters=$filters"); then
    while :; do
      case $list in *'"Id":"'*) ;; *) break ;; esac
      list=${{list#*'"Id":"'}}
      id=${{list%%'"'*}}
      case $id in '' | *[!0-9a-f]*) continue ;; esac
      state=$(ask -f "http://d/containers/$id/json") && is_lost "$state" || continue
      name=${{state#*'"Name":"/'}}
      name=${{name%%'"'*}}
      if answer=$(ask --fail-with-body -X POST "http://d/containers/$id/start"); then
        echo "started $name, which Docker had not: $error"
      else
        tried="$tried $id"
        failed="$failed$name: $answer
"
      fi
    done
  else
    failed="Docker does not answer on {SOCKET}
"
  fi
  [ -n "$failed" ] || exit 0
  sleep "$pause"
done
printf 'could not start:\\n%s' "$failed" >&2
exit 1
"""
