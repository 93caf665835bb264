"""The lab's parts that need no engine: what is asked for, addresses, files, keys, the inventory."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import stat
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import bcrypt
import paramiko
import pytest
import yaml

from fleet.data import data_dir
from fleet.errors import FleetError, InputError
from fleet.lab import LabSpec, engine
from fleet.lab.addresses import fleet_address, free_address, free_port, free_subnet
from fleet.lab.cgroups import Hybrid, Unified, layout
from fleet.lab.files import MARK, Folder
from fleet.lab.images import digest, hash_folder
from fleet.lab.inventory import known_hosts, render
from fleet.lab.keys import hash_htpasswd, make_authority, make_certificate, make_key_pair
from fleet.lab.spec import HostSpec, LabHost, LabState
from fleet.lab.webui import TAGS


def test_a_lab_has_the_hosts_asked_for() -> None:
    spec = LabSpec(gpu_hosts=2, gpus=3, balancers=1, debian="12", debian_of={"gpu-02": "13"})
    assert spec.hosts() == (
        HostSpec("gpu-01", "gpu", "12", 3),
        HostSpec("gpu-02", "gpu", "13", 3),
        HostSpec("lb-01", "balancer", "12"),
        HostSpec("registry-01", "registry", "13"),
    )


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"name": "My Lab"}, "cannot be named 'My Lab'"),
        ({"name": "../x"}, "cannot be named"),
        ({"gpu_hosts": 100}, "gpu_hosts is 100"),
        ({"balancers": -1}, "balancers is -1"),
        ({"debian": "11"}, "cannot run Debian '11'"),
        ({"debian_of": {"lb-01": "sid"}}, "cannot run Debian 'sid'"),
        ({"debian_of": {"lb-02": "12"}}, "no host 'lb-02'"),
    ],
)
def test_what_cannot_be_asked_for(wrong: dict[str, object], says: str) -> None:
    with pytest.raises(InputError, match=re.escape(says)) as caught:
        LabSpec(**wrong)  # type: ignore[arg-type]
    assert caught.value.remedy


def test_labs_get_networks_and_addresses_of_their_own() -> None:
    assert free_subnet([]) == "10.213.0.0/24"
    assert free_subnet(["172.17.0.0/16", "10.213.0.0/24", "10.213.1.128/25", "fd00::/64"]) == "10.213.2.0/24"
    assert free_subnet(["10.213.0.0/24"], "10.213.7.0/24") == "10.213.7.0/24"
    assert free_subnet(["10.213.7.0/24"], "10.213.7.0/24") == "10.213.0.0/24"
    assert free_address("127.0.10", {"127.0.10.1", "127.0.10.3", ""}) == "127.0.10.2"
    with pytest.raises(FleetError, match="every network"):
        free_subnet(["10.0.0.0/8"])
    with pytest.raises(FleetError, match="every address"):
        free_address("127.0.10", {f"127.0.10.{n}" for n in range(1, 255)})


def test_no_two_hosts_share_an_address() -> None:
    spec = LabSpec(gpu_hosts=99, balancers=99)
    found = {fleet_address("10.213.4.0/24", host) for host in spec.hosts()}
    assert len(found) == len(spec.hosts()) == 199
    assert fleet_address("10.213.4.0/24", HostSpec("gpu-01", "gpu", "13")) == "10.213.4.11"


def test_another_port_where_this_machine_listens_itself() -> None:
    with socket.socket() as taken:
        for port in range(21000, 22000):
            with contextlib.suppress(OSError):
                taken.bind(("0.0.0.0", port))
                break
        taken.listen()
        found = free_port("127.0.10.250", port)
    assert found != port
    assert (found - port) % 10000 == 8000
    assert free_port("127.0.10.250", port) == port


def test_the_folder_is_made_once_kept_private_and_removed(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "inventories" / "lab.yml")
    assert not folder.complete()
    folder.create()
    folder.write("known_hosts", b"")
    assert folder.complete()
    before = folder.text("asks_password")
    folder.create()
    assert folder.text("asks_password") == before
    for path in folder.path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    folder.write_inventory(f"{MARK}\nall: {{}}\n")
    folder.remove()
    assert list(folder.inventory.parent.iterdir()) == []


def test_what_a_person_wrote_is_not_touched(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "lab.yml")
    folder.inventory.write_text("all: {}\n")
    for act in (folder.create, folder.remove, folder.check_ours):
        with pytest.raises(InputError, match="was not written by the lab"):
            act()
    assert folder.inventory.read_text() == "all: {}\n"


def test_files_beside_the_labs_own_stay(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "lab.yml")
    folder.create()
    folder.path.joinpath("notes").write_text("mine")
    folder.remove()
    assert [path.name for path in folder.path.iterdir()] == ["notes"]


def test_a_snapshot_brings_the_files_back(tmp_path: Path) -> None:
    first, second = Folder(tmp_path / "a.yml"), Folder(tmp_path / "b.yml")
    first.create()
    second.unpack(first.pack())
    second.create()
    for name in ("id_ed25519", "ca.crt", "registry_password", "asks_password"):
        assert second.text(name) == first.text(name)
    assert not second.file("known_hosts").exists()


def test_the_ssh_key_is_one_that_ssh_takes(tmp_path: Path) -> None:
    pair = make_key_pair("lab")
    path = tmp_path / "key"
    path.write_bytes(pair.private)
    assert paramiko.Ed25519Key.from_private_key_file(str(path)).get_base64() == pair.public.split()[1]
    assert pair.private.decode() not in repr(pair)


def test_the_registrys_certificate_is_trusted_by_its_authority_alone(tmp_path: Path) -> None:
    authority = make_authority("lab")
    server = make_certificate(authority, ("registry-01", "127.0.0.1"))
    chain = tmp_path / "chain.pem"
    chain.write_bytes(server.certificate + server.key)
    assert _handshake(chain, authority.certificate) == "ok"
    assert "CERTIFICATE_VERIFY_FAILED" in _handshake(chain, make_authority("lab").certificate)


def _handshake(chain: Path, authority: bytes) -> str:
    accept = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    accept.load_cert_chain(chain)
    trust = ssl.create_default_context(cadata=authority.decode())
    trust.verify_flags |= ssl.VERIFY_X509_STRICT
    ours, theirs = socket.socketpair()

    def serve() -> None:
        try:
            with accept.wrap_socket(theirs, server_side=True):
                pass
        except OSError:
            theirs.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with ours, trust.wrap_socket(ours, server_hostname="registry-01"):
            return "ok"
    except ssl.SSLError as error:
        return str(error)
    finally:
        thread.join(5)


def test_the_registrys_password_file_knows_the_password() -> None:
    user, _, hashed = hash_htpasswd("fleet", "secret").strip().partition(":")
    assert user == "fleet"
    assert bcrypt.checkpw(b"secret", hashed.encode())
    assert not bcrypt.checkpw(b"other", hashed.encode())


def _state(tmp_path: Path) -> LabState:
    def host(name: str, kind: str, number: int, port: int = 22) -> LabHost:
        return LabHost(
            name=name,
            kind=kind,
            address=f"127.0.10.{number}",
            fleet_address=f"10.213.0.{number}",
            service="127.0.20.1" if kind == "balancer" else "",
            container=f"fleet-lab-lab-{name}",
            state="running",
            os="debian 13",
            port=port,
        )

    return LabState(
        name="lab",
        url="http://127.0.20.1",
        inventory=tmp_path / "lab.yml",
        hosts=(
            host("gpu-01", "gpu", 1),
            host("lb-01", "balancer", 2, 8022),
            host("registry-01", "registry", 3),
        ),
    )


def test_the_inventory_has_what_provisioning_needs(tmp_path: Path) -> None:
    state = _state(tmp_path)
    text = render(state, Folder(tmp_path / "lab.yml"))
    assert text.startswith(MARK)
    tree = yaml.safe_load(text)["all"]
    assert {name: list(group["hosts"]) for name, group in tree["children"].items()} == {
        "gpu": ["gpu-01"],
        "balancer": ["lb-01"],
        "registry": ["registry-01"],
    }
    assert tree["children"]["balancer"]["hosts"]["lb-01"] == {
        "ansible_host": "127.0.10.2",
        "ansible_port": 8022,
        "fleet_address": "10.213.0.2",
    }
    assert tree["vars"]["image"] == "registry-01:5000/hunyuan-mt-webui:v1"
    assert tree["vars"]["registry_ca"] == {"registry-01:5000": str(tmp_path / "lab" / "ca.crt")}
    for name in ("ansible_ssh_private_key_file", "fleet_known_hosts", "registry_password_file"):
        assert Path(tree["vars"][name]).is_absolute()


def test_known_hosts_has_the_port_where_it_is_not_22(tmp_path: Path) -> None:
    keys = {
        "gpu-01": "ssh-ed25519 AAA gpu-01",
        "lb-01": "ssh-ed25519 BBB x",
        "registry-01": "ssh-ed25519 CCC",
    }
    assert known_hosts(_state(tmp_path).hosts, keys).splitlines() == [
        "127.0.10.1 ssh-ed25519 AAA",
        "[127.0.10.2]:8022 ssh-ed25519 BBB",
        "127.0.10.3 ssh-ed25519 CCC",
    ]


def test_the_status_document_shows_no_password(tmp_path: Path) -> None:
    document = _state(tmp_path).as_json()
    assert document["url"] == "http://127.0.20.1"
    assert "password" not in str(document)
    assert _state(tmp_path).host("lb-01").service == "127.0.20.1"
    with pytest.raises(KeyError):
        _state(tmp_path).host("lb-02")


def test_each_engine_gets_the_control_groups_it_can_have(tmp_path: Path) -> None:
    assert isinstance(layout("2"), Unified)
    assert layout("2").bind("lab", "gpu-01") is None
    hybrid = Hybrid(tmp_path)
    assert hybrid.bind("lab", "gpu-01") == f"{tmp_path}/fleet-lab/lab/gpu-01:/sys/fs/cgroup:rw"
    hybrid.bind("other", "gpu-01")
    (tmp_path / "fleet-lab/lab/gpu-01/system.slice/ssh.service").mkdir(parents=True)
    hybrid.remove("lab")
    assert [path.name for path in (tmp_path / "fleet-lab").iterdir()] == ["other"]
    hybrid.remove("other")
    assert list(tmp_path.iterdir()) == []


def test_a_recipe_changes_with_every_file(tmp_path: Path) -> None:
    tmp_path.joinpath("a").write_text("1")
    first = digest(hash_folder(tmp_path))
    assert digest(hash_folder(tmp_path)) == first
    tmp_path.joinpath("a").chmod(0o755)
    second = digest(hash_folder(tmp_path))
    tmp_path.joinpath("b").write_text("")
    assert len({first, second, digest(hash_folder(tmp_path))}) == 3
    assert digest(["ab", "c"]) != digest(["a", "bc"])


def test_every_fault_is_one_the_image_can_be_told() -> None:
    dockerfile = (data_dir("lab") / "webui" / "app" / "Dockerfile").read_text()
    told = set(re.findall(r"^ARG (\w+)=", dockerfile, re.MULTILINE))
    app = (data_dir("lab") / "webui" / "app" / "webui.py").read_text()
    app += (data_dir("lab") / "registry" / "standins" / "nvidia-smi").read_text()
    for arguments in TAGS.values():
        assert set(arguments) <= told
    for name in told:
        assert re.search(rf'FLEET_LAB_{name}\b|setting\("{name}"', app), name
    assert len({repr(sorted(arguments.items())) for arguments in TAGS.values()}) == len(TAGS)


def test_a_missing_program_is_installed_once_by_many_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two images may be made at a time; two apt-get at a time meet the lock."""
    installed: list[str] = []

    def install(report: object, *packages: str) -> None:
        installed.extend(packages)
        time.sleep(0.1)
        (tmp_path / packages[0]).touch(mode=0o755)

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(engine, "apt_install", install)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: engine.need_program(print, "a-program"), range(4)))
    assert installed == ["a-program"]


def test_apt_waits_while_another_one_holds_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    apt = tmp_path / "apt-get"
    apt.write_text(
        "#!/bin/sh\n"
        f"[ -e {tmp_path}/again ] && exit 0\n"
        f": >{tmp_path}/again\n"
        "echo 'E: Could not get lock /var/lib/apt/lists/lock.' >&2; exit 100\n"
    )
    apt.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.setattr(engine.os, "geteuid", lambda: 0)
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda seconds: None)
    engine.apt_install(lambda line: None, "something")
    assert (tmp_path / "again").exists()
