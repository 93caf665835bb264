"""Keys on real HAProxies: they open the gateway at once, and no longer at once."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import pytest

from fleet.balancer.keys import KEYS_PROBE, Key, KeySet, KeysFound, mend, parse_keys, sync
from fleet.errors import ExitCode, InputError, TaskError, UnreachableError
from fleet.keys import Balancers, add_key, list_keys, revoke_keys
from fleet.keys.words import fingerprint, new_secret
from fleet.model.facts import Answer
from tests.local import LocalRunner
from tests.unit.keys_world import KeysHost


@pytest.fixture
def two(tmp_path):
    both = [KeysHost(tmp_path / name, name) for name in ("lb-01", "lb-02")]
    for balancer in both:
        balancer.start()
    yield both
    for balancer in both:
        balancer.stop()


@pytest.fixture
def one(tmp_path):
    balancer = KeysHost(tmp_path / "lb-01", "lb-01")
    yield balancer
    balancer.stop()


def balancers(*hosts: KeysHost) -> Balancers:
    by_name = {host.name: host for host in hosts}

    def open_host(name):
        remote = by_name[name].open()
        return remote, LocalRunner(remote)

    return Balancers([host.host for host in hosts], open_host)


def add(name, *hosts):
    with balancers(*hosts) as open_ones:
        return add_key(open_ones, name)


def revoke(who, *hosts, **more):
    with balancers(*hosts) as open_ones:
        return revoke_keys(open_ones, who, **more)


def listed(*hosts):
    with balancers(*hosts) as open_ones:
        return list_keys(open_ones)


def asked(balancer: KeysHost) -> KeysFound:
    result = balancer.open().script(KEYS_PROBE.script, timeout=20)
    found = parse_keys(Answer(result.rc, result.out))
    assert found is not None
    return found


def some_keys(count: int, **more) -> KeySet:
    """Keys enough for several commands to HAProxy."""
    made = (fingerprint(new_secret()) for _ in range(count))
    return KeySet.of(
        Key(sha256, f"user-{number}", sha256[:8], "2026-01-01T00:00:00Z", **more)
        for number, sha256 in enumerate(made)
    )


def test_a_key_opens_all_balancers_at_once_and_one_revoked_none(two):
    added = add("bob", *two)
    key = added.secret.reveal()
    assert added.report.ok
    assert added.report.exit_code is ExitCode.DONE
    assert [balancer.lets_in(key) for balancer in two] == [True, True]
    assert two[0].get(X_API_Key=key) == (200, added.key.value)
    assert not any(balancer.lets_in(key[:-1]) or balancer.lets_in("") for balancer in two)
    assert not two[0].lets_in(added.key.sha256)
    (row,) = listed(*two).keys
    assert (row.name, row.id, row.sha256) == ("bob", added.key.id, fingerprint(added.secret))
    assert row.balancers == {"lb-01": "active", "lb-02": "active"}

    revoked = revoke(added.key.id, *two)
    assert [balancer.lets_in(key) for balancer in two] == [False, False]
    (row,) = revoked.report.keys
    assert row.balancers == {"lb-01": "revoked", "lb-02": "revoked"}
    for balancer in two:
        assert added.key.sha256 not in balancer.ask(f"show map {balancer.file}")
        balancer.stop()
        balancer.start()
        assert not balancer.lets_in(key)


def test_revoking_works_within_a_second_on_every_balancer(two):
    """The promise of docs/keys.md, with 500 keys: from the moment the change begins to the first refusal."""
    for balancer in two:
        balancer.open().run(sync(some_keys(500)).argv, stdin=sync(some_keys(500)).stdin)
    added = add("bob", *two)
    refused_at: dict[str, float] = {}

    def watch(balancer: KeysHost) -> None:
        while balancer.get(X_API_Key=added.secret.reveal())[0] == 200:
            time.sleep(0.01)
        refused_at[balancer.name] = time.monotonic()

    with balancers(*two) as open_ones:
        open_ones.look()
        watchers = [threading.Thread(target=watch, args=(balancer,)) for balancer in two]
        for watcher in watchers:
            watcher.start()
        began = time.monotonic()
        revoke_keys(open_ones, "bob")
        ended = time.monotonic()
        for watcher in watchers:
            watcher.join(timeout=10)
    assert set(refused_at) == {"lb-01", "lb-02"}
    assert max(refused_at.values()) <= ended + 0.05
    assert max(refused_at.values()) - began < 1.0


def test_keys_survive_a_restart_and_are_hashes_only(one):
    one.start()
    added = add("bob", one)
    assert added.secret.reveal() not in one.file.read_text()
    one.stop()
    one.start()
    assert one.lets_in(added.secret.reveal())


def test_a_balancer_that_missed_changes_gets_them_with_the_next(two):
    first, second = two
    old = add("old", *two)
    second.reachable = False
    lost = revoke("old", *two)
    assert lost.report.exit_code is ExitCode.UNREACHABLE
    assert [row.state for row in lost.report.balancers] == ["up", "unreachable"]
    assert lost.report.keys[0].balancers == {"lb-01": "revoked", "lb-02": "unknown"}
    new = add("new", *two)
    assert new.report.exit_code is ExitCode.UNREACHABLE
    assert (second.lets_in(old.secret.reveal()), second.lets_in(new.secret.reveal())) == (True, False)

    second.reachable = True
    report = listed(*two)
    assert report.exit_code is ExitCode.HOST_FAILED
    said = {problem.place: problem.what for problem in report.problems}
    assert set(said) == {"lb-02"}
    states = {row.name: dict(row.balancers) for row in report.keys}
    assert states["old"] == {"lb-01": "revoked", "lb-02": "still active"}
    assert states["new"] == {"lb-01": "active", "lb-02": "missing"}
    assert (second.lets_in(old.secret.reveal()), second.lets_in(new.secret.reveal())) == (True, False)

    third = add("third", *two)
    assert third.report.mended == ("lb-02",)
    assert third.report.ok
    assert (second.lets_in(old.secret.reveal()), second.lets_in(new.secret.reveal())) == (False, True)
    assert first.file.read_text() == second.file.read_text()
    assert listed(*two).ok


def test_a_stale_balancer_never_brings_a_revoked_key_back(two):
    second = two[1]
    key = add("bob", *two)
    stale = second.file.read_text()
    revoke("bob", *two)
    second.stop()
    second.file.write_text(stale)
    second.start()
    assert second.lets_in(key.secret.reveal())
    add("eve", *two)
    assert [balancer.lets_in(key.secret.reveal()) for balancer in two] == [False, False]


def test_provisioning_gives_a_new_balancer_the_keys_of_the_others(two):
    first, second = two
    key, gone = add("bob", first), add("eve", first)
    revoke("eve", first)
    (plan,) = mend(asked(second), asked(first).keys)
    for step in plan.steps:
        LocalRunner(second.open()).execute(step, None)
    assert second.lets_in(key.secret.reveal())
    assert not second.lets_in(gone.secret.reveal())
    assert mend(asked(second), asked(first).keys) == mend(asked(first), asked(second).keys) == ()


def test_two_who_add_at_once_lose_nothing(two):
    names = [f"user-{number}" for number in range(6)]
    made = {}

    def one(name: str) -> None:
        made[name] = add(name, *two)

    threads = [threading.Thread(target=one, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    report = listed(*two)
    assert report.ok
    assert sorted(row.name for row in report.keys) == names
    assert all(balancer.lets_in(made[name].secret.reveal()) for balancer in two for name in names)


def test_a_name_may_have_two_keys_and_each_goes_by_its_id(two):
    old = add("bob", *two)
    new = add("bob", *two)
    assert [key.id for key in new.same_name] == [old.key.id]
    assert all(two[0].lets_in(each.secret.reveal()) for each in (old, new))
    with pytest.raises(InputError) as refused:
        revoke("bob", *two)
    assert old.key.id in refused.value.message
    assert "--all" in refused.value.remedy
    revoke(old.key.id, *two)
    assert [two[1].lets_in(each.secret.reveal()) for each in (old, new)] == [False, True]
    again = revoke(old.key.id, *two)
    assert again.already
    assert again.report.ok
    revoke("bob", *two)
    assert not two[1].lets_in(new.secret.reveal())
    assert revoke("bob", *two).already


def test_all_keys_of_a_name(one):
    one.start()
    made = [add("bob", one) for _ in range(2)]
    other = add("eve", one)
    gone = revoke("bob", one, every=True)
    assert {key.id for key in gone.keys} == {each.key.id for each in made}
    assert not any(one.lets_in(each.secret.reveal()) for each in made)
    assert one.lets_in(other.secret.reveal())


def test_without_the_gateway_keys_are_kept_for_later(tmp_path, one):
    one.configure(gateway=False)
    one.start()
    added = add("bob", one)
    assert added.report.ok
    assert added.report.balancers[0].gateway == "off"
    assert added.report.keys[0].balancers == {"lb-01": "stored"}
    one.stop()
    assert listed(one).balancers[0].gateway == "down"
    eve = add("eve", one)
    assert eve.report.ok
    one.configure(gateway=True)
    one.start()
    assert one.lets_in(added.secret.reveal())
    assert one.lets_in(eve.secret.reveal())
    assert listed(one).ok


def test_what_others_told_haproxy_is_found_and_undone(one):
    one.start()
    added = add("bob", one)
    foreign = new_secret()
    one.ask(f"add map {one.file} {fingerprint(foreign)} mallory")
    one.ask(f"add map {one.file} let;me mallory")
    one.ask(f"add map {one.file} # mallory")
    one.ask(f"add map {one.file} {added.key.sha256} twice")
    assert one.lets_in(foreign.reveal())
    report = listed(one)
    assert report.exit_code is ExitCode.HOST_FAILED
    assert "nobody added with fleet" in report.problems[0].what
    (plan,) = mend(asked(one), KeySet())
    assert "have HAProxy accept" in plan.summary
    assert add("eve", one).report.ok
    assert not one.lets_in(foreign.reveal())
    assert one.get(X_API_Key=added.secret.reveal()) == (200, added.key.value)
    assert len(asked(one).running) == 2


def test_a_key_haproxy_forgot_is_told_and_comes_back(one):
    one.start()
    added = add("bob", one)
    one.ask(f"del map {one.file} {added.key.sha256}")
    report = listed(one)
    assert "does not accept bob" in report.problems[0].what
    assert report.keys[0].balancers == {"lb-01": "missing"}
    assert add("eve", one).report.mended == ("lb-01",)
    assert one.lets_in(added.secret.reveal())


def test_many_keys(one):
    one.start()
    many = some_keys(300)
    assert one.open().run(sync(many).argv, stdin=sync(many).stdin).rc == 0
    assert asked(one).keys == many
    assert asked(one).running_is_file
    gone = KeySet.of(replace(key, revoked="2026-02-01T00:00:00Z") for key in many.keys)
    assert one.open().run(sync(gone).argv, stdin=sync(gone).stdin).rc == 0
    assert asked(one).running == ()


def test_a_file_that_cannot_be_written_takes_keys_away_and_adds_none(tmp_path):
    """A full disk must not keep a key alive. A name too long for a file beside it stands for the full disk."""
    one = KeysHost(tmp_path / "lb-01", "lb-01", file="k" * 252)
    bob, eve = some_keys(1).keys[0], some_keys(1).keys[0]
    one.file.write_text(KeySet.of([bob]).text())
    one.file.chmod(0o600)
    try:
        one.start()
        assert [sha256 for sha256, _ in asked(one).running] == [bob.sha256]
        gone = KeySet.of([replace(bob, revoked="2026-02-01T00:00:00Z"), eve])
        result = one.open().run(sync(gone).argv, stdin=sync(gone).stdin)
        assert result.rc == 1
        assert b"could not be written" in result.err
        assert asked(one).running == ()
        with pytest.raises(TaskError, match="no balancer took the change") as failed:
            add("eve", one)
        assert "could not be written" in failed.value.output
    finally:
        one.stop()


def test_who_is_not_there(two):
    with pytest.raises(InputError, match="no key of name or ID nobody"):
        revoke("nobody", *two)
    two[1].reachable = False
    with pytest.raises(InputError, match="lb-02 did not"):
        revoke("nobody", *two)
    two[0].reachable = False
    kept = []
    with balancers(*two) as open_ones, pytest.raises(UnreachableError, match="no balancer answers"):
        add_key(open_ones, "bob", kept.append)
    assert kept == []


def test_a_file_that_cannot_be_read_is_not_taken_for_an_empty_one(one):
    one.start()
    one.file.unlink()
    one.file.mkdir()
    with pytest.raises(TaskError, match="no balancer took the change"):
        add("bob", one)
    assert one.file.is_dir()
