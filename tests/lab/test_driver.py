"""nvidia_driver on Debian 12 and 13, with real apt and dpkg, from every state a host can be in.

The balancers are the hosts: they have neither GPUs nor drivers, so cards can be plugged in and taken out again.
"""

from __future__ import annotations

import base64
import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from fleet.lab.gpus import describe

pytestmark = pytest.mark.lab

OLD = "570.195.03"
NEW = "580.95.05"
NAMES = "nvidia-driver-cuda nvidia-kernel-open-dkms"
REMOVE = """
apt-mark unhold $(apt-mark showhold | grep nvidia) >/dev/null 2>&1
dpkg --configure -a >/dev/null 2>&1
apt-get -qq -y purge 'nvidia-*' >/dev/null 2>&1
rm -f /usr/local/bin/nvidia-smi /lib/modules/*/updates/nvidia.ko /run/fleet/reboot-required
rm -f /var/lib/fleet/nvidia-driver-reboot
depmod
/usr/lib/fleet-lab/gpus.sh
"""
UNPLUG = f"""{REMOVE}
rm -f /etc/fleet-lab/gpus.json /dev/nvidia[0-9] /dev/nvidiactl /dev/nvidia-uvm
umount /sys/bus/pci/devices /proc/driver
rm -rf "/lib/modules/$(uname -r)" /etc/apt/sources.list.d/nvidia.sources /etc/apt/keyrings/nvidia.asc
apt-get -qq update
"""
INSTALL_OLD = f"""
apt-get -qq update
apt-get -qq -y install nvidia-driver-pinning-570 >/dev/null
apt-get -qq -y install nvidia-driver-cuda={OLD}-1 nvidia-kernel-open-dkms={OLD}-1 nvidia-persistenced={OLD}-1 >/dev/null
/usr/lib/fleet-lab/gpus.sh
"""


# A .run file leaves programs and a module that no package knows.
RUN_FILE = f"""{INSTALL_OLD}
cp /usr/bin/nvidia-smi /root/smi; cp /usr/src/nvidia-570*/nvidia.ko /root/nvidia.ko
{REMOVE}
folder=/lib/modules/$(uname -r)/updates; mkdir -p "$folder"
mv /root/smi /usr/local/bin/nvidia-smi; mv /root/nvidia.ko "$folder/nvidia.ko"; depmod
/usr/lib/fleet-lab/gpus.sh
"""
HALF = f"""
cd /tmp
apt-get -qq download nvidia-driver-cuda={NEW}-1 nvidia-kernel-open-dkms={NEW}-1
dpkg --unpack nvidia-driver-cuda_*.deb nvidia-kernel-open-dkms_*.deb; rm nvidia-*.deb
"""


@pytest.fixture(scope="module")
def hosts(lab):
    """Two hosts of Debian 13 and 12 with two cards each, the repository, and no driver."""
    names = lab.balancers
    found = {lab.hosts[name]["os"] for name in names}
    assert len(found) == 2, found
    for name in names:
        described = describe(name, 2)
        lab.sh(name, f"mkdir -p /etc/fleet-lab; cat >/etc/fleet-lab/gpus.json <<'END'\n{described}END\n")
        lab.sh(name, "/usr/lib/fleet-lab/boot.sh")
    yield names
    each(lab, names, UNPLUG)


@pytest.fixture
def drive(lab, bare, tmp_path):
    """Run a play with the driver and these arguments; the document of --json, or what a failure said."""

    def run(code=0, **args):
        play = {
            "name": "Driver",
            "hosts": "balancer",
            "tasks": [{"name": "Driver", "nvidia_driver": {"repository": None, **args}}],
        }
        book = tmp_path / "driver.yml"
        book.write_text(json.dumps([play]))
        done = lab.fleet("run", str(book), "--json")
        assert done.code == code, done.out + done.err
        return done.json if code == 0 else done

    return run


@pytest.fixture
def bare(lab, hosts, repository):
    each(lab, hosts, REMOVE, check=False)
    return hosts


@pytest.fixture(scope="module")
def repository(lab, hosts, tmp_path_factory):
    """The lab's repository with its key on the hosts; a function that adds it with other arguments."""
    book = tmp_path_factory.mktemp("driver") / "repository.yml"

    def add(args="nvidia_repository"):
        task = {"name": "Packages", "apt_repository": f"{{{{ {args} }}}}"}
        book.write_text(json.dumps([{"name": "Repository", "hosts": "balancer", "tasks": [task]}]))
        return lab.fleet("run", str(book), "--json")

    done = add()
    assert done.code == 0, done.out + done.err
    return add


def each(lab, hosts, script, check=True):
    """A script on all hosts side by side; what it prints, by host."""
    with ThreadPoolExecutor(len(hosts)) as pool:
        return dict(zip(hosts, pool.map(lambda host: lab.sh(host, script, check=check), hosts), strict=True))


def state(lab, host):
    """The driver's packages as dpkg has them, the module's version, and the cards that nvidia-smi lists."""
    packages = lab.sh(
        host, f"dpkg-query -W -f='${{db:Status-Abbrev}} ${{Package}} ${{Version}}\\n' {NAMES}", check=False
    )
    module = lab.sh(host, 'modinfo -k "$(uname -r)" -F version nvidia', check=False).strip()
    cards = lab.sh(host, "nvidia-smi -L", check=False).count("GPU ")
    there = sorted(line for line in packages.splitlines() if not line.startswith("un"))
    return there, module, cards


def good(version):
    return [f"hi  nvidia-driver-cuda {version}-1", f"hi  nvidia-kernel-open-dkms {version}-1"], version, 2


def assert_good(lab, hosts, version=NEW):
    assert {host: state(lab, host) for host in hosts} == dict.fromkeys(hosts, good(version))


def test_the_repository_is_taken_with_its_own_key_only(lab, hosts, repository, tmp_path):
    apt = "cd /etc/apt; cat sources.list.d/nvidia.sources keyrings/nvidia.*; ls keyrings"
    before = each(lab, hosts, apt)
    assert repository().json["changed"] == 0
    key = tmp_path / "other.gpg"
    debians = lab.sh(hosts[0], "base64 -w0 /usr/share/keyrings/debian-archive-keyring.gpg")
    key.write_bytes(base64.b64decode(debians))
    done = repository(f"dict(nvidia_repository, signed_by='{key}')")
    assert done.code == 1, done.words
    assert "signature cannot be verified" in done.words
    assert each(lab, hosts, apt) == before


def test_from_no_driver(lab, drive, bare):
    drive()
    assert_good(lab, bare)
    for host in bare:
        assert "nvidia-driver-pinning-580" in lab.sh(host, "dpkg-query -W -f='${Package}\\n' 'nvidia-*'")
        assert not lab.sh(host, "cat /run/fleet/reboot-required 2>/dev/null", check=False)
    assert drive()["changed"] == 0
    assert drive(min_version=NEW)["changed"] == 0


def test_from_an_older_driver(lab, drive, bare):
    each(lab, bare, INSTALL_OLD)
    drive(min_version="570")
    assert_good(lab, bare, OLD)
    assert drive(min_version="570")["changed"] == 0

    drive(min_version=NEW)
    for host in bare:
        assert state(lab, host)[:2] == good(NEW)[:2]
        assert "library version mismatch" in lab.sh(host, "cat /run/fleet/reboot-required")
        assert "pinning-570" not in lab.sh(
            host, "dpkg-query -W -f='${db:Status-Abbrev}${Package}\\n' 'nvidia-*'| grep ^i"
        )
    assert drive(min_version=NEW)["changed"] == 0, "it waits for the reboot"

    for host in bare:
        lab.sh(host, "rm /run/fleet/reboot-required; /usr/lib/fleet-lab/gpus.sh")  # what a reboot does
    assert_good(lab, bare)
    assert drive(min_version=NEW)["changed"] == 0


def test_from_a_driver_installed_by_other_means(lab, drive, bare):
    each(lab, bare, RUN_FILE)
    assert drive()["changed"] == 0
    assert {host: state(lab, host) for host in bare} == dict.fromkeys(bare, ([], OLD, 2))
    done = drive(code=1, min_version=NEW)
    assert "came without a package" in done.words
    assert "nvidia-uninstall" in done.words
    assert {host: state(lab, host) for host in bare} == dict.fromkeys(bare, ([], OLD, 2))


def test_from_half_installed(lab, drive, bare):
    each(lab, bare, HALF)
    for host in bare:
        assert "iU" in "".join(state(lab, host)[0])
    drive()
    assert_good(lab, bare)
    assert drive()["changed"] == 0


def test_from_held_broken(lab, drive, bare):
    each(lab, bare, f"{INSTALL_OLD}\napt-mark hold nvidia-persistenced")
    before = {host: state(lab, host) for host in bare}
    done = drive(code=1, min_version=NEW)
    assert f"on hold: nvidia-persistenced {OLD}-1" in done.words
    assert "apt-mark unhold nvidia-persistenced" in done.words
    assert {host: state(lab, host) for host in bare} == before
    each(lab, bare, "apt-mark unhold nvidia-persistenced")
    drive(min_version=NEW)
    assert {host: state(lab, host)[:2] for host in bare} == dict.fromkeys(bare, good(NEW)[:2])


def test_a_lost_card_asks_for_one_reboot_and_for_no_second(lab, drive, bare):
    drive()
    each(lab, bare, 'sed -i \'0,/"lost": false/s//"lost": true/\' /etc/fleet-lab/gpus.json')
    try:
        drive()
        for host in bare:
            assert "GPU is lost" in lab.sh(host, "cat /run/fleet/reboot-required")
        assert drive()["changed"] == 0, "it waits for the reboot"
        each(
            lab,
            bare,
            "cat /proc/sys/kernel/random/uuid >/var/lib/fleet-lab/boot-id; rm /run/fleet/reboot-required",
        )
        done = drive(code=1)
        assert "rebooted for a lost GPU before" in done.words
        assert not any(each(lab, bare, "ls /run/fleet/reboot-required 2>/dev/null", check=False).values())
    finally:
        each(lab, bare, 'sed -i \'s/"lost": true/"lost": false/\' /etc/fleet-lab/gpus.json')
    assert drive()["changed"] == 0
