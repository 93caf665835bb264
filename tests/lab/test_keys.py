"""API keys on real balancers: from a command to the gateway, over a lost balancer and reloads, and in no log."""

from __future__ import annotations

import secrets
import shlex
import threading
import time

import httpx
import pytest

from tests.lab.conftest import SOAK
from tests.lab.helpers import needs, wait_for

pytestmark = pytest.mark.lab

FILE = "/etc/haproxy/fleet-keys.map"
GATEWAY = "gateway={keys: true, plain_http: true}"


def configure(lab, *variables):
    """Bring only the balancers to what the inventory and these variables say."""
    more = [word for variable in variables for word in ("-e", variable)]
    done = lab.fleet("run", "playbooks/provision.yml", "--limit", "balancer", *more, "--json")
    errors = [
        task["error"] for host in done.json["hosts"].values() for task in host["tasks"] if task["error"]
    ]
    assert done.code == 0, errors or done.out
    return done.json


@pytest.fixture(scope="module")
def gateway(lab):
    """The lab with keys asked for; afterwards as it was."""
    configure(lab, GATEWAY)
    yield lab
    configure(lab)
    for balancer in lab.balancers:
        lab.sh(balancer, f"rm -f {FILE}")


@pytest.fixture(scope="module")
def run():
    """A suffix for names, so that keys of other runs on a kept lab are not in the way."""
    return secrets.token_hex(3)


def add(lab, name):
    done = lab.fleet("key", "add", name)
    assert done.code == 0, done.err
    return done.out.strip()


def listed(lab):
    return lab.fleet("key", "list", "--revoked", "--json").json


def answers(lab, key):
    """What each balancer answers to the key: 401, or what the service says."""
    return {
        name: httpx.get(f"{url}/config", headers={"X-API-Key": key}, trust_env=False, timeout=10).status_code
        for name, url in lab.urls.items()
    }


def all_balancers(lab, status):
    return dict.fromkeys(lab.balancers, status)


def test_keys_can_be_made_before_the_gateway_is_on(lab, run):
    for balancer in lab.balancers:
        config = lab.sh(balancer, "cat /etc/haproxy/haproxy.cfg")
        needs("fleet-keys.map" not in config, "the gateway is on already")
    key = add(lab, f"early-{run}")
    document = listed(lab)
    assert [row["gateway"] for row in document["balancers"]] == ["off"] * len(lab.balancers)
    row = next(row for row in document["keys"] if row["name"] == f"early-{run}")
    assert row["balancers"] == all_balancers(lab, "stored")
    for balancer in lab.balancers:
        assert lab.sh(balancer, f"stat -c '%a %U %G' {FILE}").split() == ["600", "root", "root"]
        text = lab.sh(balancer, f"cat {FILE}")
        assert row["sha256"] in text
        assert key not in text
    assert answers(lab, key) == all_balancers(lab, 200)
    assert lab.fleet("key", "revoke", f"early-{run}").code == 0


def test_a_key_opens_every_balancer_until_the_moment_it_is_revoked(gateway, run):
    key = add(gateway, f"bob-{run}")
    assert answers(gateway, key) == all_balancers(gateway, 200)
    assert answers(gateway, key[:-1]) == all_balancers(gateway, 401)
    for url in gateway.urls.values():
        with httpx.Client(base_url=url, trust_env=False, timeout=10) as client:
            assert client.get("/config", headers={"Authorization": f"Bearer {key}"}).status_code == 200
            assert client.get("/config", auth=("anybody", key)).status_code == 200
            assert client.get("/config").status_code == 401
    refused: dict[str, float] = {}
    deadline = time.monotonic() + 30

    def watch(name):
        with httpx.Client(base_url=gateway.urls[name], trust_env=False, timeout=10) as client:
            while client.get("/config", headers={"X-API-Key": key}).status_code == 200:
                if time.monotonic() > deadline:
                    return
                time.sleep(0.05)
        refused[name] = time.monotonic()

    watchers = [threading.Thread(target=watch, args=(name,), daemon=True) for name in gateway.balancers]
    for watcher in watchers:
        watcher.start()
    done = gateway.fleet("key", "revoke", f"bob-{run}")
    ended = time.monotonic()
    for watcher in watchers:
        watcher.join(timeout=40)
    assert done.code == 0, done.err
    assert set(refused) == set(gateway.balancers)
    assert all(moment < ended + 1 for moment in refused.values())
    assert answers(gateway, key) == all_balancers(gateway, 401)


def test_a_balancer_that_was_away_gets_what_it_missed_from_provision(gateway, run):
    away, others = gateway.balancers[-1], gateway.balancers[:-1]
    needs(others, "there is one balancer only")
    gone = add(gateway, f"gone-{run}")
    units = gateway.sh(
        away, "systemctl list-units --plain --no-legend --state=active 'ssh.s*' | cut -d' ' -f1"
    )
    names = " ".join(units.split())
    gateway.sh(away, f"systemctl stop {names}")
    try:
        revoked = gateway.fleet("key", "revoke", f"gone-{run}", "--connect-timeout", "3")
        assert revoked.code == 3
        assert f"{away}: the key may still work there" in revoked.words
        kept = gateway.fleet("key", "add", f"kept-{run}", "--connect-timeout", "3")
        assert kept.code == 3
        assert f"{away}: the new key does not work there yet" in kept.words
    finally:
        gateway.sh(away, f"systemctl start {names}")
    key = kept.out.strip()
    assert answers(gateway, gone) == {**all_balancers(gateway, 401), away: 200}
    assert answers(gateway, key) == {**all_balancers(gateway, 200), away: 401}
    told = gateway.fleet("key", "list")
    assert told.code == 1
    assert f"{away}: lacks kept-{run}" in told.words
    assert f"{away}: still accepts gone-{run}" in told.words
    configure(gateway, GATEWAY)
    assert answers(gateway, gone) == all_balancers(gateway, 401)
    assert answers(gateway, key) == all_balancers(gateway, 200)
    assert gateway.fleet("key", "list").code == 0
    assert configure(gateway, GATEWAY)["changed"] == 0


# A worker that was just started may be slow to answer.
SLOWEST = ((0, 12),) if SOAK else ()
SLOW_RELOAD = """\
main=$(systemctl show -p MainPID --value haproxy)
children() {{ read -r found < /proc/$main/task/$main/children; }}
children; before=$found
sleep {delay}; kill -USR2 $main
for i in $(seq 200000); do
  children
  for each in $found; do
    case " $before " in *" $each "*) ;; *) kill -STOP $each; sleep {frozen}; kill -CONT $each; exit ;; esac
  done
done
"""


@pytest.mark.soak
def test_a_key_revoked_while_haproxy_reloads_stays_revoked(gateway, run):
    """A process that read the file just before the change answers just after it."""
    for delay, frozen in ((0.3, 0), (0.4, 0), (0.5, 0), *SLOWEST):
        key = add(gateway, f"brief-{run}")
        for balancer in gateway.balancers:
            reload = SLOW_RELOAD.format(delay=delay, frozen=frozen)
            gateway.sh(balancer, f"bash -c {shlex.quote(reload)} </dev/null >/dev/null 2>&1 &")
        revoked = gateway.fleet("key", "revoke", f"brief-{run}")
        assert revoked.code == 0, revoked.words
        time.sleep(1)
        assert answers(gateway, key) == all_balancers(gateway, 401)


def test_keys_survive_a_restart(gateway, run):
    key = add(gateway, f"stays-{run}")
    balancer = gateway.balancers[0]
    gateway.sh(balancer, "systemctl restart haproxy")
    wait_for(lambda: answers(gateway, key)[balancer] == 200, 20, "the key does not work after a restart")
    assert gateway.fleet("key", "list").code == 0


def test_no_key_is_in_a_process_list_a_log_or_a_document(gateway, tmp_path, run):
    """Every command line that appears on a balancer while keys are added, used and revoked is written down."""
    watch = "for i in $(seq 2000); do cat /proc/[0-9]*/cmdline | tr '\\0' ' '; echo; sleep 0.01; done > /run/key-words 2>&1"
    for balancer in gateway.balancers:
        gateway.sh(balancer, f"({watch}) </dev/null >/dev/null 2>&1 & echo $! > /run/key-watch")
    file = tmp_path / "bob.key"
    added = gateway.fleet("key", "add", f"secretive-{run}", "--output", str(file), "--json")
    assert added.code == 0, added.err
    key = file.read_text().strip()
    (row,) = added.json["keys"]
    assert answers(gateway, key) == all_balancers(gateway, 200)
    said = [
        added,
        gateway.fleet("key", "list", "--json"),
        gateway.fleet("key", "revoke", row["id"], "--json"),
    ]
    said.append(gateway.fleet("key", "list", "--revoked", "--json"))
    assert all(done.code == 0 for done in said)
    assert not any(key in done.out + done.err for done in said)
    assert file.stat().st_mode & 0o777 == 0o600
    for balancer in gateway.balancers:
        gateway.sh(balancer, "kill $(cat /run/key-watch); journalctl --sync")
        seen = gateway.sh(balancer, "cat /run/key-words")
        assert "fleet-keys.map" in seen, "the change itself was not seen: nothing was watched"
        assert key not in seen
        assert row["sha256"] not in seen
        logs = "journalctl --no-pager -o cat; grep -rahs . /var/log --include='*log' || true"
        log = gateway.sh(balancer, logs)
        assert f'"key":"secretive-{run}"' in log, "the key's use was not logged by its name"
        assert key not in log
        found = gateway.sh(
            balancer, f"grep -rlsF -f /dev/stdin /etc /run /tmp /var/tmp <<'X'\n{key}\nX\n", check=False
        )
        assert found == ""
        gateway.sh(balancer, "rm -f /run/key-words /run/key-watch")
