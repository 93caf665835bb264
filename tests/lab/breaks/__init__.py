"""How each thing that `fleet doctor` knows is broken on a lab host, and healed; in rounds of one look each."""

from __future__ import annotations

from tests.lab.breaks import balancers, containers, driver, service, system
from tests.lab.breaks.model import Break, Round

__all__ = ["ROUNDS", "Break", "Round"]

ROUNDS: tuple[Round, ...] = (
    *service.ROUNDS,
    *containers.ROUNDS,
    *system.ROUNDS,
    *driver.ROUNDS,
    *balancers.ROUNDS,
)
