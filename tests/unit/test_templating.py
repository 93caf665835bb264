"""Templates in playbooks and inventories: types kept, nesting, strictness, the place of every error."""

from __future__ import annotations

import pytest

from fleet.errors import InputError, Place
from fleet.inventory import load
from fleet.playbook.templating import evaluate, render_file
from fleet.playbook.templating import test as holds
from fleet.playbook.variables import rendered

HERE = Place("play.yml", 7)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("plain", "plain"),
        ("{{ n }}", 3),
        ("{{ items }}", [1, "a"]),
        ("{{ n }} of {{ n + 1 }}", "3 of 4"),
        ("{{ nested }}", "value 3"),
        ({"k": ["{{ n }}", 5]}, {"k": [3, 5]}),
        ("{{ mapping }}", {"a": 3}),
        ("{% if n > 2 %}big{% endif %}", "big"),
        (None, None),
        (True, True),
        ("{{ {'x': n} if n is defined else {} }}", {"x": 3}),
    ],
)
def test_values(value, expected):
    scope = {"n": 3, "items": [1, "a"], "nested": "value {{ n }}", "mapping": {"a": "{{ n }}"}}
    assert evaluate(value, scope, HERE) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{{ nope }}", "undefined variable in {{ nope }}"),
        ("{{ n.nope }}", "nope"),
        ("a {{ nope }} b", "undefined variable"),
        ("{{ 1 +", "syntax error"),
        ("{{ circle }}", "circle"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ n / 0 }}", "division"),
    ],
)
def test_mistakes_have_their_place(text, words):
    with pytest.raises(InputError) as caught:
        evaluate(text, {"n": 1, "circle": "{{ circle }}"}, HERE)
    assert words in caught.value.message
    assert caught.value.place == HERE


def test_conditions():
    assert holds("n > 2 and name is defined", {"n": 3, "name": ""}, HERE)
    assert not holds("name is defined", {}, HERE)


@pytest.mark.parametrize(
    ("body", "line"),
    [("{{ nope }}", 3), ("{% for x in %}", 3), ("{{ 1 / 0 }}", 3), ("{{ 'a' | nofilter }}", 3)],
)
def test_a_template_files_mistake_is_told_at_its_line(tmp_path, body, line):
    path = tmp_path / "t.j2"
    path.write_text(f"one\ntwo\n{body}\n")
    with pytest.raises(InputError) as caught:
        render_file(path, {})
    assert (caught.value.place.file, caught.value.place.line) == (str(path), line)


def test_inventory_variables_made_of_others_are_rendered_and_bad_unused_ones_left(tmp_path):
    path = tmp_path / "hosts.yml"
    path.write_text(
        "all:\n  vars: {domain: example.net, unused: '{{ nope }}'}\n"
        "  hosts:\n    a: {ansible_host: '{{ inventory_hostname }}.{{ domain }}'}\n"
    )
    host = rendered(load(path)).hosts["a"]
    assert host.ssh_host == "a.example.net"
    assert host.vars["unused"] == "{{ nope }}"
