"""Observe, plan, apply, verify: the engine with small real modules on this machine's own sh."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any, ClassVar

import pytest

from fleet.engine import bind
from fleet.engine.results import TaskFinished, TaskStarted
from fleet.engine.run import RunOptions, prepare, run
from fleet.errors import ExitCode, InputError, UnreachableError
from fleet.inventory import load
from fleet.model.facts import Probe
from fleet.model.steps import Change, EngineCall, Operation, Run
from fleet.modules.base import Args
from fleet.playbook.load import load_playbook
from tests.local import LocalRemote, LocalRunner


class LineArgs(Args):
    path: str
    line: str
    broken: bool = False


class Line:
    """A file holds a line; `broken` plans a step that does nothing."""

    name: ClassVar[str] = "line"
    args: ClassVar[type[Args]] = LineArgs

    def probes(self, args: LineArgs, ctx: Any) -> list[Probe]:
        return [Probe(f"line:{args.path}", f"cat '{args.path}' 2>/dev/null")]

    def plan(self, args: LineArgs, facts: Any, ctx: Any) -> list[Change]:
        if facts[f"line:{args.path}"].text.strip() == args.line:
            return []
        script = "true" if args.broken else f"echo '{args.line}' >'{args.path}'"
        return [Change(f"write {args.line}", diff=f"+{args.line}", steps=(Run(("sh", "-c", script)),))]


class FailArgs(Args):
    rc: int = 1


class Fail:
    """A step that fails."""

    name: ClassVar[str] = "fail"
    args: ClassVar[type[Args]] = FailArgs

    def probes(self, args: FailArgs, ctx: Any) -> list[Probe]:
        return []

    def plan(self, args: FailArgs, facts: Any, ctx: Any) -> list[Change]:
        return [Change("fail", steps=(Run(("sh", "-c", f"echo why >&2; exit {args.rc}")),))]


class BuggyArgs(Args):
    pass


class Buggy:
    """A module with a mistake in it."""

    name: ClassVar[str] = "buggy"
    args: ClassVar[type[Args]] = BuggyArgs

    def probes(self, args: BuggyArgs, ctx: Any) -> list[Probe]:
        return []

    def plan(self, args: BuggyArgs, facts: Any, ctx: Any) -> list[Change]:
        raise KeyError("oops")


class AwayArgs(Args):
    path: str


class Away:
    """What takes more than the host, with a way for it alone."""

    name: ClassVar[str] = "away"
    args: ClassVar[type[Args]] = AwayArgs

    def probes(self, args: AwayArgs, ctx: Any) -> list[Probe]:
        return [Probe(f"away:{args.path}", f"cat '{args.path}' 2>/dev/null")]

    def plan(self, args: AwayArgs, facts: Any, ctx: Any) -> list[Change]:
        if facts[f"away:{args.path}"].text:
            return []
        alone = Run(("sh", "-c", f"echo alone >'{args.path}'"))
        return [Change("send for it", steps=(Operation("send", {"path": args.path}, otherwise=alone),))]


class UndoingArgs(Args):
    log: str
    words: tuple[str, ...]
    then: tuple[str, ...] = ()
    apart: bool = False


class Undoing:
    """One change that writes words into a log, each with its way back; `false` fails, `stuck` has none, `bug` is a mistake."""

    name: ClassVar[str] = "undoing"
    args: ClassVar[type[Args]] = UndoingArgs
    verifies = False

    def probes(self, args: UndoingArgs, ctx: Any) -> list[Probe]:
        return []

    def plan(self, args: UndoingArgs, facts: Any, ctx: Any) -> list[Change]:
        def run(text: str, undo: Run | None = None) -> Run:
            return Run(("sh", "-c", text), undo=undo)

        def step(word: str) -> Run | EngineCall:
            if word == "false":
                return run("exit 3")
            if word == "bug":
                return EngineCall("bug")
            back = (
                "echo no way back >&2; exit 4" if word == "stuck" else f"printf '{word}-back ' >>'{args.log}'"
            )
            return run(f"printf '{word} ' >>'{args.log}'", run(back))

        if args.apart:
            return [Change(f"write {word}", steps=(step(word),)) for word in args.words]
        return [Change("write words", steps=tuple(map(step, args.words)), then=tuple(map(step, args.then)))]


MODULES = {"away": Away(), "line": Line(), "fail": Fail(), "buggy": Buggy(), "undoing": Undoing()}


class Fleet:
    """An inventory of local hosts and a playbook, run and recorded."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.remotes: dict[str, LocalRemote] = {}
        self.runners: dict[str, LocalRunner] = {}
        self.dead: set[str] = set()
        self.dies_after: dict[str, int] = {}
        self.events: list[Any] = []
        monkeypatch.setattr(bind, "load", MODULES.__getitem__)

    def open(self, name: str) -> tuple[LocalRemote, LocalRunner]:
        if name in self.dead:
            raise UnreachableError(f"{name}: connection refused", remedy="start it")
        self.remotes[name] = LocalRemote(name, self.dies_after.get(name))
        self.runners[name] = LocalRunner(self.remotes[name])
        return self.remotes[name], self.runners[name]

    def run(self, playbook: str, hosts: str = "{a: {}, b: {}}", **options: Any) -> Any:
        book = self.folder / "play.yml"
        book.write_text(playbook)
        inventory = self.folder / "hosts.yml"
        inventory.write_text(f"all: {{children: {{gpu: {{hosts: {hosts}}}}}}}\n")
        stop, operations = options.pop("stop", None), options.pop("operations", None)
        loaded = load(inventory)
        wish = RunOptions(**options)
        work = prepare(load_playbook(book, MODULES), loaded, wish)
        self.events.clear()
        return run(work, loaded, self.open, self.events.append, wish, stop=stop, operations=operations)


@pytest.fixture
def fleet(tmp_path, monkeypatch):
    return Fleet(tmp_path, monkeypatch)


def lines(fleet, *names, **more):
    tasks = "".join(
        f"    - name: {n}\n      line: {{path: '{fleet.folder}/{{{{ inventory_hostname }}}}.{n}', line: {n}}}\n"
        for n in names
    )
    return f"- hosts: gpu\n  tasks:\n{tasks}"


def test_a_first_run_changes_a_second_changes_nothing_with_one_exchange(fleet):
    first = fleet.run(lines(fleet, "x", "y"))
    assert (first.changed, first.exit_code) == (4, ExitCode.DONE)
    assert (fleet.folder / "b.y").read_text() == "y\n"
    second = fleet.run(lines(fleet, "x", "y"))
    assert second.changed == 0
    assert {name: remote.exchanges for name, remote in fleet.remotes.items()} == {"a": 1, "b": 1}
    assert all(remote.closed for remote in fleet.remotes.values())


def test_check_mode_plans_and_touches_nothing(fleet):
    result = fleet.run(lines(fleet, "x"), check=True)
    assert result.changed == 2
    assert not list(fleet.folder.glob("*.x"))
    assert all(not runner.steps for runner in fleet.runners.values())


def test_a_change_that_does_not_take_is_a_failure_that_says_so(fleet):
    book = f"- hosts: a\n  tasks:\n    - line: {{path: '{fleet.folder}/f', line: x, broken: true}}\n"
    result = fleet.run(book)
    task = result.hosts["a"].tasks[0]
    assert task.status == "failed"
    assert "did not take" in task.error.message
    assert (task.error.place.line, result.exit_code) == (3, ExitCode.HOST_FAILED)


def test_a_later_task_plans_on_what_an_earlier_one_made(fleet):
    path = fleet.folder / "f"
    book = f"- hosts: a\n  tasks:\n    - line: {{path: '{path}', line: x}}\n    - line: {{path: '{path}', line: x}}\n"
    assert [task.status for task in fleet.run(book).hosts["a"].tasks] == ["changed", "ok"]


def undoing(fleet, *words, **more):
    args = {"log": f"{fleet.folder}/log", "words": words, **more}
    return f"- hosts: a\n  tasks:\n    - undoing: {json.dumps(args)}\n"


def test_what_a_failed_change_began_is_taken_back_last_step_first(fleet):
    result = fleet.run(undoing(fleet, "one", "two", "false"))
    error = result.hosts["a"].tasks[0].error
    assert (fleet.folder / "log").read_text() == "one two two-back one-back "
    assert error.message.endswith("; it was undone")
    fleet.run(undoing(fleet, "three"))
    assert (fleet.folder / "log").read_text().endswith(" one-back three ")


def test_what_a_mistake_of_fleets_own_left_is_taken_back_and_told_as_well(fleet):
    error = fleet.run(undoing(fleet, "one", "bug")).hosts["a"].tasks[0].error
    assert (fleet.folder / "log").read_text() == "one one-back "
    assert "internal error" in error.message
    assert error.message.endswith("; it was undone")


def test_what_is_left_to_do_after_the_point_of_no_return_is_not_undone(fleet):
    error = fleet.run(undoing(fleet, "one", then=("two", "false"))).hosts["a"].tasks[0].error
    assert (fleet.folder / "log").read_text() == "one two "
    assert "undone" not in error.message


def test_what_a_task_had_done_before_it_failed_is_told(fleet):
    error = fleet.run(undoing(fleet, "one", "two", "false", apart=True)).hosts["a"].tasks[0].error
    assert (fleet.folder / "log").read_text() == "one two "
    assert error.message.endswith("; done before that: write one, write two")


def test_what_cannot_be_taken_back_is_told_and_hinders_nothing(fleet):
    error = fleet.run(undoing(fleet, "one", "stuck", "false")).hosts["a"].tasks[0].error
    assert (fleet.folder / "log").read_text() == "one stuck one-back "
    assert "; undoing it failed as well: " in error.message
    assert "no way back" in error.message


def test_a_host_that_is_gone_has_nothing_taken_back(fleet):
    fleet.dies_after["a"] = 2
    result = fleet.run(undoing(fleet, "one", "two", "three"))
    assert result.hosts["a"].status == "unreachable"
    assert "back" not in (fleet.folder / "log").read_text()
    assert "undo" not in result.hosts["a"].error.message


def test_a_failed_host_stops_alone_and_its_error_has_output_and_place(fleet):
    book = "- hosts: gpu\n  tasks:\n    - fail: {}\n      when: inventory_hostname == 'a'\n"
    book += f"    - line: {{path: '{fleet.folder}/{{{{ inventory_hostname }}}}', line: x}}\n"
    result = fleet.run(book)
    assert [task.status for task in result.hosts["a"].tasks] == ["failed"]
    assert result.hosts["a"].tasks[0].error.output == "why\n"
    assert [task.status for task in result.hosts["b"].tasks] == ["skipped", "changed"]
    assert result.exit_code == ExitCode.HOST_FAILED


def test_an_unreachable_host_is_a_result_and_the_others_finish(fleet):
    fleet.dead.add("a")
    result = fleet.run(lines(fleet, "x"))
    assert {name: host.status for name, host in result.hosts.items()} == {"a": "unreachable", "b": "changed"}
    assert result.exit_code == ExitCode.UNREACHABLE


def test_a_slow_host_is_waited_for_also_where_the_first_play_has_no_host(fleet, monkeypatch):
    """As with --limit: the first play that has work is then not the first of the playbook."""
    opened = fleet.open

    def slowly(name):
        if name == "a":
            time.sleep(0.3)
            raise UnreachableError("a: no route", remedy="start it")
        return opened(name)

    monkeypatch.setattr(fleet, "open", slowly)
    task = f"{{line: {{path: {fleet.folder}/f, line: x}}}}"
    book = f"- {{hosts: c, tasks: [{task}]}}\n- {{hosts: a:b, tasks: [{task}]}}\n"
    result = fleet.run(book, hosts="{a: {}, b: {}, c: {}}", limit="a:b")
    assert result.hosts["a"].status == "unreachable"
    assert not result.hosts["a"].tasks
    assert result.hosts["b"].status == "changed"


def test_a_host_that_dies_in_the_middle_is_unreachable_and_the_others_finish(fleet):
    fleet.dies_after["a"] = 2
    result = fleet.run(lines(fleet, "x", "y"))
    assert result.hosts["a"].status == "unreachable"
    assert result.hosts["b"].count("changed") == 2
    assert result.exit_code == ExitCode.UNREACHABLE


def test_handlers_run_once_at_the_end_even_after_a_later_failure(fleet):
    mark = fleet.folder / "handled"
    book = f"""
- hosts: a
  tasks:
    - {{line: {{path: '{fleet.folder}/1', line: x}}, notify: mark}}
    - {{line: {{path: '{fleet.folder}/2', line: x}}, notify: mark}}
    - fail: {{}}
  handlers:
    - {{name: mark, line: {{path: '{mark}', line: done}}}}
"""
    result = fleet.run(book)
    assert mark.read_text() == "done\n"
    assert [task.status for task in result.hosts["a"].tasks] == ["changed", "changed", "failed", "changed"]


@pytest.mark.parametrize("given", [True, False])
def test_what_a_run_cannot_send_for_is_done_on_the_host_alone(fleet, given):
    def send(host: str, arguments: Any, *_: Any) -> None:
        Path(arguments["path"]).write_text(f"sent to {host}")

    play = f"- hosts: gpu\n  tasks:\n    - away: {{path: '{fleet.folder}/thing'}}\n"
    result = fleet.run(play, hosts="{a: {}}", operations={"send": send} if given else None)
    assert result.exit_code == ExitCode.DONE
    assert (fleet.folder / "thing").read_text().strip() == ("sent to a" if given else "alone")


def test_ignored_errors_let_the_play_go_on(fleet):
    book = f"- hosts: a\n  tasks:\n    - {{fail: {{}}, ignore_errors: true}}\n    - line: {{path: '{fleet.folder}/z', line: x}}\n"
    result = fleet.run(book)
    assert [task.status for task in result.hosts["a"].tasks] == ["failed", "changed"]
    assert result.exit_code == ExitCode.DONE


def test_a_module_with_a_mistake_fails_its_host_without_a_traceback(fleet):
    result = fleet.run("- hosts: a\n  tasks:\n    - buggy: {}\n")
    error = result.hosts["a"].tasks[0].error
    assert "internal error" in error.message
    assert "report" in error.remedy


def test_stop_ends_every_host_at_a_safe_point(fleet):
    stop = threading.Event()
    seen = fleet.events

    class Stopper(list):
        def append(self, event):
            super().append(event)
            if isinstance(event, TaskFinished):
                stop.set()

    fleet.events = Stopper(seen)
    result = fleet.run(lines(fleet, "x", "y", "z"), hosts="{a: {}}", stop=stop)
    assert result.interrupted
    assert result.exit_code == ExitCode.INTERRUPTED
    assert [task.status for task in result.hosts["a"].tasks] == ["changed"]
    assert fleet.remotes["a"].closed


def test_many_hosts_on_few_forks_finish(fleet):
    hosts = "{" + ", ".join(f"h{n}: {{}}" for n in range(12)) + "}"
    result = fleet.run(lines(fleet, "x"), hosts=hosts, forks=2)
    assert result.changed == 12


def test_loops_limits_tags_and_extra_variables(fleet):
    book = f"""
- hosts: gpu
  defaults: {{word: low}}
  tasks:
    - {{line: {{path: '{fleet.folder}/{{{{ inventory_hostname }}}}.{{{{ item }}}}', line: '{{{{ word }}}}'}},
       loop: [p, q], tags: t}}
    - {{fail: {{}}}}
"""
    fleet.run(book, limit="b", tags=("t",), extra={"word": "high"})
    assert sorted(p.name for p in fleet.folder.glob("?.?")) == ["b.p", "b.q"]
    assert (fleet.folder / "b.p").read_text() == "high\n"


def test_the_inventory_overrides_a_plays_defaults_and_its_vars_override_the_inventory(fleet):
    book = f"""
- hosts: a
  defaults: {{one: default, two: default}}
  vars: {{two: play}}
  tasks:
    - line: {{path: '{fleet.folder}/out', line: '{{{{ one }}}} {{{{ two }}}}'}}
"""
    fleet.run(book, hosts="{a: {one: inventory, two: inventory}}")
    assert (fleet.folder / "out").read_text() == "inventory play\n"


@pytest.mark.parametrize(
    ("task", "words", "line"),
    [
        ("line: {path: /x}", "missing argument `line`", 3),
        ("line: {path: /x, lyne: y}", "no argument 'lyne'; did you mean 'line'?", 3),
        ("line: {path: 3, line: y}", "`path` must be text, not a whole number", 3),
        ("lime: {}", "unknown key 'lime' in a task; did you mean 'line'?", 3),
        ("line: {path: '{{ nope }}', line: y}", "undefined variable in {{ nope }}", 3),
        ("line: {path: '{{ nope ', line: y}", "template syntax error", 3),
        ("{name: t, line: {path: a, line: b}, fail: {}}", "exactly one module", 3),
        ("{line: {path: a, line: b}, notify: gone}", "notifies 'gone'", 3),
        ("{line: {path: a, line: b}, when: 'nope == 1'}", "undefined", 3),
        ("line: {path: a, path: b, line: c}", "path stands twice", 3),
        ("line: [a, b", "not valid YAML", None),
    ],
)
def test_a_mistake_in_a_playbook_is_told_at_its_line_before_any_host_is_touched(fleet, task, words, line):
    with pytest.raises(InputError) as caught:
        fleet.run(f"- hosts: a\n  tasks:\n    - {task}\n")
    assert words in caught.value.message
    assert caught.value.place.file.endswith("play.yml")
    if line is not None:
        assert caught.value.place.line == line
    assert not fleet.remotes


@pytest.mark.parametrize("task", ["line: '{{ args }}'", "line: {path: '{{ word }}', line: x}"])
def test_a_wrong_value_from_the_inventory_is_told_at_its_place_there(fleet, task):
    hosts = "{a: {args: {path: 3, line: y}, word: 4}}"
    book = f"- hosts: a\n  tasks:\n    - {{when: word is defined, {task}}}\n"
    with pytest.raises(InputError, match="`path` must be text") as caught:
        fleet.run(book, hosts=hosts)
    assert not caught.value.place.file.endswith("play.yml")
    variable = "args" if "args" in task else "word"
    assert caught.value.remedy.startswith(f"write it in quotes; the task that takes `{variable}` is at ")
    assert "play.yml:3" in caught.value.remedy
    with pytest.raises(InputError, match="`path` must be text") as caught:
        fleet.run(book, hosts="{a: {}}", extra={"args": {"path": 3, "line": "y"}, "word": 4})
    assert caught.value.place.file.endswith("play.yml")


def test_a_task_without_changes_never_starts(fleet):
    fleet.run(lines(fleet, "x"))
    fleet.run(lines(fleet, "x"))
    assert not [event for event in fleet.events if isinstance(event, TaskStarted)]
