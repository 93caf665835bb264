"""`fleet status`: one look at every host, summed up as hosts, slots and balancers."""

from fleet.status.model import Status
from fleet.status.probe import probes
from fleet.status.summary import summarise

__all__ = ["Status", "probes", "summarise"]
