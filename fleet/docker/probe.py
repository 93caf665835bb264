"""The questions put to a host's Docker Engine.

The engine is asked over its socket with curl: one start of curl asks several questions, and no client
of Docker's needs to be installed. `fleet.docker.answers` reads what comes back.
"""

from __future__ import annotations

import shlex
from urllib.parse import quote

from fleet.docker.answers import (
    Container,
    Engine,
    Image,
    Port,
    parse_containers,
    parse_engine,
    parse_image_user,
    parse_images,
)
from fleet.model.facts import Probe

__all__ = [
    "CONTAINERS_PROBE",
    "ENGINE_PROBE",
    "IMAGES_PROBE",
    "Container",
    "Engine",
    "Image",
    "Port",
    "image_user_probe",
    "parse_containers",
    "parse_engine",
    "parse_image_user",
    "parse_images",
    "unless_image_there",
]

SOCKET = "/run/docker.sock"
LOG_LINES = 20

_NO_ENGINE = f"[ -S {SOCKET} ] || exit 7\n"
_CURL = f"curl -s -g --max-time 30 --unix-socket {SOCKET}"
# After every answer curl adds a line with its size: bodies are cut by length, never by content.
_FRAMED = f"{_CURL} -w '\\nfleet %{{http_code}} %{{size_download}} %{{url_effective}}\\n'"

ENGINE_PROBE = Probe("docker.engine", f"{_NO_ENGINE}{_FRAMED} http://d/version http://d/info\n")

IMAGES_PROBE = Probe("docker.images", f"{_NO_ENGINE}{_FRAMED} http://d/images/json\n")


def image_user_probe(reference: str) -> Probe:
    """Ask which user a local image runs as, by a name of it, a digest or its id."""
    return Probe(f"docker.user:{reference}", f"{_NO_ENGINE}{_FRAMED} {_image(reference)}\n")


def unless_image_there(reference: str) -> str:
    """The beginning of a script that ends at once, saying nothing, where the engine has the image."""
    return f"{_CURL} -f -o /dev/null {_image(reference)} 2>/dev/null && exit 0\n"


def _image(reference: str) -> str:
    return shlex.quote(f"http://d/images/{quote(reference, safe='/:@')}/json")


def _list(filters: str, *, stopped: bool = True) -> str:
    every = "all=1&" if stopped else ""
    return f"'http://d/containers/json?{every}filters={quote(filters, safe='')}'"


# Inspected is what runs, what bears a name of ours and what is labelled as ours: never every container,
# for a build machine may keep thousands of dead ones.
_LISTS = " ".join(
    (
        _list('{"status":["running","paused","restarting"]}', stopped=False),
        _list('{"name":["^/?fleet-"]}'),
        _list('{"label":["fleet.slot"]}'),
    )
)

# The log is wanted of what is ours and does not run, or not for long ("Up 5 seconds": it may be in a crash
# loop). An id is taken only where it is hexadecimal, for a label may be called "Id" too. The lists are a line
# each, and awk reads them: dash needs 0.1 s to cut a few KB into pieces, and a rollout asks this often.
CONTAINERS_PROBE = Probe(
    "docker.containers",
    f"""\
{_NO_ENGINE}\
set -f
lists=$({_CURL} -f --fail-early -w '\\n' {_LISTS}) || exit $?
urls=$(printf '%s\\n' "$lists" | awk '
  !/^\\[/ {{ next }}
  {{
    list++
    count = split($0, parts, /"Id":"/)
    for (i = 2; i <= count; i++) {{
      id = parts[i]
      sub(/".*/, "", id)
      if (id !~ /^[0-9a-f]+$/) continue
      url = "http://d/containers/" id
      if (!(id in asked)) inspect = inspect " " url "/json"
      asked[id] = 1
      if (list < 3) continue
      if (parts[i] !~ /"State":"running"/ || parts[i] ~ /"Status":"Up [^"]*second/)
        logs = logs " " url "/logs?stdout=1&stderr=1&tail={LOG_LINES}"
    }}
  }}
  END {{ print inspect logs }}
') || exit $?
[ -z "$urls" ] || {_FRAMED} $urls
""",
)
