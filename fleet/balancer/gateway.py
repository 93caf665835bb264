"""The gateway's settings: TLS, API keys, limits. Off unless the inventory asks for it."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Literal

import msgspec

from fleet.balancer.paths import CERTIFICATE_FILE, KEYS_FILE

_RATE = re.compile(r"\s*([0-9]{1,9})\s*/\s*(second|minute|hour)\s*")
# Python reads more: what follows a % may be anything, and HAProxy reads the mask /0.0.0.255 otherwise.
_NETWORK = re.compile(r"[0-9A-Fa-f.:]+(/[0-9]{1,3})?")
_PERIODS = {"second": 1, "minute": 60, "hour": 3600}


class Rate(msgspec.Struct, frozen=True):
    """So many in a period of so many seconds, as `120/minute` says it."""

    limit: int
    period: int

    @classmethod
    def parse(cls, text: str) -> Rate:
        """The rate that a text such as `120/minute` means; ValueError where it means none."""
        found = _RATE.fullmatch(text)
        if not found or int(found[1]) < 1:
            raise ValueError(f"{text!r} is not a rate; write it as 20/second, 120/minute or 5000/hour")
        return cls(int(found[1]), _PERIODS[found[2]])

    @property
    def retry_after(self) -> int:
        """Seconds after which one more is let through, where many wait; at least 1."""
        return max(1, -(-self.period // self.limit))

    def __str__(self) -> str:
        word = next(word for word, seconds in _PERIODS.items() if seconds == self.period)
        return f"{self.limit}/{word}"


@dataclass(frozen=True)
class JobLimit:
    """How many jobs one key or one address may have: at once, and in a period. `counter` is HAProxy's."""

    who: Literal["address", "key"]
    counter: int
    type: str
    at_once: int | None
    rate: Rate | None

    @property
    def table(self) -> str:
        """The table that counts them."""
        return f"gateway_{self.who}_jobs"

    @property
    def words(self) -> str:
        """How a refusal names the owner."""
        return f"{'with' if self.who == 'key' else 'from'} this {self.who}"


class Gateway(msgspec.Struct, frozen=True, kw_only=True):
    """What stands between the users and the balancer.

    `bind` is where TLS is spoken (None: plain HTTP on the balancer's own port); `certificate` is the file on
    the balancer with certificate and key, `certificate_hash` the first 16 hex digits of its SHA-256, so
    that another certificate is another configuration. Rates and counts of None set no limit. `hsts` is in
    seconds, `max_header` in bytes.
    """

    bind: str | None = None
    certificate: str = CERTIFICATE_FILE
    certificate_hash: str = ""
    keys: bool = False
    keys_file: str = KEYS_FILE
    key_jobs: Rate | None = None
    key_jobs_at_once: int | None = None
    address_jobs: Rate | None = None
    address_jobs_at_once: int | None = None
    address_requests: Rate | None = None
    address_connections: int | None = None
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    max_header: int = 16 * 2**10
    hsts: int = 180 * 86400
    frames: Literal["same-origin", "any"] = "same-origin"

    @property
    def job_limits(self) -> tuple[JobLimit, ...]:
        """The limits on jobs, each with a table of its own."""
        address = JobLimit("address", 2, "ipv6", self.address_jobs_at_once, self.address_jobs)
        key = JobLimit("key", 1, "string len 64", self.key_jobs_at_once, self.key_jobs)
        return tuple(limit for limit in (address, key) if limit.at_once or limit.rate)

    def __post_init__(self) -> None:
        for what, networks in (("allow", self.allow), ("deny", self.deny)):
            for network in networks:
                check_network(network, what)
        for what, value, low, high in (
            ("key_jobs_at_once", self.key_jobs_at_once, 1, 10**6),
            ("address_jobs_at_once", self.address_jobs_at_once, 1, 10**6),
            ("address_connections", self.address_connections, 1, 10**6),
            ("max_header", self.max_header, 1024, 64 * 2**10),
            ("hsts", self.hsts, 0, 10**9),
        ):
            if value is not None and not low <= value <= high:
                raise ValueError(f"gateway: {what} is {value}; it must be from {low} to {high}")
        if not self.keys and (self.key_jobs or self.key_jobs_at_once):
            raise ValueError("gateway: limits for keys need `keys: true`")
        if self.certificate_hash and not re.fullmatch("[0-9a-f]{16}", self.certificate_hash):
            raise ValueError(f"gateway: certificate_hash is {self.certificate_hash!r}")


def check_network(text: str, what: str) -> None:
    """Raise ValueError unless `text` is an address or a network such as 10.0.0.0/8."""
    if not _NETWORK.fullmatch(text):
        raise ValueError(f"gateway: {what}: {text!r} is no address and no network such as 10.0.0.0/8")
    try:
        ipaddress.ip_network(text)
    except ValueError as error:
        raise ValueError(f"gateway: {what}: {error}") from error
