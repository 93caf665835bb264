"""The reference of all modules: `python -m fleet.modules.reference > docs/modules.md`."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from fleet.modules.registry import MODULES, load

_ARGUMENT = re.compile(r"([a-z_]+(?:, [a-z_]+)*): (.*)")

_HEAD = """\
# Modules

<!-- Made from the modules' docstrings: python -m fleet.modules.reference > docs/modules.md -->

A task is a name and one module with its arguments. Arguments and results are close to those of Ansible's
modules of the same name. Everything runs as root on the host. Paths, unless said otherwise, are the host's
and absolute. Every module looks first and changes only what differs, so that a second run changes nothing;
`--check` shows what would change and `--diff` how.

"""


@dataclass(frozen=True)
class Page:
    """A module's documentation: its text, its arguments by name, and an example task in YAML."""

    name: str
    aliases: tuple[str, ...]
    text: str
    arguments: Mapping[str, str]
    example: str


def page(name: str) -> Page:
    """The page of one module, read from its class's docstring."""
    module = load(name)
    doc = inspect.cleandoc(type(module).__doc__ or "")
    head, _, example = doc.partition("\nExample:\n")
    text, _, arguments = head.partition("\nArguments:\n")
    aliases = tuple(key for key, where in MODULES.items() if where == MODULES[name] and key != module.name)
    return Page(module.name, aliases, text.strip(), _arguments(arguments), textwrap.dedent(example).strip())


def reference() -> str:
    """The whole reference, in Markdown."""
    names = sorted({load(name).name for name in MODULES})
    return _HEAD + "\n".join(_markdown(page(name)) for name in names)


def _arguments(text: str) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for line in textwrap.dedent(text).splitlines():
        if match := _ARGUMENT.fullmatch(line):
            found[match[1]] = match[2]
        elif found and line.strip():
            found[next(reversed(found))] += f" {line.strip()}"
    return found


def _markdown(doc: Page) -> str:
    required = {field.name for field in msgspec.structs.fields(load(doc.name).args) if field.required}
    rows = [
        f"| {', '.join(f'`{name}`' for name in names.split(', '))}"
        f"{' (required)' if names in required else ''} | {text.replace('|', chr(92) + '|')} |"
        for names, text in doc.arguments.items()
    ]
    also = f"\nAlso called {', '.join(f'`{alias}`' for alias in doc.aliases)}.\n" if doc.aliases else ""
    table = "\n".join(("| Argument | |", "|---|---|", *rows)) if rows else "It has no arguments."
    return f"## {doc.name}\n\n{doc.text}\n{also}\n{table}\n\n```yaml\n{doc.example}\n```\n"


if __name__ == "__main__":
    print(reference(), end="")
