"""Errors as a person reads them: what, where, what the other side printed, what to do."""

from __future__ import annotations

from typing import Any

from fleet.errors import FleetError

_OUTPUT_LINES = 30


def error_lines(error: FleetError) -> list[str]:
    """The error as plain lines: the message with its place, the output indented, the remedy last."""
    lines = [f"{error.place}: {error.message}" if error.place else error.message]
    output = error.output.strip("\n").splitlines()
    if len(output) > _OUTPUT_LINES:
        left_out = len(output) - _OUTPUT_LINES
        output = [f"[{left_out} earlier lines left out]", *output[-_OUTPUT_LINES:]]
    lines += [f"  | {line}" for line in output]
    if error.remedy:
        lines.append(f"  try: {error.remedy}")
    return lines


def error_json(error: FleetError) -> dict[str, Any]:
    """The error for `--json`."""
    place = error.place
    return {
        "message": error.message,
        "file": place.file if place else None,
        "line": place.line if place else None,
        "output": error.output,
        "remedy": error.remedy,
        "exit_code": int(error.exit_code),
    }


def print_error(error: FleetError) -> None:
    """The error on stderr, in red where a person looks."""
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    first, *rest = error_lines(error)
    console.print(Text.assemble(("error: ", "bold red"), first))
    for line in rest:
        console.print(Text(line, style="bold" if line.startswith("  try:") else "dim"))
