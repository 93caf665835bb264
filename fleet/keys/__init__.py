"""Use case: the API keys of the gateway, which the balancers keep."""

from fleet.keys.balancers import Balancers, balancers_of
from fleet.keys.model import Added, KeyReport, Revoked
from fleet.keys.use import add_key, list_keys, revoke_keys
from fleet.keys.words import check_name, check_who

__all__ = [
    "Added",
    "Balancers",
    "KeyReport",
    "Revoked",
    "add_key",
    "balancers_of",
    "check_name",
    "check_who",
    "list_keys",
    "revoke_keys",
]
