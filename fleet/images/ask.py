"""Asking a registry from a host, with the host's curl: its network, its name service, its certificates.

Nothing is installed for it and nothing of it stays: what is secret goes through curl's standard input.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import msgspec

from fleet.docker.failures import engine_error
from fleet.docker.probe import SOCKET
from fleet.docker.pulling import RegistryLogin
from fleet.docker.references import repository
from fleet.errors import StepError, TaskError
from fleet.images.manifest import ACCEPT, Index, Manifest, parse_diff_ids, parse_manifest
from fleet.images.source import Source, basic, parse_challenge
from fleet.model.decode import from_json
from fleet.model.secret import Secret
from fleet.ssh.remote import Remote

_SECONDS = 60.0

TRUST = f"""\
set -f
d=$(mktemp -d -p /run fleet.XXXXXX 2>/dev/null || mktemp -d) || exit 90
trap 'rm -rf "$d"' EXIT
trap 'exit 129' HUP INT TERM
how="-q -g --connect-timeout 30"
certs="/etc/docker/certs.d/$registry"
if [ -n "${{FLEET_CA:-}}" ]; then
  printf '%s\\n' "$FLEET_CA" >"$d/ca"
  how="$how --cacert $d/ca --noproxy *"
else
  if [ -d "$certs" ] && [ -n "$(find "$certs" -name '*.crt')" ]; then
    {{ cat /etc/ssl/certs/ca-certificates.crt || cat /etc/pki/tls/certs/ca-bundle.crt; }} >"$d/ca" 2>/dev/null
    find "$certs" -name '*.crt' -exec cat {{}} + >>"$d/ca"
    how="$how --cacert $d/ca"
  fi
  own=
  [ ! -d "$certs" ] || own=$(find "$certs" -name '*.cert' | sort | head -n 1)
  case $own in ?*) how="$how --cert $own --key ${{own%.cert}}.key" ;; esac
  info=
  [ ! -S {SOCKET} ] || info=$(curl -q -s -g --max-time 10 --unix-socket {SOCKET} http://d/info)
  said() {{ printf '%s' "$info" | sed -n "s/.*\\"$1\\":\\"\\([^\\"]*\\)\\".*/\\1/p"; }}
  proxy=
  case $info in *'"HttpsProxy":"'?*) proxy=$(said HttpsProxy) ;; esac
  case $proxy in *xxxxx*|'') ;; *) export https_proxy="$proxy" no_proxy="$(said NoProxy)" ;; esac
fi
"""
"""The start of a sh script that runs curl with `$how` as the engine would: its certificates, its proxy.

`registry` names the registry; $FLEET_CA, where it is set, are the only certificates that count. The engine
hides a password in its proxy's address; such a proxy must be in the host's own environment.
"""

_GET = f"""\
registry=$1
{TRUST}
how="$how -sS -L --max-time {_SECONDS:.0f} -K -"
code=$(curl $how -D "$d/head" -o "$d/body" -w '%{{http_code}}') || exit $?
printf '%s\\n' "$code"
[ "$code" != 401 ] || tr -d '\\r' <"$d/head" | grep -i '^www-authenticate:' | head -n 4
printf '\\n'
[ ! -e "$d/body" ] || cat "$d/body"
"""


@dataclass(frozen=True)
class Reply:
    """A registry's answer: the status, what it says of logins, and the body."""

    status: int
    challenge: str
    body: bytes


class HostRegistry:
    """A registry as one host reaches it."""

    def __init__(self, remote: Remote, source: Source, login: RegistryLogin | None) -> None:
        self._remote = remote
        self._login = login
        self.source = source

    def authorization(self) -> Secret | None:
        """The Authorization header's value for reading the repository; None where none is wanted.

        A token that a registry gives lasts some minutes. Raises StepError where the login is refused.
        """
        first = self._get(self.source.root)
        if first.status != 401:
            return None
        challenge = parse_challenge(first.challenge, self.source)
        own = basic(self._login.username, self._login.password) if self._login else None
        if challenge.scheme == "basic":
            if own is None:
                raise self._refused("the registry wants a login, and there is none")
            return own
        reply = self._get(challenge.token_url(self.source.path), own)
        try:
            said = from_json(reply.body, _Token)
        except msgspec.MsgspecError:
            said = _Token()
        token = said.token or said.access_token
        if reply.status != 200 or not token:
            raise self._refused(f"{reply.status}: {_words(reply)}")
        return Secret(f"Bearer {token}")

    def manifest(self, architecture: str, authorization: Secret | None) -> tuple[str, Manifest]:
        """The digest that the source's name stands for, and the image for an architecture.

        Raises StepError where the registry has it not, TaskError where it is not for this architecture.
        """
        wanted = self.source.what if self.source.what.startswith("sha256:") else ""
        found = self._manifest(self.source.what, wanted, authorization)
        top = found.digest
        if isinstance(found, Index):
            chosen = found.of(architecture)
            if chosen is None:
                there = ", ".join(name for name, _ in found.manifests) or "nothing"
                raise TaskError(
                    f"{self._remote.name}: the image is not for {architecture}, only for {there}",
                    remedy="have the image built for this architecture, or name another",
                )
            found = self._manifest(chosen, chosen, authorization)
        if isinstance(found, Index):
            raise TaskError(f"{self._remote.name}: the registry has an index within an index")
        return top, found

    def diff_ids(self, manifest: Manifest, authorization: Secret | None) -> tuple[str, ...]:
        """The digests of the image's unpacked layers."""
        reply = self._get(self.source.blob(manifest.config.digest), authorization)
        self._check(reply, "the image's configuration")
        return parse_diff_ids(reply.body, f"{self._remote.name}: {self.source.path}")

    def _manifest(self, what: str, wanted: str, authorization: Secret | None) -> Manifest | Index:
        reply = self._get(self.source.manifest(what), authorization)
        self._check(reply, what)
        return parse_manifest(reply.body, f"{self._remote.name}: {self.source.path}", wanted)

    def _get(self, url: str, authorization: Secret | None = None) -> Reply:
        lines = [f"url = {quoted(url)}", f"header = {quoted(f'Accept: {ACCEPT}')}"]
        config = config_of(lines, authorization)
        result = self._remote.run(
            ("sh", "-c", _GET, "fleet-registry", self.source.registry), stdin=config, timeout=_SECONDS + 30
        )
        if result.rc != 0:
            raise engine_error(
                result.err.decode("utf-8", "replace").strip() or f"curl ended with {result.rc}",
                f"{self._remote.name}: cannot ask the registry {self.source.registry}",
            )
        return parse_reply(result.out)

    def _check(self, reply: Reply, what: str) -> None:
        if reply.status in (401, 403):
            raise self._refused(f"{reply.status}: {_words(reply)}")
        if reply.status != 200:
            raise engine_error(
                f"manifest unknown: {_words(reply)}" if reply.status == 404 else _words(reply),
                f"{self._remote.name}: the registry {self.source.registry} answers {reply.status} for "
                f"{self.source.path} {what}",
            )

    def _refused(self, said: str) -> StepError:
        return engine_error(
            f"unauthorized: {said}",
            f"{self._remote.name}: the registry {self.source.registry} refuses access",
        )


def config_of(lines: list[str], authorization: Secret | None) -> bytes:
    """What curl reads on standard input."""
    secret = [f"header = {quoted(f'Authorization: {authorization.reveal()}')}"] if authorization else []
    return "".join(f"{line}\n" for line in (*lines, *secret)).encode()


def quoted(text: str) -> str:
    """A value in curl's configuration."""
    if re.search(r"[\x00-\x1f]", text):
        raise ValueError("a control character in an address or a login")
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def parse_reply(out: bytes) -> Reply:
    """The answer in what the script prints: the status, WWW-Authenticate headers, an empty line, the body."""
    head, _, body = out.partition(b"\n\n")
    status, *headers = head.decode("utf-8", "replace").splitlines()
    challenges = [line.partition(":")[2].strip() for line in headers]
    # A registry may offer several; a token is the better one.
    challenges.sort(key=lambda each: not each.lower().startswith("bearer"))
    return Reply(int(status) if status.isdigit() else 0, challenges[0] if challenges else "", body)


def label(reference: str, digest: str) -> str:
    """An image for people: its repository's name and the beginning of the digest."""
    return f"{repository(reference).rpartition('/')[2]}@{digest.removeprefix('sha256:')[:12]}"


class _Token(msgspec.Struct):
    token: str = ""
    access_token: str = ""


class _Problem(msgspec.Struct):
    code: str = ""
    message: str = ""


class _Problems(msgspec.Struct):
    errors: list[_Problem] = []
    details: str = ""


def _words(reply: Reply) -> str:
    try:
        said = from_json(reply.body, _Problems)
    except msgspec.MsgspecError:
        return reply.body[:200].decode("utf-8", "replace").strip()
    return "; ".join(f"{each.code} {each.message}".strip() for each in said.errors) or said.details
