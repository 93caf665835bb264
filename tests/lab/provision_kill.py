"""The real `fleet`, which kills itself (SIGKILL) once it has done the N-th step that has to do with a container.

python -m tests.lab.provision_kill N provision --limit HOST -i INVENTORY
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from fleet.cli.main import main
from fleet.engine.runner import HostRunner
from fleet.model.steps import EngineCall, Step


def die_after(steps: int) -> None:
    """Have this process end as one whose machine lost power, with so many steps of containers done."""
    done = 0
    execute = HostRunner.execute

    def execute_and_die(self: HostRunner, step: Step, progress: Any) -> None:
        nonlocal done
        execute(self, step, progress)
        done += isinstance(step, EngineCall) and step.operation in (
            "create",
            "stop",
            "start",
            "remove",
            "rename",
        )
        if done == steps:
            os.kill(os.getpid(), signal.SIGKILL)

    HostRunner.execute = execute_and_die  # type: ignore[method-assign]


if __name__ == "__main__":
    die_after(int(sys.argv.pop(1)))
    sys.argv[0] = "fleet"
    main()
