"""A user's own tasks in a rollout: checked up front, run with real commands on this machine's own sh."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from fleet.engine.results import PlayStarted, TaskFinished
from fleet.errors import InputError, TaskError, UnreachableError
from fleet.inventory import load
from fleet.rollout.defaults import load_defaults
from fleet.rollout.stages import check_stages, run_stage
from tests.local import LocalRemote, LocalRunner

VARIABLES: dict[str, Any] = {
    "id": "20261125-081500-3f2a",
    "kind": "upgrade",
    "image": "registry.example.com/translator:v2",
    "digest": "sha256:" + "ab" * 32,
    "wave": 2,
    "slots": ("a-0", "a-1"),
    "hosts": ("a",),
    "reason": "",
}


class Project:
    """A project folder with stages, on hosts that are this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.opened: list[str] = []
        self.dead: set[str] = set()
        self.events: list[Any] = []
        (folder / "playbooks").mkdir()
        (folder / "hosts.yml").write_text(
            "all: {children: {gpu: {hosts: {a: {}, b: {site: north}}}, balancer: {hosts: {lb: {}}}}}\n"
        )
        self.inventory = load(folder / "hosts.yml")

    def stages(self, text: str) -> Any:
        indented = "".join(f"  {line}\n" for line in text.strip("\n").splitlines())
        (self.folder / "playbooks" / "upgrade.yml").write_text(f"stages:\n{indented}")
        return load_defaults(self.folder).stages

    def open(self, name: str) -> tuple[LocalRemote, LocalRunner]:
        self.opened.append(name)
        if name in self.dead:
            raise UnreachableError(f"{name}: connection refused", remedy="start it")
        remote = LocalRemote(name)
        return remote, LocalRunner(remote)

    def run(self, name: str, text: str, **more: Any) -> None:
        run_stage(
            self.stages(text)[name],
            self.inventory,
            self.open,
            self.events.append,
            {**VARIABLES, **more},
            name=name,
        )

    def check(self, text: str, *samples: dict[str, Any]) -> None:
        check_stages(self.stages(text), self.inventory, samples or (VARIABLES,))


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path)


def test_a_stage_without_plays_opens_no_host(project):
    project.run("before", "after: []")
    assert (project.opened, project.events) == ([], [])


def test_the_rollouts_variables_arrive_in_a_command(project):
    out = project.folder / "out"
    project.run(
        "each_wave",
        f"""
each_wave:
  - hosts: gpu
    tasks:
      - command:
          shell: printf '%s\\n' "$IMAGE" "$WAVE" "$STAGE" "$ALL" >{out}.{{{{ inventory_hostname }}}}
          environment:
            IMAGE: "{{{{ rollout.image }}}}"
            WAVE: "{{{{ rollout.wave | string }}}}"
            STAGE: "{{{{ rollout.stage }}}}"
            ALL: "{{{{ rollout | to_json }}}}"
        when: inventory_hostname in rollout.hosts
""",
    )
    image, wave, stage, everything = Path(f"{out}.a").read_text().splitlines()
    assert (image, wave, stage) == (VARIABLES["image"], "2", "each_wave")
    assert json.loads(everything) == {
        **VARIABLES,
        "slots": ["a-0", "a-1"],
        "hosts": ["a"],
        "stage": "each_wave",
        "check": False,
    }
    assert not Path(f"{out}.b").exists()
    results = [event.result for event in project.events if isinstance(event, TaskFinished)]
    assert sorted((result.host, result.status) for result in results) == [("a", "changed"), ("b", "skipped")]


def test_the_commented_example_of_the_shipped_file_is_a_stage_that_binds(project):
    shipped = load_defaults(project.folder).stages["before"].path.read_text()
    start = shipped.index("#   stages:\n")
    commented = shipped[start : shipped.index("\nstages:\n")].splitlines()
    text = "\n".join(line.removeprefix("#   ").removeprefix("  ") for line in commented[1:])
    stages = project.stages(text)
    assert [task.name for task in stages["before"].plays[0].tasks] == ["Say what is coming"]
    check_stages(stages, project.inventory, [VARIABLES])


def test_plays_run_in_order_each_on_the_hosts_of_its_pattern(project):
    log = project.folder / "log"
    project.run(
        "after",
        f"""
after:
  - hosts: balancer[0]
    tasks:
      - command: {{shell: "echo {{{{ inventory_hostname }}}} >>{log}"}}
  - hosts: gpu:!b
    tasks:
      - command: {{shell: "echo {{{{ inventory_hostname }}}} >>{log}"}}
""",
    )
    assert log.read_text().split() == ["lb", "a"]
    started = [event.hosts for event in project.events if isinstance(event, PlayStarted)]
    assert started == [("lb",), ("a",)]


def test_what_a_container_printed_is_never_taken_for_a_template(project):
    reason = "it said {{ hostvars }} and {% raw %} and {# x #} and {{{"
    out = project.folder / "out"
    project.run(
        "on_failure",
        f"""
on_failure:
  - hosts: lb
    tasks:
      - command:
          shell: printf %s "$REASON" >{out}
          environment: {{REASON: "{{{{ rollout.reason }}}}"}}
""",
        reason=reason,
    )
    assert out.read_text() == "it said { { hostvars }} and { % raw %} and { # x #} and { { {"


FAILING = """
canary:
  - name: Smoke
    hosts: gpu
    tasks:
      - name: Ask the monitoring
        command: {shell: "echo red on {{ inventory_hostname }} >&2; exit 3"}
        when: inventory_hostname == 'b'
      - name: Go on
        command: {shell: "touch FOLDER/{{ inventory_hostname }}.done"}
"""


def test_a_failed_task_is_an_error_that_names_stage_play_task_and_host_with_output_and_place(project):
    with pytest.raises(TaskError) as caught:
        project.run("canary", FAILING.replace("FOLDER", str(project.folder)))
    error = caught.value
    assert error.message == "stage canary, play 'Smoke', task 'Ask the monitoring', host b: ended with 3"
    assert error.output == "red on b"
    assert error.place is not None
    assert (error.place.file, error.place.line) == (str(project.folder / "playbooks" / "upgrade.yml"), 7)
    assert "ignore_errors" in error.remedy
    assert (project.folder / "a.done").exists()
    assert not (project.folder / "b.done").exists()


def test_the_other_hosts_that_failed_are_told_below_the_first(project):
    text = "canary:\n  - hosts: gpu\n    tasks:\n      - command: {shell: 'echo no >&2; exit 1'}\n"
    with pytest.raises(TaskError) as caught:
        project.run("canary", text)
    first, second = caught.value.output.splitlines()
    assert (first, "host a" in caught.value.message) == ("no", True)
    assert second.endswith("stage canary, play 'gpu', task 'command', host b: ended with 1")


def test_a_host_that_cannot_be_reached_fails_the_stage(project):
    project.dead.add("b")
    with pytest.raises(TaskError) as caught:
        project.run("before", "before:\n  - hosts: gpu\n    tasks:\n      - command: {cmd: 'true'}\n")
    assert caught.value.message == "stage before, host b: b: connection refused"
    assert caught.value.remedy == "start it"


def test_an_ignored_error_does_not_fail_the_stage(project):
    text = (
        "before:\n  - hosts: a\n    tasks:\n"
        "      - {command: {cmd: 'false'}, ignore_errors: true}\n"
        f"      - command: {{cmd: touch {project.folder}/went-on}}\n"
    )
    project.run("before", text)
    assert (project.folder / "went-on").exists()


def test_stages_without_mistakes_pass_the_check_and_touch_nothing(project):
    project.check(FAILING)
    assert project.opened == []


@pytest.mark.parametrize(
    ("play", "words", "line"),
    [
        ("{hosts: gpus, tasks: []}", "gpus", 3),
        ("{hosts: a, tasks: [{command: {cmd: x, argv: [x]}}]}", "exactly one of `cmd`", 3),
        ("{hosts: a, tasks: [{command: {comand: x}}]}", "no argument 'comand'", 3),
        ("{hosts: a, tasks: [{command: {cmd: '{{ rollout.imag }}'}}]}", "undefined variable", 3),
        ("{hosts: gpu, tasks: [{command: {cmd: 'x {{ site }}'}}]}", "'site' is undefined", 3),
        ("{hosts: a, tasks: [{command: {cmd: x}, when: rollout.wav == 1}]}", "no attribute 'wav'", 3),
    ],
)
def test_a_mistake_in_a_stage_is_told_up_front_at_its_line(project, play, words, line):
    with pytest.raises(InputError) as caught:
        project.check(f"after:\n  - {play}\n")
    assert words in caught.value.message
    assert caught.value.message.startswith("stage after: ")
    assert caught.value.place.line == line
    assert project.opened == []


def test_the_check_tells_the_mistakes_of_all_stages_at_once(project):
    with pytest.raises(InputError) as caught:
        project.check(
            "before:\n  - {hosts: nowhere, tasks: []}\nafter:\n  - {hosts: a, tasks: [{command: {}}]}\n"
        )
    assert caught.value.message.startswith("stage before: ")
    assert "stage after: " in caught.value.output


def test_a_task_for_one_wave_only_is_checked_with_that_waves_variables(project):
    text = "each_wave:\n  - {hosts: a, tasks: [{command: {cmd: '{{ nope }}'}, when: rollout.wave == 3}]}\n"
    project.check(text, {**VARIABLES, "wave": 1}, {**VARIABLES, "wave": 2})
    with pytest.raises(InputError, match="nope"):
        project.check(text, {**VARIABLES, "wave": 1}, {**VARIABLES, "wave": 3})


def test_a_stage_for_a_group_without_hosts_is_a_mistake_at_its_play(project):
    (project.folder / "hosts.yml").write_text("all: {hosts: {a: {}}, children: {spare: {}}}\n")
    project.inventory = load(project.folder / "hosts.yml")
    with pytest.raises(InputError) as caught:
        project.check("after:\n  - {hosts: spare, tasks: [{command: {cmd: x}}]}\n")
    assert caught.value.message == "stage after: no host to work on"
    assert caught.value.place.line == 3


def test_the_manuals_examples_are_read_and_bind(project):
    manual = Path(__file__).parents[2] / "docs" / "upgrade-options.md"
    golden, options, stages = re.findall(r"```yaml\n(.*?)```", manual.read_text(), re.DOTALL)
    own = project.folder / "playbooks" / "upgrade.yml"
    own.write_text(golden)
    assert [set(pair) - {"inputs"} for pair in load_defaults(project.folder).golden] == [
        {"contains"},
        {"equals"},
        {"similar", "ratio"},
    ]
    own.write_text(options)
    assert load_defaults(project.folder).options.ramp == (5, 25, 100)
    own.write_text(stages)
    loaded = load_defaults(project.folder).stages
    assert [name for name, book in loaded.items() if book.plays] == ["before", "each_wave", "on_failure"]
    check_stages(loaded, project.inventory, [VARIABLES])
