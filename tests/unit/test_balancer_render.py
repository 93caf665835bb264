"""The configuration: valid for every size and affinity, and closed to whatever an inventory contains."""

from __future__ import annotations

import re
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.balancer.deploy import deployed_servers
from fleet.balancer.render import Peer, Settings, config_hash, edited, render
from fleet.errors import InputError
from fleet.model.slot import Slot
from tests.unit.haproxy_world import TEMPLATE, check, settings, slots


@pytest.mark.parametrize("affinity", ["job", "session", "none"])
@pytest.mark.parametrize("count", [0, 1, 8])
def test_haproxy_accepts_it_without_a_warning(tmp_path, count, affinity):
    text = render(slots(count), settings(tmp_path, affinity=affinity), TEMPLATE)
    assert check(text, tmp_path) == ""
    assert len(deployed_servers(text)) == count


def test_haproxy_accepts_every_option(tmp_path):
    text = render(
        [Slot("v6", 0, "GPU-0", "::1", 7860), Slot("named", 0, "GPU-1", "no-such-host.invalid", 7860)],
        settings(
            tmp_path,
            bind="[::1]:8080",
            maxconn=500,
            check_path="/health?full=1",
            name="lb-01",
            peer_bind="*:10240",
            peers=(Peer(name="lb-02", address="192.0.2.2:10240"),),
        ),
        TEMPLATE,
    )
    assert check(text, tmp_path) == ""
    assert [server.address for server in deployed_servers(text)] == ["::1", "no-such-host.invalid"]


def test_every_slot_is_a_server_with_its_weight_and_check():
    text = render(slots(2), Settings(), TEMPLATE)
    work = text.split("\nbackend work\n")[1]
    assert "  server gpu-01-0 127.0.0.1:7860 weight 10 cookie gpu-01-0 check\n" in work
    assert "  server gpu-01-1 127.0.0.1:7861 weight 11 cookie gpu-01-1 check\n" in work
    assert "balance leastconn" in work
    assert "inter 10s fastinter 2s fall 3 rise 2" in text


def test_a_reload_waits_longer_than_the_longest_job():
    assert "hard-stop-after 1260s" in render([], Settings(longest_job=1200), TEMPLATE)


def test_the_hash_follows_the_text():
    one = render(slots(1), Settings(), TEMPLATE)
    same = render(slots(1), Settings(), TEMPLATE)
    other = render([replace(slots(1)[0], weight=11)], Settings(), TEMPLATE)
    assert one == same
    assert re.fullmatch("[0-9a-f]{16}", config_hash(one) or "")
    assert not edited(one)
    assert edited(one + "# by hand\n")
    assert edited(one.replace("7860", "7861"))
    assert not edited("somebody else's")
    assert config_hash(one) != config_hash(other)


def test_a_template_must_tell_its_hash(tmp_path):
    (tmp_path / "t.j2").write_text("global\n")
    with pytest.raises(InputError, match="config_hash"):
        render([], Settings(), tmp_path / "t.j2")


def test_two_slots_cannot_have_one_name():
    with pytest.raises(InputError, match="two slots are named a-1-0"):
        render(
            [Slot("a", 0, "", "h", 1), Slot("a-1", 0, "", "h", 2), Slot("a-1", 0, "", "h", 3)],
            Settings(),
            TEMPLATE,
        )


@pytest.mark.parametrize(("change", "words"), [({"port": 0}, "port 0"), ({"weight": 257}, "weight 257")])
def test_numbers_out_of_range_are_refused(change, words):
    with pytest.raises(InputError, match=words):
        render([replace(slots(1)[0], **change)], Settings(), TEMPLATE)


hostile = st.one_of(
    st.text(max_size=30),
    st.builds(
        lambda a, b: a + b,
        st.sampled_from(["gpu-01", "10.0.0.1", "", "a b", 'a"']),
        st.sampled_from(
            ["\n  server evil 6.6.6.6:80", "\r\n", " #", "\t", "\\\n", "${HOME}", "{{ 7 * 7 }}", "\x00"]
        ),
    ),
)


@given(
    key=st.sampled_from(
        ["bind", "stats_bind", "peer_bind", "cookie", "check_path", "check_host", "name", "lua_file"]
    ),
    value=hostile,
)
def test_no_setting_becomes_configuration(key, value):
    try:
        text = render([], Settings(**{key: value}), TEMPLATE)
    except (ValueError, msgspec.ValidationError):
        return
    assert len(text.splitlines()) == len(render([], Settings(), TEMPLATE).splitlines())
    assert not re.search(r"[\s\"'\\#$]", value)


@pytest.mark.parametrize(
    "bad",
    [{"check_interval": 0}, {"check_interval": 1, "check_retry": 2}, {"visible_body": 1}, {"cookie": "a b"}],
)
def test_settings_that_cannot_work_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        Settings(**bad)
