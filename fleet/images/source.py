"""Where an image comes from: the registry's address, its paths, and how it wants to be asked. No I/O."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlencode, urlsplit

from fleet.docker.references import repository, tag
from fleet.errors import TaskError
from fleet.model.secret import Secret

_HUB = "registry-1.docker.io"
_PAIR = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True)
class Source:
    """An image in a registry. `registry` is as image names have it, `path` the repository under it.

    `what` is the digest or the tag that is asked for.
    """

    registry: str
    path: str
    what: str
    scheme: str = "https"

    @property
    def base(self) -> str:
        """The address of the repository in the registry's API."""
        host = _HUB if self.registry == "docker.io" else self.registry
        return f"{self.scheme}://{host}/v2/{self.path}"

    @property
    def root(self) -> str:
        """The address that says whether a login is wanted."""
        return self.base[: -len(self.path)]

    def manifest(self, what: str = "") -> str:
        """The address of a manifest, by digest or tag."""
        return f"{self.base}/manifests/{what or self.what}"

    def blob(self, digest: str) -> str:
        """The address of a blob."""
        return f"{self.base}/blobs/{digest}"


@dataclass(frozen=True)
class Challenge:
    """How a registry wants to be asked: the scheme (`basic` or `bearer`) and its parameters."""

    scheme: str
    parameters: Mapping[str, str]

    def token_url(self, path: str) -> str:
        """Where a token to read the repository is got."""
        asked = {"service": self.parameters.get("service", ""), "scope": f"repository:{path}:pull"}
        realm = self.parameters["realm"]
        return f"{realm}{'&' if '?' in realm else '?'}{urlencode({k: v for k, v in asked.items() if v})}"


def source_of(reference: str, digest: str = "") -> Source:
    """The source of an image's name; `digest` goes before the tag.

    As the engine does, plain HTTP is spoken only to a registry on the host's own loopback.
    """
    name = repository(reference)
    head, slash, rest = name.partition("/")
    if slash and ("." in head or ":" in head or head == "localhost"):
        registry, path = head, rest
    else:
        registry, path = "docker.io", name if slash else f"library/{name}"
    what = digest or reference.partition("@")[2] or tag(reference)
    host = registry.partition(":")[0]
    return Source(registry, path, what, "http" if host == "localhost" or host.startswith("127.") else "https")


def parse_challenge(header: str, source: Source) -> Challenge:
    """The challenge in a WWW-Authenticate header.

    Raises TaskError for one that fleet cannot answer, and for one that would send the login over plain HTTP.
    """
    scheme = header.partition(" ")[0].lower()
    parameters = dict(_PAIR.findall(header))
    realm = parameters.get("realm", "")
    if scheme == "basic":
        return Challenge(scheme, parameters)
    if scheme == "bearer" and urlsplit(realm).scheme in ("https", source.scheme):
        return Challenge(scheme, parameters)
    raise TaskError(
        f"the registry {source.registry} wants a login of a kind that fleet does not know",
        output=header[:200],
        remedy="`fleet image pull --engine` leaves it to the Docker Engine",
    )


def basic(username: str, password: Secret) -> Secret:
    """The Authorization header's value for a login."""
    text = f"{username}:{password.reveal()}".encode()
    return Secret(f"Basic {base64.b64encode(text).decode()}")
