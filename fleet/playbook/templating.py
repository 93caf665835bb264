"""Jinja2 for playbooks and templates: strict, sandboxed, with the place of every error."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fleet.errors import InputError, Place

if TYPE_CHECKING:
    from jinja2.sandbox import SandboxedEnvironment


_DEPTH = 20
"""How deep variables may be made of variables before it must be a circle."""


@cache
def _environments() -> tuple[SandboxedEnvironment, SandboxedEnvironment]:
    """The environment for text files and the one whose lone expressions keep their type."""
    import json

    from jinja2 import StrictUndefined
    from jinja2.nativetypes import NativeCodeGenerator, native_concat
    from jinja2.sandbox import SandboxedEnvironment

    class Native(SandboxedEnvironment):
        code_generator_class = NativeCodeGenerator
        concat = staticmethod(native_concat)  # type: ignore[assignment]

    text = SandboxedEnvironment(
        undefined=StrictUndefined, keep_trailing_newline=True, trim_blocks=True, lstrip_blocks=True
    )
    text.filters["to_json"] = lambda value: json.dumps(value, sort_keys=True)
    native = Native(undefined=StrictUndefined)
    native.filters["to_json"] = text.filters["to_json"]
    return text, native


def render_file(path: Path, variables: Mapping[str, Any]) -> str:
    """The rendered text of a template file.

    Raises InputError with the template's file and line on a syntax error, an undefined variable or a
    forbidden access, and when the file cannot be read.
    """
    try:
        source = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read template: {error}", place=Place(str(path))) from error
    return render_text(source, variables, Place(str(path), 1))


def render_text(source: str, variables: Mapping[str, Any], place: Place) -> str:
    """Render template text that starts at `place`; errors as in `render_file`."""
    import jinja2

    try:
        return _environments()[0].from_string(source).render(variables)
    except jinja2.TemplateSyntaxError as error:
        raise InputError(
            f"template syntax error: {error.message}", place=_shift(place, error.lineno)
        ) from error
    except jinja2.UndefinedError as error:
        raise InputError(
            f"undefined variable in template: {error.message}",
            place=_shift(place, _line(error)),
            remedy="define it in the inventory or the playbook's vars",
        ) from error
    except Exception as error:  # a filter or an expression of the user's template failed
        raise InputError(f"template failed: {error}", place=_shift(place, _line(error))) from error


def evaluate(value: Any, variables: Mapping[str, Any], place: Place) -> Any:
    """Render every template inside a YAML value.

    A string that is a single `{{ expression }}` gives the expression's own type, and variables may be made of
    templates themselves, both as in Ansible.
    """
    try:
        return _evaluate(value, variables, place)
    except RecursionError:
        raise InputError(
            "a template gives something that holds itself",
            place=place,
            remedy="name the one value that is meant",
        ) from None


def _evaluate(value: Any, variables: Mapping[str, Any], place: Place) -> Any:
    if isinstance(value, str):
        return _settled(value, variables, place)
    if isinstance(value, Mapping):
        return {key: _evaluate(item, variables, place) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_evaluate(item, variables, place) for item in value]
    return value


def test(expression: str, variables: Mapping[str, Any], place: Place) -> bool:
    """The truth of a bare Jinja expression, as in `when: groups.gpu | length > 0`."""
    return bool(_evaluate_text("{{ " + expression + " }}", variables, place))


def _settled(text: str, variables: Mapping[str, Any], place: Place) -> Any:
    """The text rendered until no template is left in it: a variable's value may name other variables."""
    value: Any = text
    for _ in range(_DEPTH):
        if isinstance(value, Mapping | list):
            return _evaluate(value, variables, place)
        if not isinstance(value, str) or not has_template(value):
            return value
        value = _evaluate_text(value, variables, place)
    raise InputError(f"{text} goes round in a circle", place=place, remedy="let no variable name itself")


def has_template(text: str) -> bool:
    """True where the text holds a template, statement or comment of Jinja."""
    return "{{" in text or "{%" in text or "{#" in text


def _evaluate_text(text: str, variables: Mapping[str, Any], place: Place) -> Any:
    if not has_template(text):
        return text
    stripped = text.strip()
    lone = (
        stripped.startswith("{{")
        and stripped.endswith("}}")
        and stripped.count("{{") == 1
        and "{%" not in stripped
    )
    if not lone:
        return render_text(text, variables, place)
    import jinja2

    try:
        compiled = _environments()[1].compile_expression(stripped[2:-2].strip(), undefined_to_none=False)
        result = compiled(**variables)
    except jinja2.TemplateSyntaxError as error:
        raise InputError(f"template syntax error: {error.message}: {text}", place=place) from error
    except Exception as error:
        raise InputError(f"cannot evaluate {text}: {error}", place=place) from error
    if isinstance(result, jinja2.StrictUndefined):
        raise InputError(
            f"undefined variable in {text}: {result._undefined_message}",
            place=place,
            remedy="define it in the inventory or the playbook's vars",
        )
    return result


def _shift(place: Place, line: int | None) -> Place:
    return Place(place.file, (place.line or 1) + line - 1) if line else place


def _line(error: BaseException) -> int | None:
    """The template line an exception came from: Jinja names its frames `<template>`."""
    line, trace = None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<template>":
            line = trace.tb_lineno
        trace = trace.tb_next
    return line
