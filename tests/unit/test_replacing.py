"""A slot's container is replaced on an engine that knows names: killed at any step, refused, crashing, gone on with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import product
from typing import Any

import pytest

from fleet.engine.undo import taken_back
from fleet.errors import FleetError, StepError, TaskError, UnreachableError
from fleet.gpu.container import container_name, kept_name, release_of
from fleet.model.facts import Answer, Facts
from fleet.model.steps import Change, EngineCall, Run, Step
from fleet.modules.base import Context
from fleet.modules.gpu_containers import GpuContainers, GpuContainersArgs
from tests.soaking import SOAK
from tests.unit.gpu_world import DIGEST, HOST, IMAGE, facts, foreign, inspected, slot
from tests.unit.test_gpu_containers import SPEC

OWN = container_name(slot(0))
NEXT = f"{OWN}.next"
KINDS = {
    name: replace(SPEC, env={"KIND": name}) for name in ("old", "good", "bad", "mute", "refused", "kept")
}
KEPT = kept_name(slot(0), release_of(KINDS["kept"], DIGEST))
Names = dict[str, tuple[str, bool]]
"""What each container is of, and whether it is up."""

STARTS: tuple[Names, ...] = (
    {OWN: ("old", True)},
    {OWN: ("old", False)},
    {OWN: ("old", True), KEPT: ("kept", False)},
    {f"{OWN}.abcd1234": ("old", True)},
    {f"{OWN}.abcd1234": ("old", True), OWN: ("kept", False)},
    {NEXT: ("old", True)},
    {NEXT: ("old", True), OWN: ("kept", False)},
    {NEXT: ("bad", True), OWN: ("old", False)},
    {NEXT: ("good", True), OWN: ("old", False)},
    {NEXT: ("good", False), OWN: ("old", True)},
    {NEXT: ("kept", False), OWN: ("old", False)},
)


class Killed(BaseException):
    """The controller is no more."""


class Engine:
    """Containers by name. `bad` ones start and do not stay up, `mute` ones do and never answer, `refused` ones
    cannot be made."""

    def __init__(self, names: Mapping[str, tuple[str, bool]]) -> None:
        self.names = dict(names)
        self.ids = {name: f"{number:064x}" for number, name in enumerate(names)}
        self.made = 100
        self.left = -1
        self.gone: set[str] = set()

    @property
    def up(self) -> set[str]:
        return {kind for kind, up in self.names.values() if up and kind not in ("bad", "mute")}

    def facts(self) -> Facts:
        never, then = "0001-01-01T00:00:00Z", "2026-03-01T09:00:00Z"
        rows = []
        for name, (kind, up) in self.names.items():
            bad = kind == "bad"
            state = (
                ("restarting" if bad else "running") if up else ("exited" if kind != "good" else "created")
            )
            row = inspected(
                KINDS[kind],
                slot(0),
                name=name,
                state=state,
                restarts=5 * bad,
                exit_code=1 * bad,
                started=never if state == "created" else then,
                finished=then if state == "exited" else never,
            )
            rows.append({**row, "Id": self.ids[name]})
        said = b"answers 7860\n" if self.up else b"silent 7860\n"
        return facts(*rows, gpus=1, slots_heard=Answer(0, said))

    def execute(self, step: Step, progress: Any) -> None:
        if self.left == 0:
            raise Killed
        self.left -= 1
        if isinstance(step, Run):
            if step.argv[0] == "sh":
                question, name = step.argv[3:5]
                kind, up = self.names.get(name, ("", False))
                if not up or kind == "bad" or (kind == "mute" and question == "answers"):
                    raise StepError(f"{name} does not do what {question} asks")
            return
        assert isinstance(step, EngineCall)
        name = str(step.arguments["name"])
        if id_ := step.arguments.get("id"):
            name = next((name for name, each in self.ids.items() if each == id_), "")
        if step.operation == "remove" and step.arguments.get("force") and name not in self.names:
            return
        if step.operation != "create" and name not in self.names:
            raise StepError(f"no such container: {step.arguments['name']}")
        getattr(self, f"_{step.operation}")(name, step.arguments)

    def close(self) -> None:
        pass

    def _create(self, name: str, arguments: Mapping[str, Any]) -> None:
        (kind,) = (word.partition("=")[2] for word in arguments["body"]["Env"])
        if kind == "refused" or name in self.names:
            raise StepError(f"cannot create container {name}")
        self.names[name] = kind, False
        self.made += 1
        self.ids[name] = f"{self.made:064x}"

    def _start(self, name: str, arguments: Mapping[str, Any]) -> None:
        if any(up for other, (_, up) in self.names.items() if other != name):
            raise StepError("port is already allocated")
        self.names[name] = self.names[name][0], True

    def _stop(self, name: str, arguments: Mapping[str, Any]) -> None:
        self.names[name] = self.names[name][0], False

    def _remove(self, name: str, arguments: Mapping[str, Any]) -> None:
        if self.names[name][1] and not arguments.get("force"):
            raise StepError(f"cannot remove a running container: {name}")
        del self.ids[name]
        self.gone.add(self.names.pop(name)[0])

    def _rename(self, name: str, arguments: Mapping[str, Any]) -> None:
        to = str(arguments["to"])
        if to in self.names:
            raise StepError(f"{to} is already in use")
        self.names[to], self.ids[to] = self.names.pop(name), self.ids.pop(name)


def plan(kind: str, seen: Facts) -> list[Change]:
    args = GpuContainersArgs(image=IMAGE, env={"KIND": kind})
    return list(GpuContainers().plan(args, seen, Context(HOST)))


def provision(engine: Engine, kind: str, *, killed_at: int = -1) -> None:
    """One run. Raises what fails."""
    changes = plan(kind, engine.facts())
    engine.left = killed_at
    carry_out(changes, engine)
    engine.left = -1


def carry_out(changes: Iterable[Change], engine: Engine) -> None:
    for _ in by_step(changes, engine):
        pass


def by_step(changes: Iterable[Change], engine: Engine) -> Iterator[None]:
    """Each step when it is asked for, so that others can have theirs in between."""
    for change in changes:
        with taken_back(lambda: engine) as begun:
            for step in change.steps:
                yield
                begun.append(step)
                engine.execute(step, None)
        for step in change.then:
            yield
            engine.execute(step, None)


def cut_short(engine: Engine, kind: str, step: int) -> None:
    try:
        provision(engine, kind, killed_at=step)
    except (Killed, FleetError):
        engine.left = -1


def title(names: Names) -> str:
    return ",".join(
        f"{name.removeprefix(OWN) or 'own'}={kind}{'' if up else '-'}" for name, (kind, up) in names.items()
    )


@pytest.mark.parametrize("start", STARTS, ids=title)
def test_whatever_two_runs_were_killed_at_the_next_one_ends_it_and_the_one_after_has_nothing_to_do(
    start: Names,
) -> None:
    for first, second in product(range(15), range(0, 15, 1 if SOAK else 4)):
        engine = Engine(start)
        cut_short(engine, "good", first)
        cut_short(engine, "good", second)
        provision(engine, "good")
        where = (first, second, engine.names)
        assert engine.names[OWN] == ("good", True), where
        assert NEXT not in engine.names, where
        assert plan("good", engine.facts()) == [], where
        if start.get(KEPT):
            assert "kept" not in engine.gone, where


@pytest.mark.parametrize("wrong", ["bad", "mute", "refused"])
@pytest.mark.parametrize("start", STARTS, ids=title)
def test_what_cannot_run_leaves_a_slot_up_wherever_a_run_was_killed_before(start: Names, wrong: str) -> None:
    for killed_at, twice in product(range(15), (False, True)):
        engine = Engine(start)
        cut_short(engine, "good", killed_at)
        for _ in range(1 + twice):
            with pytest.raises(FleetError):
                provision(engine, wrong)
        assert engine.up, (killed_at, engine.names)


@pytest.mark.parametrize("start", STARTS, ids=title)
def test_a_bad_one_that_was_killed_at_any_step_gives_way(start: Names) -> None:
    for killed_at, wrong in product(range(15), ("bad", "mute")):
        engine = Engine(start)
        cut_short(engine, wrong, killed_at)
        provision(engine, "good")
        assert engine.names[OWN] == ("good", True), (killed_at, engine.names)
        assert plan("good", engine.facts()) == []


def test_a_container_of_somebody_else_that_has_the_next_name_is_told_and_left() -> None:
    old = inspected(KINDS["old"], slot(0))
    with pytest.raises(TaskError, match=f"a container named {NEXT} exists that fleet did not create"):
        plan("good", facts(old, foreign(NEXT), gpus=1))
    finished = inspected(KINDS["good"], slot(0), name=NEXT)
    with pytest.raises(TaskError, match=f"a container named {OWN} exists that fleet did not create"):
        plan("good", facts(finished, foreign(OWN), gpus=1))


def test_two_who_provision_at_once_do_not_remove_each_others_container() -> None:
    late = plan("good", Engine({OWN: ("old", True)}).facts())
    engine = Engine({OWN: ("old", False), NEXT: ("good", True)})
    with pytest.raises(StepError, match="cannot create"):
        carry_out(late, engine)
    assert engine.names == {OWN: ("old", False), NEXT: ("good", True)}


@pytest.mark.parametrize("theirs", ["good", "other"])
@pytest.mark.parametrize("start", STARTS, ids=title)
def test_a_second_run_that_comes_at_any_step_costs_the_slot_nothing(start: Names, theirs: str) -> None:
    for early, late in product(range(9), range(9)):
        engine = Engine(start)
        first = by_step(plan("good", engine.facts()), engine)
        with suppress(FleetError):
            advance(first, early)
            try:
                second = by_step(plan(theirs, engine.facts()), engine)
                advance(second, late)
                with suppress(FleetError):
                    advance(first, 99)
                advance(second, 99)
            except FleetError:
                advance(first, 99)
        assert engine.up, (early, late, engine.names)
        assert len([up for _, up in engine.names.values() if up]) == 1, (early, late, engine.names)


def advance(run: Iterator[None], steps: int) -> None:
    for _ in zip(range(steps), run, strict=False):
        pass


def test_a_slot_whose_container_has_another_name_loses_nothing_to_one_that_is_refused() -> None:
    start: Names = {f"{OWN}.abcd1234": ("old", True), OWN: ("kept", False)}
    engine = Engine(start)
    with pytest.raises(StepError):
        provision(engine, "refused")
    assert engine.names == start
    provision(engine, "good")
    assert engine.names == {OWN: ("good", True), KEPT: ("kept", False)}


def test_where_the_engine_is_gone_nothing_is_undone_and_nothing_said_of_it() -> None:
    class Lost(Engine):
        def _start(self, name: str, arguments: Mapping[str, Any]) -> None:
            raise UnreachableError("gpu-01: connection lost")

    engine = Lost({OWN: ("old", True)})
    with pytest.raises(UnreachableError) as error:
        provision(engine, "good")
    assert "undo" not in error.value.message
    assert engine.names == {OWN: ("old", False), NEXT: ("good", False)}
    again = Engine(engine.names)
    with pytest.raises(FleetError):
        provision(again, "bad")
    assert again.names == {OWN: ("old", True)}
