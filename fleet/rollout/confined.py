"""What the playbook asks for a container's safety, held to in a rollout as well."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from fleet.docker.answers import Container
from fleet.docker.probe import parse_image_user
from fleet.errors import TaskError
from fleet.gpu.container import ContainerSpec
from fleet.model.facts import Answer
from fleet.modules._container_safety import ROOT_REMEDY, root_problem
from fleet.modules.gpu_container_diff import NOT_APPLIED, not_applied
from fleet.rollout.swap import release_label


def refuse_root(host: str, spec: ContainerSpec, image: str, answer: Answer) -> None:
    """Raise TaskError where `image` would run as root; `answer` is to the probe of its user."""
    if problem := root_problem(replace(spec, image=image), parse_image_user(answer)):
        raise TaskError(f"{host}: {problem}", remedy=ROOT_REMEDY)


def check_made(
    host: str,
    spec: Callable[[], ContainerSpec],
    mine: Sequence[Container],
    release: str,
    before: Sequence[Container],
) -> None:
    """Raise TaskError where a slot's container that was made just now lacks what was asked for its safety.

    `mine` are the slot's, `before` what there was. One that is started again, as on the way back, has served
    with what it has and is not held up by that.
    """
    known = {container.id for container in before}
    for container in mine:
        if container.id in known or release_label(container) != release:
            continue
        if missing := not_applied(spec(), container):
            raise TaskError(
                f"{host}: {container.name} runs without what was asked for it ({'; '.join(missing)})",
                remedy=NOT_APPLIED.format(name=container.name),
            )
