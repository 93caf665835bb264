"""A rollout's options as people write them: one reader a key, for files, command lines and journals."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

from fleet.control.spans import seconds
from fleet.errors import InputError
from fleet.gpu.sizes import MIB, parse_size
from fleet.inventory.document import kind_of
from fleet.playbook.load import near
from fleet.rollout.model import Gates, Options, Share

Reader = Callable[[Any], Any]
"""A value as YAML or a command line gives it into its type. Raises InputError without a place."""


def overridden(options: Options, given: Mapping[str, str | bool | None]) -> Options:
    """The options with those of a command line, by the names of `Options`' fields; None is not given.

    Raises InputError that names the option; KeyError for a name that is none.
    """
    values = {
        key: read_value(OPTIONS[key], f"--{key.replace('_', '-')}", value)
        for key, value in given.items()
        if value is not None
    }
    return replace(options, **values)


def to_plain(options: Options) -> dict[str, Any]:
    """The options as JSON and YAML can hold them, in the notation of playbooks/upgrade.yml."""
    return {
        "strategy": options.strategy,
        "canary": _plain_share(options.canary),
        "floor": _plain_share(options.floor),
        "max_unavailable": _plain_share(options.max_unavailable),
        "rehearsals": options.rehearsals,
        "ramp": list(options.ramp),
        "ramp_hold": options.ramp_hold,
        "soak": options.soak,
        "drain_deadline": options.drain_deadline,
        "ready_deadline": options.ready_deadline,
        "retain": options.retain,
        "allow_downtime": options.allow_downtime,
        "keep_partial": options.keep_partial,
        "memory_margin": f"{options.memory_margin}MiB",
        "gates": {
            "errors": f"{_digits(Decimal(repr(options.gates.errors)) * 100)}%",
            "slower": options.gates.slower,
            "requests": options.gates.requests,
        },
    }


def from_plain(plain: Mapping[str, Any]) -> Options:
    """What `to_plain` gave. Keys that are unknown are left out, those that miss have their default.

    Raises InputError for a value that is none.
    """
    gates = plain.get("gates")
    return replace(
        Options(),
        **_known(OPTIONS, plain),
        gates=replace(Gates(), **_known(GATES, gates if isinstance(gates, Mapping) else {})),
    )


def read_value(reader: Reader, label: str, value: Any) -> Any:
    """A value read. Raises InputError that starts with the label and the value as it was given."""
    try:
        return reader(value)
    except InputError as error:
        raise InputError(f"{label}{_shown(value)}: {error.message}", remedy=error.remedy) from error


def _known(readers: Mapping[str, Reader], plain: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: read_value(reader, f"the journal's {key}", plain[key])
        for key, reader in readers.items()
        if key in plain
    }


def _shown(value: Any) -> str:
    """` 120%`, or nothing for what has no place in a line."""
    if isinstance(value, bool):
        return f" {str(value).lower()}"
    if isinstance(value, str):
        return f" {value}" if re.fullmatch(r"\S+", value) else f" {value!r}"
    if isinstance(value, int | float):
        return f" {value}"
    if isinstance(value, list) and all(isinstance(item, int | float | str) for item in value):
        return f" {','.join(map(str, value))}"
    return ""


def _share(noun: str, *, whole: str = "", some: bool = False) -> Reader:
    """`50%` or a number. `whole` names what is counted one by one; `some`: none of it is no choice."""

    def read(value: Any) -> Share:
        text, percent = value, False
        if isinstance(value, str) and value.strip().endswith("%"):
            text, percent = value.strip().removesuffix("%"), True
        number = _number(text, f"{noun} is a number or a percentage", "write it as 2 or as 50%")
        if number < 0:
            raise InputError(f"{noun} is not negative", remedy="write it as 2 or as 50%")
        if percent and number > 100:
            raise InputError(f"{noun} is at most 100%", remedy="write 100% for all")
        if whole and not percent and not number.is_integer():
            raise InputError(f"{noun} is a whole number of {whole}", remedy="write it as 2 or as 50%")
        if some and not number:
            raise InputError(f"{noun} is more than 0", remedy="write 1 for one at a time")
        return Share(number, percent)

    return read


def _time(noun: str, *, some: bool = False) -> Reader:
    """A length of time in seconds; `some`: 0 is no choice."""

    def read(value: Any) -> float:
        remedy = "write it as 90s, 10m or 1h30m"
        if isinstance(value, str) and not _NUMBER.fullmatch(value.strip()):
            if value.strip().startswith("-"):
                raise InputError(f"{noun} is not negative", remedy=remedy)
            try:
                length = seconds(value)
            except InputError as error:
                raise InputError(f"{noun} is a length of time", remedy=error.remedy) from error
        else:
            length = _number(value, f"{noun} is a length of time", remedy)
        if length < 0:
            raise InputError(f"{noun} is not negative", remedy=remedy)
        if not math.isfinite(length):
            raise InputError(f"{noun} has an end", remedy=remedy)
        if some and not length:
            raise InputError(f"{noun} is more than 0", remedy=remedy)
        return length

    return read


def _whole(noun: str) -> Reader:
    """A whole number, 0 or more."""

    def read(value: Any) -> int:
        number = _number(value, f"{noun} is a whole number", "write it as 1")
        if number < 0:
            raise InputError(f"{noun} is not negative", remedy="write 0 or more")
        if not number.is_integer():
            raise InputError(f"{noun} is a whole number", remedy="write it as 1")
        return int(number)

    return read


def _flag(noun: str) -> Reader:
    def read(value: Any) -> bool:
        if not isinstance(value, bool):
            raise InputError(f"{noun} is true or false, not {kind_of(value)}", remedy="write true or false")
        return value

    return read


def _strategy(value: Any) -> str:
    known = ("auto", "swap", "side-by-side")
    if value not in known:
        close = near(value, known) if isinstance(value, str) else ""
        raise InputError(f"no such strategy{close}", remedy=f"strategies: {', '.join(known)}")
    return str(value)


def _ramp(value: Any) -> tuple[int, ...]:
    remedy = "write it as 10,50,100, or none for the whole weight at once"
    if isinstance(value, str) and value.strip().lower() == "none":
        return (100,)
    if isinstance(value, str):
        value = value.split(",")
    items = value if isinstance(value, list | tuple) else [value]
    steps: list[int] = []
    for item in items:
        text = item.strip().removesuffix("%") if isinstance(item, str) else item
        percent = _number(text, "a ramp is a list of percents", remedy)
        if not percent.is_integer() or not 1 <= percent <= 100:
            raise InputError("a ramp's steps are whole percents from 1 to 100", remedy=remedy)
        if steps and percent <= steps[-1]:
            raise InputError(f"a ramp rises, and {percent:g} follows {steps[-1]}", remedy=remedy)
        steps.append(int(percent))
    if not steps or steps[-1] != 100:
        raise InputError("a ramp ends in 100", remedy=remedy)
    return tuple(steps)


def _margin(value: Any) -> int:
    """MiB, rounded up. A number without a unit would be bytes, which nobody means here."""
    noun, remedy = "the memory margin", "write it as 1GiB or 512MiB"
    if isinstance(value, str) and value.strip().startswith("-"):
        raise InputError(f"{noun} is not negative", remedy=remedy)
    if not isinstance(value, str) or (_NUMBER.fullmatch(value.strip()) and value.strip() != "0"):
        if value == 0 and not isinstance(value, bool):
            return 0
        raise InputError(f"{noun} is an amount of memory with its unit", remedy=remedy)
    try:
        return -(-parse_size(value) // MIB)
    except (ValueError, OverflowError) as error:
        raise InputError(f"{noun} is an amount of memory with its unit", remedy=remedy) from error


def _errors(value: Any) -> float:
    """A percentage as a share from 0 to 1; by way of decimals, so that a journal gives back what it got."""
    noun, remedy = "the share of errors", "write it as 1% or 0.5%"
    percent = isinstance(value, str) and value.strip().endswith("%")
    text = value.strip().removesuffix("%").strip() if isinstance(value, str) else value
    number = _number(text, f"{noun} is a percentage", remedy)
    if number and not percent:
        raise InputError(f"{noun} is a percentage", remedy=remedy)
    if not 0 <= number <= 100:
        raise InputError(f"{noun} is from 0% to 100%", remedy=remedy)
    return float(Decimal(str(text)) / 100)


def _slower(value: Any) -> float:
    remedy = "write 2 for twice the old release's time"
    number = _number(value, "how many times slower is a number", remedy)
    if number < 1:
        raise InputError("the new release may take at least the old one's time", remedy=remedy)
    return number


_NUMBER = re.compile(r"-?\d+(?:\.\d+)?", re.ASCII)


def _number(value: Any, expected: str, remedy: str) -> float:
    """A finite number, or text that is one. Raises InputError with what was expected."""
    if isinstance(value, str):
        number = float(value) if _NUMBER.fullmatch(value.strip()) else math.nan
    elif isinstance(value, int | float) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
    else:
        raise InputError(f"{expected}, not {kind_of(value)}", remedy=remedy)
    if not math.isfinite(number):
        raise InputError(expected, remedy=remedy)
    return number


def _plain_share(share: Share) -> float | str:
    return f"{_digits(Decimal(repr(float(share.value))))}%" if share.percent else share.value


def _digits(number: Decimal) -> str:
    """All its digits, without an exponent."""
    text = format(number, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


OPTIONS: Mapping[str, Reader] = {
    "strategy": _strategy,
    "canary": _share("a canary", whole="slots"),
    "floor": _share("a floor"),
    "max_unavailable": _share("the number of slots that may be out", whole="slots", some=True),
    "rehearsals": _whole("the number of rehearsals"),
    "ramp": _ramp,
    "ramp_hold": _time("the hold of a ramp's step"),
    "soak": _time("a soak"),
    "drain_deadline": _time("a drain's deadline"),
    "ready_deadline": _time("the deadline for readiness", some=True),
    "retain": _whole("the number of releases to retain"),
    "allow_downtime": _flag("the leave for a downtime"),
    "keep_partial": _flag("keeping a part"),
    "memory_margin": _margin,
}
"""Every option but the gates, by the names of `Options`' fields."""

GATES: Mapping[str, Reader] = {
    "errors": _errors,
    "slower": _slower,
    "requests": _whole("the number of requests"),
}
"""The gates, by the names of `Gates`' fields."""
