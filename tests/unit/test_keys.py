"""Keys as files: merging, reading, writing. What Python does and what a balancer's script does is the same."""

from __future__ import annotations

import shutil
import stat
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.balancer.keys import (
    KEYS_PROBE,
    Key,
    KeySet,
    KeysFound,
    mend,
    merge,
    parse_keys,
    parse_line,
    sync,
)
from fleet.balancer.keys_script import END, HEADER
from fleet.errors import InputError
from fleet.keys import check_name, check_who
from fleet.keys.words import fingerprint, new_secret
from fleet.model.facts import Answer
from tests.soaking import examples
from tests.unit.keys_world import KeysHost

DAYS = [f"2026-01-{day:02}T00:00:00Z" for day in range(1, 5)]
# Few hashes, so that sets meet; names whose order by words differs from that of careless joining.
keys = st.builds(
    Key,
    sha256=st.sampled_from([c * 64 for c in "0a9f"]),
    name=st.sampled_from(["a", "a-b", "a.b", "A", "1e5", "bob_", "-x"]),
    id=st.sampled_from(["00000000", "0000000a", "12345678"]),
    created=st.sampled_from(DAYS),
    revoked=st.none() | st.sampled_from(DAYS),
)
sets = st.lists(keys, max_size=6).map(KeySet.of)


def key(digit: str = "a", name: str = "bob", **more) -> Key:
    return Key(digit * 64, name, digit * 8, **{"created": DAYS[0], **more})


def parsed(text: str) -> KeySet:
    content = "".join(f"f {line}\n" for line in text.splitlines())
    found = parse_keys(Answer(0, f"file 600\n{content}map down\n".encode()))
    assert found is not None
    assert found.strange == ()
    return found.keys


@given(sets, sets, sets)
def test_merging_has_no_order_and_no_count(one, two, three):
    assert merge((one, two)) == merge((two, one))
    assert merge((merge((one, two)), three)) == merge((one, merge((two, three))))
    assert merge((one, one)) == merge((one,)) == one
    assert merge((one, merge((one, two)))) == merge((one, two))


@given(st.lists(sets, min_size=1, max_size=4))
def test_nothing_is_lost_and_revoked_wins(many):
    together = merge(many)
    assert {key.sha256 for key in together.keys} == {key.sha256 for each in many for key in each.keys}
    revoked = {key.sha256 for each in many for key in each.revoked}
    assert {key.sha256 for key in together.revoked} == revoked


@given(sets)
def test_a_file_reads_as_it_was_written(one):
    assert parsed(one.text()) == one
    # To HAProxy only active keys are entries: every other line begins with the sign of a comment.
    entries = [line for line in one.text().splitlines() if not line.startswith("#")]
    assert [line.split(" ", 1) for line in entries] == [[key.sha256, key.value] for key in one.active]


@pytest.fixture(scope="module")
def off(tmp_path_factory):
    """A balancer without HAProxy."""
    return KeysHost(tmp_path_factory.mktemp("keys") / "lb", "lb-01")


def change(balancer: KeysHost, wanted: KeySet) -> subprocess.CompletedProcess[bytes]:
    step = sync(wanted)
    script = balancer.here(step.argv[2])
    return subprocess.run(["sh", "-c", script], input=step.stdin, capture_output=True, timeout=30)


@given(sets, sets)
@settings(max_examples=examples(10, 25))
def test_a_balancer_merges_as_we_do(off, one, two):
    off.file.write_text(one.text())
    done = change(off, two)
    assert done.returncode == 0, done.stderr
    assert off.file.read_text() == merge((one, two)).text()
    found = parse_keys(Answer(0, done.stdout))
    assert (found.keys, found.gateway, found.mode) == (merge((one, two)), "down", "600")
    assert mend(found, one) == ()


def test_lines_that_are_no_keys_are_told_and_go(off):
    active, dead = key("a"), key("b", revoked=DAYS[1])
    strange = [
        "b" * 63 + f" short 12345678 {DAYS[0]}",
        "c" * 64 + f" two words 12345678 {DAYS[0]}",
        "d" * 64 + " undated 12345678 today",
        "#revoked half a line",
        "let me in",
    ]
    text = "\n".join([f"  {active.line()}\t", "", "# a note", *strange, dead.line(), ""])
    off.file.write_text(text)
    asked = subprocess.run(["sh", "-c", off.here(KEYS_PROBE.script)], capture_output=True)
    found = parse_keys(Answer(asked.returncode, asked.stdout))
    assert found.keys == KeySet.of([active, dead])
    assert list(found.strange) == strange
    (plan,) = mend(found, KeySet())
    assert "5 lines" in plan.summary
    assert change(off, KeySet()).returncode == 0
    assert off.file.read_text() == f"{HEADER}\n{active.line()}\n{dead.line()}\n"


def test_the_file_is_for_root_alone_and_no_leftovers(off):
    off.file.write_text("")
    off.file.chmod(0o644)
    assert change(off, KeySet.of([key()])).returncode == 0
    assert stat.S_IMODE(off.file.stat().st_mode) == 0o600
    assert sorted(path.name for path in off.folder.iterdir()) == ["fleet-keys.map", "haproxy.cfg", "lock"]


def test_a_change_that_breaks_off_changes_nothing(off):
    off.file.write_text(KeySet.of([key("a")]).text())
    before = off.file.read_text()
    step = sync(KeySet.of([key("a", revoked=DAYS[1]), key("b")]))
    for length in (0, 100, len(step.stdin) - 1 - len(END)):
        script = off.here(step.argv[2])
        done = subprocess.run(
            ["sh", "-c", script], input=step.stdin[:length], capture_output=True, timeout=30
        )
        assert done.returncode == 1
        assert b"did not arrive whole" in done.stderr
        assert off.file.read_text() == before


def test_a_host_without_haproxy_says_so(tmp_path):
    balancer = KeysHost(tmp_path / "lb", "lb-01")
    shutil.rmtree(balancer.folder)
    done = change(balancer, KeySet())
    assert (done.returncode, done.stderr) == (1, b"HAProxy is not installed here\n")


def test_plans_for_provisioning():
    bob, eve = key("a"), key("b", "eve")
    gone = key("b", "eve", revoked=DAYS[1])
    both = KeySet.of([bob, eve])
    (plan,) = mend(KeysFound(), KeySet())
    assert plan.summary == "create /etc/haproxy/fleet-keys.map"
    (plan,) = mend(KeysFound(both, "600"), KeySet.of([gone]))
    assert plan.diff == f"- eve {eve.id} (revoked {DAYS[1]})\n"
    assert plan.steps == (sync(KeySet.of([bob, gone])),)
    assert mend(KeysFound(KeySet.of([bob, gone]), "600"), both) == ()
    (plan,) = mend(KeysFound(both, "644"), both)
    assert plan.diff == "mode: 644 -> 600\n"
    runs = ((bob.sha256, bob.value),)
    (plan,) = mend(KeysFound(both, "600", "on", runs), both)
    assert "have HAProxy accept" in plan.summary
    assert mend(KeysFound(KeySet.of([bob]), "600", "on", runs), KeySet()) == ()
    assert mend(KeysFound(both, "600", "off"), both) == ()


def test_no_step_shows_a_hash_in_its_words():
    step = sync(KeySet.of([key("a")]))
    assert not any("a" * 64 in word for word in step.argv)
    assert step.env == {}


def test_lines_of_other_forms_are_no_keys():
    assert parse_line("") is None
    assert parse_line(f"{'A' * 64} bob 12345678 {DAYS[0]}") is None
    assert parse_line(f"#revoked {'a' * 64} bob 12345678 {DAYS[0]}") is None
    assert parse_keys(Answer(1, b"file 600\n")) is None
    assert parse_keys(Answer(0, b"")) is None


def test_new_keys_are_long_and_their_own():
    secrets = {new_secret().reveal() for _ in range(50)}
    assert len(secrets) == 50
    assert all(text.startswith("fleet_") and len(text) == 49 for text in secrets)
    assert len({fingerprint(new_secret()) for _ in range(50)}) == 50


@pytest.mark.parametrize("name", ["bob", "team-7", "a.b_c", "x" * 64, "7"])
def test_names(name):
    check_name(name)


@pytest.mark.parametrize(
    "name", ["", "-x", ".x", "two words", "x" * 65, "a/b", "ü", "deadbeef", "a\nb", "#x"]
)
def test_names_that_cannot_be(name):
    with pytest.raises(InputError) as refused:
        check_name(name)
    assert refused.value.remedy


def test_a_key_in_place_of_a_name_is_not_repeated():
    secret = new_secret()
    for check in (check_name, check_who):
        with pytest.raises(InputError) as refused:
            check(secret.reveal())
        assert secret.reveal() not in refused.value.message + refused.value.remedy
        assert fingerprint(secret)[:8] in refused.value.remedy
