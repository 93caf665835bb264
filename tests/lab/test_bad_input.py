"""Bad input and broken hosts: one clear message with place and remedy, the others finish, the right exit code."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
import time
from pathlib import Path

import pytest
import yaml

from fleet.data import data_dir
from fleet.lab import status as lab_status
from tests.lab.conftest import NAME, fleet

pytestmark = pytest.mark.lab


class Variant:
    """A copy of the lab's inventory and playbook that a test spoils."""

    def __init__(self, lab, folder: Path) -> None:
        self.lab = lab
        self.path = folder / "hosts.yml"
        self.data = yaml.safe_load(Path(lab.inventory).read_text())
        del self.all["ansible_ssh_common_args"]
        self.save()

    @property
    def all(self):
        return self.data["all"]["vars"]

    def host(self, name):
        for group in self.data["all"]["children"].values():
            if name in group["hosts"]:
                return group["hosts"][name]
        raise KeyError(name)

    def save(self):
        self.path.write_text(yaml.safe_dump(self.data))

    def fleet(self, command, *args, **more):
        return fleet(command, *args, "-i", str(self.path), **more)


@pytest.fixture
def variant(lab, tmp_path):
    return Variant(lab, tmp_path)


def statuses(done):
    return {name: host["status"] for name, host in done.json["hosts"].items()}


def others_ok(variant, *, gpu_02):
    """Every host of the fleet was fine but one."""
    return dict.fromkeys([*variant.lab.gpu_hosts, *variant.lab.balancers], "ok") | {"gpu-02": gpu_02}


def error_of(done, host):
    state = done.json["hosts"][host]
    if state["error"]:
        return state["error"]
    return next(task["error"] for task in state["tasks"] if task["error"])


def test_unknown_key_in_the_inventory(variant):
    variant.path.write_text("all:\n  children:\n    gpu:\n      hots:\n        gpu-01: {}\n")
    done = variant.fleet("provision")
    assert done.code == 2
    assert "hosts.yml:4" in done.err
    assert "hots" in done.err
    assert "hosts" in done.err


def test_yaml_error(variant):
    variant.path.write_text("all:\n  hosts:\n\tgpu-01: {}\n")
    done = variant.fleet("provision")
    assert done.code == 2
    assert "hosts.yml:3" in done.err
    assert "spaces" in done.err


def test_bad_pattern(variant):
    done = variant.fleet("provision", "--limit", "gpu-10")
    assert done.code == 2
    assert "gpu-10" in done.err
    assert "gpu-0" in done.err


def test_missing_inventory_and_playbook(variant, tmp_path):
    done = fleet("provision", "-i", str(tmp_path / "none.yml"))
    assert (done.code, "none.yml" in done.err) == (2, True)
    done = variant.fleet("provision", "-p", str(tmp_path / "none.yml"))
    assert (done.code, "none.yml" in done.err, "try:" in done.err) == (2, True, True)


def test_missing_key_file(variant, tmp_path):
    variant.host("gpu-02")["ansible_ssh_private_key_file"] = str(tmp_path / "no_such_key")
    variant.save()
    done = variant.fleet("provision", "--json")
    assert done.code == 2
    assert statuses(done) == others_ok(variant, gpu_02="failed")
    error = error_of(done, "gpu-02")
    assert "no_such_key" in error["message"]
    assert error["file"] == str(variant.path)
    assert error["remedy"]


def test_wrong_host_key_is_refused_and_the_others_finish(variant, tmp_path):
    known = Path(variant.all["fleet_known_hosts"]).read_text().splitlines()
    address = variant.host("gpu-02")["ansible_host"]
    other = next(line for line in known if line.startswith(variant.host("gpu-01")["ansible_host"] + " "))
    spoiled = [line for line in known if not line.startswith(address + " ")]
    spoiled.append(address + " " + other.split(" ", 1)[1])
    (tmp_path / "known_hosts").write_text("\n".join(spoiled) + "\n")
    variant.all["fleet_known_hosts"] = str(tmp_path / "known_hosts")
    variant.save()
    done = variant.fleet("provision", "--json")
    assert done.code == 3
    assert statuses(done) == others_ok(variant, gpu_02="unreachable")
    error = error_of(done, "gpu-02")
    assert "changed" in error["message"].lower()
    assert "fleet trust" in error["remedy"]


def test_unknown_host_key_names_the_remedy_and_trust_mends_it(variant, tmp_path):
    (tmp_path / "known_hosts").write_text("")
    variant.all["fleet_known_hosts"] = str(tmp_path / "known_hosts")
    variant.save()
    done = variant.fleet("provision", "--json")
    assert done.code == 3
    assert set(statuses(done).values()) == {"unreachable"}
    assert "fleet trust" in error_of(done, "gpu-01")["remedy"]
    trusted = variant.fleet("trust", "--yes")
    assert trusted.code == 0, trusted.out + trusted.err
    assert "SHA256:" in trusted.out
    assert variant.fleet("provision", "--json").json["changed"] == 0


def test_sudo_refused(variant):
    variant.host("gpu-02")["ansible_user"] = "nosudo"
    variant.save()
    done = variant.fleet("provision", "--json")
    assert done.code == 1
    assert statuses(done) == others_ok(variant, gpu_02="failed")
    error = error_of(done, "gpu-02")
    assert "sudo" in error["message"]
    assert error["remedy"]


def test_sudo_with_a_password(variant):
    variant.host("gpu-02")["ansible_user"] = "asks"
    variant.save()
    refused = variant.fleet("provision", "--json")
    assert refused.code == 1
    assert "FLEET_SUDO_PASSWORD" in error_of(refused, "gpu-02")["remedy"]
    password = lab_status(NAME).asks_password.reveal()
    done = variant.fleet("provision", "--json", env={"FLEET_SUDO_PASSWORD": password})
    assert (done.code, done.json["changed"]) == (0, 0), done.out
    wrong = variant.fleet("provision", "--json", env={"FLEET_SUDO_PASSWORD": "not-" + password})
    assert wrong.code == 1
    assert password not in wrong.out + wrong.err


def test_host_down(variant):
    variant.host("gpu-02")["ansible_port"] = 9
    variant.save()
    done = variant.fleet("provision", "--json")
    assert done.code == 3
    assert statuses(done) == others_ok(variant, gpu_02="unreachable")
    assert "refused" in error_of(done, "gpu-02")["message"]
    stat = variant.lab.sh("lb-01", "grep -c 'server gpu-02' /etc/haproxy/haproxy.cfg")
    assert int(stat) >= 2, "an unreachable host's servers must stay in the balancer"
    status = variant.fleet("status", "--json")
    assert status.code == 3
    assert {host["name"]: host["state"] for host in status.json["hosts"]}["gpu-02"] == "unreachable"
    assert "gpu-02" in variant.fleet("status").out


def playbook(tmp_path, text):
    path = tmp_path / "play.yml"
    path.write_text(text)
    return str(path)


def test_a_bad_image_name_is_told_at_its_line(variant, tmp_path):
    done = variant.fleet(
        "run", playbook(tmp_path, "- hosts: gpu\n  tasks:\n    - docker_image: {name: 'Bad Name:v1'}\n")
    )
    assert done.code == 2
    assert "play.yml:3" in done.err
    assert "Bad Name" in done.err


def test_an_image_the_registry_lacks(variant):
    done = variant.fleet("provision", "--json", "-e", "image=registry-01:5000/no-such-image:v9")
    assert done.code == 1
    error = error_of(done, "gpu-01")
    assert "no-such-image:v9" in error["message"]
    assert error["remedy"]
    assert variant.fleet("provision", "--json").json["changed"] == 0


def test_registry_login_refused(variant, tmp_path):
    (tmp_path / "password").write_text("wrong-password-xyzzy\n")
    variant.all["registry_password_file"] = str(tmp_path / "password")
    variant.save()
    done = variant.fleet("provision", "--json", "-e", "image=registry-01:5000/hunyuan-mt-webui:v2", "--check")
    assert done.code == 0, done.out
    done = variant.fleet(
        "run",
        playbook(
            tmp_path,
            "- hosts: gpu\n  tasks:\n    - docker_image:\n        name: registry-01:5000/hunyuan-mt-webui:v2\n"
            "        username: '{{ registry_username }}'\n        password_file: '{{ registry_password_file }}'\n",
        ),
        "--json",
    )
    assert done.code == 1
    error = error_of(done, "gpu-01")
    assert "unauthorized" in error["output"]
    assert "registry password" in error["remedy"]
    assert "xyzzy" not in done.out + done.err


def test_template_error_is_told_at_the_templates_line(variant, tmp_path):
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "bad.j2").write_text("fine\nalso fine\n{{ missing_thing }}\n")
    done = variant.fleet(
        "run",
        playbook(tmp_path, "- hosts: balancer\n  tasks:\n    - template: {src: bad.j2, dest: /etc/bad}\n"),
        "--json",
    )
    assert done.code in (1, 2)
    assert "bad.j2" in done.words
    assert "missing_thing" in done.words
    assert "bad.j2:3" in done.err or '"line": 3' in done.out


def test_an_invalid_haproxy_config_never_replaces_a_good_one(variant, tmp_path):
    lab = variant.lab
    good = lab.sh("lb-01", "cat /etc/haproxy/haproxy.cfg")
    (tmp_path / "templates").mkdir()
    shipped = (data_dir("templates") / "haproxy.cfg.j2").read_text()
    (tmp_path / "templates" / "haproxy.cfg.j2").write_text(
        shipped + "\nbackend spoiled\n  balance nonsense\n"
    )
    shutil.copy(data_dir("playbooks") / "provision.yml", tmp_path / "play.yml")
    done = variant.fleet("run", str(tmp_path / "play.yml"), "--json")
    assert done.code == 1
    error = error_of(done, "lb-01")
    assert "haproxy.cfg.new:" in error["output"]
    assert "balance" in error["output"]
    assert lab.sh("lb-01", "cat /etc/haproxy/haproxy.cfg") == good
    assert lab.sh("lb-01", "systemctl is-active haproxy").strip() == "active"
    assert lab.fleet("provision", "--json").json["changed"] == 0


def test_no_disk_on_the_host(variant, tmp_path):
    lab = variant.lab
    lab.sh("gpu-02", "mkdir -p /mnt/small && mount -t tmpfs -o size=64k tmpfs /mnt/small")
    big = tmp_path / "big.bin"
    big.write_bytes(b"x" * 500_000)
    try:
        done = variant.fleet(
            "run",
            playbook(tmp_path, f"- hosts: gpu\n  tasks:\n    - copy: {{src: {big}, dest: /mnt/small/f}}\n"),
            "--json",
        )
        assert done.code == 1
        assert statuses(done) == {"gpu-01": "changed", "gpu-02": "failed"}
        error = error_of(done, "gpu-02")
        assert "No space left" in error["message"] + error["output"]
        assert error["file"].endswith("play.yml")
        assert error["line"] == 3
        assert lab.sh("gpu-02", "ls -A /mnt/small") == ""
    finally:
        lab.sh("gpu-02", "umount /mnt/small", check=False)
        lab.sh("gpu-01", "rm -rf /mnt/small")


def test_a_host_that_dies_in_the_middle(variant, tmp_path):
    lab = variant.lab
    book = playbook(
        tmp_path,
        "- hosts: gpu\n  tasks:\n    - command: {cmd: sleep 8}\n    - command: {cmd: touch /run/after}\n",
    )
    container = lab.hosts["gpu-02"]["container"]
    killer = threading.Timer(4, subprocess.run, (["docker", "pause", container],))
    killer.start()
    started = time.monotonic()
    try:
        done = variant.fleet("run", book, "--json", timeout=300)
    finally:
        killer.join()
        subprocess.run(["docker", "unpause", container], check=True, capture_output=True)
    assert done.code == 3, json.dumps(done.json)
    assert statuses(done) == {"gpu-01": "changed", "gpu-02": "unreachable"}
    assert error_of(done, "gpu-02")["message"]
    assert time.monotonic() - started < 240, "a silent host must be given up"
    lab.sh("gpu-01", "rm /run/after")
