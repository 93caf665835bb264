"""What a balancer's own log tells of the jobs it passed on."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from tests.lab.conftest import Lab

# HAProxy's httplog: backend/server, times, status, bytes, cookies, how the session ended, counts, request.
_LINE = re.compile(
    r"(?:work|tabs)/(?P<slot>\S+) (?P<times>\S+) (?P<status>\d+) \d+ \S+ \S+ (?P<end>\S{4}) \S+ \S+"
    r"(?: \{.*\})? \"(?P<method>\w+) (?P<path>\S+)"
)
_REFUSED = re.compile(r"/<NOSRV> (?:-?\d+/){4}(?P<took>\d+) (?:429|503) ")
_JOB = re.compile(r"/queue/join$|/call/(v2/)?[^/]+/?$")


@dataclass(frozen=True)
class Line:
    """One request: the slot it went to, its status, and how it ended (`----`: in peace)."""

    slot: str
    status: int
    end: str
    method: str
    path: str

    @property
    def is_job(self) -> bool:
        return self.method == "POST" and _JOB.search(self.path.split("?")[0]) is not None


class Seen:
    """The log of one balancer from now on."""

    def __init__(self, lab: Lab, balancer: str) -> None:
        self.lab, self.balancer = lab, balancer
        shown = lab.sh(balancer, "journalctl -t haproxy -n 1 -o cat --show-cursor --no-pager")
        self._cursor = shown.rpartition("cursor: ")[2].strip()

    def texts(self) -> list[str]:
        log = self.lab.sh(
            self.balancer,
            f"journalctl --sync; journalctl -t haproxy -o cat --no-pager --after-cursor '{self._cursor}'",
        )
        return log.splitlines()

    def lines(self) -> Iterator[Line]:
        for text in self.texts():
            if found := _LINE.search(text):
                yield Line(found["slot"], int(found["status"]), found["end"], found["method"], found["path"])

    def refusals(self) -> list[float]:
        """How long each request took that was answered with 429 or 503 without a slot, in seconds."""
        return [int(found["took"]) / 1000 for text in self.texts() if (found := _REFUSED.search(text))]

    def jobs(self) -> Counter[str]:
        """How many jobs each slot was given."""
        return Counter(line.slot for line in self.lines() if line.is_job and line.status == 200)

    def odd(self) -> Counter[str]:
        """What did not go as it should, by status and kind of end."""
        return Counter(
            f"{line.method} {re.sub(r'[0-9a-f]{32}|=.*', '*', line.path)} {line.status} {line.end}"
            for line in self.lines()
            if line.status >= 400 or not line.end.startswith("--")
        )
