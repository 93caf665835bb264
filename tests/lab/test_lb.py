"""`fleet lb` on real balancers: shown, compared, checked by HAProxy itself, pushed, and rolled back."""

from __future__ import annotations

import shutil
import urllib.request

import pytest

from fleet.data import data_dir
from tests.lab.conftest import fleet

pytestmark = pytest.mark.lab

CONFIG = "/etc/haproxy/haproxy.cfg"


@pytest.fixture
def project(lab, tmp_path):
    """A folder with the shipped playbook, whose template a test may spoil, and fleet in it."""
    (tmp_path / "playbooks").mkdir()
    (tmp_path / "templates").mkdir()
    shutil.copy(data_dir("playbooks") / "provision.yml", tmp_path / "playbooks" / "provision.yml")
    shipped = (data_dir("templates") / "haproxy.cfg.j2").read_text()

    def go(*args: str, add: str = ""):
        (tmp_path / "templates" / "haproxy.cfg.j2").write_text(shipped + add)
        return fleet("lb", *args, "-i", lab.inventory, cwd=tmp_path)

    return go


def hashes(lab):
    """What each balancer runs, asked of HAProxy itself."""
    ask = "echo 'show env FLEET_CONFIG' | socat stdio /run/haproxy/admin.sock | sed -n 's/^FLEET_CONFIG=//p'"
    return {name: lab.sh(name, ask).strip() for name in lab.balancers}


def workers(lab):
    ask = "echo 'show info' | socat stdio /run/haproxy/admin.sock | sed -n 's/^Pid: //p'"
    return {name: lab.sh(name, ask).strip() for name in lab.balancers}


def answers(lab):
    with urllib.request.urlopen(f"{lab.url}/health", timeout=10) as response:
        return response.status == 200


def test_show_prints_exactly_what_is_deployed(lab):
    for more in ([], ["--running"]):
        shown = lab.fleet("lb", "show", "--limit", "lb-01", *more)
        assert (shown.code, shown.err) == (0, "")
        assert shown.out == lab.sh("lb-01", f"cat {CONFIG}")
    document = lab.fleet("lb", "show", "--json").json
    assert {name: found["hash"] for name, found in document["balancers"].items()} == hashes(lab)


def test_diff_finds_an_edit_a_weight_and_a_drain_and_push_mends_the_differences(lab):
    assert lab.fleet("lb", "diff").code == 0
    good = lab.sh("lb-01", f"cat {CONFIG}")
    lab.sh("lb-01", f"sed -i 's/leastconn/roundrobin/' {CONFIG}")
    lab.sh("lb-01", "echo 'set server work/gpu-01-1 weight 7' | socat stdio /run/haproxy/admin.sock")
    lab.sh("lb-01", "echo 'set server work/gpu-01-0 state drain' | socat stdio /run/haproxy/admin.sock")
    try:
        told = lab.fleet("lb", "diff")
        assert told.code == 10, told.err
        assert "-  balance roundrobin\n+  balance leastconn\n" in told.out
        assert "set weight of gpu-01-1 from 7" in told.out
        assert "gpu-01-0 is drained" in told.out
        document = lab.fleet("lb", "diff", "--json").json
        differs = {name: found["differs"] for name, found in document["balancers"].items()}
        assert differs == {name: name == "lb-01" for name in lab.balancers}
        before = workers(lab)
        pushed = lab.fleet("lb", "push")
        assert pushed.code == 0, pushed.out + pushed.err
        assert {name for name, pid in workers(lab).items() if pid != before[name]} == {"lb-01"}
        assert lab.sh("lb-01", f"cat {CONFIG}") == good
        left = lab.fleet("lb", "diff")
        assert left.code == 0, left.out
        assert "gpu-01-0 is drained" in left.out
    finally:
        lab.sh("lb-01", "echo 'set server work/gpu-01-0 state ready' | socat stdio /run/haproxy/admin.sock")


def test_a_second_push_changes_nothing(lab):
    before = workers(lab)
    document = lab.fleet("lb", "push", "--json").json
    assert (document["exit_code"], document["changed"]) == (0, 0)
    for name, outcome in document["balancers"].items():
        assert (outcome["state"], outcome["reloaded"]) == ("unchanged", False)
        assert outcome["after"] == hashes(lab)[name]
    assert workers(lab) == before


def test_check_finds_a_broken_template_with_its_line_and_leaves_nothing_behind(lab, project):
    assert project("check").code == 0
    done = project("check", "--json", add="\nbackend spoiled\n  balance nonsense\n")
    assert done.code == 1
    for name in lab.balancers:
        verdict = done.json["balancers"][name]
        assert not verdict["accepted"]
        (error,) = [message for message in verdict["messages"] if message["level"] == "error"]
        assert (error["file"], error["text"]) == (CONFIG, "balance nonsense")
        rendered = project("show", "--limit", name, add="\nbackend spoiled\n  balance nonsense\n").out
        assert rendered.splitlines()[error["line"] - 1].strip() == "balance nonsense"
        assert "templates/haproxy.cfg.j2:" in error["template"]
        assert "nonsense" not in lab.sh(name, f"cat {CONFIG}")
        assert lab.sh(name, f"ls -d /run/fleet-check.* {CONFIG}.new 2>/dev/null || true") == ""


def test_push_refuses_what_haproxy_refuses_and_touches_no_other(lab, project):
    before, pids = hashes(lab), workers(lab)
    done = project("push", "--json", add="\nbackend spoiled\n  balance nonsense\n")
    assert done.code == 1
    states = [outcome["state"] for outcome in done.json["balancers"].values()]
    assert states == ["failed"] + ["untouched"] * (len(lab.balancers) - 1)
    assert (hashes(lab), workers(lab)) == (before, pids)


def test_what_starts_nowhere_is_rolled_back_and_touches_no_other(lab, project):
    """HAProxy accepts the configuration and cannot bind it: the old one must serve again."""
    before = hashes(lab)
    spoiled = "\nfrontend cannot\n  bind unix@/nowhere/fleet.sock\n  timeout client 5s\n"
    done = project("push", add=spoiled)
    assert done.code == 1
    assert "was rolled back" in done.out
    assert hashes(lab) == before
    assert answers(lab)
    for name in lab.balancers[1:]:
        assert f"untouched  {name}  runs {before[name]} as before" in done.out
    assert lab.fleet("lb", "diff").code == 0
    assert lab.fleet("provision", "--json").json["changed"] == 0
