"""The module `reboot`: a host that waits for a reboot gets it, without harm to those it serves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from fleet.model.facts import Facts, Probe
from fleet.model.steps import Change, Operation
from fleet.modules._reboot import REBOOT_PROBE, RebootSeen, parse_reboot
from fleet.modules.base import Args, Context

OPERATION = "reboot"
"""What a run must be able to do for this module."""


class RebootArgs(Args, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The arguments of `reboot`."""

    force: bool = False
    system: bool = True
    deadline: float = 900.0
    cut: bool = False
    timeout: float = 900.0
    allow_down: bool = False

    def __post_init__(self) -> None:
        if self.deadline < 0 or self.timeout <= 0:
            raise ValueError("deadline must be 0 or more, timeout more than 0 seconds")


class Reboot:
    """Reboot the host where something asks for it, and have it back as it was.

    A host that serves is first drained on all balancers, and its jobs are waited for. Then it reboots, comes
    back with another boot id, has all its GPUs again, its containers answer, and the slots that were drained
    here take jobs again; those that somebody else drained stay so. Hosts that serve go one at a time,
    whatever --forks says, others as they come; after one that does not come back, or not whole, no other is
    rebooted. A run that was interrupted is gone on with by the next one. `fleet reboot` does the same from
    the command line: docs/reboot.md.

    What asks for a reboot: a line in /run/fleet/reboot-required, which other modules write, and the system
    itself (Debian's /var/run/reboot-required, on RHEL `needs-restarting -r`).

    Arguments:
        force: reboot in any case, in each run (false).
        system: heed what the system's own packages ask for, besides fleet's modules (true).
        deadline: seconds to wait for the jobs in flight (900).
        cut: at the deadline end the jobs that are left; else the host is not rebooted (false).
        timeout: seconds for the host to come back, and again for its containers to answer (900).
        allow_down: reboot even the only host that takes jobs; the service is down meanwhile (false).

    Example:
        - name: Reboot where the driver needs it
          reboot:
            system: false
    """

    name: ClassVar[str] = "reboot"
    args: ClassVar[type[Args]] = RebootArgs
    verifies: ClassVar[bool] = False
    """The operation itself holds the host to its word; with `force` there is always something to do."""

    def probes(self, args: RebootArgs, ctx: Context) -> Sequence[Probe]:
        """Why a reboot is due, and whether one has not ended."""
        return (REBOOT_PROBE,)

    def plan(self, args: RebootArgs, facts: Facts, ctx: Context) -> Sequence[Change]:
        """The reboot, or what is left of one."""
        seen = parse_reboot(facts[REBOOT_PROBE.key], system=args.system)
        summary = what_is_due(seen, force=args.force)
        if not summary:
            return ()
        if "balancer" in ctx.host.groups:
            raise ctx.fail(
                f"{ctx.host.name} is a balancer, and only hosts behind balancers can be drained",
                remedy="reboot balancers by hand, one after the other; docs/two-balancers.md",
            )
        wish = {
            name: getattr(args, name)
            for name in ("force", "system", "deadline", "cut", "timeout", "allow_down")
        }
        return (Change(summary, steps=(Operation(OPERATION, wish),)),)


def what_is_due(seen: RebootSeen, *, force: bool) -> str:
    """In a line: the reboot and why, or what is left of one that was begun; empty where nothing is."""
    if seen.begun is not None:
        by = f", begun by {seen.begun.by}" if seen.begun.by else ""
        left = "it has rebooted, its slots are not back" if seen.is_back else "it has not rebooted yet"
        return f"go on with the reboot{by}: {left}"
    if seen.reasons:
        return f"reboot ({'; '.join(seen.reasons)})"
    return "reboot (asked for)" if force else ""
