"""Mistakes in inventories: each is found, at its place, with what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from fleet.errors import ExitCode, InputError
from fleet.inventory import load
from fleet.inventory.names import distance, misspelt

HOST = "all:\n  hosts:\n    h:\n"


def error_of(folder: Path, text: str) -> InputError:
    file = folder / "hosts.yml"
    file.write_text(text)
    with pytest.raises(InputError) as caught:
        load(file)
    assert caught.value.exit_code == ExitCode.INVALID
    assert caught.value.remedy
    return caught.value


# text, line, column, part of the message, part of the remedy
STRUCTURE = {
    "misspelt section": ("all:\n  host:\n    h:\n", 2, 3, "unknown key `host`", "`hosts`"),
    "hosts without section": ("gpu:\n  gpu-01:\n    a: 1\n", 2, 3, "unknown key `gpu-01`", "under `hosts:`"),
    "section outside a group": ("hosts:\n  h:\n", 1, 1, "outside of any group", "under `all:`"),
    "section among hosts": (HOST + "    vars:\n      a: 1\n", 4, 5, "the name of a host", "too deeply"),
    "section among groups": (
        "all:\n  children:\n    hosts: {h: }\n",
        3,
        5,
        "the name of a group",
        "too deeply",
    ),
    "list of hosts": ("all:\n  hosts:\n    - h\n", 3, 5, "must be a mapping, not a list", "without a dash"),
    "list of vars": ("all:\n  vars:\n    - a: 1\n", 3, 5, "`vars` of group all", "`name: value`"),
    "text for vars": ("all:\n  vars: a\n", 2, 9, "must be a mapping, not text", "`name: value`"),
    "host is an address": (
        "all:\n  hosts:\n    h: 10.0.0.1\n",
        3,
        8,
        "host h must be",
        "ansible_host: 10.0.0.1",
    ),
    "host is a list": ("all:\n  hosts:\n    h: [a]\n", 3, 8, "host h must be", "`name: value`"),
    "group is text": ("gpu: h\n", 1, 6, "group gpu must be a mapping, not text", "`hosts:`"),
    "group is a number": ("gpu: 3\n", 1, 6, "not the number 3", "`hosts:`"),
    "root is a list": ("- gpu\n", 1, 1, "not a list", "`all:`"),
    "root is text": ("gpu-01\n", 1, 1, "not text", "`all:`"),
    "number for a host": ("all:\n  hosts:\n    12:\n", 3, 5, "YAML reads as the number 12", 'quote it: "12"'),
    "truth for a variable": (HOST + "      on: 1\n", 4, 7, "YAML reads as true", 'quote it: "on"'),
    "repeated host": (HOST + "    h:\n", 4, 5, "h stands twice here, first on line 3", "merge the two"),
    "repeated variable": (HOST + "      a: 1\n      a: 2\n", 5, 7, "a stands twice", "merge"),
    "repeated deep down": (HOST + "      a: [{b: 1, b: 2}]\n", 4, 18, "b stands twice", "merge"),
    "repeated group": ("gpu:\n  hosts: {h: }\ngpu:\n  hosts: {i: }\n", 3, 1, "gpu stands twice", "merge"),
    "tab": ("all:\n  hosts:\n\th:\n", 3, 1, "a tab stands", "spaces"),
    "no colon": ("all:\n  hosts:\n    h\n    i:\n", 4, 6, "not valid YAML", "check the indentation"),
    "open quote": ('all:\n  vars:\n    a: "b\n', 4, 1, "not valid YAML", "quotes"),
    "bare template": (
        "all:\n  vars:\n    a: {{ b }}\n",
        3,
        9,
        "a key is itself a mapping",
        "quote templates",
    ),
    "two documents": ("all:\n---\nall:\n", 2, 1, "not valid YAML", "one document"),
    "INI": ("[gpu]\ngpu-01\n", 2, 1, "INI inventory", "ansible-inventory"),
    "INI with vars": ("[gpu]\ngpu-01 ansible_host=10.0.0.1\n", 2, 1, "INI inventory", "ansible-inventory"),
    "plugin": ("plugin: aws_ec2\nregions: []\n", 1, 1, "inventory plugin", "ansible-inventory"),
    "vault value": (
        HOST + "      p: !vault |\n        abc\n",
        4,
        10,
        "Ansible Vault",
        "registry_password_env",
    ),
    "vault file": ("$ANSIBLE_VAULT;1.1;AES256\n6162\n", 1, None, "Ansible Vault", "registry_password_env"),
    "other tag": (HOST + "      p: !unsafe x\n", 4, 10, "tag !unsafe", "remove the tag"),
    "cycle": (HOST + "      a: &x [*x]\n", 4, 10, "contains itself", "alias"),
    "bad date": (HOST + "      a: 2024-13-45\n", 4, 10, "cannot be read", "quote it"),
    "group loop": (
        "a:\n  children:\n    b:\n      children:\n        a:\n",
        *(5, 9, "group a cannot be inside b", "break the loop"),
    ),
    "group in itself": ("a:\n  children:\n    a:\n", 3, 5, "a cannot be inside a", "break the loop"),
    "all inside": ("a:\n  children:\n    all:\n", 3, 5, "all cannot be inside a", "break the loop"),
    "name of both": ("gpu:\n  hosts:\n    gpu:\n", 3, 5, "a host and of a group", "rename one"),
    "no end": ("all:\n  hosts:\n    h[1:]:\n", 3, 5, "has no end", "gpu-[01:20]"),
    "no range": ("all:\n  hosts:\n    h[1]:\n", 3, 5, "a begin and an end", "gpu-[01:20]"),
    "unlike padding": ("all:\n  hosts:\n    h[01:100]:\n", 3, 5, "differ in length", "alike"),
    "padding to mend": ("all:\n  hosts:\n    h[001:20]:\n", 3, 5, "differ in length", "[001:020]"),
    "backwards": ("all:\n  hosts:\n    h[9:3]:\n", 3, 5, "ends before it begins", "smaller"),
    "letters backwards": ("all:\n  hosts:\n    h[d:a]:\n", 3, 5, "ends before it begins", "smaller"),
    "letter to number": (
        "all:\n  hosts:\n    h[a:5]:\n",
        3,
        5,
        "both be numbers or both one letter",
        "write",
    ),
    "step of none": ("all:\n  hosts:\n    h[1:5:0]:\n", 3, 5, "the step of", "write"),
    "open bracket": ('all:\n  hosts:\n    "h[1:5":\n', 3, 5, "brackets", "write"),
    "huge": ("all:\n  hosts:\n    h[1:9999999]:\n", 3, 5, "more than 65536 hosts", "shorten"),
    "huge together": ("all:\n  hosts:\n    h[1:999][1:999]:\n", 3, 5, "more than 65536 hosts", "shorten"),
    "IPv6 in brackets": ('all:\n  hosts:\n    "[2001:db8::1]":\n', 3, 5, "is no range", "without brackets"),
    "spaces in a name": ("all:\n  hosts:\n    gpu 01:\n", 3, 5, "'gpu 01' is no host name", "letters"),
    "priority": (
        "all:\n  vars:\n    ansible_group_priority: high\n",
        *(3, 29, "must be a whole number, not 'high'", "whole number"),
    ),
    "template for priority": (
        'all:\n  vars:\n    ansible_group_priority: "{{ 1 }}"\n',
        *(3, 29, "cannot be a template", "number"),
    ),
}


@pytest.mark.parametrize("name", STRUCTURE)
def test_structure(tmp_path: Path, name: str) -> None:
    text, line, column, message, remedy = STRUCTURE[name]
    error = error_of(tmp_path, text)
    assert error.place is not None
    assert (error.place.file, error.place.line, error.place.column) == (
        str(tmp_path / "hosts.yml"),
        line,
        column,
    )
    assert message in error.message
    assert remedy in error.remedy


# a variable's line, part of the message, part of the remedy
VARIABLES = {
    "float": ("image: 1.10", "YAML reads 1.10 as the number 1.1", 'quote it: "1.10"'),
    "octal": ("ansible_user: 010", "YAML reads 010 as the number 8", 'quote it: "010"'),
    "truth": ("registry_username: no", "YAML reads no as false", 'quote it: "no"'),
    "date": ("image: 2024-05-01", "YAML reads 2024-05-01 as a date", 'quote it: "2024-05-01"'),
    "mapping for text": ("image: {name: x}", "image must be text, not a mapping", "write text"),
    "nothing": ("image:", "image has no value", "remove the line"),
    "port": ("ansible_port: ssh", "must be a whole number, not 'ssh'", "whole number"),
    "port as float": ("ansible_port: 22.0", "not the number 22.0", "whole number"),
    "port too high": ("lb_port: 65536", "out of bounds", "from 1 to 65535"),
    "port in sixties": ("slot_port_base: 12:30", "YAML reads 12:30 as the number 750", "quote it"),
    "octal number": ("slot_port_base: 0755", "YAML reads 0755 as the number 493", "plainly"),
    "truth for a number": ("weight: yes", "must be a whole number, not true", "whole number"),
    "weight": ("weight: 300", "out of bounds", "from 1 to 256"),
    "become": ("ansible_become: perhaps", "must be true or false, not 'perhaps'", "true or false"),
    "become method": ("ansible_become_method: su", "must be one of sudo", "sudo"),
    "winrm": ("ansible_connection: winrm", "must be one of ssh", "write one of"),
    "affinity": ("affinity: jobs", "must be one of job, session, none", "did you mean job?"),
    "volumes": ("slot_volumes: /a:/b", "must be a list of texts, not '/a:/b'", "a list of texts"),
    "a volume": ("slot_volumes: [/a:/b, 1.5]", "slot_volumes[1] must be text", 'quote it: "1.5"'),
    "packages": (
        "nvidia_driver_packages: [a, [b]]",
        "nvidia_driver_packages[1] must be text, not a list",
        "text",
    ),
    "env": ("slot_env: {DEBUG: no}", "slot_env.DEBUG must be text, but YAML reads no as false", "quote it"),
    "env number": ("slot_env: {V: 1.10}", "slot_env.V must be text", 'quote it: "1.10"'),
    "env list": ("slot_env: [A=1]", "must be a mapping of names to texts, not a list", "a mapping"),
    "weights": ("weights: {T4: light}", "weights.T4 must be", "whole numbers"),
    "weights too high": ("weights: {T4: 1000}", "weights.T4 is 1000", "from 1 to 256"),
    "golden": ("golden: {input: x}", "golden has no key input", "did you mean inputs?"),
    "golden text": (
        "golden: hello",
        "golden must be a mapping, or a list of mappings, not 'hello'",
        "mapping",
    ),
    "golden in a list": ("golden: [{equal: x}]", "golden has no key equal", "did you mean equals?"),
    "golden of texts": ("golden: [hello]", "golden must be a mapping, not 'hello'", "mapping"),
    "near miss": ("slot_port_bse: 1", "unknown variable slot_port_bse", "did you mean slot_port_base?"),
    "camel case": ("slotPortBase: 1", "unknown variable", "did you mean slot_port_base?"),
    "dashes": ("registry-username: x", "unknown variable", "did you mean registry_username?"),
    "swapped letters": ("iamge: x", "unknown variable iamge", "did you mean image?"),
    "password": ("registry_password: x", "does not belong in an inventory", "registry_password_env"),
    "fleet's": ("fleet_adress: x", "fleet has no variable fleet_adress", "did you mean fleet_address?"),
    "fleet's, far": ("fleet_zzz: x", "fleet has no variable fleet_zzz", "without `fleet_`"),
    "Ansible's": ("ansible_hots: x", "no connection variable ansible_hots", "did you mean ansible_host?"),
    "Ansible's, far": ("ansible_zq: x", "no connection variable ansible_zq", "without `ansible_`"),
    "Ansible's, old": ("ansible_ssh_host: x", "an old name", "write ansible_host"),
    "reserved": ("groups: x", "set by fleet itself", "another name"),
}


@pytest.mark.parametrize("name", VARIABLES)
@pytest.mark.parametrize("where", ["host", "group", "file"])
def test_variables(tmp_path: Path, name: str, where: str) -> None:
    line, message, remedy = VARIABLES[name]
    if where == "file":
        folder = tmp_path / "group_vars"
        folder.mkdir()
        (folder / "all.yml").write_text(line + "\n")
        error = error_of(tmp_path, HOST)
        expected = (str(folder / "all.yml"), 1)
    else:
        start = "all:\n  hosts:\n    h:\n" if where == "host" else "all:\n  hosts: h\n  vars:\n"
        error = error_of(tmp_path, f"{start}      {line}\n")
        expected = (str(tmp_path / "hosts.yml"), 4)
    assert error.place is not None
    assert (error.place.file, error.place.line) == expected
    assert message in error.message
    assert remedy in error.remedy


FINE = """
ansible_port: "22"
ansible_become: "yes"
ansible_python_interpreter: /usr/bin/python3
ansible_password: "{{ secret }}"
slot_port_base: "{{ base }}"
affinity: "{{ 'job' }}"
slot_env: {A: "1", B: 2, C: "{{ c }}"}
slot_volumes: "{{ volumes }}"
weights: {T4: 10, V100: "{{ w }}"}
my_own: 1.10
images_of_mine: [1]
height: 3
golden: {contains: x}
"""


def test_values_that_may_stand(tmp_path: Path) -> None:
    (tmp_path / "hosts.yml").write_text("all:\n  hosts:\n    h:\n" + FINE.replace("\n", "\n      "))
    assert load(tmp_path / "hosts.yml").hosts["h"].vars["my_own"] == 1.1


def test_all_mistakes_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    lines = "\n".join(f"      fleet_zz{n}: 1" for n in range(15))
    error = error_of(tmp_path, f"all:\n  hosts:\n    h[1:2:0]:\n    h:\n{lines}\n  host:\n")
    assert "step" in error.message
    shown = error.output.splitlines()
    assert len(shown) == 10
    assert shown[0] == (
        f"{tmp_path}/hosts.yml:5:7: fleet has no variable fleet_zz0"
        " (give a variable of your own a name without `fleet_`)"
    )
    assert shown[-1] == "and 7 more"


def test_mistakes_of_several_files(tmp_path: Path) -> None:
    (tmp_path / "host_vars").mkdir()
    (tmp_path / "host_vars" / "h.yml").write_text("- a\n")
    (tmp_path / "group_vars").mkdir()
    (tmp_path / "group_vars" / "nobodys.yml").write_text("][")
    (tmp_path / "group_vars" / "empty.yml").write_text("a: 1\na: 2\n")
    error = error_of(tmp_path, HOST + "  hots:\nempty:\n")
    assert "hots" in error.message
    assert [line.split(": ")[0].removeprefix(f"{tmp_path}/") for line in error.output.splitlines()] == [
        "host_vars/h.yml:1:1",
        "group_vars/empty.yml:2:1",
    ]


def test_files_that_cannot_be_inventories(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such inventory") as caught:
        load(tmp_path / "none.yml")
    assert "fleet init" in caught.value.remedy
    cases = {
        "hosts.ini": (b"[gpu]\n", "YAML file"),
        "script": (b"#!/bin/sh\n", "scripts"),
        "latin.yml": (b"all:\n  vars: {a: \xe9}\n", "not UTF-8"),
        "control.yml": (b"all: \x00\n", "not valid YAML"),
        "empty.yml": (b"# nothing\n", "empty"),
    }
    for name, (content, message) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=message) as caught:
            load(tmp_path / name)
        assert str(caught.value.place).startswith(str(tmp_path / name))
        assert caught.value.remedy


def test_a_mark_for_byte_order_is_no_matter(tmp_path: Path) -> None:
    (tmp_path / "h.yml").write_bytes(b"\xef\xbb\xbf" + HOST.encode())
    assert list(load(tmp_path / "h.yml").hosts) == ["h"]


def test_distance() -> None:
    pairs = {("image", "image"): 0, ("iamge", "image"): 1, ("imag", "image"): 1, ("imagge", "image"): 1}
    pairs |= {("amige", "image"): 2, ("", "abc"): 3, ("kitten", "sitting"): 3}
    assert {pair: distance(*pair) for pair in pairs} == pairs


def test_a_users_own_names_are_no_slips() -> None:
    assert misspelt("height", ["weight"]) is None
    assert misspelt("image_tag", ["image"]) is None
    assert misspelt("imag", ["image"]) is None  # too short to be sure
    assert misspelt("images", ["image"]) == "image"
