"""Steering running balancers: drain, ready, weight. One open connection per balancer, all told at once."""

from fleet.control.balancers import Balancers, open_balancers
from fleet.control.drain import Wait, drain
from fleet.control.model import Drained, Told
from fleet.control.targets import select_slots
from fleet.control.tell import ready, show, weight

__all__ = [
    "Balancers",
    "Drained",
    "Told",
    "Wait",
    "drain",
    "open_balancers",
    "ready",
    "select_slots",
    "show",
    "weight",
]
