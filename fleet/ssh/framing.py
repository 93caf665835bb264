"""The remote command line and what is sent to its standard input.

Every command line is the same short, secret-free text: sudo and timeout where wanted, then a shell that
first prints a marker, then reads its real orders from standard input:

    PASSWORD          only where sudo may ask; sudo takes this line, or else the shell throws it away
    MARKER
    the orders        a line or more of sh, which end up in no process list
    MARKER
    the orders' own standard input

The marker printed at the start tells three things apart that look alike otherwise: what a login shell's
rc file prints, what sudo prints instead of running us, and the command's own output.
"""

from __future__ import annotations

import math
import re
import secrets
import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from fleet.model.secret import Secret

GRACE = 5
"""Seconds between the remote `timeout`'s TERM and its KILL."""

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# One line without single quotes, exclamation marks and backslashes (but \\n, which printf reads): it passes
# through sh, bash, zsh, fish and csh unharmed. `read` takes byte by byte, so what follows is left alone.
_BOOT = (
    'printf "%s\\n" "$0"; PATH=' + _PATH + " LC_ALL=C; export PATH LC_ALL; c=; "
    'for i in 1 2; do while :; do IFS= read -r l || exit 70; case $l in "$0") break;; esac; '
    'case $i in 2) c="$c$l${IFS#??}";; esac; done; done; unset l i; eval "$c"'
)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Frame:
    """One exchange: the command line, the marker it prints, and what it is sent before and after that.

    `prompt` is what sudo prints to stderr when it asks for the password.
    """

    command: str
    marker: bytes
    before: bytes
    after: bytes
    prompt: bytes = b""


def frame(
    orders: str,
    stdin: bytes = b"",
    *,
    timeout: float | None = None,
    become: bool = True,
    password: Secret | None = None,
) -> Frame:
    """Frame some sh code and its standard input. `timeout` in seconds is enforced on the host."""
    nonce = secrets.token_hex(12)
    words = ["exec"]
    prompt = ""
    if become:
        prompt = f"fleet-{nonce}-password" if password else ""
        words += ["sudo", "-H", *(("-S", "-p", prompt) if password else ("-n",)), "--"]
    if timeout is not None:
        words += ["timeout", "-k", str(GRACE), str(math.ceil(timeout))]
    words += ["sh", "-c", f"'{_BOOT}'", nonce]
    body = b"%b\n%b\n%b\n" % (nonce.encode(), orders.encode(), nonce.encode()) + stdin
    first = f"{password.reveal()}\n".encode() if become and password else b""
    # With a password the rest waits for the marker: sudo asks three times, and would take it for guesses.
    before, after = (first, body) if first else (body, b"")
    return Frame(" ".join(words), f"{nonce}\n".encode(), before, after, prompt.encode())


def script_orders(text: str) -> tuple[str, bytes]:
    """Orders and standard input to run a script.

    The script is one compound command: a shell runs it only once it has read it to the end, so a
    connection that breaks half-way through leaves nothing half done, and no command in it can eat the rest.
    """
    return "exec sh -s", f"{{ :\n{text}\n}} </dev/null\n".encode()


def run_orders(argv: tuple[str, ...], env: Mapping[str, str] | None) -> str:
    """Orders that become one command; `env` is set for it without showing in a process list."""
    lines = []
    for name, value in (env or {}).items():
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name of an environment variable")
        lines.append(f"export {name}={shlex.quote(value)}")
    return "\n".join([*lines, f"exec {shlex.join(argv)}"])


def upload_orders(path: str, size: int, *, mode: str, owner: str, group: str) -> str:
    """Orders that write standard input to a file, whole or not at all.

    The size is compared before the rename: a connection that breaks looks like the end of the content.
    """
    target, folder = shlex.quote(path), shlex.quote(path.rpartition("/")[0] or "/")
    who, bits = shlex.quote(f"{owner}:{group}"), shlex.quote(mode)
    return f"""\
umask 022
[ -d {folder} ] || mkdir -p -- {folder} || exit 1
umask 077
t=$(mktemp -- {folder}/.fleet.XXXXXX) || exit 1
trap 'rm -f -- "$t"' EXIT
trap 'exit 1' HUP INT TERM
cat >"$t" || exit 1
[ "$(wc -c <"$t")" -eq {size} ] || {{ echo 'the content did not arrive whole' >&2; exit 1; }}
chown -- {who} "$t" && chmod -- {bits} "$t" && mv -fT -- "$t" {target}"""
