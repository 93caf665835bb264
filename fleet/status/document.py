"""The status as the stable document of `fleet status --json`; docs/status.md describes it."""

from __future__ import annotations

from typing import Any

import msgspec

from fleet.status.model import Status


def document(status: Status) -> dict[str, Any]:
    """The whole status as plain values; the keys are the fields of `fleet.status.model`."""
    found: dict[str, Any] = msgspec.to_builtins(status)
    return {"ok": status.ok, **found}
