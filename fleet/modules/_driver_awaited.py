"""What waits for the driver: the change that can only be planned once it answers."""

from __future__ import annotations

from fleet.gpu.probe import GPU_PROBE, driver_problem
from fleet.model.facts import Facts
from fleet.model.steps import Change
from fleet.modules._driver_seen import DRIVER_PROBE, see_driver
from fleet.modules._driver_settle import waits_for_reboot
from fleet.modules.base import Context


def once_the_driver_works(what: str, facts: Facts, ctx: Context) -> Change:
    """The change `what` of a host whose driver does not answer yet; `what` is in the imperative."""
    doctor = f"`fleet doctor --only driver --limit {ctx.host.name}`"
    return Change(
        f"{what}, once the NVIDIA driver works ({driver_problem(facts[GPU_PROBE.key])})",
        remedy=_WAITS.format(host=ctx.host.name) if _waits(facts) else f"{doctor} {_AILS}",
    )


def _waits(facts: Facts) -> bool:
    return DRIVER_PROBE.key in facts and waits_for_reboot(see_driver(facts))


_WAITS = "the driver waits for a reboot: `fleet reboot {host}`, then `fleet provision` again"
_AILS = (
    "tells what ails the driver and what to do; where the driver's task was left out of this run (--tags), "
    "run it first"
)
