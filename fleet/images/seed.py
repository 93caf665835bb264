"""One host of a site that hands an image's blobs to the site's others, for as long as that takes.

It runs Debian's `docker-registry`, read-only, with a certificate and a password made for this one run. The
real registry's login never comes to it, and it ends by itself where nobody is left to end it.
"""

from __future__ import annotations

import datetime
import ipaddress
import json
import secrets
from collections.abc import Iterable
from dataclasses import dataclass

from fleet.docker.pulling import RegistryLogin
from fleet.docker.sites import PORT
from fleet.errors import TaskError
from fleet.images.manifest import Blob
from fleet.images.source import Source
from fleet.model.secret import Secret
from fleet.ssh.remote import Remote

UNIT = "fleet-image-seed"
_FOLDER = f"/run/{UNIT}"
_USER = "fleet"
_NAME = "fleet/image"
LONGEST = 12 * 3600
"""Seconds after which a seed ends by itself."""

_START = f"""\
command -v docker-registry >/dev/null || {{ echo 'docker-registry is not installed there' >&2; exit 127; }}
store=$1 port=$2
shift 2
cd "$store" || exit 91
umask 077
rm -rf registry
blobs=registry/docker/registry/v2/blobs/sha256
links=registry/docker/registry/v2/repositories/{_NAME}/_layers/sha256
for hex; do
  folder=$blobs/$(printf %.2s "$hex")/$hex
  mkdir -p "$folder" "$links/$hex" && ln "blobs/sha256/$hex" "$folder/data" || exit 92
  printf 'sha256:%s' "$hex" >"$links/$hex/link"
done
systemd-run --quiet --collect --unit={UNIT} -p RuntimeMaxSec={LONGEST} -p NoNewPrivileges=yes \\
  -p ExecStopPost='/bin/rm -rf {_FOLDER}' \\
  "$(command -v docker-registry)" serve {_FOLDER}/config.yml || exit $?
own() {{
  curl -q -s -k --noproxy '*' --max-time 2 -o /dev/null -w '%{{http_code}}' "https://127.0.0.1:$port/v2/"
}}
tries=0
until [ "$(own)" = 401 ]; do
  tries=$(( tries + 1 ))
  if [ $tries -gt 100 ] || ! systemctl -q is-active {UNIT}.service; then
    journalctl -u {UNIT}.service -n 20 -o cat >&2
    systemctl stop {UNIT}.service 2>/dev/null
    exit 93
  fi
  sleep 0.2
done
"""
_STOP = f"""\
systemctl stop {UNIT}.service 2>/dev/null
rm -rf {_FOLDER} "$1/registry"
"""


@dataclass(frozen=True)
class Seed:
    """A seed that serves: where, the one certificate to trust, and the login."""

    host: str
    address: str
    port: int
    ca: str
    login: RegistryLogin

    @property
    def source(self) -> Source:
        """It, as a registry."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        return Source(f"{host}:{self.port}", _NAME, "")


def start(remote: Remote, store: str, blobs: Iterable[Blob], address: str, port: int = PORT) -> Seed:
    """Serve these blobs of the host's store at an address of the host's. Raises TaskError where it cannot."""
    # One that an earlier run left would take the new one's files with it when it ends.
    stop(remote, store)
    password = secrets.token_urlsafe(24)
    certificate, key = _certificate(address)
    for name, content in (
        ("config.yml", _config(store, port)),
        ("password", f"{_USER}:{_bcrypt(password)}\n"),
        ("server.crt", certificate),
        ("server.key", key),
    ):
        remote.upload(f"{_FOLDER}/{name}", content.encode(), mode="0600", owner="root", group="root")
    hexes = dict.fromkeys(blob.hex for blob in blobs)
    result = remote.run(("sh", "-c", _START, "fleet-seed", store, str(port), *hexes), timeout=120)
    if result.rc != 0:
        stop(remote, store)
        raise TaskError(
            f"{remote.name}: it cannot seed its site",
            output=result.err.decode("utf-8", "replace").strip(),
            remedy="`fleet provision` installs docker-registry where `image_seed` is true; see whether port "
            f"{port} is free; --no-seed has every host ask the registry",
        )
    return Seed(remote.name, address, port, certificate, RegistryLogin(_USER, Secret(password)))


def stop(remote: Remote, store: str) -> None:
    """End it, and remove all that it was made of."""
    remote.run(("sh", "-c", _STOP, "fleet-seed", store), timeout=60)


def _config(store: str, port: int) -> str:
    """JSON is YAML, too."""
    return json.dumps(
        {
            "version": 0.1,
            "log": {"level": "warn", "accesslog": {"disabled": True}},
            "storage": {
                "filesystem": {"rootdirectory": f"{store}/registry"},
                "maintenance": {"uploadpurging": {"enabled": False}, "readonly": {"enabled": True}},
            },
            "http": {
                "addr": f":{port}",
                "tls": {"certificate": f"{_FOLDER}/server.crt", "key": f"{_FOLDER}/server.key"},
            },
            "auth": {"htpasswd": {"realm": "fleet", "path": f"{_FOLDER}/password"}},
        }
    )


def _bcrypt(password: str) -> str:
    import bcrypt

    # The password is random and lasts for one run: more rounds would only slow down each request.
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()


def _certificate(address: str) -> tuple[str, str]:
    """A certificate for an address or name, signed by itself, and its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, UNIT)])
    try:
        known: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(address))
    except ValueError:
        known = x509.DNSName(address)
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # Hosts' clocks differ.
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .add_extension(x509.SubjectAlternativeName([known]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return made.public_bytes(serialization.Encoding.PEM).decode(), private.decode()
