"""What the engine and registries complain about, and what a person can do about it."""

from __future__ import annotations

import re

from fleet.errors import StepError

_REMEDIES: tuple[tuple[str, str], ...] = (
    (
        r"no space left",
        "free disk space there: `docker image prune`, or a larger /var/lib/docker",
    ),
    (
        r"x509|certificate|tls: ",
        "give the host the registry's CA: /etc/docker/certs.d/REGISTRY/ca.crt (no restart needed)",
    ),
    (
        r"no such host|server misbehaving|temporary failure in name resolution|could not resolve host",
        "the host cannot resolve the registry's name: mend its DNS or /etc/hosts",
    ),
    (
        r"unauthorized|authentication required|no basic auth|denied|forbidden|incorrect username",
        "check registry_username and the registry password, and that the account may pull this repository",
    ),
    (
        r"server gave http response to https",
        "the registry speaks plain HTTP: give it TLS, or list it in insecure-registries on the host",
    ),
    (
        r"manifest unknown|manifest for .* not found|not found: manifest|repository .*not found|name unknown",
        "check the image's name and tag; the registry does not have it",
    ),
    (
        r"no matching manifest|does not match the specified platform",
        "the image was not built for this host's architecture",
    ),
    (
        r"no such image",
        "the image is not on the host: pull it first",
    ),
    (
        r"unresolvable cdi|cdi device injection|could not select device driver|unknown or invalid runtime",
        "the container toolkit is not set up there: run `fleet provision`, or `nvidia-ctk cdi generate`",
    ),
    (
        r"port is already allocated|address already in use",
        "another process has the port: stop it, or change slot_port_base",
    ),
    (
        r"is already in use by container",
        "a container of that name exists already: remove it, or run again",
    ),
    (
        r"unable to find (user|group)|no matching entries in (passwd|group)",
        "name a user that the image knows, or a uid:gid such as 1000:1000",
    ),
    (
        r"invalid tmpfs|tmpfs mount",
        "mend tmpfs: a folder and mount options, such as /cache:exec,size=4g",
    ),
    (
        r"toomanyrequests|rate limit",
        "the registry limits anonymous pulls: give it a login, or use a mirror",
    ),
    (
        r"connection refused|i/o timeout|deadline exceeded|no route to host|connection reset|timed? ?out"
        r"|could ?n.t connect|failed to connect|could not connect",
        "the host cannot reach it: check that it runs, and the network, proxy and firewall between them",
    ),
)


_REFUSED = "the engine refuses this: change what it names in the inventory or the playbook"
_FAILED = "look at `journalctl -u docker` on the host"


def engine_error(error: BaseException | str, doing: str, *, hide: tuple[str, ...] = ()) -> StepError:
    """A StepError for what the engine said while `doing` something; `hide` are texts it must not show."""
    said = _words(error)
    for secret in hide:
        if secret:
            said = said.replace(secret, "***")
    remedy = next((text for pattern, text in _REMEDIES if re.search(pattern, said.lower())), "")
    # With 400 the engine refuses what it was asked for; its log would say no more.
    usual = _REFUSED if getattr(error, "status_code", None) == 400 else _FAILED
    return StepError(doing, output=said, remedy=remedy or usual)


def is_refused_login(error: BaseException) -> bool:
    """True where a registry wants other credentials, or none of ours."""
    status = getattr(error, "status_code", None)
    said = _words(error).lower()
    return status in (401, 403) or "unauthorized" in said or "denied" in said


def _words(error: BaseException | str) -> str:
    if isinstance(error, str):
        return error.strip()
    explanation = getattr(error, "explanation", None)
    if isinstance(explanation, bytes):
        return explanation.decode("utf-8", "replace").strip()
    return str(explanation or error).strip()
