"""Before `fleet provision` changes anything on a host: can its work come to the end at all?

The checks are the doctor's own, those that cost the host next to nothing; their questions ride in the run's
first look, so a provision that has nothing to do takes no exchange more for them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from fleet.doctor import disk, driver, system
from fleet.doctor.model import GPU_GROUP, Check, Trouble
from fleet.doctor.patient import Patient
from fleet.engine.hostrun import Gate
from fleet.errors import FleetError, InputError, TaskError
from fleet.model.facts import Facts, Probe
from fleet.model.host import Host

_ANY = tuple(check for check in system.CHECKS if check.name == "os")
_GPU = (
    *_ANY,
    *(check for check in driver.CHECKS if check.name in ("gpus", "memory", "secure-boot")),
)


def preflight(hosts: Mapping[str, Host]) -> Gate:
    """The gate for a run on hosts of this inventory."""

    def probes(name: str) -> Sequence[Probe]:
        host = hosts[name]
        asked = [probe for check in _checks(host) for probe in check.probes(host)]
        return [*asked, *(disk.room_probes(host) if GPU_GROUP in host.groups else ())]

    def refuse(name: str, facts: Facts) -> FleetError | None:
        return refusal(Patient(hosts[name], facts, hosts))

    return Gate(probes, refuse)


def refusal(patient: Patient) -> FleetError | None:
    """Why provisioning cannot end on the host; None where nothing known is in its way."""
    try:
        troubles = list(_stopping(patient))
    except InputError:
        return None  # the task that needs the variable says it with its place
    if not troubles:
        return None
    name = patient.host.name
    lines = [f"{each.what}{f': {each.detail}' if each.detail else ''}" for each in troubles]
    remedies = dict.fromkeys(each.remedy.replace("{host}", name) for each in troubles)
    return TaskError(
        f"{name}: provisioning cannot end there, so nothing was begun: {'; '.join(lines)}",
        remedy="; ".join((*remedies, "`--skip-preflight` tries all the same")),
    )


def _checks(host: Host) -> Sequence[Check]:
    return _GPU if GPU_GROUP in host.groups else _ANY


def _stopping(patient: Patient) -> Iterator[Trouble]:
    yield from system.check_system(patient).troubles
    if GPU_GROUP not in patient.host.groups:
        return
    yield from disk.check_room(patient).troubles
    if patient.gpus:
        # What else ails a driver that answers is for its tasks to mend, or for the doctor to tell.
        yield from (each for each in driver.check_gpus(patient).troubles if "MIG" in each.what)
        yield from driver.check_memory(patient).troubles
        return
    yield from (each for each in driver.check_gpus(patient).troubles if "PCI bus" in each.what)
    yield from driver.check_secure_boot(patient).troubles
