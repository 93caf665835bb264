"""From inventory variables and ssh_config to where and how to connect."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import Any

import pytest

from fleet.errors import InputError, Place
from fleet.model.host import Host
from fleet.model.secret import Secret
from fleet.ssh import SshSettings
from fleet.ssh.target import Target, hop_target, target_of


@pytest.fixture
def settings(tmp_path: Path) -> SshSettings:
    (tmp_path / "config").write_text("Host bastion\n  HostName 10.9.9.9\n  Port 2200\n  User jump\n")
    return SshSettings(ssh_config=tmp_path / "config")


def resolved(settings: SshSettings, **variables: Any) -> Target:
    return target_of(Host("web1", variables, place=Place("hosts.yml", 3)), settings)


def wrong(settings: SshSettings, **variables: Any) -> InputError:
    with pytest.raises(InputError) as caught:
        resolved(settings, **variables)
    assert caught.value.place == Place("hosts.yml", 3)
    assert caught.value.remedy
    return caught.value


def test_defaults(settings: SshSettings) -> None:
    target = resolved(settings)
    assert (target.hostname, target.port, target.user) == ("web1", 22, getpass.getuser())
    assert target.known_name == "web1"
    assert target.own_known_hosts == Path("~/.ssh/known_hosts").expanduser()
    assert Path("/etc/ssh/ssh_known_hosts") in target.known_hosts
    assert (target.jump, target.proxy_command, target.key_file) == ("", "", None)


def test_variables(settings: SshSettings) -> None:
    target = resolved(
        settings,
        ansible_host="10.0.0.1",
        ansible_port="2222",
        ansible_user="ops",
        ansible_ssh_private_key_file="~/key",
        ansible_password="p",
        ansible_become_password=Secret("b"),
        fleet_known_hosts="/k",
    )
    assert (target.address, target.user, target.known_name) == ("10.0.0.1:2222", "ops", "[10.0.0.1]:2222")
    assert target.key_file == Path.home() / "key"
    assert (target.password, target.become_password) == (Secret("p"), Secret("b"))
    assert (target.own_known_hosts, target.known_hosts[0]) == (Path("/k"), Path("/k"))
    assert "'p'" not in repr(target)


@pytest.mark.parametrize(
    ("variables", "become"),
    [
        ({"ansible_user": "ops"}, True),
        ({"ansible_user": "root"}, False),
        ({"ansible_user": "ops", "ansible_become": False}, False),
        ({"ansible_user": "ops", "ansible_become": "no"}, False),
        ({"ansible_user": "ops", "ansible_become": "yes"}, True),
        ({"ansible_user": "root", "ansible_become": True}, False),
    ],
)
def test_become(settings: SshSettings, variables: dict[str, Any], become: bool) -> None:
    assert resolved(settings, **variables).become is become


def test_the_address_of_an_ipv6_host(settings: SshSettings) -> None:
    target = resolved(settings, ansible_host="fd00::1", ansible_port=2222)
    assert (target.address, target.known_name) == ("[fd00::1]:2222", "[fd00::1]:2222")


@pytest.mark.parametrize(
    ("words", "jump", "command"),
    [
        ("-o ProxyJump=a,b", "a,b", ""),
        ("-oProxyJump=a", "a", ""),
        ("-o 'ProxyJump a'", "a", ""),
        ("-J u@a:2200", "u@a:2200", ""),
        ("-o StrictHostKeyChecking=no -o ControlMaster=auto -C", "", ""),
        ('-o ProxyCommand="nc %h %p"', "", "nc %h %p"),
        ("-o ProxyJump=none", "", ""),
    ],
)
def test_common_args(settings: SshSettings, words: str, jump: str, command: str) -> None:
    target = resolved(settings, ansible_ssh_common_args=words)
    assert (target.jump, target.proxy_command) == (jump, command)


def test_common_args_may_name_a_key_a_user_and_a_file(settings: SshSettings) -> None:
    target = resolved(settings, ansible_ssh_common_args="-i /k -l me -p 2200 -o UserKnownHostsFile=/u")
    assert (target.key_file, target.user, target.port) == (Path("/k"), "me", 2200)
    assert (target.known_hosts[0], target.own_known_hosts) == (Path("/u"), Path("/u"))


def test_what_cannot_be_honoured_is_an_error(settings: SshSettings) -> None:
    assert "ansible_port" in wrong(settings, ansible_port="ssh").message
    assert "ansible_port" in wrong(settings, ansible_port=70000).message
    assert "only SSH" in wrong(settings, ansible_connection="local").message
    assert "only sudo" in wrong(settings, ansible_become_method="su").message
    assert "as root" in wrong(settings, ansible_become_user="app").message
    assert "not supported" in wrong(settings, ansible_ssh_common_args="-L 80:x:80").message
    assert "ansible_ssh_common_args" in wrong(settings, ansible_ssh_common_args="-o 'x").message
    assert "is not text" in wrong(settings, ansible_user=["a"]).message


@pytest.mark.parametrize(
    ("hop", "where"),
    [
        ("a", ("a", 22)),
        ("u@a:2222", ("a", 2222)),
        ("[fd00::1]:2222", ("fd00::1", 2222)),
        ("fd00::1", ("fd00::1", 22)),
        ("ssh://u@a:2222", ("a", 2222)),
        ("bastion", ("10.9.9.9", 2200)),
    ],
)
def test_hops(settings: SshSettings, hop: str, where: tuple[str, int]) -> None:
    target = hop_target(hop, settings)
    assert (target.hostname, target.port) == where


def test_a_hop_that_is_none(settings: SshSettings) -> None:
    with pytest.raises(InputError, match="ProxyJump"):
        hop_target("u@:22", settings)


def test_a_config_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read ssh_config"):
        resolved(SshSettings(ssh_config=tmp_path / "none"))


def test_ssh_itself_reads_what_paramiko_cannot(tmp_path: Path) -> None:
    config = tmp_path / "config"
    (tmp_path / "inner").write_text("User from-inner\nIdentityFile /a\nIdentityFile /b\n")
    config.write_text(f"Host web*\n  Include {tmp_path}/inner\nHost *\n  Port 2022\n")
    target = resolved(SshSettings(ssh_config=config))
    assert (target.user, target.port) == ("from-inner", 2022)
    assert target.identities == (Path("/a"), Path("/b"))
    config.write_text("Match localnetwork 203.0.113.0/24\n  Nonsense yes\n")
    with pytest.raises(InputError, match="ssh_config is not valid"):
        resolved(SshSettings(ssh_config=config))


def test_the_sudo_password_is_asked_once_by_many() -> None:
    from concurrent.futures import ThreadPoolExecutor

    asked: list[str] = []

    def ask(prompt: str) -> Secret:
        asked.append(prompt)
        return Secret("x")

    settings = SshSettings(ask_sudo_password=ask)
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda _: settings.shared.ask_sudo(settings), range(8)))
    assert got == [Secret("x")] * 8
    assert asked == ["sudo password: "]
