"""hold and unattended_upgrades: what keeps packages as they are."""

from __future__ import annotations

import re
import subprocess

import pytest

from fleet.errors import TaskError
from fleet.model.facts import Answer
from fleet.model.steps import Upload
from fleet.modules import _apt
from fleet.modules.unattended_upgrades import DRIVER, PATH
from tests.unit.modules_world import ABSENT, file_answer, plan, steps, typed

DPKG = "dpkg:-jq"
RPM = "rpm:jq"
NO = Answer(127)
FILE = f"file.content:{PATH}"
UPGRADES = _apt.packages_probe(("unattended-upgrades",), virtual=False).key
THERE = "ii \tunattended-upgrades\tall\t2.9\tinstalled\n"


def row(status):
    return f"{status} \tjq\tamd64\t1.7-1\tinstalled\n"


def held(args, **facts):
    return plan("hold", {"name": "jq", **args}, {DPKG: NO, RPM: NO, "dnf.locks": NO, **facts})


def argv(changes):
    return [step.argv for step in steps(changes)]


def test_a_package_is_held_once():
    assert argv(held({}, **{DPKG: row("ii")})) == [("apt-mark", "hold", "--", "jq")]
    assert held({}, **{DPKG: row("hi")}) == []


def test_a_hold_is_released_once():
    assert argv(held({"state": "unheld"}, **{DPKG: row("hi")})) == [("apt-mark", "unhold", "--", "jq")]
    assert held({"state": "unheld"}, **{DPKG: row("ii")}) == []
    assert held({"state": "unheld"}, **{DPKG: ""}) == []


def test_names_as_rpm_has_them_can_be_held():
    facts = {
        "dpkg:-NetworkManager": NO,
        "rpm:NetworkManager": "NetworkManager 1.52\n",
        "dnf.locks": "@plugin\n",
    }
    assert argv(plan("hold", {"name": "NetworkManager"}, facts)) == [
        ("dnf", "-y", "-q", "versionlock", "add", "NetworkManager")
    ]


def test_a_debian_host_that_has_dnf_too_is_held_by_apt():
    both = {"dnf.locks": "@plugin\n"}
    assert argv(held({}, **{DPKG: row("ii"), **both})) == [("apt-mark", "hold", "--", "jq")]
    assert argv(held({"state": "unheld"}, **{DPKG: row("hi"), **both})) == [
        ("apt-mark", "unhold", "--", "jq")
    ]


def test_what_is_not_installed_cannot_be_held():
    with pytest.raises(TaskError, match="not installed: jq"):
        held({}, **{DPKG: ""})
    with pytest.raises(TaskError, match="neither dpkg nor rpm"):
        held({})


def test_dnf_locks_versions_and_installs_what_does_it():
    rpm = {RPM: "jq 1.6\n", "dnf.locks": ""}
    assert argv(held({}, **rpm)) == [
        ("dnf", "-y", "-q", "install", "python3-dnf-plugin-versionlock"),
        ("dnf", "-y", "-q", "versionlock", "add", "jq"),
    ]
    locked = {**rpm, "dnf.locks": "@plugin\n# Added lock on Tue\njq-0:1.6-17.el9.*\n"}
    assert held({}, **locked) == []
    assert argv(held({"state": "unheld"}, **locked)) == [("dnf", "-y", "-q", "versionlock", "delete", "jq")]
    other = {**rpm, "dnf.locks": "@plugin\njq-devel-0:1.6-17.el9.*\n!jq-0:1.5-1.el9.*\n"}
    assert argv(held({}, **other)) == [("dnf", "-y", "-q", "versionlock", "add", "jq")]
    with pytest.raises(TaskError, match="not installed: jq"):
        held({}, **{RPM: "package jq is not installed\n", "dnf.locks": ""})


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"name": []}, "is empty"),
        ({"name": "jq=1"}, "keeps the installed version"),
        ({"name": "jq; reboot"}, "not a package name"),
        ({"name": "--all"}, "not a package name"),
        ({"name": ["jq", "jq"]}, "twice"),
    ],
)
def test_wrong_holds(args, message):
    with pytest.raises(ValueError, match=message):
        typed("hold", args)


def upgrades(args=None, *, dpkg=THERE, file=ABSENT):
    return plan("unattended_upgrades", args or {}, {UPGRADES: dpkg, FILE: file})


def written(changes):
    (upload,) = steps(changes)
    assert isinstance(upload, Upload)
    return upload.content


def test_the_driver_is_put_on_the_list_once():
    content = written(upgrades())
    assert upgrades(file=file_answer(content)) == []
    assert content.decode().splitlines()[1:4] == [
        "Unattended-Upgrade::Package-Blacklist {",
        '    "nvidia-";',
        '    "libnvidia-";',
    ]
    assert written(upgrades({"blacklist": ["nvidia-"]}, file=file_answer(content))) != content


def test_apt_itself_reads_the_list(tmp_path):
    file = tmp_path / "52fleet-nvidia"
    file.write_bytes(written(upgrades()))
    done = subprocess.run(
        ["apt-config", "-c", str(file), "dump", "Unattended-Upgrade::Package-Blacklist"],
        capture_output=True,
        text=True,
        check=True,
    )
    for pattern in DRIVER:
        assert f'Unattended-Upgrade::Package-Blacklist:: "{pattern}";' in done.stdout


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("nvidia-driver-cuda", True),
        ("nvidia-utils-580-server", True),
        ("libnvidia-compute-580-server", True),
        ("linux-modules-nvidia-580-server-open-generic", False),  # it brings the modules of each later kernel
        ("libcuda1", True),
        ("linux-image-generic", False),
        ("openssl", False),
    ],
)
def test_the_list_matches_the_driver_and_nothing_else(name, kept):
    assert any(re.match(pattern, name) for pattern in DRIVER) == kept


def test_where_nothing_upgrades_by_itself_nothing_is_written():
    assert upgrades(dpkg="") == []
    assert upgrades(dpkg=NO) == []


def test_the_file_is_removed():
    assert argv(upgrades({"state": "absent"}, file=file_answer(b"x"))) == [("rm", "-f", "--", PATH)]
    assert upgrades({"state": "absent"}) == []


@pytest.mark.parametrize("blacklist", [[], ['a"b'], ["a;"], ["("], [" "]])
def test_wrong_lists(blacklist):
    with pytest.raises(ValueError, match="blacklist"):
        typed("unattended_upgrades", {"blacklist": blacklist})
