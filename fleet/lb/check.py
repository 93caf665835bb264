"""A rendered configuration put to the balancer's own HAProxy, in a folder that is gone afterwards."""

from __future__ import annotations

import io
import re
import secrets
import tarfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from fleet.balancer.deploy import EMPTY_STATE
from fleet.balancer.features import newer_words, spelled
from fleet.balancer.paths import KEYS_FILE, STATE_FILE
from fleet.engine.hostrun import Opener
from fleet.engine.run import MAX_FORKS
from fleet.errors import FleetError, Place, TaskError
from fleet.lb.survey import Planned, Survey
from fleet.modules._files import find_source
from fleet.ssh.remote import Remote

_TIMEOUT = 60.0

# Files that hold what happens at run time, not what the configuration says: HAProxy would warn of servers
# that are down, or miss a file that the first key makes.
_STAND_INS = {STATE_FILE: EMPTY_STATE, KEYS_FILE: b""}

# The folder's name is known before, since the configuration names files in it.
_CHECK = """\
set -u
d=$1; shift
umask 077
mkdir "$d" || exit 90
trap 'rm -rf "$d"' EXIT
trap 'exit 91' HUP INT TERM
tar -x -C "$d" || exit 90
rc=0
for script in "$@"; do
  said=$(sh -n "$script" 2>&1) || { printf '[ALERT] script [%s] %s\\n' "$script" "$said"; rc=1; }
done
haproxy -c -f "$d/haproxy.cfg" 2>&1 || rc=1
exit $rc
"""


@dataclass(frozen=True)
class Message:
    """What HAProxy said. `level` is "error" or "warning"; `line` counts in `file`, `text` is that line.

    `template` is where the user wrote it, in the file on this machine, where that can be told.
    """

    level: str
    message: str
    file: str = ""
    line: int | None = None
    text: str = ""
    template: Place | None = None


@dataclass(frozen=True)
class Verdict:
    """HAProxy's answer about one balancer's configuration; `error` where it could not be asked."""

    host: str
    accepted: bool
    version: str | None = None
    hash: str | None = None
    lines: int = 0
    messages: tuple[Message, ...] = ()
    error: FleetError | None = None


def verdicts(seen: Survey, opener: Opener, *, forks: int = 0) -> tuple[Verdict, ...]:
    """Every balancer's verdict, in order, asked side by side; changes nothing on any host."""

    def one(planned: Planned) -> Verdict:
        if planned.error is not None:
            return Verdict(planned.host, False, planned.now.version, error=planned.error)
        try:
            remote, _ = opener(planned.host)
            try:
                return check(planned, remote)
            finally:
                remote.close()
        except FleetError as error:
            return Verdict(planned.host, False, planned.now.version, error=error)

    with ThreadPoolExecutor(max_workers=forks or max(1, min(len(seen.balancers), MAX_FORKS))) as pool:
        return tuple(pool.map(one, seen.balancers))


def check(planned: Planned, remote: Remote) -> Verdict:
    """Have HAProxy on the balancer validate what a push would bring, with the files beside it."""
    assert planned.rendered is not None
    if planned.now.version is None:
        return Verdict(
            planned.host,
            False,
            error=TaskError(
                "HAProxy is not installed, so nothing there can check its configuration",
                remedy="install it with `fleet lb push` or `fleet provision`: both check before they switch",
            ),
        )
    folder = f"/run/fleet-check.{secrets.token_hex(8)}"
    places = {f"{folder}/{number}{file.path}": file.path for number, file in enumerate(planned.uploads)}
    contents = dict(zip(places, (file.content for file in planned.uploads), strict=True))
    for number, (path, content) in enumerate(_STAND_INS.items()):
        places[f"{folder}/stand-in-{number}"] = path
        contents[f"{folder}/stand-in-{number}"] = content
    text = _moved(planned.rendered, places)
    files = {**contents, f"{folder}/haproxy.cfg": text.encode()}
    scripts = [there for there, content in contents.items() if content.startswith(b"#!/bin/sh")]
    argv = ("sh", "-c", _CHECK, "check", folder, *scripts)
    result = remote.run(argv, stdin=_packed(files, folder), timeout=_TIMEOUT)
    said = result.out.decode("utf-8", "replace")
    if result.rc not in (0, 1):
        error = TaskError(
            f"cannot check: the script ended with {result.rc}",
            output=(result.err.decode("utf-8", "replace") or said).strip(),
            remedy="check that /run on the host can be written to",
        )
        return Verdict(planned.host, False, planned.now.version, error=error)
    for there, path in {**places, f"{folder}/haproxy.cfg": planned.path}.items():
        said = said.replace(there, path)
    messages = tuple(_explained(message, planned) for message in parse_messages(said))
    if result.rc and not any(message.level == "error" for message in messages):
        messages = (*messages, Message("error", said.strip() or "refused without a word"))
    return Verdict(
        planned.host,
        result.rc == 0,
        planned.now.version,
        planned.hash,
        len(planned.rendered.splitlines()),
        messages,
    )


_START = re.compile(r"\[(NOTICE|WARNING|ALERT)\]\s+(?:\(\d+\) : )?(?:config : )?(?:parsing )?(.*)")
_AT = re.compile(r"(?:script )?\[(/[^\]]*?)(?::(\d+))?\] ?(?:: )?(.*)", re.DOTALL)
_SUMS = ("Error(s) found in configuration file", "Fatal errors found in configuration")


def parse_messages(said: str) -> tuple[Message, ...]:
    """HAProxy's warnings and errors, in its order; what only sums them up is left out."""
    return tuple(_messages(said))


def _messages(said: str) -> Iterator[Message]:
    blocks: list[tuple[str, list[str]]] = []
    for line in said.splitlines():
        if found := _START.match(line):
            blocks.append((found[1], [found[2]]))
        elif blocks and line[:1].isspace() and line.strip():
            blocks[-1][1].append(line.strip().removeprefix("| "))
    for level, lines in blocks:
        text = " ".join(lines).strip()
        if level == "NOTICE" or text.startswith(_SUMS):
            continue
        word = "warning" if level == "WARNING" else "error"
        if found := _AT.match(text):
            yield Message(word, found[3].strip(), found[1], int(found[2]) if found[2] else None)
        else:
            yield Message(word, text)


def _explained(message: Message, planned: Planned) -> Message:
    """With the line it is about, and where that line comes from."""
    lines = (planned.rendered or "").splitlines()
    if message.file != planned.path or message.line is None or not 1 <= message.line <= len(lines):
        return message
    text = lines[message.line - 1].strip()
    said = message.message
    if message.level == "error" and (version := re.match(r"(\d+)\.(\d+)", planned.now.version or "")):
        for word, since in newer_words(text, (int(version[1]), int(version[2]))).items():
            said += f" ({word} came with HAProxy {spelled(since)})"
    return Message(message.level, said, message.file, message.line, text, _template_place(text, planned))


def _template_place(text: str, planned: Planned) -> Place | None:
    """The only line of the template that reads so; None where it was made of variables."""
    name = getattr(planned.task.args, "template", None)
    if not name or not text:
        return None
    try:
        path = find_source(name, "templates", planned.task.ctx)
        lines = path.read_text(encoding="utf-8").splitlines()
    except (FleetError, OSError, UnicodeDecodeError):
        return None
    found = [number for number, line in enumerate(lines, 1) if line.strip() == text]
    return Place(str(path), found[0]) if len(found) == 1 else None


def _moved(text: str, places: Mapping[str, str]) -> str:
    """The configuration with the files that are not deployed yet where they lie for the check."""
    for there, path in places.items():
        text = re.sub(rf"{re.escape(path)}(?![\w./-])", there, text)
    return text


def _packed(files: Mapping[str, bytes], folder: str) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for path, content in files.items():
            entry = tarfile.TarInfo(path.removeprefix(f"{folder}/"))
            entry.size = len(content)
            entry.mode = 0o600
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()
