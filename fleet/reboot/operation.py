"""Reboots that a playbook's tasks ask for: one host that serves at a time, none after one that went wrong."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

from fleet.engine.hostrun import Opener, Operate
from fleet.errors import FleetError, HeldBackError, TaskError
from fleet.inventory import Inventory
from fleet.reboot.host import HostSide
from fleet.reboot.model import Wish
from fleet.reboot.run import reboot

_WORDS = {"not back": "has not come back", "not reached": "could not be reached"}


def reboot_operation(inventory: Inventory, opener: Opener, command: str) -> Operate:
    """What `fleet.engine.run` does for the module `reboot`.

    Hosts without slots go as they come, as many as the run works on at once.
    """
    one = threading.Lock()
    stopped: list[str] = []

    def turn(host: str) -> AbstractContextManager[object]:
        side = HostSide(host, opener)
        try:
            return one if side.look().serves else nullcontext()
        except FleetError:
            stopped.append(f"{host} {_WORDS['not reached']}")
            raise
        finally:
            side.close()

    def operate(
        host: str, arguments: Mapping[str, Any], say: Callable[[str], None], stop: Callable[[], bool]
    ) -> None:
        wish = replace(Wish(), **arguments)
        with turn(host):
            if stop():
                stopped.append("the run was interrupted")
            if stopped:
                raise HeldBackError(
                    f"{host} was not rebooted: {stopped[0]}", remedy="mend that, then run this again"
                )
            outcome = reboot((host,), inventory, opener, command, wish, lambda _, text: say(text)).hosts[0]
            if outcome.good:
                return
            stopped.append(f"{host} {_WORDS.get(outcome.state, 'failed to reboot')}")
        if outcome.error is not None:
            raise outcome.error
        raise TaskError(f"{host}: the reboot was {outcome.state}", remedy="run this again")

    return operate
