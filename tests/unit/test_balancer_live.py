"""A real HAProxy on loopback: what it says, what it is told, and what a reload keeps."""

from __future__ import annotations

import urllib.error
import urllib.request
from dataclasses import replace

import pytest

from fleet.balancer import runtime
from fleet.balancer.render import config_hash
from fleet.balancer.stats import Admin
from fleet.errors import InputError
from fleet.model.slot import Slot
from tests.unit.haproxy_world import running, web_server


@pytest.fixture
def web():
    with web_server() as port:
        yield port


@pytest.fixture
def two(web):
    return [Slot("gpu-01", i, f"GPU-{i}", "127.0.0.1", web, weight=100) for i in range(2)]


@pytest.fixture
def balancer(tmp_path, two):
    with running(tmp_path, two, check_interval=1, check_retry=1) as balancer:
        yield balancer


def tell(balancer, step):
    return balancer.sh(step.argv[2], step.stdin)


def get(balancer, path="/", headers=None):
    request = urllib.request.Request(f"http://127.0.0.1:{balancer.port}{path}", headers=headers or {})
    try:
        with urllib.request.urlopen(request, timeout=5) as response:
            return response.status, response.headers, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read().decode()


def test_it_tells_its_configuration_and_servers(balancer):
    state = balancer.look()
    assert state.config_hash == config_hash(balancer.config.read_text())
    assert state.version[0].isdigit()
    assert state.uptime < 60
    assert abs(state.started - balancer.config.stat().st_mtime) < 5
    assert [server.name for server in state.slots()] == ["gpu-01-0", "gpu-01-1"]
    for server in state.slots():
        assert (server.weight, server.configured_weight, server.admin) == (100, 100, Admin.READY)
        assert server.address.startswith("127.0.0.1:")


def test_requests_are_counted_and_tell_where_they_come_from(balancer):
    status, _, seen = get(balancer, headers={"Host": "translate.example", "X-Real-IP": "6.6.6.6"})
    assert status == 200
    assert "host: translate.example\n" in seen
    assert "x-real-ip: 127.0.0.1\n" in seen
    assert "x-forwarded-for: 127.0.0.1\n" in seen
    assert sum(server.sessions_total for server in balancer.look().slots()) == 1


def test_checks_find_a_dead_server_and_the_health_page_tells(tmp_path):
    with web_server() as port:
        slot = Slot("gpu-01", 0, "", "127.0.0.1", port)
        with running(tmp_path, [slot], check_interval=1, check_retry=1, fall=1) as balancer:
            assert get(balancer, "/health")[0] == 200
            with web_server(status=500) as broken:
                balancer.write([replace(slot, port=broken)])
                balancer.save_state()
                balancer.reload()
                balancer.until(lambda: balancer.look().slot("gpu-01-0").status == "DOWN")
                server = balancer.look().slot("gpu-01-0")
                assert server.check_status == "L7STS"
                assert not server.up
                status, headers, _ = get(balancer, "/health")
                assert status == 503
                status, headers, body = get(balancer)
                assert (status, headers["Retry-After"]) == (503, "10")
                assert "No translation server is free" in body


def test_weight_and_drain_are_set_and_told(balancer):
    assert tell(balancer, runtime.set_weight("gpu-01-0", 7)).returncode == 0
    assert tell(balancer, runtime.drain("gpu-01-1")).returncode == 0
    first, second = balancer.look().slots()
    assert (first.weight, first.configured_weight, first.takes_jobs) == (7, 100, True)
    assert (second.admin, second.weight, second.takes_jobs) == (Admin.DRAIN, 100, False)
    assert tell(balancer, runtime.set_admin("gpu-01-1", Admin.MAINT)).returncode == 0
    assert balancer.look().slot("gpu-01-1").admin is Admin.MAINT
    assert tell(balancer, runtime.ready("gpu-01-1")).returncode == 0
    assert balancer.look().slot("gpu-01-1").admin is Admin.READY


def test_a_command_haproxy_refuses_fails_with_its_words(balancer):
    done = tell(balancer, runtime.set_weight("gpu-09-0", 7))
    assert done.returncode == 1
    assert b"No such" in done.stderr


def test_only_names_of_servers_reach_the_socket():
    with pytest.raises(InputError):
        runtime.drain("gpu-01-0; shutdown sessions server work/gpu-01-0")
    with pytest.raises(InputError):
        runtime.set_weight("gpu-01-0", 257)


def test_a_drained_server_makes_all_jobs_go_elsewhere(balancer):
    tell(balancer, runtime.drain("gpu-01-0"))
    for _ in range(6):
        assert get(balancer)[0] == 200
    assert [server.sessions_total for server in balancer.look().slots()] == [0, 6]


def test_a_reload_keeps_drains_and_weights_but_not_what_the_configuration_changed(balancer, two, web):
    tell(balancer, runtime.set_weight("gpu-01-0", 7))
    tell(balancer, runtime.drain("gpu-01-1"))
    balancer.save_state()
    balancer.reload()
    first, second = balancer.look().slots()
    assert (first.weight, second.admin) == (7, Admin.DRAIN)

    with web_server() as elsewhere:
        moved = [replace(two[0], weight=50), replace(two[1], port=elsewhere)]
        text = balancer.write(moved)
        balancer.save_state()
        balancer.reload()
        state = balancer.look()
        first, second = state.slots()
        assert state.config_hash == config_hash(text)
        assert (first.weight, first.configured_weight) == (50, 50)
        assert (second.admin, second.address) == (Admin.DRAIN, f"127.0.0.1:{elsewhere}")


def test_servers_that_leave_and_come_leave_the_others_as_they_were(balancer, two):
    tell(balancer, runtime.drain("gpu-01-1"))
    balancer.write([replace(two[0], host="gpu-00"), two[1], replace(two[0], index=2)])
    balancer.save_state()
    balancer.reload()
    assert [(s.name, s.admin) for s in balancer.look().slots()] == [
        ("gpu-00-0", Admin.READY),
        ("gpu-01-1", Admin.DRAIN),
        ("gpu-01-2", Admin.READY),
    ]


def test_the_state_file_survives_a_haproxy_that_does_not_answer(balancer):
    tell(balancer, runtime.drain("gpu-01-1"))
    balancer.save_state()
    saved = (balancer.folder / "servers.state").read_text()
    assert "gpu-01-1" in saved
    assert "tabs" not in saved
    balancer.process.terminate()
    balancer.process.wait(timeout=10)
    balancer.save_state()
    assert (balancer.folder / "servers.state").read_text() == saved
    assert balancer.look() is None
    assert sorted(path.name for path in balancer.folder.glob("servers.state*")) == ["servers.state"]


def test_prometheus_and_statistics_are_there(balancer):
    with urllib.request.urlopen(f"http://{balancer.settings.stats_bind}/metrics", timeout=5) as response:
        assert 'haproxy_server_weight{proxy="work",server="gpu-01-0"}' in response.read().decode()


def test_bodies_beyond_the_limit_are_refused(tmp_path, two):
    with running(tmp_path, two, max_body=1000) as balancer:
        request = urllib.request.Request(f"http://127.0.0.1:{balancer.port}/x", data=b"x" * 2000)
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=5)
        assert refused.value.code == 413
