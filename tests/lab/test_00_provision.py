"""From bare hosts to the service. These tests come first and in order: they need the hosts bare."""

from __future__ import annotations

import pytest

from tests.lab.conftest import KEEP

pytestmark = pytest.mark.lab

FILES = (
    "find / -xdev \\( -path /proc -o -path /sys -o -path /run -o -path /tmp -o -path /var/tmp -o -path /var/log"
    " -o -path /var/cache/ldconfig -o -path /var/lib/systemd -o -path /dev \\) -prune -o -type f"
    " -printf '%p %s %m %u %g %T@\\n' | sort; dpkg-query -W; systemctl list-unit-files --no-legend --no-pager"
)


def snapshot(lab, host):
    return lab.sh(host, FILES).splitlines()


def connections(lab, host):
    """How many SSH sessions sshd has let in so far, by its own log."""
    log = lab.sh(host, "journalctl -q --no-pager -t sshd -t sshd-session -o cat")
    return sum(1 for line in log.splitlines() if line.startswith("Accepted "))


@pytest.fixture(scope="module")
def targets(bare_lab):
    return [name for name in bare_lab.hosts if not name.startswith("registry")]


def test_check_prints_the_whole_plan_and_changes_nothing(bare_lab, targets):
    if KEEP and "docker" in bare_lab.sh("gpu-01", "ls /usr/bin"):
        pytest.skip("FLEET_TEST_KEEP: the lab is provisioned already")
    before = {host: snapshot(bare_lab, host) for host in targets}
    done = bare_lab.fleet("provision", "--check", "--diff")
    assert done.code == 0, done.out + done.err
    for words in ("install", "docker", "nvidia", "haproxy", "image"):
        assert words in done.words.lower(), words
    assert all(host in done.out for host in targets)
    assert {host: snapshot(bare_lab, host) for host in targets} == before
    assert bare_lab.fleet("provision", "--check", "--exit-code").code == 10


def test_provision_applies_and_ends_with_a_translation(bare_lab, targets):
    done = bare_lab.fleet("provision", "--json")
    assert done.code == 0, done.out + done.err
    document = done.json
    assert {host: state["recap"]["failed"] for host, state in document["hosts"].items()} == dict.fromkeys(
        targets, 0
    )
    assert document["url"] == bare_lab.url
    assert document["translation"]["answer"]


def test_a_second_run_changes_nothing_over_one_connection_per_host(bare_lab, targets):
    before = {host: connections(bare_lab, host) for host in targets}
    files = {host: snapshot(bare_lab, host) for host in targets}
    done = bare_lab.fleet("provision", "--json")
    assert done.code == 0, done.out + done.err
    assert done.json["changed"] == 0
    assert {host: connections(bare_lab, host) - before[host] for host in targets} == dict.fromkeys(targets, 1)
    assert {host: snapshot(bare_lab, host) for host in targets} == files
    assert bare_lab.fleet("provision", "--check", "--exit-code").code == 0
