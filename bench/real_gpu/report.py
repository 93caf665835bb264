"""The report: what was run and what it printed, as Markdown, written as it goes."""

from __future__ import annotations

import re
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_LONGEST = 160


@dataclass(frozen=True)
class Done:
    """A command that ended: what it printed (both streams), its exit code, and its seconds."""

    text: str
    rc: int
    seconds: float


@dataclass
class Report:
    """A Markdown file that is complete after every line, and the checks made on the way."""

    path: Path
    checks: list[tuple[str, bool, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.path.write_text("")

    def write(self, text: str) -> None:
        """One paragraph, heading or table."""
        print(text, "\n", flush=True)
        with self.path.open("a") as file:
            file.write(f"{text}\n\n")

    def run(
        self, shown: str, argv: list[str], *, timeout: float = 300, lines: int = _LONGEST, quiet: bool = False
    ) -> Done:
        """Run a command and report it as `shown`, with at most so many lines of what it printed."""
        began = time.monotonic()
        try:
            done = subprocess.run(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=timeout,
                check=False,
            )
            raw, rc = done.stdout, done.returncode
        except subprocess.TimeoutExpired as error:
            raw, rc = (error.stdout or b"") + f"\n(ended after {timeout:.0f} s)".encode(), 124
        seconds = time.monotonic() - began
        text = _ANSI.sub("", raw.decode("utf-8", "replace").replace("\r", "")).rstrip()
        if not quiet:
            self.block(shown, Done(text, rc, seconds), lines)
        return Done(text, rc, seconds)

    def block(self, shown: str, done: Done, lines: int = _LONGEST) -> None:
        """A command and its output."""
        printed = done.text.splitlines()
        if len(printed) > lines:
            left = len(printed) - lines
            printed = [*printed[: lines - 20], f"[{left} lines left out]", *printed[-20:]]
        body = "\n".join((f"$ {shown}", *printed))
        self.write(f"```\n{body}\n```\n\nExit code {done.rc}, {done.seconds:.1f} s.")

    def check(self, what: str, right: bool, found: str) -> None:
        """Note whether something is as it must be."""
        self.checks.append((what, right, found))
        print(f"CHECK {'yes' if right else 'NO '} {what}: {found}\n", flush=True)

    def end(self) -> bool:
        """The table of checks; True when all of them held."""
        rows = [
            f"| {what} | {'yes' if right else '**no**'} | {found} |" for what, right, found in self.checks
        ]
        table = "\n".join(("| what | so | found |", "|---|---|---|", *rows))
        self.write(f"## What was checked\n\n{table}")
        return all(right for _, right, _ in self.checks)
