"""Names, IDs and keys as users write them."""

from __future__ import annotations

import hashlib
import re
import secrets

from fleet.balancer.keys import NAME
from fleet.errors import InputError
from fleet.model.secret import Secret

PREFIX = "fleet_"
"""What every key begins with, so that people and scanners for leaked keys know one when they see it."""

_ID = re.compile(r"[0-9a-f]{8}")


def new_secret() -> Secret:
    """A key of 256 random bits, in characters that fit into headers, URLs and shells."""
    return Secret(PREFIX + secrets.token_urlsafe(32))


def fingerprint(secret: Secret) -> str:
    """The hex SHA-256 of a key: all that balancers know of it."""
    return hashlib.sha256(secret.reveal().encode()).hexdigest()


def check_name(name: str) -> None:
    """Raise InputError where a key cannot have this name."""
    _refuse_key(name)
    if _ID.fullmatch(name):
        raise InputError(f"{name} looks like a key's ID", remedy="choose a name that is not 8 hex digits")
    if not NAME.fullmatch(name) or not name[0].isalnum():
        raise InputError(
            f"{name!r} cannot be a key's name",
            remedy="use up to 64 letters, digits and _ . - and begin with a letter or digit",
        )


def check_who(who: str) -> None:
    """Raise InputError where this is neither a name nor an ID."""
    _refuse_key(who)
    if not NAME.fullmatch(who):
        raise InputError(f"{who!r} is no name and no ID of a key", remedy="`fleet key list` shows them")


def _refuse_key(text: str) -> None:
    if text.startswith(PREFIX) and len(text) > 40:
        found = hashlib.sha256(text.encode()).hexdigest()[:8]
        raise InputError(
            "this is a key itself, not a name or an ID",
            remedy=f"it now stands in your shell's history: revoke it by its ID, {found}",
        )
