"""One look: many probes, one script, one exchange, run by a real sh."""

from __future__ import annotations

import os

import pytest

from fleet.engine.look import look, parse, unique
from fleet.model.facts import Probe
from tests.local import LocalRemote


def test_every_probe_is_answered_in_one_exchange():
    remote = LocalRemote("here")
    probes = [
        Probe("a", "echo one"),
        Probe("b", "echo two; exit 3"),
        Probe("c", "printf 'no newline'"),
        Probe("d", "true"),
    ]
    facts = look(remote, probes, timeout=10)
    assert remote.exchanges == 1
    assert {key: (answer.rc, answer.text) for key, answer in facts.items()} == {
        "a": (0, "one\n"),
        "b": (3, "two\n"),
        "c": (0, "no newline"),
        "d": (0, ""),
    }


def test_binary_output_and_many_probes_keep_apart():
    probes = [Probe(f"p{n}", f"printf '\\000\\377@{n}\\n\\n'") for n in range(150)]
    facts = look(LocalRemote("here"), probes, timeout=20)
    assert [facts[f"p{n}"].out for n in range(150)] == [b"\x00\xff@%d\n\n" % n for n in range(150)]


def test_a_probe_reads_no_stdin_of_the_script():
    facts = look(LocalRemote("here"), [Probe("greedy", "cat"), Probe("next", "echo here")], timeout=10)
    assert facts["greedy"].out == b""
    assert facts["next"].text == "here\n"


def test_a_heredoc_and_a_syntax_of_its_own_stay_inside_a_probe():
    facts = look(
        LocalRemote("here"),
        [Probe("doc", "cat <<'E'\n'quoted\" $text\nE"), Probe("loop", "for x in 1 2; do echo $x; done")],
        timeout=10,
    )
    assert facts["doc"].text == "'quoted\" $text\n"
    assert facts["loop"].text == "1\n2\n"


def test_a_probe_without_a_trailer_has_an_answer_too():
    assert parse((Probe("lost", "x"),), b"", "nonce")["lost"].rc == 255


def test_one_key_is_asked_once_and_must_mean_one_script():
    assert len(unique([Probe("a", "x"), Probe("a", "x")])) == 1
    with pytest.raises(ValueError, match="two different scripts"):
        unique([Probe("a", "x"), Probe("a", "y")])


def test_no_temporary_folder_is_left_behind(tmp_path):
    remote = LocalRemote("here")
    facts = look(remote, [Probe("where", 'echo "$d"')], timeout=10)
    folder = facts["where"].text.strip()
    assert folder
    assert not os.path.exists(folder)
