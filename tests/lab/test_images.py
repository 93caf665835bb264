"""Images brought ahead, listed and cleared away; weights on a host: a real registry, real engines, a real seed."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.conftest import ROOT, Lab, fleet

pytestmark = pytest.mark.lab

REPO = "registry-01:5000/hunyuan-mt-webui"
BIG = f"{REPO}:big"
SIZE = 40_000_000
STORE = "/var/lib/docker/fleet-images"
_BUILD = f"""\
set -e
d=$(mktemp -d)
trap 'rm -rf $d' EXIT
cd $d
head -c {SIZE // 2} /dev/urandom >one
head -c {SIZE // 2} /dev/urandom >two
printf 'FROM scratch\\nCOPY one /\\nCOPY two /\\nCMD ["/one"]\\n' >Dockerfile
DOCKER_BUILDKIT=0 docker build -q -t {BIG} . >/dev/null
export DOCKER_CONFIG=$d/login
docker login -u fleet --password-stdin registry-01:5000 >/dev/null 2>&1
docker push -q {BIG} >/dev/null
docker rmi -f {BIG} >/dev/null
docker builder prune -af >/dev/null 2>&1 || true
"""


@pytest.fixture(scope="module")
def big(lab: Lab) -> Iterator[str]:
    """An image of two layers of noise in the registry, on no host."""
    password = (Path(lab.inventory).with_suffix("") / "registry_password").read_text()
    build = _BUILD.replace("docker login", f"printf %s '{password.strip()}' | docker login")
    lab.sh("gpu-01", build)
    yield BIG
    for host in lab.gpu_hosts:
        lab.sh(host, f"docker rmi -f {BIG} >/dev/null 2>&1; rm -rf {STORE}", check=False)
    tags = "/var/lib/docker-registry/docker/registry/v2/repositories/hunyuan-mt-webui/_manifests/tags"
    lab.sh("registry-01", f"rm -rf {tags}/big")


def sent(lab: Lab) -> int:
    """Bytes that the registry's host has sent."""
    return int(lab.sh("registry-01", "cat /sys/class/net/eth0/statistics/tx_bytes"))


def running(lab: Lab) -> dict[str, str]:
    words = (
        "docker ps --filter label=fleet.slot --format '{{.ID}} {{.Names}} {{.RunningFor}}' | cut -d' ' -f1,2"
    )
    return {host: lab.sh(host, words) for host in lab.gpu_hosts}


def digests(lab: Lab) -> set[str]:
    ask = "docker image inspect -f '{{json .RepoDigests}}' " + BIG
    return {lab.sh(host, ask).strip() for host in lab.gpu_hosts}


def test_the_plan_knows_what_an_image_weighs_before_it_comes(lab: Lab, big: str) -> None:
    before = sent(lab)
    done = lab.fleet("image", "pull", big, "--check", "--json")
    assert done.code == 0, done.out + done.err
    plan = done.json
    assert SIZE < plan["size"] < SIZE * 1.1
    assert plan["layers"] == 2
    assert {host["needs"] for host in plan["hosts"].values()} == {"pull"}
    assert all(host["to_fetch"] >= SIZE and host["free"] > host["needed"] for host in plan["hosts"].values())
    assert sent(lab) - before < SIZE / 20


def came(lab: Lab, share: float) -> None:
    """Wait until so much of the image is on gpu-01."""
    deadline = time.monotonic() + 60
    while int(lab.sh("gpu-01", f"du -sk {STORE} 2>/dev/null | cut -f1; true") or 0) * 1024 < SIZE * share:
        assert time.monotonic() < deadline
        time.sleep(0.3)


def test_a_pull_whose_connection_is_cut_and_that_is_killed_goes_on_where_it_was(lab: Lab, big: str) -> None:
    before, slots = sent(lab), running(lab)
    command = [str(Path(sys.executable).parent / "fleet"), "image", "pull", big, "--limit", "gpu-01"]
    began = time.monotonic()
    process = subprocess.Popen(
        [*command, "--limit-rate", "5M", "-i", lab.inventory],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        came(lab, 0.25)
        lab.sh("registry-01", "systemctl restart docker-registry")
        came(lab, 0.5)
        # At 5 MB a second 20 MB take 4 s; half a second is what a first burst may gain.
        assert time.monotonic() - began > 3.5
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = lab.fleet("image", "pull", big, "--limit", "gpu-01", "--json")
    assert done.code == 0, done.out + done.err
    assert done.json["states"] == {"gpu-01": "pulled"}
    # All that came before was used.
    assert SIZE < sent(lab) - before < SIZE * 1.2
    digest = done.json["digest"]
    assert f"{REPO}@{digest}" in lab.sh("gpu-01", "docker image inspect -f '{{json .RepoDigests}}' " + big)
    assert lab.sh("gpu-01", f"ls {STORE} 2>/dev/null; true") == ""
    assert running(lab) == slots
    again = lab.fleet("image", "pull", big, "--limit", "gpu-01", "--json")
    assert again.json["states"] == {"gpu-01": "there"}
    lab.sh("gpu-01", f"docker rmi {big}")


@pytest.fixture(scope="module")
def seeded(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, ...]]:
    """Options for an inventory in which gpu-01 seeds."""
    more = tmp_path_factory.mktemp("seed") / "seed.yml"
    more.write_text("gpu:\n  hosts:\n    gpu-01: {image_seed: true}\n")
    options = ("-i", lab.inventory, "-i", str(more))
    done = fleet("provision", "--json", *options)
    assert done.code == 0, done.out + done.err
    assert "masked" in lab.sh("gpu-01", "systemctl is-enabled docker-registry; true")
    assert fleet("provision", "--json", *options).json["changed"] == 0
    yield options
    lab.sh(
        "gpu-01",
        "apt-get -qq purge -y docker-registry >/dev/null; rm -f /etc/systemd/system/docker-registry.service",
    )


def test_a_site_reads_the_registry_once(lab: Lab, big: str, seeded: tuple[str, ...]) -> None:
    before, slots = sent(lab), running(lab)
    done = fleet("image", "pull", big, "--json", *seeded)
    assert done.code == 0, done.out + done.err
    assert done.json["states"] == dict.fromkeys(lab.gpu_hosts, "pulled")
    assert done.json["hosts"]["gpu-02"]["seed"] == "gpu-01"
    assert SIZE < sent(lab) - before < SIZE * 1.2
    assert len(digests(lab)) == 1
    assert running(lab) == slots
    password = (Path(lab.inventory).with_suffix("") / "registry_password").read_text().strip()
    for host in lab.gpu_hosts:
        found = lab.sh(host, f"grep -rlsF -- '{password}' /etc /run /root /tmp {STORE}; true")
        assert found == "", found
        assert lab.sh(host, f"ls -d {STORE} /run/fleet-image-seed 2>/dev/null; true") == ""
    assert lab.sh("gpu-01", "systemctl is-active fleet-image-seed.service; true").strip() == "inactive"


def test_a_playbook_and_an_upgrade_get_the_image_by_the_seed_too(
    lab: Lab, big: str, seeded: tuple[str, ...], tmp_path: Path
) -> None:
    inventories = tuple(word if word == "-i" else str(ROOT / word) for word in seeded)
    play = tmp_path / "play.yml"
    task = "{name: '%s', username: '{{ registry_username }}', password_file: '{{ registry_password_file }}'}"
    play.write_text(f"- hosts: gpu\n  tasks:\n    - docker_image: {task % big}\n")
    own = tmp_path / "playbooks" / "upgrade.yml"
    own.parent.mkdir()
    own.write_text(
        "stages:\n  after_pull:\n    - hosts: gpu\n      tasks:\n        - command: {cmd: 'false'}\n"
    )
    slots = running(lab)
    for words, code in ((("run", str(play)), 0), (("upgrade", big, "--yes", "--floor", "50%"), 4)):
        for host in lab.gpu_hosts:
            lab.sh(host, f"docker rmi -f {big} >/dev/null 2>&1; true")
        before = sent(lab)
        done = fleet(*words, *inventories, cwd=tmp_path)
        assert done.code == code, done.words
        assert SIZE < sent(lab) - before < SIZE * 1.2, words
        assert len(digests(lab)) == 1
        assert [lab.sh(host, f"ls -d {STORE} 2>/dev/null; true") for host in lab.gpu_hosts] == ["", ""]
    assert "after_pull" in done.words
    assert running(lab) == slots


def test_what_nothing_needs_is_listed_and_goes(lab: Lab, big: str) -> None:
    assert fleet("image", "pull", big, "-i", lab.inventory).code == 0
    slots = running(lab)
    found = lab.fleet("image", "list", "--json")
    assert found.code == 0, found.out + found.err
    rows = {(row["host"], row["names"][0]): row for row in found.json["images"] if row["names"]}
    for host in lab.gpu_hosts:
        assert rows[host, big]["used"] == []
        assert rows[host, f"{REPO}:v1"]["used"] == [f"{host}-0", f"{host}-1"]
    planned = lab.fleet("image", "prune", "--keep", "0", "--check", "--json").json
    names = [name for host in planned["hosts"].values() for row in host["gone"] for name in row["names"]]
    assert names.count(big) == len(lab.gpu_hosts)
    assert len(digests(lab)) == 1
    assert lab.fleet("image", "prune", "--keep", "0").code == 2  # nobody to ask
    # The image that is named stays, and what the inventory names does, too.
    done = lab.fleet("image", "prune", big, "--keep", "0", "--yes", "--json")
    names = [name for host in done.json["hosts"].values() for row in host["gone"] for name in row["names"]]
    assert not {big, f"{REPO}:v1"} & set(names)
    done = lab.fleet("image", "prune", "--keep", "0", "--yes", "--json")
    assert done.code == 0, done.out + done.err
    for host in lab.gpu_hosts:
        left = lab.sh(host, "docker images --format '{{.Repository}}:{{.Tag}}'")
        assert big not in left
        assert f"{REPO}:v1" in left
    assert running(lab) == slots


def test_weights_are_checked_and_read_only_to_containers(lab: Lab, tmp_path: Path) -> None:
    body = b"weights" * 500_000
    lab.sh(
        "registry-01", "mkdir -p /srv/www/m; yes weights | tr -d '\\n' | head -c 3500000 >/srv/www/m/w.bin"
    )
    (tmp_path / "sums").write_text(f"{hashlib.sha256(body).hexdigest()}  w.bin\n")
    (tmp_path / "play.yml").write_text(
        "- name: Weights\n  hosts: gpu\n  tasks:\n    - name: The model\n      model_weights:\n"
        f"        dest: /srv/models/m\n        sums: {tmp_path}/sums\n        url: http://registry-01/m\n"
    )
    play = str(tmp_path / "play.yml")
    try:
        done = lab.fleet("run", play, "--json")
        assert done.code == 0, done.out + done.err
        assert done.json["changed"] == len(lab.gpu_hosts)
        assert lab.fleet("run", play, "--json").json["changed"] == 0
        shown = lab.sh(
            "gpu-01",
            f"docker run --rm --entrypoint sh -v /srv/models/m:/models:ro {REPO}:v1 -c "
            "'sha256sum /models/w.bin; touch /models/x && echo written' 2>&1; true",
        )
        assert hashlib.sha256(body).hexdigest() in shown
        assert "written" not in shown
        (tmp_path / "sums").write_text(f"{'0' * 64}  w.bin\n")
        wrong = lab.fleet("run", play)
        assert wrong.code == 1
        assert "nothing was changed" in wrong.words
        assert hashlib.sha256(body).hexdigest() in lab.sh("gpu-01", "sha256sum /srv/models/m/w.bin")
    finally:
        for host in lab.gpu_hosts:
            lab.sh(host, "rm -rf /srv/models/m")
        lab.sh("registry-01", "rm -rf /srv/www/m")
