"""A rendered configuration put to the balancer's own program, in a folder that is gone afterwards."""

from __future__ import annotations

import io
import re
import secrets
import tarfile
from collections.abc import Mapping
from dataclasses import replace

from fleet.balancer.features import newer_words, spelled
from fleet.engine.everyone import ask_all
from fleet.engine.hostrun import Opener
from fleet.errors import FleetError, Place, TaskError
from fleet.lb import ask_haproxy, ask_nginx
from fleet.lb.survey import Planned, Survey
from fleet.lb.verdict import Message, Verdict
from fleet.modules._files import find_source
from fleet.ssh.remote import Remote

_TIMEOUT = 60.0
_QUESTIONS = {"haproxy": ask_haproxy.question, "nginx": ask_nginx.question}


def verdicts(seen: Survey, opener: Opener, *, forks: int = 0) -> tuple[Verdict, ...]:
    """Every balancer's verdict, in order, asked side by side; changes nothing on any host."""

    def one(planned: Planned) -> Verdict:
        if planned.error is not None:
            return _unasked(planned, planned.error)
        remote, _ = opener(planned.host)
        try:
            return check(planned, remote)
        finally:
            remote.close()

    by_name = {planned.host: planned for planned in seen.balancers}
    asked = ask_all(by_name, lambda name: one(by_name[name]), "checking the configuration", at_once=forks)
    return tuple(
        _unasked(by_name[name], verdict) if isinstance(verdict, FleetError) else verdict
        for name, verdict in asked.items()
    )


def check(planned: Planned, remote: Remote) -> Verdict:
    """Have the balancer's own program validate what a push would bring, with the files beside it."""
    assert planned.rendered is not None
    name = planned.software.name
    if planned.now.version is None:
        return _unasked(
            planned,
            TaskError(
                f"{name} is not installed, so nothing there can check its configuration",
                remedy="install it with `fleet lb push` or `fleet provision`: both check before they switch",
            ),
        )
    folder = f"/run/fleet-check.{secrets.token_hex(8)}"
    asked = _QUESTIONS[planned.task.task.module](planned, folder)
    argv = ("sh", "-c", asked.script, "check", folder, *asked.arguments)
    result = remote.run(argv, stdin=_packed(asked.files), timeout=_TIMEOUT)
    said = result.out.decode("utf-8", "replace")
    if result.rc not in (0, 1):
        error = TaskError(
            f"cannot check: the script ended with {result.rc}",
            output=(result.err.decode("utf-8", "replace") or said).strip(),
            remedy="check that /run on the host can be written to",
        )
        return _unasked(planned, error)
    for there, path in asked.places.items():
        said = said.replace(there, path)
    messages = tuple(_explained(message, planned) for message in asked.parse(said))
    if result.rc and not any(message.level == "error" for message in messages):
        messages = (*messages, Message("error", said.strip() or "refused without a word"))
    return Verdict(
        planned.host,
        name,
        result.rc == 0,
        planned.now.version,
        planned.hash,
        len(planned.rendered.splitlines()),
        messages,
    )


def _unasked(planned: Planned, error: FleetError) -> Verdict:
    return Verdict(planned.host, planned.software.name, False, planned.now.version, error=error)


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
    return replace(message, message=said, text=text, template=_template_place(text, planned))


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


def _packed(files: Mapping[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for path, content in files.items():
            entry = tarfile.TarInfo(path)
            entry.size = len(content)
            entry.mode = 0o600
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()
