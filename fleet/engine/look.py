"""One look at a host: many probes, one script, one exchange.

The probes run side by side, each in a subshell with stdin from /dev/null, each writing to a file of its own
that ends with a trailer naming the probe and its exit status. One `cat` sends them all back, so a look costs
the host three processes beyond the probes' own. The files lie on /run (memory), so that a host whose disk is
full can still be looked at.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Mapping

from fleet.errors import TaskError
from fleet.model.facts import Answer, Facts, Probe
from fleet.ssh.remote import Remote

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def unique(probes: Iterable[Probe]) -> tuple[Probe, ...]:
    """The probes in order, each key once.

    Raises ValueError when one key stands for two scripts: a mistake in a module, never a user's.
    """
    by_key: dict[str, Probe] = {}
    for probe in probes:
        known = by_key.setdefault(probe.key, probe)
        if known.script != probe.script:
            raise ValueError(f"probe {probe.key!r} has two different scripts")
    return tuple(by_key.values())


def script_for(probes: Iterable[Probe], nonce: str) -> str:
    """The POSIX sh script that asks all probes; `nonce` makes its trailers unmistakable."""
    parts = [
        f"export LC_ALL=C PATH={_PATH}",
        "d=$(mktemp -d -p /run fleet.XXXXXX 2>/dev/null || mktemp -d) || exit 90",
        "trap 'rm -rf \"$d\"' EXIT",
    ]
    for number, probe in enumerate(probes):
        parts.append(
            f"{{ (\n{probe.script}\n) </dev/null; printf '\\n@{nonce} {number} %s\\n' $?; }}"
            f' >"$d/{number:04d}" 2>/dev/null &'
        )
    parts += ["wait", 'cat "$d"/*', ""]
    return "\n".join(parts)


def parse(probes: tuple[Probe, ...], output: bytes, nonce: str) -> Facts:
    """The answers in a look's output; a probe that left no trailer has an answer with rc 255."""
    answers: dict[str, Answer] = {}
    start = 0
    for match in re.finditer(rb"\n@" + nonce.encode() + rb" (\d+) (\d+)\n", output):
        probe = probes[int(match[1])]
        answers[probe.key] = Answer(int(match[2]), output[start : match.start()])
        start = match.end()
    for probe in probes:
        answers.setdefault(probe.key, Answer(255))
    return Facts(answers)


def look(remote: Remote, probes: Iterable[Probe], *, timeout: float) -> Facts:
    """Ask all probes in one exchange. `timeout` in seconds covers the slowest probe.

    Raises TaskError when the script itself could not run (no temporary folder, no shell).
    """
    asked = unique(probes)
    if not asked:
        return Facts()
    nonce = secrets.token_hex(8)
    result = remote.script(script_for(asked, nonce), timeout=timeout)
    if result.rc != 0:
        raise TaskError(
            f"cannot look at the host: the probe script ended with {result.rc}",
            output=result.err.decode("utf-8", "replace"),
            remedy="check that /run or /tmp on the host can be written to",
        )
    return parse(asked, result.out, nonce)


def merged(older: Facts, newer: Facts) -> Facts:
    """Both looks' answers; the newer one wins."""
    both: Mapping[str, Answer] = {**older, **newer}
    return Facts(both)
