"""nginx's configuration: valid for every size and affinity, and closed to whatever an inventory contains."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.balancer.nginx import Settings, config_hash, deployed_servers, edited, main_text, render
from fleet.balancer.nginx_ring import shares
from fleet.errors import InputError
from fleet.model.slot import Slot
from tests.unit.nginx_world import TEMPLATE, check, slots
from tests.unit.test_balancer_render import hostile


@pytest.mark.parametrize("affinity", ["session", "none"])
@pytest.mark.parametrize("count", [0, 1, 8])
def test_nginx_accepts_it_without_a_warning(tmp_path, count, affinity):
    pool = slots(range(7860, 7860 + count))
    settings = Settings(bind="127.0.0.1:8080", affinity=affinity)
    assert check(tmp_path, settings, pool) == ""
    assert [s.name for s in deployed_servers(render(pool, settings, TEMPLATE))] == [s.name for s in pool]


def test_nginx_accepts_long_names_and_ipv6(tmp_path):
    name = "gpu-in-the-second-row-of-the-third-hall.datacentre-north.translation.example"
    address = "2001:db8:1111:2222:3333:4444:5555:6666"
    pool = [Slot(name, 0, "", address, 7860, weight=3), Slot("v6", 0, "", "2001:0DB8::0001", 7860)]
    assert check(tmp_path, Settings(bind="[::1]:8080"), pool) == ""
    found = deployed_servers(render(pool, Settings(), TEMPLATE))
    assert [(s.name, s.address, s.port, s.weight) for s in found] == [
        (f"{name}-0", address, 7860, 3),
        ("v6-0", "2001:db8::1", 7860, 100),
    ]


def test_nginx_accepts_fifty_hosts_of_eight(tmp_path):
    pool = [Slot(f"gpu-{i // 8}", i % 8, "", f"10.0.{i // 8}.1", 7860 + i % 8, weight=28) for i in range(400)]
    assert check(tmp_path, Settings(bind="127.0.0.1:8080"), pool) == ""


def test_every_server_has_its_weight_and_failure_limits():
    text = render(slots([7860, 7861], [10, 28]), Settings(max_fails=4, fail_timeout=20), TEMPLATE)
    assert "least_conn;\n  server 127.0.0.1:7860 weight=10 max_fails=4 fail_timeout=20s; # gpu-01-0\n" in text
    assert "  server 127.0.0.1:7861 weight=28 max_fails=4 fail_timeout=20s; # gpu-01-1\n" in text


def test_old_workers_end_later_than_the_longest_job():
    assert "worker_shutdown_timeout 1260s;" in main_text(Settings(longest_job=1200))


def test_the_ring_keeps_proportions_small():
    assert shares([100, 100]) == [1, 1]
    assert shares([10, 15]) == [2, 3]
    assert shares([10, 256]) == [1, 16]
    assert shares([]) == []


def test_the_hash_follows_the_text():
    one = render(slots([7860]), Settings(), TEMPLATE)
    assert one == render(slots([7860]), Settings(), TEMPLATE)
    assert re.fullmatch("[0-9a-f]{16}", config_hash(one) or "")
    assert not edited(one)
    assert edited(one + "# by hand\n")
    assert edited(one.replace("7860", "7861"))
    assert not edited("somebody else's")
    assert config_hash(one) != config_hash(render(slots([7860], [7]), Settings(), TEMPLATE))


def test_a_template_must_tell_its_hash(tmp_path):
    (tmp_path / "t.j2").write_text("# fleet-config: {{ config_hash }}\n")
    with pytest.raises(InputError, match="config_hash"):
        render([], Settings(), tmp_path / "t.j2")


def test_a_name_is_no_address():
    with pytest.raises(InputError, match=r"'gpu-01\.example' is no IP address") as refused:
        render([Slot("gpu-01", 0, "", "gpu-01.example", 7860)], Settings(), TEMPLATE)
    assert "fleet_address" in refused.value.remedy


def test_two_slots_cannot_be_at_one_address():
    with pytest.raises(InputError, match=r"gpu-01-0 and gpu-01-1 are both at 127\.0\.0\.1:7860"):
        render(slots([7860, 7860]), Settings(), TEMPLATE)


@pytest.mark.parametrize(("change", "words"), [({"port": 0}, "port 0"), ({"weight": 257}, "weight 257")])
def test_numbers_out_of_range_are_refused(change, words):
    with pytest.raises(InputError, match=words):
        render([replace(slots([7860])[0], **change)], Settings(), TEMPLATE)


@given(host=hostile, address=st.one_of(hostile, st.just("10.0.0.1")))
def test_no_inventory_value_becomes_configuration(host, address):
    try:
        text = render([Slot(host, 0, "", address, 7860)], Settings(), TEMPLATE)
    except InputError:
        return
    assert _plain(text, f"{host}-0") == _plain(benign(), "HOST-0")


@given(key=st.sampled_from(["bind", "cookie", "affinity", "max_fails", "status_port"]), value=hostile)
def test_no_setting_becomes_configuration(key, value):
    try:
        text = render([], msgspec.convert({key: value}, Settings), TEMPLATE)
    except (ValueError, msgspec.ValidationError):
        return
    assert len(text.splitlines()) == len(render([], Settings(), TEMPLATE).splitlines())
    assert not re.search(r"[\s\"'\\#$;{}]", value)


@pytest.mark.parametrize(
    "bad", [{"max_fails": 0}, {"bind": "host:80"}, {"visible_body": 1}, {"cookie": "a b"}, {"longest_job": 0}]
)
def test_settings_that_cannot_work_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        Settings(**bad)


@cache
def benign() -> str:
    return render([Slot("HOST", 0, "", "10.9.9.9", 7860)], Settings(), TEMPLATE)


def _plain(text: str, name: str) -> str:
    """Without what is meant to differ: name, address, the key of the ring and the hash."""
    text = text.replace(f'"{name}"', '"NAME"').replace(f"s; # {name}\n", "s; # NAME\n")
    text = re.sub(r'"place\.\d+"', '"KEY"', re.sub(r"[0-9a-f]{16}", "HASH", text))
    return re.sub(r"(\[[0-9a-f:]+\]|10\.[0-9.]+):7860", "AT", text)
