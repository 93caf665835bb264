"""What is known of a host: questions (probes) and their answers (facts)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Probe:
    """A question put to a host: a read-only POSIX sh fragment, run as root, whose stdout is the answer.

    Probes with the same key are asked once per look, so the same key must always mean the same script.
    All probes of a host are sent in one script and run side by side; none may depend on another.
    A probe must end by itself and never change anything.
    """

    key: str
    script: str


@dataclass(frozen=True)
class Answer:
    """What a probe said: its exit status and its stdout."""

    rc: int
    out: bytes = b""

    @property
    def text(self) -> str:
        """stdout as text; undecodable bytes are replaced."""
        return self.out.decode("utf-8", "replace")

    @property
    def ok(self) -> bool:
        """True when the probe exited with 0."""
        return self.rc == 0


class Facts(Mapping[str, Answer]):
    """The answers of one look at one host, by probe key. A missing key raises KeyError."""

    def __init__(self, answers: Mapping[str, Answer] | None = None) -> None:
        self._answers = dict(answers or {})

    def __getitem__(self, key: str) -> Answer:
        return self._answers[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._answers)

    def __len__(self) -> int:
        return len(self._answers)
