"""The group `connection`: a host that does not let fleet in is told here, and nothing else of it."""

from __future__ import annotations

import re

from fleet.doctor.model import BALANCER_GROUP, GPU_GROUP, Check, Result, Trouble, Verdict, well
from fleet.doctor.patient import Patient
from fleet.errors import FleetError, UnreachableError

_EVERYWHERE = (GPU_GROUP, BALANCER_GROUP)


def _in(patient: Patient) -> Verdict:
    return well("works")


SSH = Check("connection", "ssh", "all that fleet does goes through it", _in, on=_EVERYWHERE)
SUDO = Check("connection", "sudo", "fleet looks and changes as root", _in, on=_EVERYWHERE)


def refused(host: str, error: FleetError) -> tuple[Result, ...]:
    """The results of a host that could not be looked at."""
    message = error.message.removeprefix(f"{host}: ")
    lines = error.output.strip().splitlines()
    detail = "; ".join(line.strip() for line in lines[:4])
    trouble = Trouble(_alike(message), error.remedy or "look at the host", _more(message, detail))
    verdict = Verdict(message, (trouble,))
    if isinstance(error, UnreachableError):
        return (Result(SSH, host, verdict),)
    return (Result(SSH, host, well("works")), Result(SUDO, host, verdict))


def _alike(message: str) -> str:
    """The message without what differs from host to host, so that it is told once for many."""
    for words, alike in _KINDS:
        if words in message:
            return alike
    return _ADDRESS.sub("it", message)


def _more(message: str, detail: str) -> str:
    told = "" if _alike(message) == message else message
    return "; ".join(part for part in (told, detail) if part)


_ADDRESS = re.compile(r"\S+:\d+")
_KINDS = (
    ("HOST KEY", "its SSH host key has changed"),
    ("is not known", "its SSH host key is not known"),
    ("did not let", "SSH does not let fleet in"),
    ("may not use sudo", "sudo is not allowed"),
    ("sudo needs the password", "sudo needs a password"),
    ("sudo refused the password", "sudo refused the password"),
    ("there is no sudo", "there is no sudo"),
    ("no algorithm in common", "its SSH is too old"),
    ("refused the connection", "it refused the connection"),
    ("no answer from", "it does not answer"),
    ("did not speak SSH", "it does not speak SSH"),
    ("cannot be resolved", "its name cannot be resolved"),
)

CHECKS = (SSH, SUDO)
