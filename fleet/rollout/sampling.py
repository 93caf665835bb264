"""Looks at the balancers every second while a rollout goes on, for the live view and the report."""

from __future__ import annotations

import threading
import time
from types import TracebackType

from fleet.errors import FleetError
from fleet.rollout.events import Listen, Sampled
from fleet.rollout.steering import Steering

EVERY = 1.0
"""Seconds between two samples."""


class Sampler:
    """A thread with connections of its own. A balancer that is silent leaves a gap, nothing more."""

    def __init__(self, steering: Steering, listen: Listen, every: float = EVERY) -> None:
        self._steering = steering
        self._listen = listen
        self._every = every
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        over = False
        while not over:
            # The last look comes after the end, or the picture would stop just before all is well again.
            over = self._over.is_set()
            began = time.monotonic()
            try:
                servers = self._steering.servers(patience=0.0)
            except FleetError:
                servers = ()
            if servers:
                self._listen(Sampled(time.time(), servers))
            self._over.wait(max(0.1, self._every - (time.monotonic() - began)))
        self._steering.close()
