"""Inside the running containers: which GPUs does each see, and does the driver answer there?

The engine itself is asked to run nvidia-smi: only so it meets the same limits on devices as the container's
own processes do. That is what `systemctl daemon-reload` takes away from containers that got their GPU by the
older hook (nvidia-container-toolkit#48), while everything looks well from outside.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from fleet.docker.answers import Container
from fleet.docker.probe import CONTAINERS_PROBE, SOCKET
from fleet.doctor.model import Check, Trouble, Verdict, judged, skipped
from fleet.doctor.patient import ABSENT, Patient
from fleet.gpu.probe import GPU_PROBE
from fleet.model.facts import Answer, Probe

_CURL = f"curl -s -g --max-time 30 --unix-socket {SOCKET}"
_FILTERS = "%7B%22label%22%3A%5B%22fleet.slot%22%5D%2C%22status%22%3A%5B%22running%22%5D%7D"
_CREATE = (
    '{"AttachStdout":true,"AttachStderr":true,"Tty":true,'
    '"Cmd":["nvidia-smi","--query-gpu=uuid","--format=csv,noheader"]}'
)

# An id is taken only where it is hexadecimal. Each container's answer is written at once.
INSIDE_PROBE = Probe(
    "doctor.inside",
    f"""\
[ -S {SOCKET} ] || exit 7
set -f
post() {{ {_CURL} -H 'Content-Type: application/json' -d "$1" "http://d/$2"; }}
id_in() {{ id=${{1#*'"Id":"'}}; id=${{id%%'"'*}}; case $id in ''|*[!0-9a-f]*) return 1 ;; esac; }}
ask() {{
  made=$(post '{_CREATE}' "containers/$1/exec")
  if id_in "$made"; then
    run=$id
    said=$(post '{{"Detach":false,"Tty":true}}' "exec/$run/start" | tr -d '\\r\\0')
    state=$({_CURL} "http://d/exec/$run/json")
    code=${{state#*'"ExitCode":'}}; code=${{code%%[!0-9]*}}
  else
    said=$made code=
  fi
  printf '@%s %s\\n%s\\n' "$1" "${{code:-none}}" "$said"
}}
list=$({_CURL} -f "http://d/containers/json?filters={_FILTERS}") || exit $?
for id in $(printf '%s\n' "$list" | grep -o '"Id":"[0-9a-f]*"' | cut -d '"' -f 4); do
  ask "$id" &
done
wait
""",
)

_HEAD = re.compile(r"^@([0-9a-f]{64}) (\d+|none)$", re.MULTILINE)
_UUID = re.compile(r"GPU-[0-9a-fA-F]{8}-[0-9a-fA-F-]{27}")
_NOT_THERE = (126, 127)
_WHY = "`systemctl daemon-reload` does this to containers that got their GPU without CDI"


@dataclass(frozen=True)
class View:
    """What one container saw: nvidia-smi's exit code (None: it could not be started) and its words."""

    code: int | None
    said: str

    @property
    def uuids(self) -> frozenset[str]:
        """The GPUs it named."""
        return frozenset(_UUID.findall(self.said)) if self.code == 0 else frozenset()


def parse_inside(answer: Answer) -> dict[str, View] | None:
    """By container id; None where no engine answers."""
    if not answer.ok:
        return None
    parts = _HEAD.split(answer.text)
    return {
        id_: View(int(code) if code.isdigit() else None, said.strip())
        for id_, code, said in zip(parts[1::3], parts[2::3], parts[3::3], strict=True)
    }


def check_inside(patient: Patient) -> Verdict:
    """Each container sees its own GPU, that one alone, and it answers there."""
    views = parse_inside(patient.facts.get(INSIDE_PROBE.key, ABSENT))
    if views is None:
        return skipped("no engine answers")
    if not patient.running:
        return skipped("no container of a slot runs")
    works = patient.gpus is not None
    troubles = [
        trouble
        for each in patient.running
        if (view := views.get(each.id)) and (trouble := _trouble(each, view, works=works))
    ]
    return judged(f"{len(patient.running)} see their own GPU", troubles)


def _trouble(container: Container, view: View, *, works: bool) -> Trouble | None:
    slot = container.slot or container.name
    own = container.labels.get("fleet.gpu", "")
    first = view.said.splitlines()[0] if view.said else f"exit code {view.code}"
    again = f"`fleet drain {slot}`, `docker restart {container.name}` on {{host}}, `fleet ready {slot}`"
    if view.code in _NOT_THERE or (view.code is None and "executable file not found" in view.said):
        return Trouble(
            "nvidia-smi is not in a container, so its GPU cannot be looked at",
            "let the CDI file mount it (`nvidia-ctk cdi generate` does), then " + again,
            first,
            slot,
        )
    if view.code != 0:
        # Where it fails outside too, the check of the driver tells why.
        if not works:
            return None
        return Trouble(
            "a container has lost its GPU, which works outside it", f"{again}; {_WHY}", first, slot
        )
    if view.uuids == {own}:
        return None
    others = sorted(view.uuids - {own})
    if own and own not in view.uuids:
        seen = ", ".join(others) or "none"
        return Trouble("a container does not see its own GPU", again, f"it sees {seen}, not {own}", slot)
    return Trouble(
        "a container sees GPUs that are not its own",
        "`fleet provision --limit {host}` replaces it; who started it otherwise?",
        ", ".join(others),
        slot,
    )


CHECKS = (
    Check(
        "service",
        "inside",
        "a container on a wrong card, or on none, takes jobs and fails them",
        check_inside,
        lambda host: (INSIDE_PROBE, CONTAINERS_PROBE, GPU_PROBE),
    ),
)
