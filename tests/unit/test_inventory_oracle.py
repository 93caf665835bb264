"""The inventory against Ansible: same hosts, groups, variables and patterns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleet.inventory import load, variables
from fleet.inventory.inventory import Inventory
from tests.soaking import examples
from tests.unit.ansible_oracle import Oracle

FIXTURES = Path(__file__).parent.parent / "fixtures" / "inventory"
SOURCES = {
    name: [FIXTURES / name / "hosts.yml"]
    for name in (
        *("ranges", "nested", "precedence", "priority", "types", "ungrouped"),
        *("addresses", "shadow", "service"),
    )
} | {
    "folder": [FIXTURES / "folder"],
    "two": [FIXTURES / "two/one/hosts.yml", FIXTURES / "two/other/hosts.yml"],
    "two swapped": [FIXTURES / "two/other", FIXTURES / "two/one"],
}


def assert_same(inventory: Inventory, oracle: Oracle) -> None:
    assert {name: dict(host.vars) for name, host in inventory.hosts.items()} == oracle.hostvars()
    assert list(inventory.hosts) == list(oracle.manager.hosts)
    mine = {name: set(hosts) for name, hosts in inventory.groups.items()}
    assert mine == {name: set(hosts) for name, hosts in oracle.groups().items()}
    assert list(inventory.groups) == list(oracle.groups())
    for host in inventory.hosts.values():
        expected, seen = oracle.all_vars(host.name), variables(inventory, host)
        for key in ("group_names", "inventory_hostname", "inventory_hostname_short"):
            assert seen[key] == expected[key]
        for key in ("inventory_dir", "inventory_file"):
            assert seen[key] == expected[key]


@pytest.mark.parametrize("name", SOURCES)
def test_hosts_groups_and_variables_are_ansibles(name: str) -> None:
    assert_same(load(SOURCES[name]), Oracle(SOURCES[name]))


def test_the_oracle_says_what_the_command_says(tmp_path: Path) -> None:
    source = FIXTURES / "precedence" / "hosts.yml"
    command = Path(sys.executable).with_name("ansible-inventory")
    environment = {**os.environ, "ANSIBLE_HOME": str(tmp_path), "LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        [command, "-i", source, "--list"], capture_output=True, check=True, env=environment, cwd=tmp_path
    )
    assert json.loads(done.stdout)["_meta"]["hostvars"] == Oracle([source]).hostvars()


PATTERNS = {
    "ranges": [
        *("all", "*", "gpu", "gpu[0]", "gpu[-1]", "gpu[1:3]", "gpu[2:]", "gpu[-3]", "gpu[0:0]", "gpu[3:0]"),
        *("gpu[50:60]", "gpu-0*", "gpu-0*[1:2]", "gpu-0?", "~gpu-0[1-3]", "~.*-1", "gpu-0[135]*"),
        *("gpu-01,gpu-05", "gpu-05:gpu-01", "gpu:!gpu-01", "gpu:&alone", "!gpu", "&gpu", "!gpu:all"),
        *("gpu:!gpu-0*:&gpu-1*", "alone:solo", "gpu-01:gpu-01", "node-a.example.com", "node-*.example.com"),
        *("~gpu-(01|02)$", "gpu , solo", "al*", "gpu[1-2]", "a*:z*", "ungrouped", "all:!ungrouped"),
        *("gpu-??,!~gpu-1.*", "*.com", "wide[0:1],gpu[0:1]", "all[-1]", "all[0:2]"),
    ],
    "addresses": [
        *("2001:db8::1", "10.0.0.1", "10.0.*", "10.0.0.1,2001:db8::1", "all,!2001:db8::1"),
        *("later", "~10\\.0\\.1\\..*", "2001:db8::a,2001:db8::b", "host.example.com:10.0.0.1"),
    ],
    "nested": ["gpu", "site_x:&t4", "t4,v100", "top_level:!d1", "~(a|b)[12]", "gpu:site_*", "all:!gpu"],
    "ungrouped": ["ungrouped", "all:!ungrouped", "empty", "parent:empty", "u*", "hollow,plain"],
}
ORDERED = {"ranges", "addresses"}


@pytest.mark.parametrize("name", PATTERNS)
def test_patterns_are_ansibles(name: str) -> None:
    inventory, oracle = load(SOURCES[name]), Oracle(SOURCES[name])
    mine = {pattern: [host.name for host in inventory.select(pattern)] for pattern in PATTERNS[name]}
    theirs = {pattern: oracle.select(pattern) for pattern in PATTERNS[name]}
    if name not in ORDERED:  # Ansible walks deeper groups in the order of a Python set
        mine = {pattern: sorted(hosts) for pattern, hosts in mine.items()}
        theirs = {pattern: sorted(hosts) for pattern, hosts in theirs.items()}
    assert mine == theirs


GROUPS = [f"g{n}" for n in range(5)]
HOSTS = [f"h{n}" for n in range(5)]
some_vars = st.dictionaries(st.sampled_from(["v1", "v2", "v3"]), st.integers(0, 9), max_size=3)
some_hosts = st.dictionaries(st.sampled_from(HOSTS), some_vars | st.none(), max_size=3)
weighty_vars = st.builds(
    lambda values, priority: values | ({"ansible_group_priority": priority} if priority else {}),
    some_vars,
    st.sampled_from([None, None, 1, 5]),
)


@st.composite
def inventories(draw: Any) -> tuple[dict[str, Any], dict[str, dict[str, int]]]:
    """A random inventory, its groups nested without loops, and its group_vars/ and host_vars/ files."""

    def group(rank: int, depth: int) -> dict[str, Any]:
        body: dict[str, Any] = {"hosts": draw(some_hosts), "vars": draw(weighty_vars)}
        below = (
            draw(st.lists(st.sampled_from(GROUPS[rank:]), max_size=2, unique=True)) if GROUPS[rank:] else []
        )
        if depth < 3:
            body["children"] = {name: group(GROUPS.index(name) + 1, depth + 1) for name in below}
        return body

    tops = draw(st.lists(st.sampled_from(["all", *GROUPS]), min_size=1, max_size=3, unique=True))
    tree = {name: group(0 if name == "all" else GROUPS.index(name) + 1, 0) for name in tops}
    names = [f"group_vars/{name}" for name in ("all", *GROUPS)] + [f"host_vars/{name}" for name in HOSTS]
    files = draw(st.dictionaries(st.sampled_from(names), some_vars.filter(bool), max_size=3))
    return tree, files


@settings(max_examples=examples(20, 60), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    case=inventories(),
    picks=st.lists(st.sampled_from([*GROUPS, *HOSTS]), min_size=1, max_size=4),
    data=st.data(),
)
def test_any_inventory_is_ansibles(
    tmp_path_factory: pytest.TempPathFactory, case: Any, picks: list[str], data: st.DataObject
) -> None:
    tree, files = case
    folder = tmp_path_factory.mktemp("any")
    (folder / "hosts.yml").write_text(yaml.safe_dump(tree, sort_keys=False))
    for name, values in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / f"{name}.yml").write_text(yaml.safe_dump(values))
    source = [folder / "hosts.yml"]
    inventory, oracle = load(source), Oracle(source)
    assert_same(inventory, oracle)
    known = [name for name in picks if name in inventory.groups or name in inventory.hosts]
    signs = data.draw(st.lists(st.sampled_from(["", "", "&", "!"]), min_size=len(known), max_size=len(known)))
    pattern = ",".join(sign + name for sign, name in zip(signs, known, strict=True)) or "all"
    assert {host.name for host in inventory.select(pattern)} == set(oracle.select(pattern))
