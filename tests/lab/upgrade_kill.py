"""The real `fleet`, which kills itself (SIGKILL) once it has written the N-th step of a journal.

python -m tests.lab.upgrade_kill N upgrade IMAGE --blue-green --yes -i INVENTORY
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from fleet.cli.main import main
from fleet.rollout.store import Store


def die_after(steps: int) -> None:
    """Have this process end as one whose machine lost power, with that step written on every balancer.

    0 is the journal's first line: the rollout has begun, and nothing is done.
    """
    written = 0
    begin, append = Store.begin, Store.append

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def begin_and_die(self: Store, *args: Any, **options: Any) -> None:
        begin(self, *args, **options)
        if steps == 0:
            die()

    def append_and_die(self: Store, *args: Any, **options: Any) -> None:
        nonlocal written
        append(self, *args, **options)
        written += 1
        if written == steps:
            die()

    Store.begin = begin_and_die  # type: ignore[method-assign]
    Store.append = append_and_die  # type: ignore[method-assign]


if __name__ == "__main__":
    die_after(int(sys.argv.pop(1)))
    sys.argv[0] = "fleet"
    main()
