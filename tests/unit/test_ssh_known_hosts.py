"""known_hosts: what OpenSSH's own tools write is read, and what is pinned here they accept."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from fleet.errors import InputError, UnreachableError
from fleet.model.host import Host
from fleet.ssh import SshSettings, connect
from fleet.ssh.known_hosts import KnownHosts, known_name
from fleet.ssh.trust import known_hosts_file, pin, scan
from tests.sshd import Sshd, free_port, make_key, public_key

K1 = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIG11111111111111111111111111111111111111111h"
K2 = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIG22222222222222222222222222222222222222222h"


def known(tmp_path: Path, *lines: str) -> KnownHosts:
    path = tmp_path / "known"
    path.write_text("\n".join(lines) + "\n")
    return KnownHosts([path])


def test_names_ports_and_case(tmp_path: Path) -> None:
    hosts = known(tmp_path, f"Web1,10.0.0.1 {K1} comment", f"[web1]:2222 {K2}", "# web1 x y", "web1 broken")
    assert [key.base64 for key in hosts.lookup("WEB1").keys] == [K1.split()[1]]
    assert [key.base64 for key in hosts.lookup("[web1]:2222").keys] == [K2.split()[1]]
    assert hosts.lookup("10.0.0.1").keys
    assert not hosts.lookup("10.0.0.2").keys
    assert known_name("Web1", 22) == "web1"
    assert known_name("::1", 2222) == "[::1]:2222"


def test_patterns_and_negation(tmp_path: Path) -> None:
    hosts = known(tmp_path, f"*.gpu.example,!bad.gpu.example {K1}", f"[10.0.0.?]:* {K2}")
    assert hosts.lookup("a.gpu.example").keys
    assert not hosts.lookup("bad.gpu.example").keys
    assert hosts.lookup("[10.0.0.7]:2222").keys
    assert not hosts.lookup("[10.0.0.77]:2222").keys


def test_markers(tmp_path: Path) -> None:
    hosts = known(tmp_path, f"web1 {K1}", f"web1 {K2}", f"@revoked * {K2}", f"@cert-authority *.x {K1}")
    pinned = hosts.lookup("web1")
    assert [key.base64 for key in pinned.keys] == [K1.split()[1]]
    assert [key.base64 for key in pinned.revoked] == [K2.split()[1]]
    assert hosts.lookup("a.x").authorities
    assert not hosts.lookup("a.x").keys


def test_names_hashed_by_ssh_keygen(tmp_path: Path) -> None:
    path = tmp_path / "known"
    key = public_key(make_key(tmp_path / "key"))
    path.write_text(f"web1,[web2]:2222 {key}\n")
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(path)], check=True, capture_output=True)
    assert "web1" not in path.read_text()
    hosts = KnownHosts([path])
    assert hosts.lookup("web1").keys
    assert hosts.lookup("[web2]:2222").keys
    assert not hosts.lookup("web2").keys


def test_a_missing_file_pins_nothing(tmp_path: Path) -> None:
    assert not KnownHosts([tmp_path / "none"]).lookup("web1").keys


def found_by_openssh(path: Path, name: str) -> list[str]:
    argv = ["ssh-keygen", "-F", name, "-f", str(path)]
    done = subprocess.run(argv, capture_output=True, text=True)
    return [line.split(None, 1)[1] for line in done.stdout.splitlines() if not line.startswith("#")]


@pytest.mark.parametrize("hashed", [False, True])
def test_scan_pin_connect(start_sshd: Callable[..., Sshd], tmp_path: Path, hashed: bool) -> None:
    server = start_sshd(kinds=("ed25519", "ecdsa", "rsa"))
    path = tmp_path / "ssh" / "known_hosts"
    host = server.host(fleet_known_hosts=str(path))
    assert known_hosts_file(host) == path
    keys = scan(host, 5.0)
    assert [(key.type, key.status) for key in keys] == [
        ("ssh-ed25519", "new"),
        ("ecdsa-sha2-nistp256", "new"),
        ("ssh-rsa", "new"),
    ]
    listed = subprocess.run(
        ["ssh-keygen", "-lf", str(server.host_keys[0])], capture_output=True, text=True, check=True
    )
    assert keys[0].fingerprint == listed.stdout.split()[1]
    assert pin(keys, path, hashed=hashed) == keys
    assert path.stat().st_mode & 0o777 == 0o600
    assert found_by_openssh(path, f"[127.0.0.1]:{server.port}") == [public_key(k) for k in server.host_keys]
    assert ("127.0.0.1" in path.read_text()) is not hashed
    connect(host, SshSettings()).close()
    again = scan(host, 5.0)
    assert {key.status for key in again} == {"pinned"}
    assert pin(again, path) == ()


@pytest.mark.parametrize("hashed", [False, True])
def test_a_changed_key_is_replaced_only_on_demand(sshd: Sshd, tmp_path: Path, hashed: bool) -> None:
    path = tmp_path / "known"
    other = make_key(tmp_path / "other")
    name = f"[127.0.0.1]:{sshd.port}"
    path.write_text(f"# mine\n{sshd.known_line(other, f'elsewhere,{name}')}{sshd.known_line(other, 'third')}")
    path.chmod(0o644)
    if hashed:
        subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(path)], check=True, capture_output=True)
    before = path.read_text()
    host = sshd.host(fleet_known_hosts=str(path))
    keys = scan(host, 5.0)
    assert [key.status for key in keys] == ["changed"]
    with pytest.raises(InputError, match="has changed"):
        pin(keys, path)
    assert path.read_text() == before
    pin(keys, path, replace=True)
    assert found_by_openssh(path, name) == [public_key(sshd.host_keys[0])]
    assert found_by_openssh(path, "elsewhere") == [public_key(other)]
    assert found_by_openssh(path, "third") == [public_key(other)]
    assert path.stat().st_mode & 0o777 == 0o644
    connect(host, SshSettings()).close()


def test_scanning_where_nothing_listens() -> None:
    host = Host("web1", {"ansible_host": "127.0.0.1", "ansible_port": free_port()})
    with pytest.raises(UnreachableError, match="refused"):
        scan(host, 1.0)
