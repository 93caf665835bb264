"""A rollout's journal: its lines, what they say, and how several balancers keep them, with the real scripts."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from fleet.balancer import rollouts
from fleet.balancer.holder import this_process
from fleet.balancer.rollouts_script import CONFLICT, FENCED_OUT, GAP
from fleet.errors import FleetError, InternalError, StepError, TaskError, UnreachableError
from fleet.rollout import journal
from fleet.rollout.acting import BalancerError
from fleet.rollout.journal import JournalError
from fleet.rollout.model import Entry
from fleet.rollout.progress import Progress, progress_of
from fleet.rollout.reaching import Reach
from fleet.rollout.store import AGAIN, Store
from fleet.rollout.world import LeaseError
from fleet.ssh.remote import Result
from tests.unit.rollout_folders import HOSTILE, Connection, Network, claim, entry, header


@dataclass
class Held:
    """A lease that is held under a number until `lost`, which says how."""

    fence: int
    lost: FleetError | None = None

    def check(self) -> None:
        if self.lost:
            raise self.lost


def held(network: Network, fence: int = 1, *names: str, over: str = "") -> Held:
    for name in names or network.balancers:
        step = rollouts.take(fence, claim(f"a{fence}"), 30, over=over, root=network.root)
        assert network.run(name, step).rc == 0
    return Held(fence)


@pytest.fixture
def one(tmp_path: Path) -> Network:
    return Network(tmp_path)


@pytest.fixture
def two(tmp_path: Path) -> Network:
    return Network(tmp_path, "lb-1", "lb-2")


def store_of(network: Network, lease: Held | None = None, **other: object) -> Store:
    return Store(network.remotes(), lease, root=network.root, **other)  # type: ignore[arg-type]


def append(network: Network, first: int, *lines: bytes, fence: int = 1) -> int:
    return network.run("lb-1", rollouts.append("r1", fence, first, lines, root=network.root)).rc


# --- lines ---


def test_header_and_entries_are_read_as_they_were_written() -> None:
    head = header(by=HOSTILE, options={"floor": "50%", "nested": {"a": [1, 2.5, None, True]}})
    said = entry(3, "stopped", "g1-0", wave=2, reason=HOSTILE)
    for line in (journal.encode_header(head, 7), journal.encode_entry(said, 7)):
        assert b"\n" not in line
        assert line.isascii()
        assert journal.fence_of(line) == 7
    assert journal.decode_header(journal.encode_header(head, 7), "lb-1") == head
    assert journal.decode_entry(journal.encode_entry(said, 7), "lb-1") == said


def test_keys_and_steps_of_a_newer_fleet_are_passed_over() -> None:
    newer = {**json.loads(journal.encode_header(header(), 1)), "colour": "red"}
    newer["origins"][0]["more"] = {}
    assert journal.decode_header(json.dumps(newer).encode(), "lb-1") == header()
    said = {**json.loads(journal.encode_entry(entry(1), 1)), "more": 1, "step": "polished", "slots": ["g1-0"]}
    read = journal.decode_entry(json.dumps(said).encode(), "lb-1")
    assert read.step == "polished"
    assert progress_of([read]) == Progress(entries=[read])


def test_a_journal_to_be_read_in_another_way_is_refused() -> None:
    line = json.dumps({**json.loads(journal.encode_header(header(), 1)), "journal": 2}).encode()
    with pytest.raises(JournalError, match="lb-1: a newer fleet"):
        journal.decode_header(line, "lb-1")


@pytest.mark.parametrize(
    "garbage", [b"garbage", b"", b"[1]", b"\xff\x00", b'{"number":"one"}', b'{"number":2,"at":1,"step":null}']
)
def test_garbage_is_refused_with_balancer_and_line(garbage: bytes) -> None:
    lines = [journal.encode_header(header(), 1), journal.encode_entry(entry(1), 1), garbage]
    with pytest.raises(JournalError, match="lb-1: r1, line 3") as error:
        journal.decode(b"\n".join(lines) + b"\n", "lb-1: r1")
    assert error.value.remedy


def test_entries_out_of_their_order_are_refused() -> None:
    lines = [journal.encode_header(header(), 1), journal.encode_entry(entry(2), 1)]
    with pytest.raises(JournalError, match="line 2: this is entry 2 where 1 belongs"):
        journal.decode(b"\n".join(lines) + b"\n", "lb-1")


def test_a_last_line_that_is_not_whole_is_passed_over() -> None:
    whole = journal.encode_header(header(), 1) + b"\n" + journal.encode_entry(entry(1), 1) + b"\n"
    for torn in (b"", b'{"number":2,"at":', journal.encode_entry(entry(2), 1), b"\x00\x00"):
        assert journal.decode(whole + torn, "lb-1").entries == (entry(1),)
    with pytest.raises(JournalError, match="empty"):
        journal.decode(b'{"journal"', "lb-1")


# --- what they say ---


def test_a_slots_way_to_green() -> None:
    progress = Progress()
    progress.follow(entry(1, "draining", "g1-0", wave=1))
    assert (progress.touched, progress.moved) == ({"g1-0"}, set())
    progress.follow(entry(2, "drained", "g1-0", wave=1, cut={"g1-0": 2}))
    progress.follow(entry(3, "moving", "g1-0", wave=1, to="green"))
    assert (progress.moved, progress.ready) == ({"g1-0"}, {})
    progress.follow(entry(4, "ready", "g1-0", wave=1, to="green", container="c1"))
    assert progress.ready == {"g1-0": "c1"}
    assert progress.admitted == set()
    progress.follow(entry(5, "ramped", "g1-0", wave=1, percent=10))
    assert (progress.admitted, progress.accepted) == ({"g1-0"}, set())
    progress.follow(entry(6, "accepted", "g1-0", wave=1))
    assert (progress.accepted, progress.cut, progress.ended) == ({"g1-0"}, {"g1-0": 2}, "")


def test_a_slot_that_drains_again_is_not_ready_once_its_container_is_moved() -> None:
    steps = [
        entry(1, "ready", "g1-0", container="c1"),
        entry(2, "ramped", "g1-0", percent=100),
        entry(3, "draining", "g1-0"),
    ]
    assert progress_of(steps).admitted == set()
    assert progress_of(steps).ready == {"g1-0": "c1"}
    assert progress_of([*steps, entry(4, "moving", "g1-0")]).ready == {}


def test_after_rolling_back_nothing_is_touched() -> None:
    steps = [
        entry(1, "accepted", "g1-0", wave=1),
        entry(2, "rolling-back", reason="too slow"),
        entry(3, "draining", "g1-0"),
        entry(4, "moving", "g1-0"),
        entry(5, "ready", "g1-0", container="b1"),
        entry(6, "restored", "g1-0"),
    ]
    progress = progress_of(steps)
    assert (progress.rolling_back, progress.ended) == ("too slow", "")
    assert (progress.touched, progress.moved, progress.accepted) == (set(), set(), set())
    assert progress_of([*steps, entry(7, "rolled-back")]).ended == "rolled-back"


def test_what_stopped_is_not_at_its_end() -> None:
    progress = progress_of([entry(1, "pulled"), entry(2, "stopped", reason="Ctrl-C"), entry(3, "soaked")])
    assert (progress.ended, progress.pulled, progress.soaked) == ("", True, True)


# --- on one balancer ---


def test_an_append_is_taken_once_and_repeating_it_is_harmless(one: Network) -> None:
    held(one)
    lines = [journal.encode_header(header(), 1), journal.encode_entry(entry(1), 1)]
    for _ in range(3):
        assert append(one, 0, lines[0]) == 0
        assert append(one, 1, lines[1]) == 0
    assert one["lb-1"].journal().read_bytes() == lines[0] + b"\n" + lines[1] + b"\n"


def test_an_append_that_leaves_a_gap_or_differs_is_refused(one: Network) -> None:
    held(one)
    assert append(one, 1, b"one") == GAP
    assert not one["lb-1"].journal().exists()
    assert append(one, 0, b"zero") == 0
    assert append(one, 2, b"two") == GAP
    assert append(one, 0, b"other") == CONFLICT
    assert append(one, 0, b"zero", b"one") == 0
    assert append(one, 1, b"on") == CONFLICT
    assert append(one, 0, b"zero") == 0
    assert one["lb-1"].journal().read_bytes() == b"zero\none\n"


@pytest.mark.parametrize("torn", [b"half", b"\x00\x00\x00", b'{"number":1'])
def test_a_torn_line_makes_room_for_the_next(one: Network, torn: bytes) -> None:
    held(one)
    assert append(one, 0, b"zero") == 0
    with one["lb-1"].journal().open("ab") as file:
        file.write(torn)
    assert append(one, 1, b"one") == 0
    assert one["lb-1"].journal().read_bytes() == b"zero\none\n"


def test_a_stale_holder_appends_nothing(one: Network) -> None:
    held(one)
    assert append(one, 0, b"zero") == 0
    held(one, 2, over="a1")
    assert append(one, 1, b"one") == FENCED_OUT
    assert append(one, 0, b"zero") == FENCED_OUT
    assert append(one, 1, b"two", fence=2) == 0
    assert one["lb-1"].journal().read_bytes() == b"zero\ntwo\n"


def test_lines_that_did_not_arrive_whole_are_not_written(one: Network) -> None:
    held(one)
    step = rollouts.append("r1", 1, 0, [b"zero", b"one"], root=one.root)
    cut = one.remotes()["lb-1"].run(step.argv, stdin=b"zero\non")
    assert cut.rc == 1
    assert b"whole" in cut.err
    assert not one["lb-1"].journal().exists()


def test_appends_side_by_side_are_written_in_order_or_refused(one: Network) -> None:
    held(one)
    append(one, 0, b"zero")
    codes: list[int] = []
    threads = [
        threading.Thread(target=lambda n=n: codes.append(append(one, 1, b"one %d" % n))) for n in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(codes) == [0] + [CONFLICT] * 5
    assert one["lb-1"].journal().read_bytes().count(b"\n") == 2


@pytest.mark.parametrize("id", ["", "..", "a/b", "-rf", "a b", "$(id)", "x" * 65])
def test_an_id_that_is_no_name_of_a_folder_is_refused(id: str) -> None:
    with pytest.raises(ValueError, match="rollout"):
        rollouts.read_journal(id)


# --- on several ---


def written(network: Network, name: str) -> tuple[Entry, ...]:
    return journal.decode(network[name].journal().read_bytes(), name).entries


def test_a_journal_is_written_on_every_balancer_and_read_back(two: Network) -> None:
    store = store_of(two, held(two))
    store.begin(header(by=HOSTILE))
    store.append(entry(1))
    store.append(entry(2, "stopped", reason=HOSTILE))
    assert store.next_number == 3
    assert written(two, "lb-1") == written(two, "lb-2")
    read = store_of(two).read("r1")
    assert (read.journal.header, read.differ) == (header(by=HOSTILE), ())
    assert [each.step for each in read.journal.entries] == ["pulled", "stopped"]
    assert read.journal.entries[1].detail["reason"] == HOSTILE
    head = store_of(two).unfinished()
    assert head is not None
    assert (head.id, head.count, head.last, head.why, head.balancers) == (
        "r1", 2, read.journal.entries[1], read.journal.entries[1], ("lb-1", "lb-2"),
    )  # fmt: skip
    assert not list(two["lb-1"].home.rglob("pwned"))


def test_repeating_an_append_is_harmless_and_a_gap_is_a_mistake(two: Network) -> None:
    store = store_of(two, held(two))
    store.begin(header())
    store.append(entry(1))
    store.append(entry(1))
    with pytest.raises(ValueError, match="entry 3 where 2 belongs"):
        store.append(entry(3))
    assert written(two, "lb-2") == (entry(1),)


def test_a_balancer_that_was_down_catches_up(two: Network) -> None:
    store = store_of(two, held(two))
    store.begin(header())
    store.append(entry(1))
    two["lb-2"].down = True
    store.append(entry(2, "draining", "g1-0"))
    store.append(entry(3, "drained", "g1-0"))
    assert isinstance(store.errors["lb-2"], UnreachableError)
    assert len(written(two, "lb-2")) == 1
    behind = store_of(two)
    two["lb-2"].down = False
    assert behind.read("r1").differ == ("lb-2 lacks the last entries that lb-1 has (2)",)
    store.append(entry(4, "moving", "g1-0"))
    assert store.errors == {}
    assert written(two, "lb-2") == written(two, "lb-1")
    assert len(written(two, "lb-2")) == 4


def test_a_balancer_that_missed_the_beginning_gets_all_of_it(two: Network) -> None:
    two["lb-1"].down = True
    store = store_of(two, held(two, 1, "lb-2"))
    store.begin(header())
    two["lb-1"].down = False
    held(two, 1, "lb-1")
    store.append(entry(1))
    assert two["lb-1"].journal().read_bytes() == two["lb-2"].journal().read_bytes()


def test_a_connection_that_broke_is_opened_anew_but_not_at_every_entry(two: Network) -> None:
    now = [0.0]
    store = store_of(two, held(two), open_one=two.open, clock=lambda: now[0])
    store.begin(header())
    two["lb-2"].down = True
    store.append(entry(1))
    two["lb-2"].down = False
    store.append(entry(2))
    assert (two["lb-2"].opened, len(written(two, "lb-2"))) == (0, 0)
    assert "lb-2" in store.errors
    now[0] += AGAIN
    store.append(entry(3))
    assert (two["lb-2"].opened, len(written(two, "lb-2"))) == (1, 3)
    assert store.errors == {}


class Time:
    """A clock that only pauses move; `then` happens once `at` seconds have passed."""

    def __init__(self, at: float = 0.0, then: Callable[[], object] = lambda: None) -> None:
        self.now = 0.0
        self.pauses = 0
        self._at, self._then = at, then

    def clock(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        assert seconds > 0
        self.pauses += 1
        self.now += seconds
        if self.now >= self._at:
            self._then()


def patient(network: Network, lease: Held, time: Time, **other: object) -> Store:
    store = store_of(network, lease, open_one=network.open, clock=time.clock, pause=time.pause, **other)
    store.begin(header())
    return store


def test_an_entry_waits_for_the_only_balancer_to_come_back(one: Network) -> None:
    time = Time(50.0, lambda: setattr(one["lb-1"], "down", False))
    store = patient(one, held(one), time)
    one["lb-1"].down = True
    store.append(entry(1))
    assert written(one, "lb-1") == (entry(1),)
    assert (one["lb-1"].opened, store.errors) == (1, {})
    assert 50 <= time.now < 60


def test_an_entry_waits_for_any_of_several_balancers_and_for_no_more_than_one(two: Network) -> None:
    time = Time(20.0, lambda: setattr(two["lb-2"], "down", False))
    store = patient(two, held(two), time)
    two["lb-1"].down = True
    store.append(entry(1))
    assert time.pauses == 0
    two["lb-2"].down = True
    store.append(entry(2))
    assert written(two, "lb-2") == (entry(1), entry(2))
    assert "lb-1" in store.errors
    assert 20 <= time.now < 60


def test_an_entry_waits_for_room_on_the_only_balancer(one: Network) -> None:
    time = Time(5.0, lambda: setattr(one["lb-1"], "room", 0))
    store = patient(one, held(one), time)
    one["lb-1"].room = len(one["lb-1"].journal().read_bytes()) // 512 + 1
    store.append(entry(1, "stopped", reason="x" * 600))
    assert len(written(one, "lb-1")) == 1
    assert time.pauses > 0


def test_where_no_balancer_can_write_for_a_minute_the_rollout_stops_and_the_entry_may_come_again(
    two: Network,
) -> None:
    time = Time()
    store = patient(two, held(two), time)
    for name in two.balancers:
        two[name].down = True
    with pytest.raises(BalancerError, match="lb-1") as error:
        store.append(entry(1))
    assert "--resume" in error.value.remedy
    assert 60 <= time.now < 70
    # Others who waited for their turn meanwhile are not made to wait a minute each.
    gave_up = time.now
    for _ in range(20):
        with pytest.raises(BalancerError, match="lb-1"):
            store.append(entry(1, "soaked"))
    assert time.now == gave_up
    time.now += 30
    with pytest.raises(BalancerError):
        store.append(entry(1, "soaked"))
    assert time.now == gave_up + 30
    for name in two.balancers:
        two[name].down = False
    time.now += AGAIN
    store.append(entry(1, "pulled", again=True))
    assert written(two, "lb-1") == written(two, "lb-2") == (entry(1, "pulled", again=True),)
    two["lb-1"].down = two["lb-2"].down = True
    began = time.now
    with pytest.raises(BalancerError):
        store.append(entry(2))
    assert 60 <= time.now - began < 70


def test_an_entry_whose_answer_was_lost_is_written_once(one: Network) -> None:
    """The connection breaks when the balancer has stored the line and before it says so."""

    class Deaf(Connection):
        def run(self, argv: tuple[str, ...], **more: Any) -> Result:
            super().run(argv, **more)
            raise UnreachableError("lb-1: connection lost")

    time = Time()
    store = patient(one, held(one), time)
    real, deaf = one.open, Deaf(one["lb-1"], one.root)
    store._reach["lb-1"] = Reach("lb-1", real, deaf)
    store.append(entry(1))
    store.append(entry(2))
    assert written(one, "lb-1") == (entry(1), entry(2))
    assert time.pauses == 1


@pytest.mark.parametrize("error", [LeaseError("taken over"), BalancerError("not renewed for 100 s")])
def test_who_has_no_lease_any_more_does_not_wait_to_write(one: Network, error: FleetError) -> None:
    lease = held(one)
    time = Time(3.0, lambda: setattr(lease, "lost", error))
    store = patient(one, lease, time)
    one["lb-1"].down = True
    with pytest.raises(type(error), match=error.message):
        store.append(entry(1))
    assert time.now < 5
    pauses = time.pauses
    with pytest.raises(type(error), match=error.message):
        store.append(entry(1))
    assert time.pauses == pauses


def test_one_write_that_hangs_does_not_use_up_the_minute(one: Network) -> None:
    limits: list[float] = []

    class Hung(Connection):
        def run(self, argv: tuple[str, ...], *, timeout: float = 120.0, **more: Any) -> Result:
            limits.append(timeout)
            raise StepError("lb-1: no end in time")

    store = patient(one, held(one), Time())
    store._reach["lb-1"] = Reach("lb-1", one.open, Hung(one["lb-1"], one.root))
    store.append(entry(1))
    assert written(one, "lb-1") == (entry(1),)
    assert [limit <= 25 for limit in limits] == [True]


def test_a_line_that_found_no_room_leaves_no_trace_and_comes_later(two: Network) -> None:
    store = store_of(two, held(two))
    store.begin(header())
    before = two["lb-2"].journal().read_bytes()
    two["lb-2"].room = len(before) // 512 + 1
    store.append(entry(1, "stopped", reason="x" * 600))
    assert isinstance(store.errors["lb-2"], StepError)
    assert two["lb-2"].journal().read_bytes() == before
    assert len(written(two, "lb-1")) == 1
    two["lb-2"].room = 0
    store.append(entry(2))
    assert written(two, "lb-2") == written(two, "lb-1")
    assert len(written(two, "lb-2")) == 2


def test_a_holder_that_was_taken_over_on_one_balancer_writes_no_more(two: Network) -> None:
    store = store_of(two, held(two))
    store.begin(header())
    held(two, 2, "lb-2", over="a1")
    with pytest.raises(LeaseError, match="lb-2: anna"):
        store.append(entry(1))
    lease = Held(2, lost=LeaseError("the lease was lost"))
    with pytest.raises(LeaseError):
        store_of(two, lease).begin(header())
    with pytest.raises(LeaseError):
        store_of(two).begin(header())


def test_what_was_written_under_the_higher_number_counts_not_what_is_longer(two: Network) -> None:
    """lb-2 was down when the first operator wrote; lb-1 is down when the second goes on from what lb-2 has."""
    first = store_of(two, held(two))
    first.begin(header())
    two["lb-2"].down = True
    for number in (1, 2, 3):
        first.append(entry(number, "pulled", by="first"))
    two["lb-2"].down, two["lb-1"].down = False, True
    second = store_of(two, held(two, 2, "lb-2", over="a1"))
    second.go_on(second.read("r1").journal)
    second.append(entry(1, "pulled", by="second"))
    two["lb-1"].down = False
    held(two, 3, "lb-1", over="a1")
    third = store_of(two, held(two, 3, "lb-2", over="a2"))
    read = third.read("r1")
    assert read.journal.entries == (entry(1, "pulled", by="second"),)
    assert read.differ == ("lb-1 and lb-2 differ from entry 1 on; what lb-2 has is the newer",)
    head = third.unfinished()
    assert head is not None
    assert (head.count, head.fence) == (1, 2)
    third.go_on(read.journal)
    third.append(entry(2, "soaked"))
    assert written(two, "lb-1") == written(two, "lb-2") == (*read.journal.entries, entry(2, "soaked"))
    kept = two["lb-1"].root / "r1" / "journal.replaced"
    assert len(journal.decode(kept.read_bytes(), "lb-1").entries) == 3


def test_garbage_on_one_balancer_leaves_the_others_journal(two: Network) -> None:
    store = store_of(two, held(two))
    store.begin(header())
    store.append(entry(1))
    two["lb-2"].journal().write_bytes(b"garbage\ngarbage\n")
    reader = store_of(two)
    assert reader.read("r1").journal.entries == (entry(1),)
    assert "lb-2: r1/journal, line 1" in str(reader.errors["lb-2"])
    found = store_of(two)
    assert [head.balancers for head in found.heads()] == [("lb-1",)]
    assert found.unreadable == {}
    two["lb-1"].journal().write_bytes(b"garbage\n")
    with pytest.raises(JournalError, match="lb-1: r1/journal, line 1"):
        store_of(two).read("r1")
    with pytest.raises(JournalError, match=r"lb-.: r1/journal, line 1"):
        store_of(two).unfinished()


def test_a_rollout_that_no_balancer_knows_is_said(two: Network) -> None:
    assert store_of(two).heads() == ()
    assert store_of(two).unfinished() is None
    assert store_of(two).result("r1") is None
    with pytest.raises(TaskError, match="no balancer has a rollout r1"):
        store_of(two).read("r1")


def test_the_newest_rollout_counts_and_not_an_older_one_without_an_end(one: Network) -> None:
    lease = held(one)
    old, new = store_of(one, lease), store_of(one, lease)
    old.begin(header("r1"))
    old.append(entry(1, "stopped", reason="kept"))
    new.begin(header("r2", started=2000.0))
    unfinished = store_of(one).unfinished()
    assert unfinished is not None
    assert unfinished.id == "r2"
    new.append(entry(1, "finished"))
    assert [head.id for head in store_of(one).heads()] == ["r2", "r1"]
    assert store_of(one).unfinished() is None


def test_the_end_is_written_and_old_rollouts_are_forgotten(two: Network) -> None:
    lease = held(two)
    ids = [f"2026-{number:02}" for number in range(5)]
    document = rollouts.plain({"said": HOSTILE}) + b"\n"
    for id in ids:
        store = store_of(two, lease)
        store.begin(header(id))
        store.append(entry(1, "rolling-back", reason="slow"))
        store.append(entry(2, "rolled-back"))
        store.finish(document, keep=3)
    assert [head.id for head in store_of(two).heads()] == ids[:1:-1]
    head = store_of(two).heads()[0]
    assert (head.ended, head.has_result) == (True, True)
    assert head.why is not None
    assert head.why.detail["reason"] == "slow"
    assert store_of(two).result(ids[-1]) == document
    for name in two.balancers:
        assert sorted(path.name for path in two[name].root.iterdir() if path.is_dir()) == ids[2:]
        assert (two[name].root / "fence").exists()


def test_a_result_is_not_written_by_a_stale_holder(one: Network) -> None:
    store = store_of(one, held(one))
    store.begin(header())
    held(one, 2, over="a1")
    with pytest.raises(LeaseError):
        store.finish(b"{}")
    assert store_of(one).result("r1") is None


def test_what_the_balancers_that_can_be_reached_have_is_read_without_the_others(two: Network) -> None:
    store = store_of(two, held(two))
    store.begin(header())
    store.append(entry(1, "finished"))
    store.finish(b"{}")
    some = Store({"lb-2": two.remotes()["lb-2"]}, root=two.root)
    assert [head.balancers for head in some.heads()] == [("lb-2",)]
    assert some.read("r1").journal.entries == (entry(1, "finished"),)
    assert (some.result("r1"), some.running()) == (b"{}", "")


def test_the_rollout_that_a_lease_names_is_at_work_until_the_lease_ends(two: Network) -> None:
    assert store_of(two).running() == ""
    for name, fence, id in (("lb-1", 1, "r1"), ("lb-2", 2, "r2")):
        step = rollouts.take(fence, claim("a1", rollout=id), 3600, root=two.root)
        assert two.run(name, step).rc == 0
    assert store_of(two).running() == "r2"
    two["lb-2"].down = True
    assert store_of(two).running() == "r1"
    two["lb-1"].down = True
    with pytest.raises(UnreachableError):
        store_of(two).running()
    two["lb-1"].down = two["lb-2"].down = False
    for name, fence in (("lb-1", 1), ("lb-2", 2)):
        assert two.run(name, rollouts.release(fence, claim("a1"), root=two.root)).rc == 0
    assert store_of(two).running() == ""


def test_a_lease_whose_process_was_killed_or_that_has_expired_names_nothing(one: Network) -> None:
    me = this_process("anna", "fleet upgrade", "r1")
    assert one.run("lb-1", rollouts.take(1, me, 3600, root=one.root)).rc == 0
    assert store_of(one).running() == "r1"
    dead = replace(me, started=me.started + 1)
    assert one.run("lb-1", rollouts.take(2, dead, 3600, root=one.root)).rc == 0
    assert store_of(one).running() == ""
    elsewhere = claim(me.holder, rollout="r1")
    assert one.run("lb-1", rollouts.take(3, elsewhere, -5, root=one.root)).rc == 0
    assert store_of(one).running() == ""


def test_without_any_balancer_nothing_is_read() -> None:
    with pytest.raises(FleetError, match="no balancer"):
        Store({}).heads()


def test_a_mistake_of_our_own_is_told_as_one_and_not_as_a_balancers() -> None:
    class Broken:
        name = "lb-1"

        def run(self, *argv: object, **more: object) -> object:
            raise ValueError("oops")

    with pytest.raises(InternalError, match="oops"):
        Store({"lb-1": Broken(), "lb-2": Broken()}).heads()  # type: ignore[dict-item]
