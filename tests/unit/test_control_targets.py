"""Which slots a target means, and how lengths of time are read."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.control import select_slots
from fleet.control.spans import in_words, seconds
from fleet.errors import InputError
from fleet.inventory import Inventory
from fleet.model.host import Host

HOSTS = ("gpu-01", "gpu-02", "gpu-03", "v100-a")
GROUPS = {
    "all": (*HOSTS, "lb-01"),
    "gpu": HOSTS,
    "canary": ("gpu-03",),
    "balancer": ("lb-01",),
    "ungrouped": (),
}
INVENTORY = Inventory(hosts={name: Host(name) for name in GROUPS["all"]}, groups=GROUPS)
SLOTS = tuple(f"{host}-{index}" for host in HOSTS for index in range(2))
# Deployed, and its host has left the inventory.
WITH_GONE = (*SLOTS, "gone-01-0")


def chosen(*targets: str, slots: tuple[str, ...] = SLOTS) -> tuple[str, ...]:
    return select_slots(targets, slots, INVENTORY)


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (("gpu-01-0",), "gpu-01-0"),
        (("gpu-02",), "gpu-02-0 gpu-02-1"),
        (("canary",), "gpu-03-0 gpu-03-1"),
        (("gpu-0?-1",), "gpu-01-1 gpu-02-1 gpu-03-1"),
        (("gpu-0[12]-0",), "gpu-01-0 gpu-02-0"),
        (("gpu-0[12]",), "gpu-01-0 gpu-01-1 gpu-02-0 gpu-02-1"),
        (("v100*",), "v100-a-0 v100-a-1"),
        (("*-1",), "gpu-01-1 gpu-02-1 gpu-03-1 v100-a-1"),
        (("gpu[0]",), "gpu-01-0 gpu-01-1"),
        (("~gpu-0[13]",), "gpu-01-0 gpu-01-1 gpu-03-0 gpu-03-1"),
        (("gpu-03-1", "gpu-01-0"), "gpu-01-0 gpu-03-1"),
        (("gpu-03-1,gpu-01-0",), "gpu-01-0 gpu-03-1"),
        (("gpu:!gpu-01:!v100-a",), "gpu-02-0 gpu-02-1 gpu-03-0 gpu-03-1"),
        (("gpu-01,!gpu-01-0",), "gpu-01-1"),
        (("gpu:&*-0:!canary",), "gpu-01-0 gpu-02-0 v100-a-0"),
        (("!gpu",), "gone-01-0"),
        (("gone-01-0",), "gone-01-0"),
        (("all",), " ".join(WITH_GONE)),
    ],
)
def test_targets(targets, expected):
    assert chosen(*targets, slots=WITH_GONE) == tuple(expected.split())


@pytest.mark.parametrize(
    ("target", "message", "remedy"),
    [
        ("gpu-01-5", "no slot, host or group is named 'gpu-01-5'", "did you mean gpu-01-"),
        ("canaray", "no slot, host or group is named 'canaray'", "did you mean canary?"),
        ("gpu-09*", "'gpu-09*' fits no slot", "the slots are: gpu-01-0"),
        ("lb-01", "no balancer has a slot of 'lb-01'", "the slots are"),
        ("gpu-01:!gpu-01", "no slot is left", "the slots are"),
        ("gpu:!gpu-9-0", "no slot, host or group is named 'gpu-9-0'", "the slots are"),
        ("~(", "'~(' fits no slot", "the slots are"),
        (",", "no slot is left", "the slots are"),
    ],
)
def test_what_means_nothing_is_one_clear_error(target, message, remedy):
    with pytest.raises(InputError) as error:
        chosen(target)
    assert message in error.value.message
    assert remedy in error.value.remedy


patterns = st.lists(
    st.tuples(
        st.sampled_from(["", "", "!", "&"]), st.sampled_from([*HOSTS, "gpu", "canary", "gpu-0*", "all"])
    ),
    min_size=1,
    max_size=5,
).map(lambda terms: ",".join(sign + name for sign, name in terms))


@given(patterns)
def test_a_pattern_of_hosts_means_the_slots_of_those_hosts(pattern):
    hosts = {host.name for host in INVENTORY.select(pattern)}
    expected = tuple(slot for slot in SLOTS if slot.rpartition("-")[0] in hosts)
    if expected:
        assert chosen(pattern) == expected
    else:
        with pytest.raises(InputError):
            chosen(pattern)


@given(st.lists(st.sampled_from(SLOTS), min_size=1))
def test_slots_by_name_are_those_slots_once_and_in_order(names):
    wanted = tuple(slot for slot in SLOTS if slot in names)
    assert chosen(*names) == chosen(",".join(names)) == wanted


@given(st.text(min_size=1, max_size=12))
def test_any_text_is_slots_or_an_error_with_a_remedy(text):
    if "@" in text:
        return  # names a file
    try:
        found = chosen(text)
    except InputError as refused:
        error = refused
    else:
        assert found
        assert set(found) <= set(SLOTS)
        return
    assert error.remedy


def test_a_file_of_targets(tmp_path: Path):
    (tmp_path / "hosts").write_text("gpu-01\n# not this one: gpu-02\ngpu-03\n")
    assert chosen(f"@{tmp_path}/hosts") == ("gpu-01-0", "gpu-01-1", "gpu-03-0", "gpu-03-1")


@pytest.mark.parametrize(
    ("text", "length"),
    [("90", 90), ("0", 0), ("90s", 90), ("10m", 600), ("1h30m", 5400), ("0.5", 0.5), ("1.5m", 90)],
)
def test_lengths_of_time(text, length):
    assert seconds(text) == length


@pytest.mark.parametrize("text", ["", "10 minutes", "-5", "m", "10d", "1m30", "nan"])
def test_what_is_no_length_of_time(text):
    with pytest.raises(InputError, match="no length of time"):
        seconds(text)


@pytest.mark.parametrize(
    ("length", "words"),
    [
        (0.55, "0.6 s"),
        (3, "3 s"),
        (45.4, "45 s"),
        (119, "119 s"),
        (900, "15 min"),
        (754, "12 min 34 s"),
        (5400, "1 h 30 min"),
    ],
)
def test_lengths_of_time_in_words(length, words):
    assert in_words(length) == words
