"""`fleet reboot` from the users' side: nothing fails while a host is away, and one that stays away stops it."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.lab.conftest import Done, Lab
from tests.lab.helpers import server_states, wait_for
from tests.lab.pages import API, LANGUAGE, expected, slot_of
from tests.lab.test_reboot import all_serve, slots, started
from tests.lab.upgrades import Going, gentle, under_load, unharmed

pytestmark = pytest.mark.lab

GPUS = "/etc/fleet-lab/gpus.json"
REASON = "mkdir -p /run/fleet && echo 'the driver is new' > /run/fleet/reboot-required"
BOOK = "- hosts: {host}\n  tasks:\n    - reboot: {{force: true}}\n"


def outer(*args: str) -> None:
    subprocess.run(["docker", *args], check=True, capture_output=True, timeout=120)


def boot_id(lab: Lab, host: str) -> str:
    """Empty while the host is away."""
    return lab.sh(host, "cat /proc/sys/kernel/random/boot_id", check=False).strip()


def up(lab: Lab, host: str) -> bool:
    """True where SSH lets fleet in."""
    return lab.sh(host, "systemctl is-active ssh", check=False).strip() == "active"


def names(host: str) -> list[str]:
    return [slot.removeprefix("fleet-") for slot in slots(host)]


def drained(lab: Lab, host: str) -> bool:
    """True where no slot of the host gets a job from any balancer."""
    states = [server_states(lab, name) for name in names(host)]
    return all(each and "UP" not in each for each in states)


def left(lab: Lab, host: str) -> str:
    """What a reboot that has not ended left there."""
    return lab.sh(host, "ls /var/lib/fleet/reboot /run/fleet/reboot-required 2>/dev/null", check=False)


@contextmanager
def a_long_job(lab: Lab, host: str) -> Iterator[None]:
    """A job on one of the host's slots, which holds a drain open; whatever happens to the host, its answer comes."""
    text, slot = "a job that lasts 20 s", ""
    with (
        httpx.Client(base_url=lab.urls["lb-01"], timeout=90, trust_env=False) as http,
        ThreadPoolExecutor() as pool,
    ):
        waiting = []
        while slot not in names(host):
            assert len(waiting) < 40, "no job came to the host"
            http.cookies.clear()
            asked = http.post(f"{API}/call/translate", json={"data": [text, LANGUAGE]})
            slot = slot_of(asked)
            waiting.append(pool.submit(http.get, f"{API}/call/translate/{asked.json()['event_id']}"))
        yield
        assert not waiting[-1].done(), "it ended before what was done meanwhile"
        answers = [each.result().text for each in waiting]
    assert all(expected(text) in answer for answer in answers), answers


@pytest.fixture
def host(lab: Lab) -> Iterator[str]:
    """A host that serves, and comes back when it reboots itself; afterwards it serves as before."""
    name = lab.gpu_hosts[0]
    container = lab.hosts[name]["container"]
    wait_for(lambda: all_serve(lab, name), 60, "the slots did not serve before the test")
    described = lab.sh(name, f"cat {GPUS}")
    outer("update", "--restart", "unless-stopped", container)
    yield name
    outer("update", "--restart", "unless-stopped", container)
    outer("start", container)
    if lab.sh(name, f"cat {GPUS}") != described:
        lab.sh(name, f"cat > {GPUS} <<'END'\n{described}END\nsystemctl restart nvidia-cdi-refresh.service")
        lab.sh(name, f"docker restart --time 2 {' '.join(slots(name))}")
    lab.fleet("ready", name)
    wait_for(lambda: all_serve(lab, name), 90, "the slots do not serve after the test")


def test_hosts_reboot_one_after_the_other_under_load_and_cards_that_changed_places_keep_their_slots(
    lab: Lab, host: str
) -> None:
    before = {name: (boot_id(lab, name), started(lab, name)) for name in lab.gpu_hosts}
    for name in lab.gpu_hosts:
        lab.sh(name, REASON)
    uuids = lab.sh(host, "nvidia-smi --query-gpu=uuid --format=csv,noheader").split()
    described = json.loads(lab.sh(host, f"cat {GPUS}"))
    described["gpus"].reverse()
    lab.sh(host, f"cat > {GPUS} <<'END'\n{json.dumps(described, indent=2)}\nEND")
    shown = lab.fleet("reboot", "gpu", "--check")
    assert shown.words.count("reboot (the driver is new)") == len(lab.gpu_hosts)

    # Both may go together; half of what serves must stay.
    work = ("reboot", "gpu", "--forks", "2", "--json")
    done, jobs, eyes = under_load(lab, lambda: lab.fleet(*work), gentle(lab))
    assert done.code == 0, done.out + done.err
    unharmed(jobs)
    assert [row["state"] for row in done.json["hosts"]] == ["rebooted"] * len(lab.gpu_hosts)
    for balancer in lab.balancers:
        assert eyes.lowest(balancer).ready * 2 >= eyes.whole
    for name, (boot, ran) in before.items():
        assert boot_id(lab, name) not in (boot, "")
        assert not set(started(lab, name)) & set(ran)
        assert all_serve(lab, name)
        assert left(lab, name) == ""
    states = {row["state"] for row in lab.fleet("reboot", "gpu", "--check", "--json").json["hosts"]}
    assert states == {"not needed"}

    assert lab.sh(host, "nvidia-smi --query-gpu=uuid --format=csv,noheader").split() == uuids[::-1]
    planned = lab.fleet("provision", "--check", "--json", "--limit", f"{host},balancer")
    assert planned.code == 0, planned.out + planned.err
    assert planned.json["changed"] == 0, planned.out
    told = {slot["name"]: slot["uuid"] for slot in lab.fleet("status", "--json").json["slots"]}
    assert [told[name] for name in names(host)] == uuids


def test_a_host_that_stays_away_stops_the_run_and_the_next_run_goes_on(lab: Lab, host: str) -> None:
    container = lab.hosts[host]["container"]
    other = lab.gpu_hosts[1]
    before = boot_id(lab, other)
    outer("update", "--restart", "no", container)

    def reboot() -> Done:
        return lab.fleet("reboot", "gpu", "--force", "--timeout", "8s")

    done, jobs, _ = under_load(lab, reboot, gentle(lab))
    unharmed(jobs)
    assert done.code == 3, done.out + done.err
    assert f"{host}: has not come back; {', '.join(names(host))} stay drained" in done.words
    assert f"{host} has not come back 8 s after it was told to reboot" in done.words
    assert f"{other}: not touched, since another host did not end well" in done.words
    assert "1 not back, 1 not touched" in done.words
    assert f"to go on: fleet reboot {host} {other} --force" in done.words
    assert drained(lab, host)
    # Nobody else is rebooted as long as it is away.
    again = lab.fleet("reboot", "gpu", "--force", "--json")
    assert again.code == 3
    assert [row["state"] for row in again.json["hosts"]] == ["not reached", "untouched"]
    assert boot_id(lab, other) == before

    # Somebody presses the button.
    outer("start", container)
    wait_for(lambda: up(lab, host), 60, "no boot")
    assert drained(lab, host)
    resumed = lab.fleet("reboot", "gpu", "--json")
    assert resumed.code == 0, resumed.out + resumed.err
    assert [row["state"] for row in resumed.json["hosts"]] == ["finished", "not needed"]
    assert all_serve(lab, host)
    assert (left(lab, host), boot_id(lab, other)) == ("", before)


def test_a_reboot_that_is_interrupted_or_killed_is_gone_on_with(lab: Lab, host: str, tmp_path: Path) -> None:
    before = boot_id(lab, host)
    book = tmp_path / "reboot.yml"
    book.write_text(BOOK.format(host=host))

    def work() -> Done:
        # Ctrl-C while it is drained: everything is as it was.
        with a_long_job(lab, host):
            first = Going(lab, "reboot", host, "--force", "--json")
            try:
                wait_for(lambda: drained(lab, host), 60, "it is not drained")
                first.tell(signal.SIGINT)
                done = first.done()
            finally:
                first.close()
        assert done.code == 130, done.out + done.err
        (row,) = done.json["hosts"]
        assert (row["state"], row["drained"], boot_id(lab, host)) == ("interrupted", False, before)
        assert left(lab, host) == ""
        wait_for(lambda: all_serve(lab, host), 60, "what was drained does not serve again")
        # A playbook's controller that loses power once the host goes down.
        second = Going(lab, "run", str(book))
        try:
            wait_for(lambda: boot_id(lab, host) != before, 60, "it does not reboot")
        finally:
            second.close()
        assert drained(lab, host)
        wait_for(lambda: up(lab, host), 60, "it does not come back")
        return lab.fleet("reboot", host, "--json")

    done, jobs, _ = under_load(lab, work, gentle(lab))
    unharmed(jobs)
    assert (done.code, done.json["hosts"][0]["state"]) == (0, "finished"), done.out + done.err
    assert all_serve(lab, host)
    assert left(lab, host) == ""


def test_provisioning_reboots_a_host_that_serves_nothing_without_a_word_to_the_balancers(lab: Lab) -> None:
    other = lab.gpu_hosts[1]
    before = boot_id(lab, other)
    lab.sh(other, f"{REASON}; docker rm -f {' '.join(slots(other))}")

    def provision() -> Done:
        return lab.fleet("provision", "--json")

    done, jobs, eyes = under_load(lab, provision, gentle(lab))
    assert done.code == 0, done.out + done.err
    unharmed(jobs)
    assert boot_id(lab, other) not in (before, "")
    admins = {server.admin for sample in eyes.seen for server in sample.servers.values()}
    assert admins == {0}, "a slot was drained"
    tasks = {task["task"]: task["status"] for task in done.json["hosts"][other]["tasks"]}
    assert tasks["Reboot where the driver needs it"] == "changed"
    wait_for(lambda: all_serve(lab, other), 60, "the slots do not serve again")
    assert left(lab, other) == ""
