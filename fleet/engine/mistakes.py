"""What is wrong with a task's arguments, in a user's words, and where that was written."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints

from fleet.errors import InputError, Place
from fleet.playbook.load import near
from fleet.playbook.model import Task

Where = Callable[[str], Place | None]
"""Where a host's value for a variable is set; None where no inventory sets it."""

_KINDS = {
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "a mapping",
    "null": "nothing",
}
_TYPE = re.compile(r"Expected `(.+?)`, got `(.+?)`(?: - at `(\$.*)`)?")
_CHOICE = re.compile(r"Invalid enum value '(.*)' - at `(\$.*)`", re.DOTALL)


class ArgumentError(InputError):
    """An argument, `name`, has a wrong `value`; `template` is what its task says of it, with variables."""

    def __init__(
        self, message: str, *, place: Place, remedy: str, name: str, value: Any, template: str
    ) -> None:
        super().__init__(message, place=place, remedy=remedy)
        self._name, self._value, self._template = name, value, template

    def trace(self, variables: Mapping[str, Any], where: Where) -> None:
        """Put the error at the place in the inventory that the value comes from, if it comes from one."""
        for word in re.findall(r"[A-Za-z_]\w*", self._template):
            value = variables.get(word)
            mine = value.get(self._name) if isinstance(value, Mapping) else value
            if mine is not None and mine == self._value and (place := where(word)):
                used = f"the task that takes `{word}` is at {self.place}"
                self.remedy = f"{self.remedy}; {used}" if self.remedy else used
                self.place = place
                return


def argument_error(
    before: str, problem: str, task: Task, rendered: Mapping[str, Any], args: type[Any]
) -> ArgumentError:
    """The error for what msgspec says of a task's arguments; `before` begins its message."""
    words, remedy = _explained(problem, args)
    # What a module says itself begins with the argument's name.
    said = re.search(r"`(\w+)", words) or re.match(r"(\w+)", words)
    name = said[1] if said and said[1] in get_type_hints(args) else ""
    template = task.args if isinstance(task.args, str) else str(task.args.get(name, ""))
    return ArgumentError(
        f"{before}{words}",
        place=task.places.get(name, task.place),
        remedy=remedy,
        name=name,
        value=rendered.get(name),
        template=template,
    )


def _explained(problem: str, args: type[Any]) -> tuple[str, str]:
    """The message and what to do about it."""
    if found := _TYPE.fullmatch(problem):
        wanted, got, path = found.groups()
        kinds = " or ".join(_KINDS.get(each, each) for each in wanted.split(" | "))
        remedy = (
            "write it in quotes" if "str" in wanted.split(" | ") and got in ("int", "float", "bool") else ""
        )
        return f"{_name(path)} must be {kinds}, not {_KINDS.get(got, got)}", remedy
    if found := _CHOICE.fullmatch(problem):
        word, path = found.groups()
        choices = _choices(get_type_hints(args).get(path.removeprefix("$."), None))
        remedy = f"write one of: {', '.join(choices)}" if choices else ""
        return f"{_name(path)} cannot be {word!r}{near(word, choices)}", remedy
    return problem.replace("Object missing required field", "missing argument").replace(" - at `$`", ""), ""


def _name(path: str | None) -> str:
    return f"`{path.removeprefix('$.').removeprefix('$')}`" if path and path != "$" else "it"


def _choices(hint: Any) -> list[str]:
    """The words that a type allows."""
    if get_origin(hint) is Literal:
        return [str(each) for each in get_args(hint)]
    return [each for part in get_args(hint) if get_origin(hint) is not None for each in _choices(part)]
