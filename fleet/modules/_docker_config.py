"""The Docker Engine's configuration file: read, merged, never overwritten."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fleet.modules.base import Context

PATH = "/etc/docker/daemon.json"

DEFAULTS: Mapping[str, Any] = {"features": {"cdi": True}, "live-restore": True}
"""What fleet relies on. It is set only where neither the task nor the host's file says otherwise."""

LOGGING: Mapping[str, Any] = {"log-driver": "json-file", "log-opts": {"max-size": "50m", "max-file": "3"}}
"""Rotated logs, where neither the task nor the host's file says anything about logs: options fit drivers."""

RELOADABLE = frozenset(
    (
        "allow-nondistributable-artifacts",
        "authorization-plugins",
        "debug",
        "default-runtime",
        "insecure-registries",
        "labels",
        "live-restore",
        "max-concurrent-downloads",
        "max-concurrent-uploads",
        "max-download-attempts",
        "registry-mirrors",
        "runtimes",
        "shutdown-timeout",
    )
)
"""Keys a running engine takes up on `systemctl reload`. `features` is not one: CDI is set up at start."""


def parse(content: bytes | None, ctx: Context) -> dict[str, Any]:
    """The host's configuration; empty where there is no file.

    Raises TaskError with the line at fault where it is not a JSON object: fleet does not touch it then.
    """
    text = (content or b"").decode("utf-8-sig", "replace")
    if not text.strip():
        return {}
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        lines = text.splitlines()
        raise ctx.fail(
            f"{PATH} on the host is not valid JSON: line {error.lineno}, column {error.colno}: {error.msg}",
            output=lines[error.lineno - 1] if error.lineno <= len(lines) else "",
            remedy="mend the file, or move it away; fleet has not touched it",
        ) from error
    if not isinstance(found, dict):
        raise ctx.fail(
            f"{PATH} on the host is not a JSON object",
            output=text[:200],
            remedy="mend the file, or move it away; fleet has not touched it",
        )
    return found


def merged(existing: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The existing configuration with the wanted one in it, and the defaults where neither speaks.

    A key of `wanted` that is null is removed (and its default is not put there).
    """
    result = _patched(existing, wanted)
    _fill(result, {key: value for key, value in DEFAULTS.items() if wanted.get(key, ...) is not None})
    if not any(key in source for key in LOGGING for source in (existing, wanted)):
        result.update(LOGGING)
    return result


def same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """True where both mean the same to the engine; the order of keys means nothing."""
    return _canonical(one) == _canonical(other)


def render(config: Mapping[str, Any]) -> bytes:
    """The file's content."""
    return (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode()


def needs_restart(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """True where a difference is in a key that a running engine does not take up."""
    return any(
        _canonical(before.get(key)) != _canonical(after.get(key)) for key in {*before, *after} - RELOADABLE
    )


def _patched(base: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `patch` merged in, as RFC 7396 has it: mappings merge, null removes, the rest replaces."""
    result = dict(base)
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping):
            inner = result.get(key)
            result[key] = _patched(inner if isinstance(inner, Mapping) else {}, value)
        else:
            result[key] = value
    return result


def _fill(config: dict[str, Any], defaults: Mapping[str, Any]) -> None:
    """Put the defaults where `config` has nothing."""
    for key, value in defaults.items():
        if isinstance(value, Mapping) and isinstance(config.get(key), Mapping):
            inner = dict(config[key])
            _fill(inner, value)
            config[key] = inner
        else:
            config.setdefault(key, value)


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
