"""The framing, run by real shells with a stand-in for sudo: no connection is needed to try it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from fleet.model.secret import Secret
from fleet.ssh.framing import Frame, frame, run_orders, script_orders, upload_orders

SHELLS = [shell for shell in ("sh", "bash", "dash", "zsh", "fish", "tcsh", "busybox") if shutil.which(shell)]
PASSWORD = Secret("pass'word $1")


def play(
    made: Frame, shell: str, path: Path, data: bytes | None = None
) -> subprocess.CompletedProcess[bytes]:
    argv = ["busybox", "sh"] if shell == "busybox" else [shell]
    env = {**os.environ, "PATH": f"{path}:{os.environ['PATH']}"}
    sent = made.before + made.after if data is None else data
    return subprocess.run([*argv, "-c", made.command], input=sent, capture_output=True, env=env, timeout=20)


def fake_sudo(folder: Path, *, asks: bool) -> Path:
    """A sudo that takes a line of its input, or does not need to."""
    take = f'IFS= read -r line; printf "%s" "$line" >{folder}/taken; ' if asks else ""
    script = f'#!/bin/sh\n{take}while [ "$1" != -- ]; do shift; done; shift; exec "$@"\n'
    (folder / "sudo").write_text(script)
    (folder / "sudo").chmod(0o755)
    return folder


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("asks", [True, False])
def test_the_password_line_never_reaches_the_shell(shell: str, asks: bool, tmp_path: Path) -> None:
    orders, stdin = script_orders("echo; echo script; cat")
    made = frame(orders, stdin, timeout=10, password=PASSWORD)
    done = play(made, shell, fake_sudo(tmp_path, asks=asks))
    assert done.returncode == 0
    assert done.stdout == made.marker + b"\nscript\n"
    assert done.stderr == b""
    if asks:
        assert (tmp_path / "taken").read_text() == PASSWORD.reveal()


def test_the_rest_waits_until_sudo_is_content() -> None:
    orders, stdin = script_orders("echo script")
    with_password = frame(orders, stdin, password=PASSWORD)
    assert with_password.before == f"{PASSWORD.reveal()}\n".encode()
    assert b"echo script" in with_password.after
    without = frame(orders, stdin)
    assert (without.after, b"echo script" in without.before) == (b"", True)


def test_nothing_secret_is_in_the_command_line() -> None:
    made = frame(run_orders(("secret-arg",), {"A": "secret-env"}), b"secret-stdin", password=PASSWORD)
    assert "secret" not in made.command
    assert PASSWORD.reveal() not in made.command


def test_command_lines(tmp_path: Path) -> None:
    start = frame("true", timeout=1.2).command.partition(" sh -c ")[0]
    assert start == "exec sudo -H -n -- timeout -k 5 2"
    assert frame("true", become=False, timeout=30).command.startswith("exec timeout -k 5 30 sh -c '")
    assert frame("true", become=False).command.startswith("exec sh -c '")
    assert frame("true", password=PASSWORD).command.startswith("exec sudo -H -S -p fleet-")


def test_noise_before_the_marker_is_told_apart(tmp_path: Path) -> None:
    made = frame("echo signal", become=False)
    noisy = Frame(f"echo noise; {made.command}", made.marker, made.before, made.after)
    assert play(noisy, "sh", tmp_path).stdout == b"noise\n" + made.marker + b"signal\n"


@pytest.mark.parametrize("cut", [30, 60, -3])
def test_a_script_that_arrives_in_part_does_not_run(cut: int, tmp_path: Path) -> None:
    orders, stdin = script_orders(f"touch {tmp_path}/ran\necho some more text to be cut off here")
    made = frame(orders, stdin, become=False)
    play(made, "sh", tmp_path, made.before[:cut])
    assert not (tmp_path / "ran").exists()
    play(made, "sh", tmp_path)
    assert (tmp_path / "ran").exists()


def test_an_upload_that_arrives_in_part_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old")
    orders = upload_orders(str(target), 11, mode="0600", owner="root", group="root")
    made = frame(orders, b"new content", become=False)
    cut = play(made, "sh", tmp_path, made.before[:-1])
    assert cut.returncode == 1
    assert b"did not arrive whole" in cut.stderr
    assert (target.read_text(), os.listdir(tmp_path)) == ("old", ["file"])
    assert play(made, "sh", tmp_path).returncode == 0
    assert target.read_text() == "new content"


def test_names_of_variables_are_checked() -> None:
    with pytest.raises(ValueError, match="no name"):
        run_orders(("true",), {"A;rm": "x"})
