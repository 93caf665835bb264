"""What kind of service the containers run, found by asking one."""

from __future__ import annotations

from typing import Literal

from fleet.model.facts import Answer, Facts, Probe

# Gradio's page describes itself at /config, OpenAI-style servers list their models.
# Only a server that answers something else is plain HTTP; one that is still loading is not known yet.
_SCRIPT = """\
command -v curl >/dev/null && command -v ss >/dev/null || exit 0
ask() { curl -s -m 2 --noproxy '*' -o "$1" -w '%{http_code}' "http://127.0.0.1:$port$2" 2>/dev/null; }
answer=$(mktemp -p /run) || exit 0
trap 'rm -f "$answer"' EXIT
first=FIRST
for port in $(ss -Hltn | awk '{ n = split($4, a, ":"); print a[n] }' | sort -nu); do
  [ "$port" -ge "$first" ] && [ "$port" -lt $((first + 32)) ] || continue
  code=$(ask "$answer" /config) || continue
  if [ "$code" = 200 ] && grep -q '"api_prefix"\\|"dependencies"' "$answer"; then echo gradio; exit 0; fi
  code=$(ask "$answer" /v1/models) || continue
  if [ "$code" = 401 ] || grep -q '"object" *: *"list"' "$answer"; then echo openai; exit 0; fi
  code=$(ask "$answer" /) || continue
  if [ "$code" -lt 500 ]; then echo http; exit 0; fi
done
"""

_KEY = "service.profile"


def profile_probe(port_base: int) -> Probe:
    """Ask the first container that answers on the ports from `port_base` on."""
    return Probe(_KEY, _SCRIPT.replace("FIRST", str(port_base)))


def profile_of(facts: Facts) -> Literal["gradio", "openai", "http"] | None:
    """What the host's containers run; None where none answered, or nobody asked."""
    words = facts.get(_KEY, Answer(255)).text.split()
    for profile in ("gradio", "openai", "http"):
        if words[:1] == [profile]:
            return profile
    return None
