"""Who holds a lease: this process, as another one on the same machine can tell whether it still runs."""

from __future__ import annotations

import os
import secrets
import socket
from pathlib import Path

from fleet.balancer.rollouts import Claim


def this_process(by: str, command: str, rollout: str = "") -> Claim:
    """What this process writes into a lease: `by` runs it, `command` is what they typed."""
    pid = os.getpid()
    started = _started(pid)
    return Claim(
        holder=secrets.token_hex(8),
        by=by,
        host=socket.gethostname(),
        command=command,
        machine=machine() if started else "",
        pid=pid,
        started=started or 0,
        rollout=rollout,
    )


def machine() -> str:
    """Where process numbers mean the same: this start of this machine, and its process namespace.

    Empty where the system does not say. A machine's id would not do: copies of an image share it.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def is_dead(claim: Claim) -> bool:
    """True where the lease's process ran on this machine, and is known to run no more."""
    return _is_here(claim) and _started(claim.pid) not in (claim.started, _UNTOLD)


def is_mine(claim: Claim) -> bool:
    """True where the lease is this very process's."""
    return claim.pid == os.getpid() and is_alive(claim)


def is_alive(claim: Claim) -> bool:
    """True where the lease's process is known to run, on this machine."""
    return _is_here(claim) and _started(claim.pid) == claim.started


def _is_here(claim: Claim) -> bool:
    return bool(claim.machine) and (claim.machine, claim.host) == (machine(), socket.gethostname())


_UNTOLD = -1


def _started(pid: int) -> int | None:
    """When a process started, as the kernel counts; None where there is none, or only what is left of it.

    `_UNTOLD` for one of another user that a /proc mounted with `hidepid` hides (proc(5)).
    """
    try:
        words = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except OSError:
            pass
        return _UNTOLD
    return None if words[0] in (b"Z", b"X") else int(words[19])
