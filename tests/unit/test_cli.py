"""The command as a user types it: mistakes are told before any host is touched, each with its remedy."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests import typed

FLEET = str(Path(sys.executable).parent / "fleet")


def fleet(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    done = typed.fleet(folder, *args)
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture
def project(tmp_path):
    """A project whose one host nobody can reach: the tests must end before they try."""
    (tmp_path / "inventories").mkdir()
    (tmp_path / "inventories" / "one.yml").write_text(
        "all:\n  vars: {image: 'r.example/webui:v1'}\n  children:\n"
        "    gpu: {hosts: {g1: {ansible_host: 127.0.0.1, ansible_port: 9}}}\n"
        "    balancer: {hosts: {}}\n"
    )
    return tmp_path


def refused(done, *words):
    assert done.returncode == 2, done.stdout + done.stderr
    assert "unreachable" not in done.stdout
    for word in words:
        assert word in done.stderr, done.stderr


def test_help_and_version(tmp_path):
    done = fleet(tmp_path, "--help")
    assert done.returncode == 0
    for command in ("init", "inventory", "trust", "provision", "run", "status", "translate", "lab"):
        assert f"  {command} " in done.stdout
    assert fleet(tmp_path, "--version").stdout.startswith("fleet ")
    assert "Did you mean 'provision'?" in fleet(tmp_path, "provison").stderr


def test_a_process_of_its_own_says_and_ends_as_the_command_does_here(project):
    for words in (("--version",), ("provision", "--limit", "g9", "--json")):
        done = subprocess.run(
            [FLEET, *words], cwd=project, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60
        )
        here = fleet(project, *words)
        assert (done.returncode, done.stdout, done.stderr) == (here.returncode, here.stdout, here.stderr)


def told(project: Path, word: signal.Signals, *before: str) -> tuple[int, str]:
    """Exit code and stderr of a `fleet status` that is told this while its one host accepts and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        inventory = project / "inventories" / "one.yml"
        inventory.write_text(inventory.read_text().replace("9}", f"{silent.getsockname()[1]}}}"))
        command = subprocess.Popen(
            [*before, FLEET, "status", "--connect-timeout", "60"],
            cwd=project,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: [signal.signal(each, signal.SIG_DFL) for each in (word, signal.SIGHUP)],
        )
        with command, silent.accept()[0] as host:
            command.send_signal(word)
            if before:
                host.close()
            _, err = command.communicate(timeout=60)
    return command.returncode, err


@pytest.mark.parametrize("word", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT], ids=lambda word: word.name)
def test_a_signal_ends_a_command_as_ctrl_c_does(project, word):
    code, err = told(project, word)
    assert (code, err.splitlines()[-1][:11]) == (130, "interrupted"), err


def test_under_nohup_the_end_of_the_terminal_ends_nothing(project):
    code, err = told(project, signal.SIGHUP, "nohup")
    assert code == 3, err


def printing_to(stdout: int, project: Path, *words: str) -> tuple[int, str]:
    done = subprocess.run([FLEET, *words], cwd=project, stdout=stdout, stderr=subprocess.PIPE, text=True)
    return done.returncode, done.stderr


@pytest.mark.parametrize("words", [("inventory",), ("inventory", "--json")], ids=" ".join)
def test_a_full_disk_under_what_is_printed_is_one_error(project, words):
    with open("/dev/full", "w") as full:
        code, err = printing_to(full.fileno(), project, *words)
    assert code == 1
    assert err.splitlines()[0].endswith("cannot be written: No space left on device")
    assert "Traceback" not in err
    assert "bug" not in err


@pytest.fixture
def unread():
    """A pipe whose reader has ended."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


@pytest.mark.parametrize("words", [("inventory",), ("inventory", "--json")], ids=" ".join)
def test_a_reader_that_has_ended_is_no_error(project, unread, words):
    _, err = printing_to(unread, project, *words)
    assert err == ""


@pytest.mark.parametrize(("words", "code"), [("inventory", 0), ("status --limit g9 --json", 2)])
def test_a_closed_stdout_is_no_error_and_hides_none(project, words, code):
    done = subprocess.run(
        ["sh", "-c", f"exec {FLEET} {words} >&-"], cwd=project, stderr=subprocess.PIPE, text=True
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert "bug" not in done.stderr
    assert ("g9" in done.stderr) == bool(code)


def test_a_reader_that_has_ended_hides_no_error(project, unread):
    code, err = printing_to(unread, project, "status", "--limit", "g9", "--json")
    assert code == 2
    assert "g9" in err
    assert "Broken" not in err


def test_a_sudo_password_is_asked_for_only_where_somebody_can_type_it(project):
    done = subprocess.run(
        [FLEET, "status", "-K"],
        cwd=project,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        start_new_session=True,
    )
    assert done.returncode == 2, done.stderr
    assert "nobody is there to be asked for the sudo password" in done.stderr
    assert "FLEET_SUDO_PASSWORD" in done.stderr
    assert "Warning" not in done.stderr


def test_without_an_inventory(tmp_path):
    refused(fleet(tmp_path, "provision"), "no inventory", "fleet init")


def test_with_a_choice_of_inventories(project):
    (project / "inventories" / "two.yml").write_text("all: {}\n")
    refused(fleet(project, "status"), "several inventories", "one.yml", "two.yml", "-i FILE")


def test_a_misspelt_group_never_empties_the_balancer(project):
    path = project / "inventories" / "one.yml"
    path.write_text(path.read_text().replace("    gpu:", "    gpus:"))
    refused(fleet(project, "provision", "--check"), "'gpu'", "did you mean 'gpus'")


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ("lb_port", ("is not key=value",)),
        ("lb_port=xyz", ("lb_port must be a whole number",)),
        ("lb_prot=80", ("lb_port",)),
        ("weights=abc", ("weights must be a mapping",)),
        ("image=[a", ("not valid YAML",)),
    ],
)
def test_extra_variables_are_checked_as_an_inventorys_are(project, extra, words):
    refused(fleet(project, "provision", "--check", "-e", extra), *words)


def test_example_addresses_are_never_called(tmp_path):
    assert fleet(tmp_path, "init", ".").returncode == 0
    for command in (["status"], ["provision"], ["trust"]):
        refused(fleet(tmp_path, *command), "example address", "production.yml:")
    assert fleet(tmp_path, "inventory").returncode == 0


def test_an_unknown_tag(project):
    refused(fleet(project, "provision", "--check", "--tags", "nope"), "no task", "'nope'")


def test_an_error_is_a_document_too(project):
    done = fleet(project, "provision", "--limit", "g9", "--json")
    assert done.returncode == 2
    error = json.loads(done.stdout)["error"]
    assert "g9" in error["message"]
    assert error["exit_code"] == 2
    assert "fleet inventory" in error["remedy"]


def test_an_unreachable_host_is_a_row_and_a_result(project):
    done = fleet(project, "provision", "--json")
    assert done.returncode == 3
    host = json.loads(done.stdout)["hosts"]["g1"]
    assert (host["status"], host["recap"]["unreachable"]) == ("unreachable", 1)
    shown = fleet(project, "status")
    assert shown.returncode == 3
    assert "unreachable" in shown.stdout
    text = fleet(project, "provision").stdout
    assert "1 host unreachable" in text


def test_a_missing_key_file_is_the_users_to_mend(project):
    path = project / "inventories" / "one.yml"
    path.write_text(path.read_text().replace("ansible_port: 9", "ansible_ssh_private_key_file: /no/such/key"))
    done = fleet(project, "provision", "--json")
    assert done.returncode == 2
    host = json.loads(done.stdout)["hosts"]["g1"]
    assert (host["status"], host["recap"]["failed"]) == ("failed", 1)
    assert "/no/such/key" in host["error"]["message"]


def test_a_service_that_is_not_there_is_told_at_once(project):
    done = fleet(project, "translate", "x", "--url", "http://127.0.0.1:9")
    assert done.returncode == 1
    assert "refused" in done.stderr
    assert "try:" in done.stderr


def test_doctor_tells_an_unreachable_host_with_exit_code_3_and_asks_before_it_mends(project):
    done = fleet(project, "doctor")
    assert done.returncode == 3
    assert "connection/ssh" in done.stdout
    assert "1 unreachable" in done.stdout
    document = json.loads(fleet(project, "doctor", "--json").stdout)
    assert document["unreachable"] == ["g1"]
    assert document["problems"][0]["remedy"]
    refused(fleet(project, "doctor", "--fix"), "nobody to ask", "--yes")
    refused(fleet(project, "doctor", "--only", "helth"), "no check 'helth'", "did you mean health")
    refused(fleet(project, "doctor", "--only", "balancers/port"), "nothing to look at", "`balancer`")
    listed = fleet(project, "doctor", "--list")
    assert listed.returncode == 0
    assert "service/inside" in listed.stdout
