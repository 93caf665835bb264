"""The tools compared: how each is installed, called, and asked whether it changed anything."""

from __future__ import annotations

import hashlib
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
PROJECT = HERE.parent.parent
OPERATIONS = 12
"""Operations in playbook.yml and deploy.py."""


class InvalidRunError(Exception):
    """A run that did not do what is measured; its text says why."""


@dataclass(frozen=True)
class Host:
    """A lab host as SSH reaches it."""

    name: str
    address: str
    port: int
    user: str
    key: Path
    known_hosts: Path

    def ssh(self, *command: str) -> list[str]:
        """The argv of one OpenSSH command on it."""
        options = [f"UserKnownHostsFile={self.known_hosts}", "IdentitiesOnly=yes", "BatchMode=yes"]
        words = [word for option in options for word in ("-o", option)]
        return [
            *("ssh", "-F", "none", *words, "-i", str(self.key), "-p", str(self.port)),
            *(f"{self.user}@{self.address}", *command),
        ]


@dataclass(frozen=True)
class Process:
    """One process of a run; `stdin` is a file."""

    argv: Sequence[str]
    stdin: Path | None = None


@dataclass(frozen=True)
class Tool:
    """A tool: what one run of it starts, all at once. `outputs` of a run go to `check`."""

    name: str
    processes: Sequence[Process]
    environment: Mapping[str, str] = field(default_factory=dict)

    def check(self, outputs: Sequence[str], hosts: Sequence[Host]) -> int:
        """How many things the run changed. Raises InvalidRunError where it did not look at everything."""
        raise NotImplementedError


class Fleet(Tool):
    """`fleet run`."""

    def check(self, outputs: Sequence[str], hosts: Sequence[Host]) -> int:
        """Read the recap."""
        changed = 0
        for host in hosts:
            row = re.search(rf"^ *{host.name} +(\d+) +(\d+) +(\d+) +(\d+) +(\d+) *$", outputs[0], re.M)
            if row is None:
                raise InvalidRunError(f"fleet's recap lacks {host.name}")
            ok, new, failed, unreachable, skipped = map(int, row.groups())
            if failed or unreachable or skipped or ok + new != OPERATIONS:
                raise InvalidRunError(f"fleet did not do all operations: {row[0]}")
            changed += new
        return changed


class Ansible(Tool):
    """`ansible-playbook`."""

    def check(self, outputs: Sequence[str], hosts: Sequence[Host]) -> int:
        """Read the recap."""
        changed = 0
        for host in hosts:
            row = re.search(
                rf"^{host.name} +: ok=(\d+) +changed=(\d+) +unreachable=(\d+) +failed=(\d+) +skipped=(\d+)",
                outputs[0],
                re.M,
            )
            if row is None:
                raise InvalidRunError(f"Ansible's recap lacks {host.name}")
            ok, new, unreachable, failed, skipped = map(int, row.groups())
            if failed or unreachable or skipped or ok not in (OPERATIONS, OPERATIONS + 1):
                raise InvalidRunError(f"Ansible did not do all operations: {row[0]}")
            changed += new
        return changed


class Pyinfra(Tool):
    """`pyinfra`."""

    def check(self, outputs: Sequence[str], hosts: Sequence[Host]) -> int:
        """Read the results' last row: hosts, success, error, no change."""
        row = re.search(r"Grand total +(\S+) +(\S+) +(\S+) +(\S+)", _plain(outputs[0]))
        if row is None:
            raise InvalidRunError("pyinfra's results lack their total")
        done, new, failed, same = (0 if cell == "-" else int(cell) for cell in row.groups())
        if failed or done != OPERATIONS * len(hosts) or new + same != done:
            raise InvalidRunError(f"pyinfra did not do all operations: {row[0]}")
        return new


class Floor(Tool):
    """One OpenSSH command per host."""

    def check(self, outputs: Sequence[str], hosts: Sequence[Host]) -> int:
        """Compare the answers with what the playbook wants."""
        wrong = 0
        for output, host in zip(outputs, hosts, strict=True):
            left = [line for line in wanted_answers(host) if line not in output.splitlines()]
            wrong += len(left)
            if left:
                print(f"{host.name} does not answer: {left}", file=sys.stderr)
        return wrong


def tools(hosts: Sequence[Host], inventory: Path, scratch: Path) -> list[Tool]:
    """Every tool, installed, ready to run against these hosts, in the order they are compared."""
    ansible, pyinfra = environment("ansible"), environment("pyinfra")
    playbook = HERE / "playbook.yml"
    ansible_argv = [str(ansible / "ansible-playbook"), "-b", "-i", str(inventory), str(playbook)]
    settings = {
        "ANSIBLE_CONFIG": str(HERE / "ansible.cfg"),
        "ANSIBLE_HOME": str(scratch / "ansible"),
        "ANSIBLE_SSH_CONTROL_PATH_DIR": str(scratch / "cp"),
    }
    hosts_file = scratch / "hosts.py"
    hosts_file.write_text(f"gpu = {[(host.name, pyinfra_data(host)) for host in hosts]!r}\n")
    pyinfra_argv = [str(pyinfra / "pyinfra"), "-y", "--sudo", str(hosts_file), "deploy.py"]
    return [
        Fleet("fleet", [Process([str(fleet_command()), "run", str(playbook), "-i", str(inventory)])]),
        Ansible("ansible-playbook", [Process(ansible_argv)], settings),
        Ansible(
            "ansible-playbook, no facts",
            [Process(ansible_argv)],
            {**settings, "ANSIBLE_GATHERING": "explicit"},
        ),
        Pyinfra("pyinfra", [Process(pyinfra_argv)]),
        Floor("ssh, one command per host", [Process(h.ssh("sudo -n sh"), HERE / "floor.sh") for h in hosts]),
    ]


def fleet_command() -> Path:
    """The `fleet` beside the interpreter that runs this."""
    return Path(sys.executable).parent / "fleet"


def environment(peer: str) -> Path:
    """The folder of a peer's programs: its own virtual environment, made or renewed to fit PEER.txt."""
    pins = HERE / f"{peer}.txt"
    folder = PROJECT / ".venvs" / peer
    made_for = folder / ".made-for"
    wanted = hashlib.sha256(pins.read_bytes() + sys.version.encode()).hexdigest()
    if not made_for.exists() or made_for.read_text() != wanted:
        print(f"installing {peer} into {folder.relative_to(PROJECT)}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        install = ["-m", "pip", "install", "-qq", "--disable-pip-version-check", "-r", str(pins)]
        subprocess.run([str(folder / "bin/python"), *install], check=True)
        made_for.write_text(wanted)
    return folder / "bin"


def version(peer: str, package: str) -> str:
    """The version pinned for a peer."""
    found = re.search(rf"^{package}==(\S+)", (HERE / f"{peer}.txt").read_text(), re.M)
    if found is None:
        raise InvalidRunError(f"{peer}.txt does not pin {package}")
    return found[1]


def pyinfra_data(host: Host) -> Mapping[str, object]:
    """A host's data in pyinfra's words."""
    return {
        "ssh_hostname": host.address,
        "ssh_port": host.port,
        "ssh_user": host.user,
        "ssh_key": str(host.key),
        "ssh_known_hosts_file": str(host.known_hosts),
        "ssh_strict_host_key_checking": "yes",
        "ssh_allow_agent": False,
        "ssh_look_for_keys": False,
    }


def wanted_answers(host: Host) -> list[str]:
    """Lines that floor.sh must print on a host which has nothing left to change."""
    script = (HERE / "floor.sh").read_text().replace("\\\n", "")
    packages = next(line for line in script.splitlines() if line.startswith("dpkg-query"))
    limits = (HERE / "files/limits.conf").read_bytes()
    env = f"HOST={host.name}\nWORKERS=8\nLANGUAGES=de,en,fr\n".encode()
    files = {"limits.conf": limits, "sysctl.conf": b"vm.swappiness = 10\n", "service.env": env}
    return [
        *(f"ii  {name}" for name in shlex.split(packages)[3:]),
        "755 root:root directory .",
        "600 root:root regular file /etc/crontab",
        "644 root:root regular file limits.conf",
        "644 root:root regular file sysctl.conf",
        "640 root:root regular file service.env",
        *(f"{hashlib.sha256(content).hexdigest()}  {name}" for name, content in files.items()),
        "service.env",
        *(f"Id={unit}.service" for unit in ("ssh", "cron", "dbus")),
    ]


def _plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)
