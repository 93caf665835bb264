"""The hosts: Debian with systemd and sshd, each in namespaces of its own on one bridge. Runs in the stage."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from fleet.lab.keys import KeyPair, make_key_pair

HERE = Path(__file__).resolve().parent
BUNDLE = Path("/srv/bench/bundle")
LIVE = Path("/srv/bench/live")
CGROUPS = Path("/sys/fs/cgroup")
GROUP = CGROUPS / "fleet-real-gpu"

STAGE = "10.77.0.1"
"""The controller's own address, where the hosts find packages and the image registry."""

REGISTRY = "registry-01"
_DOCKERS_RULES = (
    "-t nat -N probe",
    "-t nat -A probe -m addrtype --dst-type LOCAL -j RETURN",
    "-t nat -A probe -p tcp --dport 1 -j DNAT --to-destination 10.0.0.1:1",
    "-t nat -F probe",
    "-t nat -X probe",
    "-t nat -A POSTROUTING -s 192.0.2.0/24 ! -o lo -j MASQUERADE",
    "-t nat -D POSTROUTING -s 192.0.2.0/24 ! -o lo -j MASQUERADE",
    "-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
    "-D FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
)
_BOOT_DEADLINE = 90.0
_ADMIN = 1000


@dataclass(frozen=True)
class Host:
    """A host to boot; `layers` are folders laid over the bare system, the first one on top."""

    name: str
    address: str
    layers: tuple[Path, ...] = ()
    nodes: Path = Path("/dev/null")

    @property
    def root(self) -> Path:
        """Its root file system, as the stage sees it."""
        return LIVE / "hosts" / self.name / "root"


def network(hosts: tuple[Host, ...]) -> None:
    """A bridge with the stage and the hosts on it, inside the stage's own network namespace."""
    _run("ip", "link", "set", "lo", "up")
    _run("ip", "link", "add", "br-fleet", "type", "bridge")
    _run("ip", "address", "add", f"{STAGE}/24", "dev", "br-fleet")
    _run("ip", "link", "set", "br-fleet", "up")
    names = "".join(f"{host.address} {host.name}\n" for host in hosts)
    Path("/etc/hosts").write_text(f"127.0.0.1 localhost\n{STAGE} {REGISTRY}\n{names}")
    for number, host in enumerate(hosts):
        within = ("ip", "-netns", host.name)
        _run("ip", "netns", "add", host.name)
        _run("ip", "link", "add", f"veth{number}", "type", "veth", "peer", "name", "eth0", "netns", host.name)
        _run("ip", "link", "set", f"veth{number}", "master", "br-fleet", "up")
        _run(*within, "address", "add", f"{host.address}/24", "dev", "eth0")
        _run(*within, "link", "set", "lo", "up")
        _run(*within, "link", "set", "eth0", "up")
        _run(*within, "route", "add", "default", "via", STAGE)


def firewall(host: Host) -> str:
    """Which iptables does what Docker needs of it in the host's network: "nft", "legacy", or "" for none."""
    for kind in ("nft", "legacy"):
        iptables = f"ip netns exec {host.name} iptables-{kind}"
        script = "\n".join(f"{iptables} {rule}" for rule in _DOCKERS_RULES)
        done = subprocess.run(["sh", "-ec", script], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return kind
        print(f"iptables-{kind}: {done.stderr.strip()}")
    return ""


def control_groups(hosts: tuple[Host, ...]) -> None:
    """A group for each host, with every controller that this machine passes on."""
    GROUP.mkdir(exist_ok=True)
    for parent in (CGROUPS, GROUP):
        for controller in (parent / "cgroup.controllers").read_text().split():
            try:
                (parent / "cgroup.subtree_control").write_text(f"+{controller}")
            except OSError as error:
                print(f"control groups: {parent} does not pass on {controller}: {error.strerror}")
    for host in hosts:
        (GROUP / host.name).mkdir(exist_ok=True)


def start(host: Host, login: KeyPair, iptables: str) -> str:
    """Boot a host; returns the line of known_hosts for it.

    `login` is the key its admin accepts, `iptables` what `firewall` found.
    """
    folder = LIVE / "hosts" / host.name
    for part in ("upper", "work", "root", "docker"):
        (folder / part).mkdir(parents=True)
    lower = ":".join(map(str, (*host.layers, BUNDLE / "root")))
    options = f"lowerdir={lower},upperdir={folder / 'upper'},workdir={folder / 'work'}"
    _run("mount", "-t", "overlay", "overlay", "-o", options, str(host.root))
    key = make_key_pair(host.name)
    _furnish(host.root, host.name, key, login)
    _run("chroot", str(host.root), "/sbin/ldconfig")
    if iptables:
        program = f"/usr/sbin/iptables-{iptables}"
        _run("chroot", str(host.root), "update-alternatives", "--set", "iptables", program)
    argv = ["sh", str(HERE / "host.sh"), host.name, str(host.root), str(folder / "docker"), str(host.nodes)]
    with (folder / "console").open("wb") as console:
        subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=console, stderr=console)
    return f"{host.address} {' '.join(key.public.split()[:2])}\n"


def wait(host: Host) -> None:
    """Wait until the host's sshd greets; TimeoutError with what the host printed where it does not."""
    deadline = time.monotonic() + _BOOT_DEADLINE
    while time.monotonic() < deadline:
        try:
            with socket.create_connection((host.address, 22), timeout=2) as connection:
                if connection.recv(4) == b"SSH-":
                    return
        except OSError:
            pass
        time.sleep(0.2)
    console = (LIVE / "hosts" / host.name / "console").read_text(errors="replace")
    raise TimeoutError(
        f"{host.name} did not boot within {_BOOT_DEADLINE:.0f} s; it printed:\n{console[-2000:]}"
    )


def _furnish(root: Path, name: str, key: KeyPair, login: KeyPair) -> None:
    """What a rented machine has when it is handed over: names, host key, an admin's key, package sources."""
    _write(root / "etc/hostname", f"{name}\n")
    shutil.copy("/etc/hosts", root / "etc/hosts")
    _write(root / "etc/ssh/ssh_host_ed25519_key", key.private.decode(), mode=0o600)
    _write(root / "etc/ssh/ssh_host_ed25519_key.pub", f"{key.public}\n")
    home = root / "home/fleet/.ssh"
    home.mkdir(mode=0o700, exist_ok=True)
    _write(home / "authorized_keys", f"{login.public}\n", mode=0o600)
    for path in (home, home / "authorized_keys"):
        os.chown(path, _ADMIN, _ADMIN)
    apt = root / "etc/apt"
    for path in (*apt.glob("sources.list.d/*"), apt / "sources.list"):
        path.unlink(missing_ok=True)
    _write(apt / "sources.list", f"deb [trusted=yes] http://{STAGE}/ ./\n")


def _write(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def _run(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(argv)}: {(done.stderr or done.stdout).strip()}")
