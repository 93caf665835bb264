"""What the commands of `fleet lb` share: the work, the look, and the exit code of what went wrong."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from fleet.engine.hostrun import Opener
    from fleet.engine.run import RunOptions
    from fleet.errors import ExitCode, FleetError
    from fleet.inventory import Inventory
    from fleet.lb.survey import Survey
    from fleet.lb.work import Work


class Opened(NamedTuple):
    """What every command of this file needs."""

    work: Work
    inventory: Inventory
    opener: Opener
    options: RunOptions

    def survey(self) -> Survey:
        """Every balancer's configuration, from one look at all hosts that matter."""
        from fleet.lb.survey import survey

        return survey(self.work, self.inventory, self.opener, forks=self.options.forks)


def open_work(
    inventory: list[Path] | None,
    limit: str,
    playbook: Path | None,
    extra: list[str] | None,
    forks: int,
    ask_sudo: bool,
    connect_timeout: float,
    ssh_config: Path | None,
    check: bool = False,
) -> Opened:
    """The balancers' work and how to reach its hosts. Raises InputError before any host is touched."""
    from fleet.cli.options import open_inventory, refuse_examples, ssh_settings
    from fleet.engine.connect import opener
    from fleet.engine.run import RunOptions
    from fleet.inventory import extra_variables, with_extra
    from fleet.lb.work import balancer_work
    from fleet.modules.registry import MODULES
    from fleet.playbook.load import load_playbook
    from fleet.provision.playbook import provision_playbook

    variables = extra_variables(tuple(extra or ()))
    loaded = with_extra(open_inventory(inventory), variables)
    refuse_examples(loaded)
    options = RunOptions(check=check, forks=forks, limit=limit, extra=variables)
    book = load_playbook(playbook or provision_playbook(Path.cwd()), MODULES)
    work = balancer_work(book, loaded, options)
    return Opened(work, loaded, opener(loaded, ssh_settings(ask_sudo, connect_timeout, ssh_config)), options)


def troubles(seen: Survey) -> ExitCode:
    """GPU hosts that could not be looked at, told on stderr; the exit code they deserve."""
    from fleet.console.lb import show_trouble
    from fleet.errors import ExitCode

    code = ExitCode.DONE
    for name, error in seen.troubles.items():
        show_trouble(name, error, "its servers are left as each balancer has them")
        code = worse(code, error)
    return code


def worse(code: ExitCode, error: FleetError | None) -> ExitCode:
    """The worse of two: a failure, invalid input, an unreachable host, done. No error is a plain failure."""
    from fleet.errors import ExitCode

    order = (ExitCode.DONE, ExitCode.UNREACHABLE, ExitCode.INVALID, ExitCode.HOST_FAILED)
    other = error.exit_code if error is not None and error.exit_code in order else ExitCode.HOST_FAILED
    return max(code, other, key=order.index)
