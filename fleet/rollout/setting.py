"""What every rollout of a project is made of, whichever release it is about."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fleet.engine.hostrun import Opener
from fleet.engine.run import RunOptions
from fleet.inventory import Inventory
from fleet.playbook.model import Playbook
from fleet.rollout.defaults import Defaults
from fleet.rollout.targets import HostTarget
from fleet.rollout.world import Say

Bring = Callable[[Mapping[str, HostTarget], str, str, Say], None]
"""Has hosts have an image at a digest, all at once; those it does nothing for pull for themselves."""


@dataclass(frozen=True)
class Setting:
    """What every rollout of a project is made of.

    `book` is the provision playbook, `run` its options (extra variables), `defaults` playbooks/upgrade.yml's.
    `bring`, where there is one, gets the release's image to hosts that lack it before each of them pulls.
    """

    inventory: Inventory
    book: Playbook
    defaults: Defaults
    opener: Opener
    run: RunOptions
    bring: Bring | None = None
