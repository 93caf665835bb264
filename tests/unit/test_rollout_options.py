"""Options of a rollout: the shipped file, a project's own over it, the command line, and the journal."""

from __future__ import annotations

import json
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fleet.errors import InputError
from fleet.rollout.defaults import STAGES, load_defaults
from fleet.rollout.model import Gates, Options, Share
from fleet.rollout.options import GATES, OPTIONS, from_plain, overridden, to_plain


def project(folder: Path, text: str) -> Path:
    own = folder / "playbooks" / "upgrade.yml"
    own.parent.mkdir(exist_ok=True)
    own.write_text(text)
    return folder


def mistake(folder: Path, text: str) -> InputError:
    with pytest.raises(InputError) as caught:
        load_defaults(project(folder, text))
    assert caught.value.place is not None
    assert caught.value.place.file == str(folder / "playbooks" / "upgrade.yml")
    assert caught.value.remedy
    return caught.value


def test_the_shipped_file_says_what_the_types_default_to(tmp_path):
    defaults = load_defaults(tmp_path)
    assert defaults.options == Options()
    assert defaults.golden == []
    assert list(defaults.stages) == list(STAGES)
    assert [book.plays for book in defaults.stages.values()] == [()] * len(STAGES)


def test_every_option_has_a_reader_and_a_default_in_the_shipped_file(tmp_path):
    assert {*OPTIONS, "gates"} == {field.name for field in fields(Options)}
    assert set(GATES) == {field.name for field in fields(Gates)}
    shipped = load_defaults(tmp_path).stages["before"].path
    keys = yaml.safe_load(shipped.read_text())
    assert set(keys) == {*OPTIONS, "gates", "golden", "stages"} - {"allow_downtime"}
    assert set(keys["gates"]) == set(GATES)


def test_values_are_read_in_every_notation(tmp_path):
    text = """
strategy: side-by-side
canary: 12.5%
floor: 96
max_unavailable: "3"
rehearsals: 0
ramp: [25%, 100]
ramp_hold: 0
soak: 1h30m
drain_deadline: 2.5
ready_deadline: "900"
retain: 0
memory_margin: 1.5GiB
keep_partial: true
gates: {errors: 0.5%, slower: 1.5, requests: 0}
"""
    assert load_defaults(project(tmp_path, text)).options == Options(
        strategy="side-by-side",
        canary=Share(12.5, percent=True),
        floor=Share(96),
        max_unavailable=Share(3),
        rehearsals=0,
        ramp=(25, 100),
        ramp_hold=0.0,
        soak=5400.0,
        drain_deadline=2.5,
        ready_deadline=900.0,
        retain=0,
        memory_margin=1536,
        keep_partial=True,
        gates=Gates(errors=0.005, slower=1.5, requests=0),
    )


@pytest.mark.parametrize(
    ("text", "ramp"),
    [
        ("none", (100,)),
        ("100", (100,)),
        ("10, 50, 100", (10, 50, 100)),
        ("[1, 2, 100]", (1, 2, 100)),
        ("5%,100%", (5, 100)),
    ],
)
def test_a_ramp_is_a_list_of_percents_or_none(tmp_path, text, ramp):
    assert load_defaults(project(tmp_path, f"ramp: {text}\n")).options.ramp == ramp


def test_a_project_overrides_key_by_key_also_in_gates_and_stage_by_stage(tmp_path):
    text = """
floor: 75%
gates: {slower: 3}
golden:
  - {inputs: [hello, French], contains: bonjour}
stages:
  after:
    - hosts: gpu
      vars: {word: done}
      tasks:
        - name: Say it
          command: {argv: [echo, "{{ word }}"]}
"""
    defaults = load_defaults(project(tmp_path, text))
    shipped = load_defaults(tmp_path / "elsewhere")
    assert defaults.options == replace(
        Options(), floor=Share(75, percent=True), gates=replace(Gates(), slower=3.0)
    )
    assert defaults.golden == [{"inputs": ["hello", "French"], "contains": "bonjour"}]
    after = defaults.stages["after"]
    assert after.path == tmp_path / "playbooks" / "upgrade.yml"
    assert [(play.hosts, play.place.line, play.vars) for play in after.plays] == [
        ("gpu", 8, {"word": "done"})
    ]
    assert [(task.name, task.module, task.place.line) for task in after.plays[0].tasks] == [
        ("Say it", "command", 12)
    ]
    others = {stage: book for stage, book in defaults.stages.items() if stage != "after"}
    assert others == {stage: book for stage, book in shipped.stages.items() if stage != "after"}


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "stages:\ngates:\n", "stages: {before: }\n"])
def test_a_file_or_section_without_anything_overrides_nothing(tmp_path, text):
    defaults = load_defaults(project(tmp_path, text))
    assert defaults.options == Options()
    assert not any(book.plays for book in defaults.stages.values())


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("flor: 60%", "unknown key 'flor' in the options of an upgrade; did you mean 'floor'?"),
        ("max-unavailable: 1", "did you mean 'max_unavailable'?"),
        ("allow_downtime: true", "allow_downtime is no default"),
        ("strategy: swop", "strategy swop: no such strategy; did you mean 'swap'?"),
        ("strategy: [swap]", "strategy swap: no such strategy"),
        ("canary: -1", "canary -1: a canary is not negative"),
        ("canary: 1.5", "canary 1.5: a canary is a whole number of slots"),
        ("canary: 101%", "canary 101%: a canary is at most 100%"),
        ("canary: true", "canary true: a canary is a number or a percentage, not true"),
        ("canary: one", "canary one: a canary is a number or a percentage"),
        ("canary:", "canary: a canary is a number or a percentage, not nothing"),
        ("floor: 120%", "floor 120%: a floor is at most 100%"),
        ("floor: -5%", "floor -5%: a floor is not negative"),
        ("floor: .nan", "floor nan: a floor is a number or a percentage"),
        ("floor: [50%]", "floor 50%: a floor is a number or a percentage, not a list"),
        ("max_unavailable: 0", "the number of slots that may be out is more than 0"),
        ("max_unavailable: 0%", "the number of slots that may be out is more than 0"),
        ("rehearsals: -1", "rehearsals -1: the number of rehearsals is not negative"),
        ("ramp: [50, 10, 100]", "ramp 50,10,100: a ramp rises, and 10 follows 50"),
        ("ramp: [50, 50, 100]", "a ramp rises, and 50 follows 50"),
        ("ramp: [10, 50]", "ramp 10,50: a ramp ends in 100"),
        ("ramp: []", "a ramp ends in 100"),
        ("ramp: [0, 100]", "whole percents from 1 to 100"),
        ("ramp: [10, 150]", "whole percents from 1 to 100"),
        ("ramp: [10.5, 100]", "whole percents from 1 to 100"),
        ("ramp: [ten, 100]", "a ramp is a list of percents"),
        ("ramp: 10,,100", "a ramp is a list of percents"),
        ("ramp:", "a ramp is a list of percents, not nothing"),
        ("ramp_hold: -1", "ramp_hold -1: the hold of a ramp's step is not negative"),
        ("soak: -30s", "soak -30s: a soak is not negative"),
        ("soak: 5 parsecs", "soak '5 parsecs': a soak is a length of time"),
        ("soak: .inf", "a soak is a length of time"),
        ("soak: yes", "soak true: a soak is a length of time, not true"),
        (
            "drain_deadline: {minutes: 10}",
            "drain_deadline: a drain's deadline is a length of time, not a map",
        ),
        ("ready_deadline: 0", "the deadline for readiness is more than 0"),
        ("retain: -1", "retain -1: the number of releases to retain is not negative"),
        ("retain: 1.5", "retain 1.5: the number of releases to retain is a whole number"),
        ("retain: all", "retain all: the number of releases to retain is a whole number"),
        ("memory_margin: 1024", "memory_margin 1024: the memory margin is an amount of memory with its unit"),
        ("memory_margin: '1024'", "the memory margin is an amount of memory with its unit"),
        ("memory_margin: -1GiB", "the memory margin is not negative"),
        ("memory_margin: lots", "the memory margin is an amount of memory with its unit"),
        ("keep_partial: maybe", "keep_partial maybe: keeping a part is true or false, not text"),
        ("gates: [1%]", "`gates` is a mapping, not a list"),
        ("gates: {eror: 1%}", "unknown key 'eror' in `gates`; did you mean 'errors'?"),
        ("gates: {errors: 1}", "gates.errors 1: the share of errors is a percentage"),
        ("gates: {errors: 101%}", "gates.errors 101%: the share of errors is from 0% to 100%"),
        ("gates: {errors: -1%}", "the share of errors is from 0% to 100%"),
        ("gates: {slower: 0.5}", "the new release may take at least the old one's time"),
        ("gates: {requests: -1}", "gates.requests -1: the number of requests is not negative"),
        ("golden: {inputs: [a]}", "`golden` is a list of translations, not a mapping"),
        ("golden:", "`golden` is a list of translations, not nothing"),
        ("golden: [{text: hello, contains: x}]", "golden[0]: Object contains unknown field `text`"),
        ("golden: [{inputs: [a]}]", "golden[0] says nothing of the answer"),
        ("stages: [before]", "`stages` is a mapping of stages to plays, not a list"),
        ("stages: {befor: []}", "unknown key 'befor' in `stages`; did you mean 'before'?"),
        ("stages: {before: {hosts: gpu}}", "stage `before` is a list of plays, not a mapping"),
        ("stages: {before: [{hots: gpu}]}", "unknown key 'hots' in a play; did you mean 'hosts'?"),
        ("stages: {before: [{name: x}]}", "the play has no `hosts`"),
        ("stages: {before: [{hosts: gpu, tasks: [{comand: {}}]}]}", "unknown key 'comand' in a task"),
    ],
)
def test_a_mistake_is_told_at_its_line(tmp_path, line, words):
    error = mistake(tmp_path, f"# mine\n\n{line}\n")
    assert words in error.message
    assert error.place.line == 3


def test_a_list_of_plays_in_the_files_place_is_told_where_plays_go(tmp_path):
    error = mistake(tmp_path, "- hosts: gpu\n  tasks: []\n")
    assert error.message == "the file is a mapping of options; plays go under `stages`, not a list"


def test_all_mistakes_of_a_file_are_told_at_once_in_the_order_of_their_lines(tmp_path):
    text = "floor: 120%\nsoak: -1\nstages:\n  after:\n    - host: gpu\n"
    error = mistake(tmp_path, text)
    own = tmp_path / "playbooks" / "upgrade.yml"
    assert error.place.line == 1
    second, third = error.output.splitlines()
    assert second.startswith(f"{own}:2:7: soak -1: a soak is not negative")
    assert third.startswith(f"{own}:5:7: unknown key 'host' in a play; did you mean 'hosts'?")


def test_the_command_line_overrides_what_it_gives_and_nothing_else():
    options = replace(Options(), floor=Share(75, percent=True), keep_partial=True)
    changed = overridden(
        options,
        {
            "floor": None,
            "canary": "25%",
            "ramp": "none",
            "soak": "2m",
            "max_unavailable": "2",
            "retain": "3",
            "strategy": "swap",
            "keep_partial": False,
            "allow_downtime": True,
        },
    )
    assert changed == replace(
        options,
        canary=Share(25, percent=True),
        ramp=(100,),
        soak=120.0,
        max_unavailable=Share(2),
        retain=3,
        strategy="swap",
        keep_partial=False,
        allow_downtime=True,
    )


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("floor", "120%", "--floor 120%: a floor is at most 100%"),
        ("floor", "", "--floor '': a floor is a number or a percentage"),
        ("canary", "-1", "--canary -1: a canary is not negative"),
        ("max_unavailable", "0", "--max-unavailable 0: the number of slots that may be out is more than 0"),
        ("ramp", "50,10", "--ramp 50,10: a ramp rises, and 10 follows 50"),
        ("soak", "soon", "--soak soon: a soak is a length of time"),
        ("drain_deadline", "-5", "--drain-deadline -5: a drain's deadline is not negative"),
        ("soak", "9" * 400 + "s", f"--soak {'9' * 400}s: a soak has an end"),
        ("retain", "-2", "--retain -2: the number of releases to retain is not negative"),
        ("strategy", "sidebyside", "--strategy sidebyside: no such strategy; did you mean 'side-by-side'?"),
    ],
)
def test_a_mistake_on_the_command_line_names_the_option(key, value, message):
    with pytest.raises(InputError) as caught:
        overridden(Options(), {key: value})
    assert caught.value.message == message
    assert caught.value.remedy


amounts = st.floats(0, 1e9, allow_nan=False)
times = st.floats(0, 1e7, allow_nan=False)
counts = st.integers(0, 10**6)


def shares(whole: bool = False, least: float = 0) -> st.SearchStrategy[Share]:
    numbers = st.integers(int(least), 10**6).map(float) if whole else amounts
    percents = st.floats(least, 100, exclude_min=bool(least)).map(lambda value: Share(value, percent=True))
    return numbers.map(Share) | percents


any_options = st.builds(
    Options,
    canary=shares(whole=True),
    floor=shares(),
    max_unavailable=shares(whole=True, least=1),
    rehearsals=counts,
    ramp=st.sets(st.integers(1, 99)).map(lambda steps: (*sorted(steps), 100)),
    ramp_hold=times,
    soak=times,
    drain_deadline=times,
    ready_deadline=st.floats(0.001, 1e7),
    strategy=st.sampled_from(["auto", "swap", "side-by-side"]),
    retain=counts,
    allow_downtime=st.booleans(),
    keep_partial=st.booleans(),
    memory_margin=st.integers(0, 2**24),
    gates=st.builds(Gates, errors=st.floats(0, 1), slower=st.floats(1, 1e6), requests=counts),
)


@given(any_options)
def test_options_come_back_from_a_journal_as_they_were(options):
    assert from_plain(json.loads(json.dumps(to_plain(options)))) == options


@given(options=any_options)
def test_a_project_file_can_be_written_in_the_journals_notation(tmp_path_factory, options):
    plain: dict[str, Any] = to_plain(replace(options, allow_downtime=False))
    del plain["allow_downtime"]
    folder = project(tmp_path_factory.mktemp("p"), yaml.safe_dump(plain))
    assert load_defaults(folder).options == replace(options, allow_downtime=False)


def test_a_journal_of_another_version_is_read_as_far_as_it_is_known():
    plain = {"floor": "75%", "colour": "teal", "gates": {"slower": 3, "smell": 1}}
    assert from_plain(plain) == replace(
        Options(), floor=Share(75, percent=True), gates=replace(Gates(), slower=3.0)
    )
    assert from_plain({}) == Options()


def test_a_damaged_journal_is_told_as_such():
    with pytest.raises(InputError, match=r"the journal's floor high: a floor is a number or a percentage"):
        from_plain({"floor": "high"})


def test_the_manual_has_every_key_with_its_default():
    manual = (Path(__file__).parents[2] / "docs" / "upgrade-options.md").read_text()
    rows = dict(re.findall(r"^\| `([a-z_.]+)` \| `(.*?)` \|", manual, re.MULTILINE))
    written: dict[str, Any] = {}
    for key, value in rows.items():
        section, _, name = key.rpartition(".")
        if key in OPTIONS or section == "gates":
            (written.setdefault("gates", {}) if section else written)[name] = yaml.safe_load(value)
    read = {key: OPTIONS[key](value) for key, value in written.items() if key != "gates"}
    gates = {key: GATES[key](value) for key, value in written["gates"].items()}
    assert set(read) == set(OPTIONS) - {"allow_downtime"}
    assert replace(Options(), **read, gates=Gates(**gates)) == Options()
