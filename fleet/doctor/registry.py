"""The image's registry as the host reaches it: its name, its port, its certificate, the login, the image."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from fleet.docker.probe import unless_image_there
from fleet.docker.references import find_image
from fleet.doctor.model import Check, Verdict, bad, skipped, well
from fleet.doctor.patient import ABSENT, Patient
from fleet.errors import FleetError, TaskError
from fleet.images.ask import TRUST, quoted
from fleet.images.manifest import ACCEPT, Manifest, parse_manifest
from fleet.images.source import Source, basic, source_of
from fleet.model.facts import Answer, Probe
from fleet.model.host import Host
from fleet.model.secret import Secret
from fleet.modules.base import Context
from fleet.modules.docker_image import DockerImageArgs, login_of

_HUB = "docker.io"
_MANIFEST = b"\nmanifest\n"
_PROVISION = "`fleet provision --limit {host}`"

# One start of curl for the registry, one for the login's token where it wants one, one or two for the image.
_ASK = f"""\
{TRUST}
command -v curl >/dev/null || exit 127
ask() {{ curl $how -sS --connect-timeout 5 --max-time 20 "$@" 2>"$d/err"; }}
tell() {{ printf '%s=%s\\n%s_code=%s\\n%s_said=%s\\n' "$1" "$2" "$1" "$3" "$1" "$(tr '\\n' ' ' <"$d/err")"; }}
address=${{root#*://}}; address=${{address%%/*}}; address=${{address%:*}}
case $address in *[!0-9.]*) timeout 10 getent ahosts "$address" >/dev/null || echo 'dns=no' ;; esac
code=$(ask -D "$d/head" -o "$d/body" -w '%{{http_code}}' "$root"); rc=$?
tell registry $rc "$code"
[ $rc -eq 0 ] || exit 0
challenge=$(tr -d '\\r' <"$d/head" | sed -n 's/^[Ww][Ww][Ww]-[Aa]uthenticate: *//p' | sort | head -n 1)
echo "challenge=$challenge"
header=$basic
case $code:$challenge in
  401:[Bb]earer*)
    part() {{ printf '%s' "$challenge" | sed -n "s/.*[ ,]$1=\\"\\([^\\"]*\\)\\".*/\\1/p"; }}
    realm=$(part realm)
    case $realm in https://* | "${{root%%://*}}"://*) ;; *) echo "token=1"; exit 0 ;; esac
    code=$(printf '%s\\n' "$basic" | ask -K - -G --data-urlencode "service=$(part service)" \\
      --data-urlencode "scope=repository:$path:pull" -o "$d/token" -w '%{{http_code}}' "$realm")
    tell token $? "$code"
    [ "$code" = 200 ] || exit 0
    token=$(tr -d '\\n' <"$d/token" | sed -n 's/.*"\\(access_\\)\\{{0,1\\}}token" *: *"\\([^"]*\\)".*/\\2/p')
    header="header = \\"Authorization: Bearer $token\\"" ;;
esac
image() {{
  printf '%s\\n' "$header" | ask -K - -L -H "Accept: $accept" -o "$d/manifest" -w '%{{http_code}}' \\
    "$base/manifests/$1"
}}
code=$(image "$what")
tell image $? "$code"
[ "$code" = 200 ] || exit 0
case $(uname -m) in x86_64) machine=amd64 ;; aarch64) machine=arm64 ;; *) machine=none ;; esac
one=$(tr -d ' \\n\\t' <"$d/manifest" | sed 's/}},{{/}}\\n{{/g' | grep '"platform":' |
  grep "\\"architecture\\":\\"$machine\\"" | grep -o '"digest":"sha256:[0-9a-f]*"' | head -n 1)
if [ -n "$one" ]; then
  one=${{one#*:'"'}}
  code=$(image "${{one%'"'}}")
fi
printf '\\nmanifest\\n'
cat "$d/manifest"
"""


@dataclass(frozen=True)
class Seen:
    """What a host saw of a registry: `said` is curl's own word where it failed.

    `login` and `image` are HTTP codes, 0 where it did not come to that; `why` is curl's word where one of
    the two got no answer, `asked` that the image was asked for. `size` is the image's in bytes, compressed;
    None where the registry did not tell.
    """

    curl: int
    said: str = ""
    code: int = 0
    challenge: str = ""
    dns: bool = True
    login: int = 0
    image: int = 0
    asked: bool = False
    why: str = ""
    size: int | None = None


def probes(host: Host, *, missing: bool = False) -> tuple[Probe, ...]:
    """The question for the host's image; none for a host without one.

    `missing` asks the registry only where the host's engine has not the image, and not one that counts each
    question as a pull (Docker Hub, from who does not log in).
    """
    source = source_for(host)
    if source is None:
        return ()
    login = _login(host)
    if missing and source.registry == _HUB and login is None:
        return ()
    values = {
        "registry": source.registry,
        "root": source.root,
        "base": source.base,
        "path": source.path,
        "what": source.what,
        "accept": ACCEPT,
        "basic": "" if not isinstance(login, Secret) else f"header = {quoted(_header(login))}",
    }
    lines = "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items())
    # A script is sent through standard input: what is secret in it is in no process list.
    first = unless_image_there(str(host.vars["image"])) if missing else ""
    return (Probe(f"doctor.registry:{source.registry}", first + lines + _ASK),)


def source_for(host: Host) -> Source | None:
    """Where the host's image comes from, by its variables."""
    image = str(host.vars.get("image") or "")
    try:
        return source_of(image) if image else None
    except (FleetError, ValueError):
        return None


def seen(patient: Patient) -> Seen | None:
    """What the host saw; None where it was not asked or has no curl."""
    source = source_for(patient.host)
    if source is None:
        return None
    return parse(patient.facts.get(f"doctor.registry:{source.registry}", ABSENT))


def parse(answer: Answer) -> Seen | None:
    """The probe's answer."""
    head, _, body = answer.out.partition(_MANIFEST)
    lines = head.decode("utf-8", "replace").splitlines()
    pairs = dict(line.partition("=")[::2] for line in lines if "=" in line)
    if "registry" not in pairs:
        return None

    def number(name: str) -> int:
        text = pairs.get(name, "")
        return int(text) if text.isdigit() else 0

    return Seen(
        number("registry"),
        pairs.get("registry_said", "").strip(),
        number("registry_code"),
        pairs.get("challenge", ""),
        pairs.get("dns") != "no",
        number("token_code"),
        number("image_code"),
        "image" in pairs,
        _curls(pairs.get("image_said", "") or pairs.get("token_said", "")),
        _size(body),
    )


def check_registry(patient: Patient) -> Verdict:
    """The registry reached, believed and logged in to, from the host."""
    source = source_for(patient.host)
    if source is None:
        return skipped("the inventory names no image for it")
    found = seen(patient)
    if found is None:
        return skipped("curl is not installed there yet")
    if find_image(patient.images or (), str(patient.host.vars["image"])) and not found.dns:
        return bad(_no_name(source), _DNS)
    if found.curl:
        return _failed(source, found)
    login = _login(patient.host)
    if isinstance(login, FleetError):
        return bad(f"the login for {source.registry} is missing here", login.remedy, login.message)
    return _answered(source, found, with_login=login is not None)


def _failed(source: Source, found: Seen) -> Verdict:
    """What curl's exit code means (`man curl`, EXIT CODES)."""
    said = _curls(found.said)
    name = source.registry
    if found.curl == 6 or not found.dns:
        return bad(_no_name(source), _DNS)
    if found.curl == 5:
        return bad("its proxy's name is not known there", "mend the proxy of the Docker Engine", said)
    if found.curl in (35, 51, 53, 54, 58, 59, 60, 66, 77, 80, 82, 83, 90, 91):
        remedy = (
            f"put the registry's CA into registry_ca in the inventory ({name}: FILE), then {_PROVISION}; "
            "where it is there: has the certificate ended, is the clock right?"
        )
        return bad(f"{name} is not trusted there (TLS)", remedy, said)
    if found.curl == 28:
        return bad(f"{name} does not answer there in time", _firewall(source), said)
    return bad(f"{name} cannot be reached there", _firewall(source), said)


def _answered(source: Source, found: Seen, *, with_login: bool) -> Verdict:
    name, account = source.registry, "check registry_username and the registry's password"
    if 429 in (found.code, found.login, found.image):
        return bad(f"{name} limits how often it is asked", "give it a login, or use a mirror", "HTTP 429")
    refused = next((code for code in (found.login, found.image) if code in (401, 403)), 0)
    if refused and not with_login:
        return bad(
            f"{name} wants a login, and the inventory has none",
            "set registry_username and registry_password_env (or _file) for {host}",
            f"HTTP {refused}",
        )
    if refused:
        return bad(f"{name} refuses the login", f"{account}; may it pull {source.path}?", f"HTTP {refused}")
    if found.image == 404:
        return bad(
            f"{name} has no {source.path}:{source.what}",
            "check `image` in the inventory against the registry",
            "HTTP 404",
        )
    if found.why:
        return bad(f"{name} cannot be asked for the image there", _firewall(source), found.why)
    strange = next((code for code in (found.code, found.login, found.image) if code not in (0, 200, 401)), 0)
    if strange or not found.asked or not found.image:
        return bad(
            f"{name} does not answer as a registry",
            f"look at `curl -i {source.root}` on {{host}}",
            f"HTTP {strange}" if strange else f"it asks for {found.challenge or 'nothing that is known'}",
        )
    return well(f"{name} reached" + (", logged in" if with_login else ""))


def _curls(said: str) -> str:
    return re.sub(r"^curl: \(\d+\) ", "", said.strip())


def _no_name(source: Source) -> str:
    return f"the name {source.registry.partition(':')[0]} is not known there (DNS)"


def _firewall(source: Source) -> str:
    shown = f"`curl -v {source.root}` there shows it"
    return f"let {{host}} out to {source.registry} (firewall, route, proxy); {shown}"


_DNS = "mend DNS there (`resolvectl status`, /etc/resolv.conf), or add the name to its /etc/hosts"


def _login(host: Host) -> Secret | FleetError | None:
    """The login's header value; None without one; the error where its password is not to be had here."""
    if not host.vars.get("registry_username"):
        return None
    folder = host.vars.get("inventory_dir")
    here = Path(str(folder)) if folder else Path.cwd()
    try:
        args = DockerImageArgs(
            name=str(host.vars.get("image") or "none"),
            username=str(host.vars["registry_username"]),
            password_env=str(host.vars.get("registry_password_env") or ""),
            password_file=str(host.vars.get("registry_password_file") or ""),
        )
        found = login_of(args, Context(host, search=(here, here.parent, Path.cwd())))
    except ValueError as error:
        return TaskError(str(error), remedy="set registry_password_env or registry_password_file")
    except FleetError as error:
        return error
    return basic(found["username"], found["password"]) if found else None


def _header(login: Secret) -> str:
    return f"Authorization: {login.reveal()}"


def _size(body: bytes) -> int | None:
    if not body:
        return None
    try:
        manifest = parse_manifest(body, "")
    except TaskError:
        return None
    return manifest.size if isinstance(manifest, Manifest) else None


CHECKS = (
    Check(
        "system",
        "registry",
        "a GPU that comes back, a new host or an upgrade needs the image from there",
        check_registry,
        probes,
    ),
)
