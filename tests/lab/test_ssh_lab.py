"""The transport against real hosts: sudo in all its moods, and trouble only a real host can make."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fleet.errors import StepError, UnreachableError
from fleet.inventory import load
from fleet.model.host import Host
from fleet.model.secret import Secret
from fleet.ssh import SshSettings, connect
from fleet.ssh.fabric_remote import FabricRemote
from fleet.ssh.remote import Result
from fleet.ssh.trust import scan
from tests.lab.conftest import Lab

pytestmark = pytest.mark.lab

HOST = "gpu-01"


def host_of(lab: Lab, name: str = HOST, **variables: Any) -> Host:
    host = load([Path(lab.inventory)]).hosts[name]
    return replace(host, vars={**host.vars, **variables})


def password(lab: Lab) -> Secret:
    return Secret((Path(lab.inventory).with_suffix("") / "asks_password").read_text().strip())


def opened(lab: Lab, user: str, settings: SshSettings | None = None, **variables: Any) -> FabricRemote:
    return connect(host_of(lab, ansible_user=user, **variables), settings or SshSettings())


def who(remote: FabricRemote) -> Result:
    try:
        return remote.script('id -u; echo "$HOME"; cat', timeout=20)
    finally:
        remote.close()


AS_ROOT = Result(0, b"0\n/root\n", b"")


def test_sudo_without_a_password(bare_lab: Lab) -> None:
    assert who(opened(bare_lab, "fleet")) == AS_ROOT


def test_a_password_that_is_not_needed_goes_nowhere(bare_lab: Lab) -> None:
    assert who(opened(bare_lab, "fleet", SshSettings(sudo_password=Secret("echo leaked; id")))) == AS_ROOT


def test_sudo_with_a_password(bare_lab: Lab) -> None:
    assert who(opened(bare_lab, "asks", SshSettings(sudo_password=password(bare_lab)))) == AS_ROOT
    given = {"ansible_become_password": password(bare_lab)}
    assert who(opened(bare_lab, "asks", SshSettings(sudo_password=Secret("wrong")), **given)) == AS_ROOT


def test_the_password_is_asked_for_where_it_is_missing(bare_lab: Lab) -> None:
    asked: list[str] = []

    def ask(prompt: str) -> Secret:
        asked.append(prompt)
        return password(bare_lab)

    settings = SshSettings(ask_sudo_password=ask)
    assert who(opened(bare_lab, "fleet", settings)) == AS_ROOT
    assert asked == []
    for _ in range(2):
        assert who(opened(bare_lab, "asks", settings)) == AS_ROOT
    assert asked == ["sudo password: "]


@pytest.mark.parametrize(
    ("user", "given", "message"),
    [
        ("asks", None, "sudo needs the password of asks"),
        ("asks", "wrong", "sudo refused the password of asks"),
        ("nosudo", None, "sudo needs the password of nosudo"),
        ("nosudo", "wrong", "sudo refused the password of nosudo"),
    ],
)
def test_sudo_that_says_no(bare_lab: Lab, user: str, given: str | None, message: str) -> None:
    settings = SshSettings(sudo_password=Secret(given) if given else None)
    started = time.monotonic()
    with pytest.raises(StepError, match=message) as caught:
        who(opened(bare_lab, user, settings))
    assert caught.value.exit_code == 1
    assert caught.value.remedy
    assert time.monotonic() - started < 15
    if given:  # one guess, not three: accounts are locked after a few
        assert "1 incorrect password attempt" in caught.value.output


def test_the_password_is_in_no_process_list_and_no_log(bare_lab: Lab) -> None:
    secret = password(bare_lab).reveal()
    remote = opened(bare_lab, "asks", SshSettings(sudo_password=Secret(secret)))
    seen = remote.run(("sh", "-c", "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ | tr '\\0' '\\n'")).out
    remote.close()
    assert b"timeout" in seen
    assert secret.encode() not in seen
    assert secret not in bare_lab.sh(HOST, "journalctl --no-pager -o cat")


def test_every_stream_at_full_size_through_sudo(bare_lab: Lab) -> None:
    size = 5 << 20
    for user, settings in (("fleet", None), ("asks", SshSettings(sudo_password=password(bare_lab)))):
        remote = opened(bare_lab, user, settings)
        data = bytes(range(256)) * (size // 256)
        assert remote.run(("cat",), stdin=data, timeout=60).out == data
        both = remote.script(f"head -c {size} /dev/zero & head -c {size} /dev/zero >&2; wait", timeout=60)
        assert (len(both.out), len(both.err)) == (size, size)
        remote.close()


def test_the_deadline_ends_what_root_started(bare_lab: Lab) -> None:
    remote = opened(bare_lab, "fleet")
    with pytest.raises(StepError, match="no end within 1 s"):
        remote.script("sleep 4321", timeout=1)
    remote.close()
    assert "4321" not in bare_lab.sh(HOST, "ps -eo args")


def test_a_full_disk_is_told_and_leaves_nothing_behind(bare_lab: Lab) -> None:
    bare_lab.sh(HOST, "mkdir -p /mnt/small && mount -t tmpfs -o size=64k tmpfs /mnt/small")
    remote = opened(bare_lab, "fleet")
    try:
        remote.upload("/mnt/small/file", b"old", mode="0600", owner="root", group="root")
        with pytest.raises(StepError, match="cannot write /mnt/small/file") as caught:
            remote.upload("/mnt/small/file", bytes(200_000), mode="0600", owner="root", group="root")
        assert "No space left on device" in caught.value.output
        assert bare_lab.sh(HOST, "ls -A /mnt/small; cat /mnt/small/file") == "file\nold"
    finally:
        remote.close()
        bare_lab.sh(HOST, "umount /mnt/small")


def test_a_host_that_is_frozen_in_the_middle(bare_lab: Lab) -> None:
    container = bare_lab.hosts[HOST]["container"]

    def docker(verb: str) -> None:
        subprocess.run(["docker", verb, container], check=True, capture_output=True)

    remote = opened(bare_lab, "fleet", SshSettings(keepalive=0.5, keepalive_count=3))
    timer = threading.Timer(1.0, docker, ("pause",))
    timer.start()
    started = time.monotonic()
    try:
        with pytest.raises(UnreachableError) as caught:
            remote.script("sleep 30", timeout=60)
    finally:
        timer.join()
        docker("unpause")
        remote.close()
    assert "no sign of life" in caught.value.output
    assert time.monotonic() - started < 10


def test_the_pinned_keys_are_the_hosts_own(bare_lab: Lab) -> None:
    keys = {key.type: key for key in scan(host_of(bare_lab), 10.0)}
    assert keys["ssh-ed25519"].status == "pinned"
    listed = bare_lab.sh(HOST, "cat /etc/ssh/ssh_host_*_key.pub")
    for key in keys.values():
        assert f"{key.type} {key.base64}" in listed


@pytest.mark.parametrize("needs_password", [False, True])
def test_the_engine_through_sudo(lab: Lab, needs_password: bool) -> None:
    from fleet.docker.client import open_engine

    settings = SshSettings(sudo_password=password(lab) if needs_password else None)
    remote = opened(lab, "asks" if needs_password else "fleet", settings)
    client = open_engine(remote)
    try:
        listed = lab.sh(HOST, "docker ps -q --no-trunc").split()
        assert sorted(container["Id"] for container in client.api.containers()) == sorted(listed)
    finally:
        client.close()
        remote.close()


def pulling(lab: Lab, **arguments: Any) -> Callable[[], list[tuple[str, float, float]]]:
    from fleet.docker.calls import CALLS, Shared
    from fleet.docker.client import open_engine

    def pull() -> list[tuple[str, float, float]]:
        heard: list[tuple[str, float, float]] = []
        remote = opened(lab, "fleet")
        client = open_engine(remote)
        try:
            CALLS["pull"](client, arguments, lambda *told: heard.append(told), Shared())
        finally:
            client.close()
            remote.close()
        return heard

    return pull


def test_a_pull_by_digest_with_progress(lab: Lab) -> None:
    host = host_of(lab)
    image = str(host.vars["image"]).rpartition(":")[0] + ":v2"
    secret = Path(str(host.vars["registry_password_file"])).read_text().strip()
    auth = {"username": str(host.vars["registry_username"]), "password": Secret(secret)}
    lab.sh(HOST, f"docker image rm -f {image} >/dev/null 2>&1 || true")
    heard = pulling(lab, reference=image, auth=auth)()
    assert heard[-1][0] == "pulled"
    assert heard[-1][1] == heard[-1][2]
    digests = lab.sh(HOST, f"docker image inspect -f '{{{{join .RepoDigests \" \"}}}}' {image}")
    assert "@sha256:" in digests
    assert secret not in lab.sh(HOST, "cat /root/.docker/config.json 2>/dev/null || true")
    for wrong, why in (({**auth, "password": Secret("no")}, "registry"), (None, "registry")):
        with pytest.raises(StepError, match="the registry gives no digest") as caught:
            pulling(lab, reference=image, **({"auth": wrong} if wrong else {}))()
        assert why in caught.value.remedy
    with pytest.raises(StepError) as caught:
        pulling(lab, reference=image.replace(":v2", ":no-such-tag"), auth=auth)()
    assert "name and tag" in caught.value.remedy
    lab.sh(HOST, f"docker image rm {image}")
