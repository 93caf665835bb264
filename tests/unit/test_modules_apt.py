"""apt's plan from recorded dpkg answers, and its script run by a real sh with stand-ins for apt and dpkg."""

import os
import subprocess

import pytest

from fleet.errors import TaskError
from fleet.model.facts import Answer
from fleet.model.steps import Run
from fleet.modules import _apt
from tests.unit.modules_world import plan, steps, typed

# Recorded on Debian 13: curl on hold, jq unpacked but not configured, tree removed with its configuration left.
ROWS = {
    "curl": "hi \tcurl\tamd64\t8.14.1-2+deb13u7\tinstalled\n",
    "htop": "ii \thtop\tamd64\t3.4.1-5\tinstalled\n",
    "jq": "iU \tjq\tamd64\t1.7.1-6\tunpacked\n",
    "tree": "rc \ttree\tamd64\t2.2.1-1\tconfig-files\n",
    "docker-ce": "un \tdocker-ce\t\t\tnot-installed\n",
}
AWK = "@provides\nii \tmawk\t1.3.4.20250131-1\tawk\n"


def apt(args, *rows, provides=""):
    names = [args["name"]] if isinstance(args["name"], str) else args["name"]
    bare = [name.partition("=")[0] for name in names]
    probe = _apt.packages_probe(bare, virtual=args.get("state") != "absent")
    return plan("apt", args, {probe.key: "".join(ROWS[row] for row in rows) + provides})


def get(verb, *arguments, age="86400", held=""):
    argv = ("sh", "-c", _apt.APT, "apt", age, verb, *arguments)
    title = " ".join(("apt-get", verb, *arguments))
    env = {**_apt.ENVIRONMENT, **({"FLEET_HELD": held} if held else {})}
    return Run(argv, timeout=1800.0, env=env, title=title)


def mark(verb, *names):
    return Run(("apt-mark", verb, "--", *names), env=_apt.ENVIRONMENT)


def test_only_what_is_missing_is_installed():
    (change,) = apt({"name": ["curl", "htop", "ripgrep"]}, "curl", "htop")
    assert change.summary == "install ripgrep"
    assert change.diff == "ripgrep: absent -> installed\n"
    assert change.steps == (get("install", "--no-install-recommends", "--", "ripgrep"),)
    assert apt({"name": ["curl", "htop"]}, "curl", "htop") == []


def test_options_reach_apt():
    args = {"name": "a=1", "install_recommends": True, "allow_downgrade": True, "cache_valid_time": 0}
    assert steps(apt({**args, "name": "aa=1"})) == [
        get("install", "--install-recommends", "--allow-downgrades", "--", "aa=1", age="0")
    ]


def test_a_version_is_compared_with_its_wildcards():
    assert apt({"name": "htop=3.4.*"}, "htop") == []
    assert apt({"name": "htop=3.4.1-5"}, "htop") == []
    (change,) = apt({"name": "htop=3.5.*"}, "htop")
    assert change.summary == "install htop 3.5.*"
    assert change.diff == "htop: 3.4.1-5 -> 3.5.*\n"


@pytest.mark.parametrize("row", ["jq", "tree"])
def test_half_installed_and_removed_packages_are_not_installed(row):
    assert len(apt({"name": row}, row)) == 1


def test_a_name_that_dpkg_knows_only_from_others_is_absent():
    assert apt({"name": "docker-ce", "state": "absent"}, "docker-ce") == []
    assert len(apt({"name": "docker-ce"}, "docker-ce")) == 1


def test_a_virtual_package_is_installed_by_its_provider():
    assert apt({"name": ["awk", "htop"]}, "htop", provides=AWK) == []
    assert steps(apt({"name": "awk", "hold": True}, provides=AWK)) == [mark("hold", "mawk")]


def test_holds():
    assert apt({"name": "curl", "hold": True}, "curl") == []
    assert steps(apt({"name": ["curl", "htop"], "hold": True}, "curl", "htop")) == [mark("hold", "htop")]
    assert steps(apt({"name": ["curl", "htop"], "hold": False}, "curl", "htop")) == [mark("unhold", "curl")]


def test_a_held_package_may_change_where_the_task_says_so_and_stays_held():
    install = get("install", "--no-install-recommends", "--", "curl=9", held="curl")
    assert steps(apt({"name": "curl=9"}, "curl")) == [mark("unhold", "curl"), install, mark("hold", "curl")]
    assert steps(apt({"name": "curl=9", "hold": True}, "curl")) == [
        mark("unhold", "curl"),
        install,
        mark("hold", "curl"),
    ]
    assert steps(apt({"name": "curl=9", "hold": False}, "curl")) == [mark("unhold", "curl"), install]


def test_removal():
    assert apt({"name": ["ripgrep", "tree"], "state": "absent"}, "tree") == []
    (change,) = apt(
        {"name": ["htop", "curl", "ripgrep"], "state": "absent", "autoremove": True}, "htop", "curl"
    )
    assert change.summary == "remove htop, curl"
    assert change.steps == (
        mark("unhold", "curl"),
        get("remove", "--autoremove", "--", "htop", "curl", age="never", held="curl"),
    )
    (change,) = apt({"name": ["htop", "tree"], "state": "absent", "purge": True}, "htop", "tree")
    assert change.steps == (get("purge", "--", "htop", "tree", age="never"),)
    assert len(apt({"name": "jq", "state": "absent"}, "jq")) == 1


def test_a_host_without_dpkg_is_an_error():
    key = _apt.packages_probe(["htop"]).key
    with pytest.raises(TaskError, match="no dpkg"):
        plan("apt", {"name": "htop"}, {key: Answer(127, b"")})


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"name": []}, "`name` is empty"),
        ({"name": ["aa", "aa=1"]}, "twice"),
        ({"name": "--purge"}, "not a package name"),
        ({"name": "aa bb"}, "not a package name"),
        ({"name": "aa="}, "not a package version"),
        ({"name": "aa=1", "state": "absent"}, "mean nothing"),
        ({"name": "aa", "purge": True}, "go with `state: absent`"),
        ({"name": "aa", "cache_valid_time": -1}, "negative"),
    ],
)
def test_wrong_arguments(args, message):
    with pytest.raises(ValueError, match=message):
        typed("apt", args)


class Sandbox:
    """The apt script with stand-ins on PATH that tell what they were asked, and lists in a folder of its own."""

    def __init__(self, folder, apt_get, dpkg="exit 0"):
        self.log = folder / "log"
        self.lists = folder / "lists"
        self.bin = folder / "bin"
        self.folder = folder
        self.bin.mkdir()
        self.lists.mkdir()
        (self.lists / "deb_InRelease").touch()
        self._program("apt-get", apt_get)
        self._program("dpkg", dpkg)

    def _program(self, name, body):
        # The verb is the first word that is neither an option nor an option's value.
        words = 'verb=; skip=; for w in "$@"; do case $w in -o) skip=1 ;; -*) ;; *) '
        words += '[ -z "$skip" ] && [ -z "$verb" ] && verb=$w; skip= ;; esac; done\n'
        path = self.bin / name
        path.write_text(f"#!/bin/sh\ncd {self.folder}\n{words}echo {name} ${{verb:-$1}} >>log\n{body}\n")
        path.chmod(0o755)

    def run(self, *arguments, held=""):
        script = _apt.APT.replace("/var/lib/apt/lists", str(self.lists)).replace("sleep 3", "sleep 0.01")
        env = {**os.environ, "PATH": f"{self.bin}:{os.environ['PATH']}", "FLEET_HELD": held}
        done = subprocess.run(
            ["sh", "-c", script, "apt", *arguments], capture_output=True, text=True, env=env
        )
        calls = self.log.read_text().splitlines() if self.log.exists() else []
        return done.returncode, done.stderr, calls


def test_fresh_lists_are_not_fetched(tmp_path):
    box = Sandbox(tmp_path, "exit 0")
    assert box.run("86400", "install", "--", "jq") == (0, "", ["apt-get install"])


@pytest.mark.parametrize("state", ["old", "absent"])
def test_old_or_absent_lists_are(tmp_path, state):
    box = Sandbox(tmp_path, "exit 0")
    if state == "absent":
        (box.lists / "deb_InRelease").unlink()
    else:
        os.utime(box.lists, (0, 0))
    assert box.run("86400", "install", "--", "jq")[2] == ["apt-get update", "apt-get install"]


@pytest.mark.parametrize(
    "complaint", ["E: Unable to locate package jq", "E: Version '9' for 'jq' was not found", "404  Not Found"]
)
def test_unknown_packages_make_the_lists_be_fetched_once(tmp_path, complaint):
    body = f'[ $verb = update ] && touch updated; [ -e updated ] || {{ echo "{complaint}"; exit 100; }}'
    box = Sandbox(tmp_path, body)
    assert box.run("86400", "install", "--", "jq")[::2] == (
        0,
        ["apt-get install", "apt-get update", "apt-get install"],
    )
    (tmp_path / "updated").unlink()
    box.log.unlink()
    box._program("apt-get", f'[ $verb = update ] || {{ echo "{complaint}"; exit 100; }}')
    code, _, calls = box.run("86400", "install", "--", "jq")
    assert (code, calls) == (1, ["apt-get install", "apt-get update", "apt-get install"])


def test_a_lock_of_the_lists_is_waited_for(tmp_path):
    body = "[ -e free ] && exit 0; [ -e tried ] && touch free; touch tried\n"
    body += (
        'echo "E: Could not get lock /var/lib/apt/lists/lock. It is held by process 7 (apt-get)"; exit 100'
    )
    box = Sandbox(tmp_path, body)
    assert box.run("86400", "install", "--", "jq") == (0, "", ["apt-get install"] * 3)


def test_an_interrupted_dpkg_is_finished_first(tmp_path):
    body = '[ -e repaired ] || { echo "E: dpkg was interrupted, you must manually run"; exit 100; }'
    box = Sandbox(tmp_path, body, dpkg="touch repaired")
    assert box.run("never", "install", "--", "jq") == (
        0,
        "",
        ["apt-get install", "dpkg --configure", "apt-get install"],
    )


@pytest.mark.parametrize(
    ("complaint", "reason"),
    [
        ("E: Unable to locate package jq", "no repository of this host has that package"),
        ("E: Held packages were changed and -y was used", "another package is on hold"),
        ("E: Packages were downgraded and -y was used", "allow_downgrade: true"),
        ("E: Packages need to be removed but remove is disabled.", "would remove the packages"),
        ("E: Unable to correct problems, you have held broken packages.", "contradict each other"),
        ("dpkg: error: No space left on device", "the disk is full"),
        ("E: The repository 'x' is not signed.", "cannot be verified"),
        ("E: Failed to fetch http://x  Could not resolve 'x'", "cannot be reached"),
        ("dpkg: error processing package jq (--configure):", "a package's own script failed"),
    ],
)
def test_the_reason_is_named(tmp_path, complaint, reason):
    code, err, _ = Sandbox(tmp_path, f'echo "{complaint}"; exit 100').run("never", "install", "--", "jq")
    assert code == 1
    first, *_, last = err.splitlines()
    assert first == complaint
    assert last.startswith("reason: ")
    assert reason in last


def test_what_was_let_go_for_a_change_that_fails_is_held_again(tmp_path):
    box = Sandbox(tmp_path, 'echo "E: Could not resolve x"; exit 100')
    box._program("apt-mark", 'echo "$@" >>marked')
    assert box.run("never", "install", "--", "jq", held="jq curl")[0] == 1
    assert (tmp_path / "marked").read_text() == "hold -- jq curl\n"
    box._program("apt-get", "exit 0")
    assert box.run("never", "install", "--", "jq", held="jq curl")[0] == 0
    assert (tmp_path / "marked").read_text() == "hold -- jq curl\n"


def test_who_holds_the_lock_is_named(tmp_path):
    complaint = "E: Could not get lock /x. It is held by process 812 (unattended-upgr)"
    box = Sandbox(tmp_path, f'echo "{complaint}"; exit 100')
    script = _apt.APT
    try:
        _apt.APT = script.replace("+ 600", "+ 0")
        code, err, _ = box.run("never", "install", "--", "jq")
    finally:
        _apt.APT = script
    assert code == 1
    assert err.splitlines()[-1].endswith("for 10 minutes: process 812 (unattended-upgr)")
