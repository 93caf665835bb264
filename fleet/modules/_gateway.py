"""The gateway as the module `haproxy` takes it: arguments, and the certificate it needs on the balancer."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Literal

import msgspec

from fleet.balancer.gateway import Gateway, Rate
from fleet.balancer.paths import CERTIFICATE_FILE
from fleet.modules._files import Wanted, find_source, read_source
from fleet.modules.base import Context


class GatewayArgs(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What `gateway:` may hold; docs/gateway.md says what each means."""

    certificate: str | None = None
    certificate_key: str | None = None
    https_port: int = 443
    plain_http: bool = False
    keys: bool = False
    key_jobs: str | None = None
    key_jobs_at_once: int | None = None
    address_jobs: str | None = None
    address_jobs_at_once: int | None = None
    address_requests: str | None = None
    address_connections: int | None = None
    allow: list[str] = msgspec.field(default_factory=list)
    deny: list[str] = msgspec.field(default_factory=list)
    max_header: int = 16 * 2**10
    hsts: int = 180 * 86400
    frames: Literal["same-origin", "any"] = "same-origin"

    def __post_init__(self) -> None:
        if self.certificate is None and self.certificate_key is not None:
            raise ValueError("`gateway` has a `certificate_key` but no `certificate`")
        if self.certificate is None and self.keys and not self.plain_http:
            raise ValueError(
                "`gateway`: keys would travel in clear text; give a `certificate`, or say "
                "`plain_http: true` where something in front speaks TLS"
            )
        if not 1 <= self.https_port <= 65535:
            raise ValueError(f"`gateway`: https_port is {self.https_port}, not a port")
        self.gateway("*", "")

    def gateway(self, address: str, certificate_hash: str) -> Gateway:
        """The settings these arguments mean, on this address; ValueError where one cannot be meant."""
        return Gateway(
            bind=f"{address}:{self.https_port}" if self.certificate else None,
            certificate_hash=certificate_hash,
            keys=self.keys,
            key_jobs=_rate(self.key_jobs, "key_jobs"),
            key_jobs_at_once=self.key_jobs_at_once,
            address_jobs=_rate(self.address_jobs, "address_jobs"),
            address_jobs_at_once=self.address_jobs_at_once,
            address_requests=_rate(self.address_requests, "address_requests"),
            address_connections=self.address_connections,
            allow=tuple(self.allow),
            deny=tuple(self.deny),
            max_header=self.max_header,
            hsts=self.hsts,
            frames=self.frames,
        )


def _rate(text: str | None, name: str) -> Rate | None:
    if text is None:
        return None
    try:
        return Rate.parse(text)
    except ValueError as error:
        raise ValueError(f"`gateway`: {name}: {error}") from error


def certificate(args: GatewayArgs, ctx: Context) -> Wanted | None:
    """The file with certificate, chain and key as HAProxy wants it; None where TLS is not spoken.

    Raises TaskError where a file is missing, the key is not the certificate's, or the certificate is over.
    """
    if args.certificate is None:
        return None
    parts = [read_source(find_source(args.certificate, "files", ctx), ctx)]
    if args.certificate_key is not None:
        parts.append(read_source(find_source(args.certificate_key, "files", ctx), ctx))
    content = b"".join(part.rstrip(b"\n") + b"\n" for part in parts)
    _check(content, args, ctx)
    return Wanted(CERTIFICATE_FILE, content, "0600", "root", "root", secret=True)


def hash_of(wanted: Wanted | None) -> str:
    """The certificate's mark in the configuration."""
    return hashlib.sha256(wanted.content).hexdigest()[:16] if wanted else ""


def _check(content: bytes, args: GatewayArgs, ctx: Context) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

    try:
        leaf = x509.load_pem_x509_certificates(content)[0]
    except ValueError as error:
        raise ctx.fail(
            f"{args.certificate} holds no certificate in PEM form",
            output=str(error),
            remedy="give the server's certificate, followed by those between it and the authority",
        ) from error
    begin = content.find(b"-----BEGIN", _key_at(content))
    try:
        key = load_pem_private_key(content[begin:], None) if _key_at(content) >= 0 else None
    except (TypeError, ValueError) as error:
        raise ctx.fail(
            f"the key of {args.certificate} cannot be read: {error}",
            remedy="give it in PEM form without a passphrase; HAProxy could not ask for one",
        ) from error
    if key is None:
        raise ctx.fail(
            f"{args.certificate} comes without its key", remedy="name the key's file in `certificate_key`"
        )
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if key.public_key().public_bytes(*form) != leaf.public_key().public_bytes(*form):
        raise ctx.fail(
            f"the key in {args.certificate_key or args.certificate} is not the certificate's",
            remedy="check that the two belong together; the server's own certificate must come first",
        )
    if leaf.not_valid_after_utc < datetime.now(UTC):
        raise ctx.fail(
            f"the certificate {args.certificate} was valid until {leaf.not_valid_after_utc:%Y-%m-%d}",
            remedy="renew it",
        )


def _key_at(content: bytes) -> int:
    """Where the private key's block begins; -1 without one."""
    for kind in (b"", b"RSA ", b"EC ", b"ENCRYPTED "):
        if (at := content.find(b"-----BEGIN " + kind + b"PRIVATE KEY-----")) >= 0:
            return at
    return -1
