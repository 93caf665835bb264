"""What balancers keep of rollouts: a lease with its fencing number, journals, results. Steps and parsers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from fleet.balancer import rollouts_script as scripts
from fleet.balancer.rollouts_script import FENCED_OUT
from fleet.model.steps import Run

ROOT = "/var/lib/fleet/rollouts"
KEEP = 20
"""Rollouts a balancer remembers."""

ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z-]{0,63}")
REFUSED = b"the lease has passed to another"
"""What a refused step says on stderr."""

_LOCK_WAIT = 20.0


@dataclass(frozen=True)
class Claim:
    """A lease as a balancer keeps it.

    `holder` is hex digits that are its alone; `machine` is empty where nobody can tell whether its process
    (`pid`, and `started` as the kernel counts) still runs. `expires` and `since` are seconds since the epoch
    by the balancer's clock, set there. `rollout` is empty while there is none yet.
    """

    holder: str
    by: str
    host: str
    command: str
    machine: str = ""
    pid: int = 0
    started: int = 0
    rollout: str = ""
    fence: int = 0
    expires: int = 0
    since: int = 0


@dataclass(frozen=True)
class LeaseSeen:
    """A balancer's clock (seconds since the epoch), the highest number it gave, and the lease there."""

    now: int
    fence: int
    claim: Claim | None = None

    @property
    def held(self) -> Claim | None:
        """The lease, where it has not expired."""
        return self.claim if self.claim is not None and self.now < self.claim.expires else None


@dataclass(frozen=True)
class RawHead:
    """A rollout's first and last line as kept, and the last that says why it did not go on; empty if none.

    `lines` counts the whole journal, its header too.
    """

    id: str
    lines: int
    has_result: bool
    header: bytes = b""
    last: bytes = b""
    why: bytes = b""


def look_lease(root: str = ROOT) -> Run:
    """Ask who holds the lease; `parse_lease` reads the answer."""
    return _script(scripts.LOOK, "look at the lease", root)


def take(fence: int, claim: Claim, ttl: int, *, over: str = "", root: str = ROOT) -> Run:
    """Give the lease a new number and this holder, for `ttl` seconds.

    Ends with HELD, and the lease on stdout (`parse_claim`), where another's has not expired and is not that
    of `over`; with LATE where a number at least as high was given.
    """
    argv = (root, str(fence), claim.holder, str(ttl), over)
    return _script(scripts.TAKE, "take the lease", *argv, stdin=_about(claim), timeout=100)


def renew(fence: int, claim: Claim, ttl: int, *, root: str = ROOT) -> Run:
    """Have the lease for `ttl` seconds from now; ends with FENCED_OUT where it is no more this holder's."""
    argv = (root, str(fence), claim.holder, str(ttl))
    return _script(scripts.RENEW, "renew the lease", *argv, stdin=_about(claim), timeout=30)


def release(fence: int, claim: Claim, *, root: str = ROOT) -> Run:
    """Give the lease back, where it is still this holder's."""
    return _script(scripts.RELEASE, "give the lease back", root, str(fence), claim.holder, timeout=30)


def fenced(step: Run, fence: int, *, root: str = ROOT) -> Run:
    """The step, done only where this is the number given last; else it ends with FENCED_OUT, not having run.

    Nobody can take the lease while it runs: for short commands only. Its arguments, standard input,
    environment and exit codes stay as they are; BUSY is the code where the lock was not to be had.
    """
    argv = ("sh", "-c", scripts.FENCED, "fleet-fenced", root, str(fence), *step.argv)
    return replace(
        step,
        argv=argv,
        timeout=step.timeout + _LOCK_WAIT,
        title=step.title or f"`{' '.join(step.argv)[:120]}`",
    )


def check_fence(fence: int, *, root: str = ROOT) -> Run:
    """Do nothing, where this is the number given last; else end with FENCED_OUT."""
    return fenced(Run(("true",), timeout=10, title="check the lease"), fence, root=root)


def is_fenced_out(rc: int) -> bool:
    """True where a step was refused because another has taken the lease over."""
    return rc == FENCED_OUT


def taken_by(err: bytes) -> Claim | None:
    """Who has the lease now, as a refused step's stderr says; None where it does not."""
    line = next((line for line in err.splitlines() if REFUSED in line), b"")
    return parse_claim(line[line.find(b"{") :]) if b"{" in line else None


def append(id: str, fence: int, first: int, lines: Sequence[bytes], *, root: str = ROOT) -> Run:
    """Add lines to a journal, which has exactly `first` of them, or these already. The header is line 0.

    Ends with GAP where lines before them are missing, with CONFLICT where other lines are in their place.
    """
    return _lines(scripts.APPEND, "write the journal", id, fence, first, lines, root)


def replace_journal(id: str, fence: int, lines: Sequence[bytes], *, root: str = ROOT) -> Run:
    """Have a journal be these lines; what it was is kept beside it."""
    return _lines(scripts.REPLACE, "replace the journal", id, fence, 0, lines, root)


def finish(id: str, fence: int, document: bytes, *, keep: int = KEEP, root: str = ROOT) -> Run:
    """Write a rollout's result, and remove all but the newest rollouts."""
    argv = (root, str(fence), checked(id), str(len(document)), str(keep))
    return _script(scripts.FINISH, "write the result", *argv, stdin=document, timeout=60)


def read_heads(root: str = ROOT) -> Run:
    """Ask for every rollout's ends; `parse_heads` reads the answer."""
    return _script(scripts.HEADS, "read the rollouts", root, timeout=60)


def read_journal(id: str, root: str = ROOT) -> Run:
    """Print a whole journal; nothing where there is none."""
    return _script(scripts.READ, "read the journal", root, f"{checked(id)}/journal", timeout=60)


def read_result(id: str, root: str = ROOT) -> Run:
    """Print a rollout's result; nothing where there is none."""
    return _script(scripts.READ, "read the result", root, f"{checked(id)}/result", timeout=60)


def parse_lease(out: bytes) -> LeaseSeen | None:
    """What `look_lease` answered; None where that is no answer."""
    said = dict(line.partition(b" ")[::2] for line in out.splitlines())
    try:
        return LeaseSeen(int(said[b"now"]), int(said[b"fence"]), parse_claim(said.get(b"lease", b"")))
    except (KeyError, ValueError):
        return None


def parse_claim(line: bytes) -> Claim | None:
    """A lease's line; None where it is none. Keys that a newer fleet adds are passed over."""
    try:
        said = json.loads(line)
        known: dict[str, Any] = {name: kind(said[name]) for name, kind in _CLAIM.items() if name in said}
        return Claim(**known)
    except (ValueError, TypeError):
        return None


def parse_heads(out: bytes) -> tuple[int, tuple[RawHead, ...]]:
    """The highest number given there, and every rollout's ends, in the order of their ids."""
    fence = 0
    heads: list[RawHead] = []
    for line in out.split(b"\n"):
        word, _, rest = line.partition(b" ")
        if word == b"fence":
            fence = int(rest)
        elif word == b"rollout":
            name, lines, result = rest.decode("utf-8", "replace").rsplit(" ", 2)
            heads.append(RawHead(name, int(lines), result == "yes"))
        elif heads:
            heads[-1] = _told(heads[-1], word, rest)
    return fence, tuple(heads)


def _told(head: RawHead, word: bytes, rest: bytes) -> RawHead:
    match word:
        case b"header":
            return replace(head, header=rest)
        case b"last":
            return replace(head, last=rest)
        case b"why":
            return replace(head, why=rest)
    return head


def plain(value: Any) -> bytes:
    """JSON on one line in ASCII, which means nothing to a shell."""
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def checked(id: str) -> str:
    """The id of a rollout, which names a folder. Raises ValueError for anything else."""
    if not ID.fullmatch(id):
        raise ValueError(f"{id!r} cannot be a rollout's id")
    return id


_CLAIM: dict[str, type[str] | type[int]] = {
    "holder": str,
    "by": str,
    "host": str,
    "command": str,
    "machine": str,
    "pid": int,
    "started": int,
    "rollout": str,
    "fence": int,
    "expires": int,
    "since": int,
}
_SET_THERE = ("fence", "holder", "expires", "since")


def _about(claim: Claim) -> bytes:
    """What the balancer does not put into a lease itself."""
    return plain({key: value for key, value in asdict(claim).items() if key not in _SET_THERE}) + b"\n"


def _lines(
    script: str, title: str, id: str, fence: int, first: int, lines: Iterable[bytes], root: str
) -> Run:
    lines = tuple(lines)
    if any(b"\n" in line for line in lines):
        raise ValueError("a line of a journal has no line break")
    stdin = b"".join(line + b"\n" for line in lines)
    argv = (root, str(fence), checked(id), str(first), str(len(lines)))
    return _script(script, title, *argv, stdin=stdin, timeout=60)


def _script(text: str, title: str, *arguments: str, stdin: bytes | None = None, timeout: float = 40.0) -> Run:
    return Run(("sh", "-c", text, "fleet", *arguments), stdin=stdin, timeout=timeout, title=title)
