"""Commands on an open connection: streams, deadlines, files, and hosts that die meanwhile."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fleet.errors import StepError, UnreachableError
from fleet.ssh import SshSettings, connect, exchange
from fleet.ssh.fabric_remote import FabricRemote
from tests.sshd import Sshd

QUICK = SshSettings(keepalive=0.1, keepalive_count=2)


@pytest.fixture(scope="module")
def remote(sshd: Sshd) -> Iterator[FabricRemote]:
    opened = connect(sshd.host(), SshSettings())
    yield opened
    opened.close()


def test_a_script_and_its_status(remote: FabricRemote) -> None:
    result = remote.script("echo out; echo err >&2; exit 3", timeout=10)
    assert (result.rc, result.out, result.err) == (3, b"out\n", b"err\n")


def test_a_command_is_not_interpreted(remote: FabricRemote) -> None:
    words = ("a b", "$HOME", "it's", "", "new\nline", "*", "\\n")
    assert remote.run(("printf", "%s|", *words), timeout=10).out.decode() == "".join(f"{w}|" for w in words)


def test_stdin_and_environment(remote: FabricRemote) -> None:
    result = remote.run(("sh", "-c", 'cat; printf %s "$A"'), stdin=b"\x00\xff\n", env={"A": "it's $5\n"})
    assert result.out == b"\x00\xff\nit's $5\n"
    assert remote.run(("cat",)).out == b""


def test_a_command_that_is_not_there(remote: FabricRemote) -> None:
    assert remote.run(("no-such-command",)).rc == 127


def test_a_script_cannot_eat_itself(remote: FabricRemote) -> None:
    assert remote.script("cat\necho after", timeout=10).out == b"after\n"


def test_a_script_with_a_comment_at_its_end(remote: FabricRemote) -> None:
    assert remote.script("echo a # b", timeout=10).out == b"a\n"
    assert remote.script("", timeout=10).rc == 0


def test_a_large_script(remote: FabricRemote) -> None:
    lines = "\n".join(f": {'x' * 60} {number}" for number in range(4000))
    assert len(lines) > 200_000
    assert remote.script(f"{lines}\necho end", timeout=20).out == b"end\n"


def test_five_megabytes_on_both_streams_at_once(remote: FabricRemote) -> None:
    size = 5 << 20
    result = remote.script(f"head -c {size} /dev/zero & head -c {size} /dev/zero >&2; wait", timeout=60)
    assert (len(result.out), len(result.err)) == (size, size)


def test_five_megabytes_there_and_back(remote: FabricRemote) -> None:
    data = os.urandom(5 << 20)
    assert remote.run(("cat",), stdin=data, timeout=60).out == data


def test_a_command_that_does_not_read_its_input(remote: FabricRemote) -> None:
    assert remote.run(("true",), stdin=bytes(5 << 20)).rc == 0


def test_the_deadline_ends_the_remote_process(remote: FabricRemote, tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(StepError, match=r"no end within 0\.5 s") as caught:
        remote.script(f"echo $$ >{tmp_path}/pid; echo working >&2; sleep 60", timeout=0.5)
    assert time.monotonic() - started < 4
    assert caught.value.output == "working"
    pid = int((tmp_path / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_process_killed_by_a_signal(remote: FabricRemote) -> None:
    assert remote.script("kill -9 $PPID; sleep 1", timeout=10).rc == -1


def test_a_child_that_keeps_the_streams_open_is_not_waited_for(
    remote: FabricRemote, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "_STRAGGLERS", 0.1)
    started = time.monotonic()
    result = remote.script("setsid sleep 5 & echo done", timeout=30)
    assert (result.rc, result.out) == (0, b"done\n")
    assert time.monotonic() - started < 4


def test_many_threads_share_a_connection(remote: FabricRemote) -> None:
    said: dict[int, bytes] = {}

    def work(number: int) -> None:
        said[number] = remote.run(("echo", str(number))).out

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said == {number: b"%d\n" % number for number in range(6)}


def test_nothing_is_left_open(remote: FabricRemote) -> None:
    remote.script("true", timeout=10)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        remote.script("echo x", timeout=10)
        remote.stream(("cat",)).close()
    assert len(os.listdir("/proc/self/fd")) <= before


def test_no_secret_is_in_a_process_list(sshd: Sshd, remote: FabricRemote) -> None:
    seen = remote.run(
        ("sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '; cat >/dev/null"),
        stdin=b"secret-of-stdin",
        env={"TOKEN": "secret-of-env"},
    ).out
    assert b"timeout -k" in seen
    assert b"secret-of" not in seen


def test_an_upload_is_whole_and_has_its_attributes(remote: FabricRemote, tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "it's"
    content = os.urandom(300_000)
    remote.upload(str(path), content, mode="0640", owner="root", group="daemon")
    assert path.read_bytes() == content
    assert (path.stat().st_mode & 0o7777, path.group()) == (0o640, "daemon")
    assert path.parent.stat().st_mode & 0o777 == 0o755
    inode = path.stat().st_ino
    remote.upload(str(path), b"", mode="0600", owner="root", group="root")
    assert path.read_bytes() == b""
    assert path.stat().st_ino != inode
    assert os.listdir(path.parent) == ["it's"]


def test_an_upload_that_fails_leaves_the_old_file(remote: FabricRemote, tmp_path: Path) -> None:
    path = tmp_path / "kept"
    path.write_text("old")
    with pytest.raises(StepError, match="cannot write") as caught:
        remote.upload(str(path), b"new", mode="0644", owner="no-such-user", group="root")
    assert "no-such-user" in caught.value.output
    assert (path.read_text(), os.listdir(tmp_path)) == ("old", ["kept"])
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(StepError):
        remote.upload(str(folder), b"new", mode="0644", owner="root", group="root")
    assert sorted(os.listdir(tmp_path)) == ["folder", "kept"]
    assert os.listdir(folder) == []


def dying(server: Sshd, settings: SshSettings, end: Callable[[Sshd], None]) -> UnreachableError:
    """What a command says whose host ends while it runs."""
    remote = connect(server.host(), settings)
    go = server.folder / "running"
    ending = threading.Thread(target=_when, args=(go, lambda: end(server)), daemon=True)
    ending.start()
    with pytest.raises(UnreachableError) as caught:
        remote.script(f"echo >{go}; sleep 30", timeout=60)
    assert "connection to" in caught.value.message
    assert caught.value.remedy
    remote.close()
    ending.join(30)  # two at once would end the same sshd
    return caught.value


def _when(path: Path, do: Callable[[], None]) -> None:
    while not path.exists():
        time.sleep(0.01)
    do()


def test_a_host_that_dies_in_the_middle(start_sshd: Callable[..., Sshd]) -> None:
    started = time.monotonic()
    dying(start_sshd(), SshSettings(), Sshd.stop)
    assert time.monotonic() - started < 5


def test_a_host_that_falls_silent_in_the_middle(start_sshd: Callable[..., Sshd]) -> None:
    stopped: list[int] = []

    def freeze(server: Sshd) -> None:
        # The kernel still acknowledges: only a question to sshd itself shows that nobody is there.
        for pid in server.sessions():
            stopped.append(pid)
            os.kill(pid, signal.SIGSTOP)

    started = time.monotonic()
    error = dying(start_sshd(), QUICK, freeze)
    assert "no sign of life" in error.output
    assert stopped
    assert time.monotonic() - started < 5


def test_a_silent_command_on_a_live_host_is_left_alone(sshd: Sshd) -> None:
    remote = connect(sshd.host(), QUICK)
    assert remote.script("sleep 0.8; echo done", timeout=10).out == b"done\n"
    remote.close()


def test_commands_on_a_dead_connection(start_sshd: Callable[..., Sshd]) -> None:
    server = start_sshd()
    remote = connect(server.host(), SshSettings())
    server.stop()
    for _ in range(2):
        with pytest.raises(UnreachableError):
            remote.script("true", timeout=5)
    remote.close()
    remote.close()


def test_no_further_session(start_sshd: Callable[..., Sshd]) -> None:
    remote = connect(start_sshd("MaxSessions 0").host(), SshSettings())
    with pytest.raises(UnreachableError, match="no further session"):
        remote.script("true", timeout=5)
    remote.close()


def test_a_login_shell_that_runs_nothing(start_sshd: Callable[..., Sshd]) -> None:
    remote = connect(start_sshd("ForceCommand echo This account is closed >&2; exit 1").host(), SshSettings())
    with pytest.raises(StepError, match="did not run the command") as caught:
        remote.script("true", timeout=5)
    assert "closed" in caught.value.output
    remote.close()


def test_what_an_rc_file_prints_is_not_output(start_sshd: Callable[..., Sshd]) -> None:
    forced = 'ForceCommand echo noise; echo more; eval "$SSH_ORIGINAL_COMMAND"'
    remote = connect(start_sshd(forced).host(), SshSettings())
    assert remote.script("echo signal", timeout=5).out == b"signal\n"
    remote.close()


def test_a_stream_is_a_conversation(remote: FabricRemote) -> None:
    stream = remote.stream(("cat",))
    file = stream.makefile("rb")
    for word in (b"one\n", b"two\n"):
        stream.sendall(word)
        assert file.readline() == word
    stream.settimeout(0.05)
    with pytest.raises(TimeoutError):
        stream.recv(1)
    stream.shutdown()
    stream.settimeout(None)
    assert file.read() == b""
    assert stream.ended
    stream.close()


def test_a_stream_to_a_host_that_falls_silent(start_sshd: Callable[..., Sshd]) -> None:
    server = start_sshd()
    remote = connect(server.host(), QUICK)
    stream = remote.stream(("cat",))
    for pid in server.sessions():
        os.kill(pid, signal.SIGSTOP)
    with pytest.raises(UnreachableError):
        stream.recv(1)
    remote.close()
