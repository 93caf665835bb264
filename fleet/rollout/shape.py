"""The API a Gradio service offers, as its /config tells: pages and clients of before must find it again."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec


@dataclass(frozen=True)
class Shape:
    """A service's named endpoints with their numbers of inputs and outputs.

    `prefix` stands before its paths (/gradio_api from Gradio 5, nothing before); `major` is Gradio's major
    version, 0 where it is not told.
    """

    endpoints: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    prefix: str = ""
    major: int = 0

    def lacks(self, before: Shape) -> tuple[str, ...]:
        """What callers of `before` would miss here, one line each. More endpoints are no difference."""
        found = []
        if before.major and self.major and before.major != self.major:
            found.append(f"Gradio {before.major} became {self.major}")
        if before.prefix != self.prefix:
            found.append(f"its paths began with {before.prefix or '/'} and begin with {self.prefix or '/'}")
        for name, numbers in sorted(before.endpoints.items()):
            now = self.endpoints.get(name)
            if now is None:
                found.append(f"the endpoint {name} is missing")
            elif now != numbers:
                found.append(f"the endpoint {name} had {_numbers(numbers)} and has {_numbers(now)}")
        return tuple(found)


def shape_of(config: bytes) -> Shape | None:
    """The shape out of the body of /config; None where that is no description of a Gradio page."""
    try:
        raw = msgspec.json.decode(config)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    if not isinstance(raw, dict) or not isinstance(raw.get("dependencies"), list):
        return None
    endpoints = {}
    for item in raw["dependencies"]:
        name = item.get("api_name") if isinstance(item, dict) else None
        # Endpoints without an API have the name false or null, from Gradio 6 on the visibility "private".
        if isinstance(name, str) and name and item.get("api_visibility") != "private":
            endpoints[name.lstrip("/")] = (_length(item.get("inputs")), _length(item.get("outputs")))
    prefix = raw.get("api_prefix")
    version = re.match(r"\d+", str(raw.get("version", "")))
    return Shape(
        endpoints, prefix.rstrip("/") if isinstance(prefix, str) else "", int(version[0]) if version else 0
    )


def _length(items: Any) -> int:
    return len(items) if isinstance(items, list) else 0


def _numbers(numbers: tuple[int, int]) -> str:
    inputs, outputs = numbers
    return f"{inputs} input{'s' * (inputs != 1)} and {outputs} output{'s' * (outputs != 1)}"
