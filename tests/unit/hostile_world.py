"""Inventories and hosts that try to write into a configuration: one value at a time is not what it should be."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from fleet.data import data_dir
from fleet.docker.profile import profile_of, profile_probe
from fleet.engine.bind import BoundTask, bind_play
from fleet.gpu.probe import GPU_PROBE
from fleet.inventory import Inventory, load, variables
from fleet.model.facts import Answer, Facts
from fleet.model.host import Host
from fleet.modules.registry import MODULES
from fleet.playbook.load import load_playbook
from fleet.playbook.model import Playbook
from fleet.playbook.variables import rendered
from tests.unit.gpu_world import gpu_line, uuid

INJECTED = (
    "x\n  http-request deny",
    "1.2.3.4:80 check\nlisten evil",
    "10.0.0.1:7860 weight 10 check\r\n  server evil 6.6.6.6:80",
    "::1%x\n  http-request deny",
    "fe80::1%\nlisten evil\n  bind *:81",
    "10.0.0.0/8 } or { src 0.0.0.0/0",
    "1/minute\n  http-request allow",
    "/a\nserver evil 6.6.6.6:80",
)
WORDS = (
    *('"', "'", "\n", "\r", "\r\n", "\t", " ", "#", "\x00", "\x0b", "\x1b[0m", "\\", "\\n", "\\ ", "x\\"),
    *("{{ 7*7 }}", "{% raw %}x{% endraw %}", "{# x #}", "{{", "{%", "%[env(HOME)]", "$HOME", "${X}", '"$X"'),
    *('"a" "b"', "a b", "a#b", "a,b", "a;b", "a\u2028b", "a\x85b", "a\xa0b", "\u2029", "\ufeffx", "\u202ex"),
    *("gpu\u201001", "ɡpu-01", "10.0.0.１", "８０", "٨٠", "²", "\ud800".encode("utf-8", "replace").decode()),
    *("", "-", "--", ".", "..", "*", "/", "::", "::1", "fe80::1%eth0", "1.2.3.4:80", "[::1]:22", "[1:2]"),
    *(
        "0",
        "-1",
        "007",
        "inf",
        "nan",
        "10.0.0.0/0.255.255.255",
        "10.0.0.0/8",
        "0x50",
        "1e3",
        "65536",
        "9" * 400,
        "9" * 5000,
        "a" * 300,
        "a" * 70000,
        "0" * 16,
    ),
    *("default", "unix@/run/x", "fd@3", "abns@x", "/dev/log", "../../etc/passwd", "true", "null", "~"),
    *("{{ undefined_name }}", "{{ 1 / 0 }}", "{{ lipsum }}", "{{ [1, 2] }}", "{{ {'a': 1} }}", "{{ 1.5 }}"),
    *("{{ 'x\\n  http-request deny' }}", "{{ '\\u2028' }}", "{{ '{{' }}", "{{ inventory_hostname }}"),
    *("{{ '::1%x\\n  http-request deny' }}", "x{{ '\\n' }}y", "{{ hostvars }}", "{{ '$HOME' }}"),
)
NUMBERS = (-1, 65536, 10**30, 1.5, True, [1], {"a": 1}, ["x\n  http-request deny"])

GATEWAY: dict[str, Any] = {
    "certificate": "CERTIFICATE",
    "certificate_key": "KEY",
    "https_port": 443,
    "plain_http": False,
    "keys": True,
    "key_jobs": "120/minute",
    "key_jobs_at_once": 8,
    "address_jobs": "90/minute",
    "address_jobs_at_once": 7,
    "address_requests": "50/second",
    "address_connections": 200,
    "allow": ["10.0.0.0/8", "2001:db8::/32"],
    "deny": ["10.9.0.0/16"],
    "max_header": 8192,
    "hsts": 3600,
    "frames": "same-origin",
}
# Harmless values of the module's arguments, two of each that is a word of the configuration.
ARGS = {
    "template": ("haproxy.cfg.j2", "haproxy.cfg.j2"),
    "group": ("gpu", "gpu"),
    "bind": ("*", "10.0.1.1"),
    "stats_bind": ("127.0.0.1:8404", "127.0.0.2:9404"),
    "check_path": ("/", "/up"),
    "profile": ("gradio", "gradio"),
    "affinity": ("job", "job"),
}
# Each row: the path to a value in what `World.benign` returns.
NAMES = ("name:gpu-01", "name:lb-01", "name:lb-02", "name:cards")
VARIABLES = (
    *(f"gpu-01:{name}" for name in ("fleet_address", "ansible_host", "weight", "weights", "slot_port_base")),
    *(f"lb-02:{name}" for name in ("fleet_address", "ansible_host")),
    *("lb-01:fleet_address", "all:gpu_agent", "all:gpu_agent_allow", "all:my_own", "all:lb_address"),
    *(f"balancer:{n}" for n in ("lb_port", "profile", "affinity", "slot_jobs", "slot_queue")),
    *("balancer:balancer_software", "balancer:lb_interface", "balancer:gateway", "all:image"),
)
MEMBERS = tuple(f"gateway:{key}" for key in GATEWAY)
ARGUMENTS = tuple(f"args:{key}" for key in ARGS)
REPORTED = ("gpu:index", "gpu:uuid", "gpu:name", "gpu:memory", "gpu:line", "gpu:profile")
PLACES = (*NAMES, *VARIABLES, *MEMBERS, *ARGUMENTS, *REPORTED)


@dataclass(frozen=True)
class World:
    """An inventory and its hosts. `place` has `value` in place of what belongs there.

    `gateway` adds all of its settings, `profile` is what the GPU hosts' containers run; `other` gives every
    harmless value another one, by which a reader of two configurations knows where values stand.
    """

    folder: Path
    gateway: bool = False
    profile: str = "gradio"
    gpus: tuple[int, ...] = (2, 1)
    balancers: int = 2
    place: str = ""
    value: Any = None
    raw: bool = False
    planned: int = 0
    other: bool = False

    def inventory(self) -> Inventory:
        """The inventory as commands load it, from a file."""
        path = self.folder / "hostile.yml"
        text = yaml.safe_dump(self.content(), allow_unicode=self.raw, sort_keys=False)
        path.write_text(text, encoding="utf-8")
        return rendered(load([path]))

    def content(self) -> dict[str, Any]:
        """What the inventory's file says."""
        kind, _, key = self.place.partition(":")
        far = 100 if self.other else 0
        hosts: dict[str, dict[Any, dict[str, Any]]] = {"gpu": {}, "balancer": {}}
        for number in range(1, len(self.gpus) + 1):
            hosts["gpu"][f"gpu-{number + far:02d}"] = {
                "ansible_host": f"10.{far}.0.{number}",
                "slot_port_base": 7860 + far,
                "weight": 10 + number + far,
            }
        for number in range(1, self.balancers + 1):
            hosts["balancer"][f"lb-{number + far:02d}"] = {"ansible_host": f"10.{far}.1.{number}"}
        shared: dict[str, Any] = {
            "lb_port": 80 + far,
            "slot_jobs": 3 + far,
            "slot_queue": 24 + far,
        }
        if self.gateway:
            shared["gateway"] = self.gateway_settings(far)
        everywhere: dict[str, Any] = {}
        if kind == "name":
            for group in hosts.values():
                if key in group:
                    rows = {str(self.value) if name == key else name: row for name, row in group.items()}
                    group.clear()
                    group.update(rows)
        elif kind in ("all", "balancer"):
            {"all": everywhere, "balancer": shared}[kind][key] = self.value
        for group in hosts.values():
            if kind in group:
                if key == "weights":
                    del group[kind]["weight"]
                weights = {str(self.value): 5, "T4": self.value}
                group[kind][key] = weights if key == "weights" else self.value
        cards = str(self.value) if self.place == "name:cards" else "cards"
        return {
            "all": {"vars": everywhere},
            "gpu": {"hosts": hosts["gpu"]},
            "balancer": {"hosts": hosts["balancer"], "vars": shared},
            cards: {"hosts": {next(iter(hosts["gpu"]), "gpu-01"): None}},
        }

    def gateway_settings(self, far: int) -> dict[str, Any]:
        """The inventory's `gateway`."""
        said = copy.deepcopy(GATEWAY)
        said["certificate"], said["certificate_key"] = (
            str(self.folder / name) for name in ("chain.pem", "key.pem")
        )
        if far:
            for key in (
                "https_port",
                "key_jobs_at_once",
                "address_jobs_at_once",
                "address_connections",
                "hsts",
            ):
                said[key] += far
            said |= {"max_header": 9000, "allow": ["11.0.0.0/8", "2001:db9::/32"], "deny": ["11.9.0.0/16"]}
            said |= {"key_jobs": "121/hour", "address_jobs": "91/hour", "address_requests": "51/minute"}
        kind, _, key = self.place.partition(":")
        if kind == "gateway":
            listed = key in ("allow", "deny") and isinstance(self.value, str)
            said[key] = [self.value, *said[key][1:]] if listed else self.value
        return said

    def playbook(self) -> Playbook:
        """The shipped playbook; for a hostile argument one that gives it to the module."""
        kind, _, key = self.place.partition(":")
        if kind != "args":
            return _shipped()
        path = self.folder / "hostile-playbook.yml"
        task = {"name": "HAProxy", "haproxy": {"agent_port": 7859, "slot_jobs": 3, key: self.value}}
        book = [{"hosts": "balancer", "tasks": [task]}]
        path.write_text(yaml.safe_dump(book, allow_unicode=self.raw), encoding="utf-8")
        return load_playbook(path, MODULES)

    def tasks(self, inventory: Inventory) -> list[BoundTask]:
        """The task `haproxy` on each balancer, bound as a run binds it."""
        book = self.playbook()
        (play,) = (play for play in book.plays if play.hosts == "balancer")
        found = []
        for host in inventory.select(play.hosts, place=play.place):
            bound, _ = bind_play(play, book, host, inventory.hosts, variables(inventory, host), {})
            found += [task for task in bound if task.task.module == "haproxy"]
        return found

    def fleet(self, inventory: Inventory) -> dict[str, Facts]:
        """What the GPU hosts answer; the first of them is the one that lies."""
        members = [inventory.hosts[name] for name in inventory.groups["gpu"]]
        return {
            host.name: self._reported(host, number, self.place if number == 0 else "")
            for number, host in enumerate(members)
        }

    def _reported(self, host: Host, number: int, place: str) -> Facts:
        count = self.gpus[min(number, len(self.gpus) - 1)]
        lines = [gpu_line(index) for index in range(count)]
        value = str(self.value)
        if place.startswith("gpu:") and place != "gpu:profile":
            changed: dict[str, str] = {
                "gpu:index": f"{value}{lines[0][1:]}",
                "gpu:uuid": lines[0].replace(uuid(0), value),
                "gpu:name": gpu_line(0, name=value),
                "gpu:memory": gpu_line(0, total=value),
                "gpu:line": f"{value}\n{lines[0]}",
            }
            lines[0] = changed[place]
        told = value if place == "gpu:profile" else f"{self.profile}\n"
        return Facts({GPU_PROBE.key: _said("".join(lines)), profile_probe(7860).key: _said(told)})

    def harmless(self, gpus: tuple[int, ...], balancers: int, *, other: bool = False) -> World:
        """The same world without the hostile value, of another size."""
        kind, _, key = self.place.partition(":")
        place, value = (self.place, ARGS[key][other]) if kind == "args" else ("", None)
        told = profile_of(self._reported(Host(""), 0, self.place)) or self.profile
        return replace(
            self,
            place=place,
            value=value,
            profile=told,
            raw=False,
            gpus=gpus,
            balancers=balancers,
            other=other,
        )


def _said(text: str) -> Answer:
    return Answer(0, text.encode("utf-8", "surrogatepass"))


@cache
def _shipped() -> Playbook:
    return load_playbook(data_dir("playbooks") / "provision.yml", MODULES)


def hostile_values() -> tuple[Any, ...]:
    """Every value that is tried in every place."""
    return (*INJECTED, *WORDS, *NUMBERS)
