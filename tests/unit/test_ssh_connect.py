"""Connecting: host keys, login, and what people are told when it does not work."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fleet.errors import InputError, UnreachableError
from fleet.model.host import Host
from fleet.model.secret import Secret
from fleet.ssh import SshSettings, connect
from tests.sshd import Sshd, free_port, make_key, public_key

Start = Callable[..., Sshd]


def fails(host: Host, settings: SshSettings | None = None) -> UnreachableError:
    with pytest.raises(UnreachableError) as caught:
        connect(host, settings or SshSettings())
    assert caught.value.exit_code == 3
    assert caught.value.remedy
    assert host.name in caught.value.message
    return caught.value


def says(host: Host, settings: SshSettings | None = None) -> bytes:
    remote = connect(host, settings or SshSettings())
    try:
        return remote.script("echo hello", timeout=10).out
    finally:
        remote.close()


def test_an_unknown_host_key_is_refused(sshd: Sshd, tmp_path: Path) -> None:
    error = fails(sshd.host(fleet_known_hosts=str(tmp_path / "none")))
    assert "not known" in error.message
    assert "fleet trust web1" in error.remedy
    assert "SHA256:" in error.output


def test_a_changed_host_key_is_refused_loudly(sshd: Sshd, tmp_path: Path) -> None:
    other = make_key(tmp_path / "other")
    known = tmp_path / "known"
    known.write_text(sshd.known_line(other))
    error = fails(sshd.host(fleet_known_hosts=str(known)))
    assert "HAS CHANGED" in error.message
    assert f"{known}:1" in error.output


def test_a_pinned_key_of_a_kind_the_host_no_longer_shows_counts_as_changed(
    sshd: Sshd, tmp_path: Path
) -> None:
    known = tmp_path / "known"
    known.write_text(sshd.known_line(make_key(tmp_path / "other", "ecdsa")))
    assert "HAS CHANGED" in fails(sshd.host(fleet_known_hosts=str(known))).message


def test_a_revoked_key_is_refused_although_it_is_pinned_too(sshd: Sshd, tmp_path: Path) -> None:
    line = sshd.known_hosts.read_text()
    known = tmp_path / "known"
    known.write_text(f"{line}@revoked * {public_key(sshd.host_keys[0])}\n")
    assert "revoked" in fails(sshd.host(fleet_known_hosts=str(known))).message


def test_of_two_pinned_keys_of_one_kind_either_is_accepted(sshd: Sshd, tmp_path: Path) -> None:
    other = sshd.known_line(make_key(tmp_path / "other"))
    known = tmp_path / "known"
    for text in (other + sshd.known_hosts.read_text(), sshd.known_hosts.read_text() + other):
        known.write_text(text)
        assert says(sshd.host(fleet_known_hosts=str(known))) == b"hello\n"


def test_the_pinned_kind_is_the_one_asked_for(start_sshd: Start, tmp_path: Path) -> None:
    server = start_sshd(kinds=("ed25519", "ecdsa", "rsa"))
    for key in server.host_keys:
        known = tmp_path / f"known-{key.name}"
        known.write_text(server.known_line(key))
        assert says(server.host(fleet_known_hosts=str(known))) == b"hello\n"


def test_a_key_pinned_without_a_port_serves_any_port_but_accuses_nobody(sshd: Sshd, tmp_path: Path) -> None:
    known = tmp_path / "known"
    known.write_text(sshd.known_line(sshd.host_keys[0], "127.0.0.1"))
    assert says(sshd.host(fleet_known_hosts=str(known))) == b"hello\n"
    known.write_text(sshd.known_line(make_key(tmp_path / "other"), "127.0.0.1"))
    assert "not known" in fails(sshd.host(fleet_known_hosts=str(known))).message


def test_nodelay_and_keepalive_are_set_on_the_socket(sshd: Sshd) -> None:
    remote = connect(sshd.host(), SshSettings())
    sock = remote.connection.transport.sock
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 15
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 60_000
    remote.close()


def test_a_closed_port(sshd: Sshd) -> None:
    port = free_port()
    error = fails(sshd.host(ansible_port=port))
    assert f"127.0.0.1:{port} refused" in error.message


def test_a_name_that_does_not_resolve(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    def unresolved(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unresolved)
    assert "nowhere cannot be resolved" in fails(sshd.host(ansible_host="nowhere")).message


def test_something_that_never_speaks(sshd: Sshd) -> None:
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        host = sshd.host(ansible_port=mute.getsockname()[1])
        error = fails(host, SshSettings(connect_timeout=0.2))
    assert "did not speak SSH" in error.message


def test_a_connection_that_is_never_accepted(sshd: Sshd) -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        with socket.create_connection(full.getsockname()):
            host = sshd.host(ansible_port=full.getsockname()[1])
            error = fails(host, SshSettings(connect_timeout=0.15))
    assert "no answer from" in error.message


def test_algorithms_of_the_past(start_sshd: Start) -> None:
    server = start_sshd("KexAlgorithms diffie-hellman-group14-sha1")
    error = fails(server.host())
    assert "no algorithm in common" in error.message
    assert "SHA-1" in error.remedy


def test_a_refused_key_is_named(sshd: Sshd, tmp_path: Path) -> None:
    stranger = make_key(tmp_path / "stranger")
    error = fails(sshd.host(ansible_ssh_private_key_file=str(stranger)))
    assert "did not let root in" in error.message
    assert str(stranger) in error.output


def test_a_password_is_tried_and_never_shown(sshd: Sshd) -> None:
    host = sshd.host(ansible_password=Secret("hunter2"), ansible_ssh_private_key_file=None)
    error = fails(host)
    assert "the password" in error.output
    assert "hunter2" not in f"{error.message}{error.output}{error.remedy}{error!r}"


def key_error(host: Host) -> InputError:
    with pytest.raises(InputError) as caught:
        connect(host, SshSettings())
    assert caught.value.exit_code == 2
    assert caught.value.remedy
    return caught.value


def test_key_files_are_checked_before_anything_is_sent(tmp_path: Path) -> None:
    # Nothing listens there: had it connected, the error would be another.
    def host(path: Path) -> Host:
        return Host(
            "web1",
            {
                "ansible_host": "127.0.0.1",
                "ansible_port": free_port(),
                "ansible_ssh_private_key_file": str(path),
            },
        )

    assert "does not exist" in key_error(host(tmp_path / "missing")).message
    assert "cannot be read" in key_error(host(tmp_path)).message
    key = make_key(tmp_path / "key")
    assert "no private key" in key_error(host(Path(f"{key}.pub"))).message
    for kind in ("ed25519", "rsa", "ecdsa"):
        encrypted = make_key(tmp_path / kind, kind, "secret words")
        error = key_error(host(encrypted))
        assert "is encrypted" in error.message
        assert f"ssh-add {encrypted}" in error.remedy


def test_every_kind_of_key_logs_in(sshd: Sshd, tmp_path: Path) -> None:
    allowed = sshd.folder / "authorized_keys"
    before = allowed.read_text()
    try:
        for kind in ("rsa", "ecdsa", "ed25519"):
            key = make_key(tmp_path / kind, kind)
            allowed.write_text(before + public_key(key) + "\n")
            assert says(sshd.host(ansible_ssh_private_key_file=str(key))) == b"hello\n"
        pem = make_key(tmp_path / "pem", "rsa")
        subprocess.run(["ssh-keygen", "-q", "-p", "-m", "PEM", "-N", "", "-f", str(pem)], check=True)
        allowed.write_text(before + public_key(pem) + "\n")
        assert says(sshd.host(ansible_ssh_private_key_file=str(pem))) == b"hello\n"
    finally:
        allowed.write_text(before)


def test_a_certificate_beside_the_key_is_used(start_sshd: Start, tmp_path: Path) -> None:
    authority = make_key(tmp_path / "ca")
    server = start_sshd(f"TrustedUserCAKeys {authority}.pub")
    key = make_key(tmp_path / "holder")
    refused = server.host(ansible_ssh_private_key_file=str(key))
    assert "did not let root in" in fails(refused).message
    subprocess.run(
        ["ssh-keygen", "-q", "-s", str(authority), "-I", "me", "-n", "root", f"{key}.pub"], check=True
    )
    assert says(refused) == b"hello\n"


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], None]]:
    """A real ssh-agent; call it with a key (passphrase "words") to add."""
    path = tmp_path / "agent"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", str(path)], stdout=subprocess.DEVNULL)
    while not path.exists():
        assert process.poll() is None
    monkeypatch.setenv("SSH_AUTH_SOCK", str(path))
    ask = tmp_path / "ask"
    ask.write_text("#!/bin/sh\necho words\n")
    ask.chmod(0o700)

    def add(key: Path) -> None:
        env = {**os.environ, "SSH_ASKPASS": str(ask), "SSH_ASKPASS_REQUIRE": "force", "DISPLAY": "x"}
        subprocess.run(["ssh-add", "-q", str(key)], check=True, env=env, stdin=subprocess.DEVNULL)

    yield add
    process.kill()
    process.wait()


def test_an_agent_serves_where_no_key_is_named(sshd: Sshd, agent: Callable[[Path], None]) -> None:
    agent(sshd.user_key)
    assert says(sshd.host(ansible_ssh_private_key_file=None)) == b"hello\n"


def test_an_agent_opens_an_encrypted_key_file(
    start_sshd: Start, agent: Callable[[Path], None], tmp_path: Path
) -> None:
    server = start_sshd()
    key = make_key(tmp_path / "locked", passphrase="words")
    shutil.copy(f"{key}.pub", server.folder / "authorized_keys")
    agent(key)
    assert says(server.host(ansible_ssh_private_key_file=str(key))) == b"hello\n"


def test_a_named_key_is_the_only_one_offered(
    start_sshd: Start, agent: Callable[[Path], None], tmp_path: Path
) -> None:
    server = start_sshd("MaxAuthTries 1")
    for number in range(3):
        agent(make_key(tmp_path / f"other{number}"))
    assert says(server.host()) == b"hello\n"


def write_config(path: Path, *lines: str) -> SshSettings:
    path.write_text("\n".join(lines) + "\n")
    return SshSettings(ssh_config=path)


def test_ssh_config_gives_what_the_inventory_does_not(sshd: Sshd, tmp_path: Path) -> None:
    settings = write_config(
        tmp_path / "config",
        "Host gpu1",
        f"  HostName {sshd.address}",
        f"  Port {sshd.port}",
        "  User root",
        f"  IdentityFile {sshd.user_key}",
        f"  UserKnownHostsFile {sshd.known_hosts}",
    )
    assert says(Host("gpu1"), settings) == b"hello\n"


def test_include_is_followed(sshd: Sshd, tmp_path: Path) -> None:
    (tmp_path / "more").write_text(f"Host gpu1\n  HostName {sshd.address}\n  Port {sshd.port}\n  User root\n")
    settings = write_config(tmp_path / "config", f"Include {tmp_path}/more")
    host = Host(
        "gpu1",
        {"fleet_known_hosts": str(sshd.known_hosts), "ansible_ssh_private_key_file": str(sshd.user_key)},
    )
    assert says(host, settings) == b"hello\n"


def test_a_host_key_alias_names_the_pinned_key(sshd: Sshd, tmp_path: Path) -> None:
    known = tmp_path / "known"
    known.write_text(sshd.known_line(sshd.host_keys[0], f"[cluster]:{sshd.port}"))
    settings = write_config(tmp_path / "config", "Host 127.0.0.1", "  HostKeyAlias cluster")
    assert says(sshd.host(fleet_known_hosts=str(known)), settings) == b"hello\n"


def jump_lines(sshd: Sshd) -> list[str]:
    return [
        "Host bastion",
        f"  HostName {sshd.address}",
        f"  Port {sshd.port}",
        "  User root",
        f"  IdentityFile {sshd.user_key}",
    ]


def test_hosts_behind_a_jump_host_share_one_connection_to_it(
    sshd: Sshd, start_sshd: Start, tmp_path: Path
) -> None:
    jump = start_sshd()
    settings = write_config(
        tmp_path / "config", *jump_lines(jump), f"  UserKnownHostsFile {jump.known_hosts}"
    )
    host = sshd.host(ansible_ssh_common_args="-o ProxyJump=bastion")
    remotes = [connect(host, settings) for _ in range(3)]
    assert [remote.script("echo $SSH_CLIENT", timeout=10).rc for remote in remotes] == [0, 0, 0]
    first_level = [pid for pid in jump.sessions() if _parent(pid) == jump.process.pid]  # type: ignore[union-attr]
    assert len(first_level) == 1
    gateways = settings.shared.gateways()
    for remote in remotes:
        remote.close()
    assert gateways._open == {}


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


def test_a_jump_host_is_verified_too(sshd: Sshd, start_sshd: Start, tmp_path: Path) -> None:
    jump = start_sshd()
    settings = write_config(
        tmp_path / "config", *jump_lines(jump), f"  UserKnownHostsFile {tmp_path / 'none'}"
    )
    with pytest.raises(UnreachableError, match=r"bastion: the host key of .* is not known"):
        connect(sshd.host(ansible_ssh_common_args="-J bastion"), settings)


def test_hosts_behind_a_dead_jump_host_fail_together(sshd: Sshd, tmp_path: Path) -> None:
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        where = f"127.0.0.1:{mute.getsockname()[1]}"
        settings = SshSettings(connect_timeout=0.3)
        host = sshd.host(ansible_ssh_common_args=f"-J {where}")
        started = time.monotonic()
        with ThreadPoolExecutor(20) as pool:
            for error in pool.map(lambda _: fails(host, settings), range(20)):
                assert "its jump host cannot be used" in error.message
    assert time.monotonic() - started < 2


def test_a_jump_host_that_cannot_reach_the_target(sshd: Sshd, start_sshd: Start, tmp_path: Path) -> None:
    jump = start_sshd()
    settings = write_config(
        tmp_path / "config", *jump_lines(jump), f"  UserKnownHostsFile {jump.known_hosts}"
    )
    error = fails(sshd.host(ansible_port=free_port(), ansible_ssh_common_args="-J bastion"), settings)
    assert "the jump host bastion cannot connect" in error.message


def test_a_proxy_command(sshd: Sshd, tmp_path: Path) -> None:
    bridge = tmp_path / "bridge.py"
    bridge.write_text(
        "import socket, sys, threading, os\n"
        "s = socket.create_connection((sys.argv[1], int(sys.argv[2])))\n"
        "def up():\n"
        "    while d := os.read(0, 65536): s.sendall(d)\n"
        "    s.shutdown(1)\n"
        "threading.Thread(target=up, daemon=True).start()\n"
        "while d := s.recv(65536): os.write(1, d)\n"
    )
    command = f"-o ProxyCommand='python3 {bridge} %h %p'"
    assert says(sshd.host(ansible_ssh_common_args=command)) == b"hello\n"
