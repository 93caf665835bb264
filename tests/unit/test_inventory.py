"""What the inventory tells the rest of fleet; that it agrees with Ansible is test_inventory_oracle.py."""

from __future__ import annotations

import dataclasses
import re
import time
from pathlib import Path

import msgspec
import pytest
import yaml

from fleet.data import data_dir
from fleet.errors import InputError, Place
from fleet.inventory import CONNECTION_VARIABLES, FLEET_VARIABLES, HostRow, Inventory, load, table, variables
from fleet.inventory.extra import extra_variables
from fleet.inventory.known import ANSIBLE_NAMES, RESERVED
from fleet.modules.apt_repository import AptRepositoryArgs
from fleet.provision.golden import Pair

FIXTURES = Path(__file__).parent.parent / "fixtures" / "inventory"


@pytest.fixture(scope="module")
def service() -> Inventory:
    return load(FIXTURES / "service" / "hosts.yml")


def names(inventory: Inventory, pattern: str) -> list[str]:
    return [host.name for host in inventory.select(pattern)]


def test_hosts_have_what_other_layers_read(service: Inventory) -> None:
    host = service.hosts["gpu-03"]
    assert (host.ssh_host, host.address, host.groups) == ("203.0.113.13", "203.0.113.13", ("canary", "gpu"))
    assert service.hosts["gpu-01"].address == "10.20.0.11"
    assert host.place == Place(str(FIXTURES / "service" / "hosts.yml"), 7, 9)
    assert service.sources == (FIXTURES / "service" / "hosts.yml",)


def test_table(service: Inventory) -> None:
    rows = table(service)
    assert [row.name for row in rows] == ["gpu-01", "gpu-02", "gpu-03", "lb-01"]
    assert rows[2] == HostRow("gpu-03", "203.0.113.13", 2222, "ops", ("canary", "gpu"))
    assert rows[3] == HostRow("lb-01", "203.0.113.1", None, "admin", ("balancer",))
    assert table(service, service.select("balancer")) == rows[3:]
    assert dataclasses.asdict(rows[3])["user"] == "admin"


def test_variables_of_templates(service: Inventory) -> None:
    seen = variables(service, service.hosts["gpu-03"])
    assert seen["groups"]["gpu"] == ["gpu-01", "gpu-02", "gpu-03"]
    assert seen["group_names"] == ["canary", "gpu"]
    assert seen["inventory_file"] == str(FIXTURES / "service" / "hosts.yml")
    assert seen["hostvars"]["lb-01"]["ansible_host"] == "203.0.113.1"
    assert seen["hostvars"]["lb-01"]["hostvars"]["gpu-01"]["fleet_address"] == "10.20.0.11"
    assert list(seen["hostvars"]) == ["gpu-01", "gpu-02", "gpu-03", "lb-01"]
    assert len(seen["hostvars"]) == 4
    assert repr(seen["hostvars"]) == "hostvars of 4 hosts"
    with pytest.raises(KeyError):
        seen["hostvars"]["nobody"]


def test_where_a_value_comes_from() -> None:
    folder = FIXTURES / "precedence"
    inventory = load(folder / "hosts.yml")
    sources = {name: str(inventory.where("h1", name)) for name in ("v1", "v3", "v4", "v5", "merged")}
    assert {name: place.removeprefix(f"{folder}/") for name, place in sources.items()} == {
        "v1": "group_vars/all.yml:1:1",
        "v3": "group_vars/fleet.yaml:1:1",
        "v4": "hosts.yml:10:18",
        "v5": "host_vars/h1/any:1:1",
        "merged": "hosts.yml:8:66",
    }
    for name in sources:
        place = inventory.where("h1", name)
        assert place is not None
        line = Path(place.file).read_text().splitlines()[(place.line or 0) - 1]
        assert line[(place.column or 0) - 1 :].startswith(f"{name}:")
    assert inventory.where("h1", "nothing") is None
    assert inventory.where("nobody", "v1") is None


@pytest.mark.parametrize(
    ("word", "meant"), [('"no"', False), ("'off'", False), ('"0"', False), ("0", False), ('"yes"', True)]
)
def test_a_word_for_no_is_no_to_a_condition_as_well(tmp_path: Path, word: str, meant: bool) -> None:
    (tmp_path / "fleet.yml").write_text(
        f"all:\n  vars: {{slot_firewall: {word}}}\n  children: {{gpu: {{hosts: {{g1: {{}}}}}}}}\n"
    )
    assert load(tmp_path / "fleet.yml").hosts["g1"].vars["slot_firewall"] is meant
    assert extra_variables([f"slot_firewall={word}"]) == {"slot_firewall": meant}


def test_files_that_are_for_nobody_are_known() -> None:
    folder = FIXTURES / "precedence"
    assert load(folder / "hosts.yml").unused == (folder / "group_vars" / "nobody.yml",)


def test_an_inventory_is_relative_to_where_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "group_vars").mkdir()
    (tmp_path / "group_vars" / "all.yml").write_text("a: 1\n")
    (tmp_path / "hosts.yml").write_text("all: {hosts: {h: }}\n")
    monkeypatch.chdir(tmp_path)
    inventory = load(Path("hosts.yml"))
    assert inventory.hosts["h"].vars == {"a": 1}
    assert str(inventory.hosts["h"].place) == "hosts.yml:1:15"
    assert variables(inventory, inventory.hosts["h"])["inventory_dir"] == str(tmp_path)


def test_a_pattern_may_name_a_file(service: Inventory, tmp_path: Path) -> None:
    (tmp_path / "failed").write_text("gpu-02\n\n# a remark\nlb-*\n")
    assert names(service, f"@{tmp_path}/failed") == ["gpu-02", "lb-01"]
    assert names(service, f"@{tmp_path}/failed,!gpu-02") == ["lb-01"]
    with pytest.raises(InputError, match="cannot read the hosts in") as caught:
        service.select(f"@{tmp_path}/none")
    assert caught.value.remedy


WRONG_PATTERNS = {
    "gpu-1": ("no host or group is named 'gpu-1'", "did you mean 'gpu-01'?"),
    "balancers": ("no host or group is named 'balancers'", "did you mean 'balancer'?"),
    "gpu,!canery": ("no host or group is named 'canery'", "did you mean 'canary'?"),
    "gpu:&zzz": ("no host or group is named 'zzz'", "`fleet inventory`"),
    "zzz*": ("'zzz*' fits no host and no group", "`fleet inventory`"),
    "~zzz": ("'~zzz' fits no host and no group", "`fleet inventory`"),
    "~gpu(": ("is no regular expression", "mend it"),
    "gpu[7]": ("there are only 3 hosts", "count from 0"),
    "gpu[-7]": ("there are only 3 hosts", "count from 0"),
    "gpu-0[1-2]": ("no host or group is named 'gpu-0'", "~gpu-0[1-2]"),
    "localhost": ("no host or group is named 'localhost'", "`fleet inventory`"),
}


@pytest.mark.parametrize("pattern", WRONG_PATTERNS)
def test_a_pattern_that_means_nothing(service: Inventory, pattern: str) -> None:
    message, remedy = WRONG_PATTERNS[pattern]
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        service.select(pattern, place=Place("play.yml", 3))
    assert remedy in caught.value.remedy
    assert str(caught.value.place) == "play.yml:3"


def test_a_pattern_that_leaves_nobody(service: Inventory) -> None:
    assert service.select("ungrouped") == ()
    assert names(service, "gpu,!none*") == ["gpu-01", "gpu-02", "gpu-03"]
    for pattern in ("ungrouped", "gpu,!gpu", "canary,&balancer", "gpu[5:6]"):
        assert service.select(pattern) == ()
        with pytest.raises(InputError, match="no host is left of"):
            service.select(pattern, at_least_one=True)


def test_the_example_shows_every_variable_and_loads() -> None:
    example = data_dir("inventories") / "example.yml"
    text = example.read_text(encoding="utf-8")
    missing = [
        name
        for name in (*FLEET_VARIABLES, *CONNECTION_VARIABLES)
        if not re.search(rf"^ *(# )?{name}:", text, re.MULTILINE)
    ]
    assert missing == []
    inventory = load(example)
    assert set(inventory.groups) == {"all", "ungrouped", "gpu", "balancer", "old_cards"}
    assert len(inventory.groups["gpu"]) == 14
    assert inventory.hosts["gpu-03"].vars["gpu_memory_min"] == "8GiB"


def test_what_the_example_comments_out_is_valid_too(tmp_path: Path) -> None:
    text = (data_dir("inventories") / "example.yml").read_text(encoding="utf-8")
    text, count = re.subn(r"^( *)# (\w+: )", r"\1\2", text, flags=re.MULTILINE)
    (tmp_path / "all.yml").write_text(text, encoding="utf-8")
    assert count >= 3
    inventory = load(tmp_path / "all.yml")
    assert inventory.hosts["lb-01"].vars["ansible_ssh_common_args"] == "-o ProxyJump=bastion.example.com"


def test_the_page_on_inventories_lists_every_variable() -> None:
    page = (Path(__file__).parents[2] / "docs" / "inventory.md").read_text(encoding="utf-8")
    for variable in (*FLEET_VARIABLES.values(), *CONNECTION_VARIABLES.values()):
        assert f"| `{variable.name}` | {variable.kind.value} | {variable.doc} |" in page


def test_the_table_of_variables_agrees_with_who_reads_them() -> None:
    assert set(FLEET_VARIABLES["golden"].members) == {f.name for f in msgspec.structs.fields(Pair)}
    repository = {field.name for field in msgspec.structs.fields(AptRepositoryArgs)}
    assert set(FLEET_VARIABLES["nvidia_repository"].members) == repository
    plays = yaml.safe_load((data_dir("playbooks") / "provision.yml").read_text())
    defaults = {name for play in plays for name in play.get("defaults", {})}
    assert defaults <= set(FLEET_VARIABLES)
    assert not set(RESERVED) & set(FLEET_VARIABLES)
    assert all(variable.name == name and variable.doc for name, variable in FLEET_VARIABLES.items())


def test_ansible_knows_the_names_taken_for_its_own() -> None:
    import ansible
    from ansible.constants import COMMON_CONNECTION_VARS, MAGIC_VARIABLE_MAPPING

    mapped = {name for names in MAGIC_VARIABLE_MAPPING.values() for name in names}
    folder = Path(ansible.__file__).parent
    documented: set[str] = set()
    for path in (*folder.glob("plugins/*/*.py"), *folder.glob("config/*.yml")):
        documented |= set(re.findall(r"\b(ansible_[a-z0-9_]+)", path.read_text()))
    assert ANSIBLE_NAMES - mapped - documented - {"ansible_group_priority", "ansible_network_os"} == set()
    ssh = {name for name in COMMON_CONNECTION_VARS if name != "ansible_ssh_host"}
    assert ssh <= ANSIBLE_NAMES


def test_reading_is_quick(tmp_path: Path) -> None:
    lines = "".join(
        f"        gpu-{n:04}:\n          ansible_host: 10.0.{n // 250}.{n % 250}\n          weight: 10\n"
        for n in range(1000)
    )
    (tmp_path / "many.yml").write_text(f"all:\n  children:\n    gpu:\n      hosts:\n{lines}")

    def best(path: Path) -> float:
        times = []
        for _ in range(5):
            start = time.process_time()
            load(path)
            times.append(time.process_time() - start)
        return min(times)

    assert best(FIXTURES / "service" / "hosts.yml") < 0.010
    assert best(tmp_path / "many.yml") < 0.3
