"""No inventory, playbook argument or GPU host writes a word of its own into the balancers' configuration."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from fleet.balancer.keys import KEYS_PROBE
from fleet.balancer.paths import CERTIFICATE_FILE, CONFIG_FILE, KEYS_FILE, LUA_FILE, STATE_FILE
from fleet.data import data_dir
from fleet.errors import InputError, TaskError
from fleet.gpu.slots import slots_of
from fleet.inventory import Inventory
from fleet.model.facts import Facts
from fleet.model.slot import Slot
from fleet.modules._files import file_probe
from tests.soaking import examples
from tests.unit.haproxy_parser import Section, parse
from tests.unit.haproxy_world import check
from tests.unit.hostile_world import INJECTED, PLACES, World, hostile_values
from tests.unit.test_haproxy_gateway import files, keys
from tests.unit.test_haproxy_module import BARE, facts, on_disk, uploads

TLS_PROBE = file_probe(CERTIFICATE_FILE, "hash")

# Errors of arguments and templates say in their message what may stand there.
_SAYS_ITSELF = re.compile(
    r"host \S+: (haproxy|keepalived): |template syntax error|cannot evaluate|undefined variable"
)

# What a word that comes from outside may consist of; nothing in it means anything to HAProxy.
_PLAIN = re.compile(r"[A-Za-z0-9_.:/*\[\]~?=&-]+")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where inventories are written, with a certificate and its key."""
    made = tmp_path_factory.mktemp("hostile")
    files(made)
    return made


def configuration(world: World) -> tuple[str, Inventory] | None:
    """The configuration that one of the balancers would get, by the way a provision goes; None where none."""
    inventory = world.inventory()
    fleet = world.fleet(inventory)
    tasks = world.tasks(inventory)
    task = tasks[min(world.planned, len(tasks) - 1)]
    if task.module is None or task.args is None:
        return None
    task.probes()
    found = {**facts(**BARE), KEYS_PROBE.key: keys(), TLS_PROBE.key: on_disk(None)}
    try:
        changes = task.module.plan(task.args, Facts(found), replace(task.ctx, fleet=fleet))
    except (InputError, TaskError) as error:
        error.place = error.place or task.task.place  # as the engine does
        raise
    upload = uploads(list(changes)).get(f"{CONFIG_FILE}.new")
    return None if upload is None else (upload.content.decode(), inventory)


@cache
def harmless(world: World) -> list[Section]:
    """How a configuration of that shape reads that only holds harmless values."""
    found = configuration(world)
    assert found
    return parse(found[0])


def judge(world: World) -> str | None:
    """The configuration in which the world's hostile value is one plain word; None where it was refused.

    AssertionError where it became anything else.
    """
    try:
        found = configuration(world)
    except (InputError, TaskError) as refused:
        told = refused.remedy or _SAYS_ITSELF.search(refused.message)
        if not (refused.message and refused.place and told):
            raise AssertionError(f"{refused} names no place or no remedy") from refused
        return None
    if found is None:
        return None
    text, inventory = found
    fleet = world.fleet(inventory)
    group = str(world.value) if world.place == "args:group" else "gpu"
    served = inventory.groups.get(group, ())
    slots = [slots_of(inventory.hosts[name], fleet[name]) or () for name in served]
    size = tuple(map(len, slots)), len(inventory.groups["balancer"])
    sections = parse(text)
    same_structure(sections, *(harmless(world.harmless(*size, other=other)) for other in (False, True)))
    work = next(section for section in sections if section.head == ("backend", "work"))
    servers = [(line[1], line[2], line[4]) for line in work.lines if line[0] == "server"]
    assert servers == [(s.name, endpoint(s), str(s.weight)) for host in slots for s in host]
    return text


def endpoint(slot: Slot) -> str:
    """Where HAProxy reaches a slot, as its manual writes it."""
    return f"[{slot.address}]:{slot.port}" if ":" in slot.address else f"{slot.address}:{slot.port}"


def same_structure(found: list[Section], one: list[Section], two: list[Section]) -> None:
    """The same sections, lines and words; where two harmless ones differ, plain words take the place."""
    assert [section.head for section in found] == [section.head for section in one]
    for section, left, right in zip(found, one, two, strict=True):
        assert len(section.lines) == len(left.lines), section.head
        for line, a, b in zip(section.lines, left.lines, right.lines, strict=True):
            assert len(line) == len(a), f"{section.head}: {line}"
            for word, x, y in zip(line, a, b, strict=True):
                assert word == x or (x != y and _PLAIN.sub("W", word) == _PLAIN.sub("W", x)), (line, a)


def real(text: str, folder: Path) -> str:
    """What HAProxy itself says of a configuration, with this folder's files and without asking for names."""
    (folder / "tls.pem").write_bytes((folder / "chain.pem").read_bytes() + (folder / "key.pem").read_bytes())
    (folder / "keys.map").write_bytes(b"")
    for path, here in (
        (LUA_FILE, data_dir("templates") / "haproxy-sessions.lua"),
        (CERTIFICATE_FILE, folder / "tls.pem"),
        (KEYS_FILE, folder / "keys.map"),
        (STATE_FILE, folder / "servers.state"),
    ):
        text = text.replace(f" {path}", f" {here}").replace(f"({path})", f"({here})")
    return check(text.replace("init-addr libc,last,none", "init-addr last,none"), folder)


hostile = st.one_of(
    st.sampled_from(hostile_values()),
    st.sampled_from(INJECTED),
    st.builds(str.__add__, st.sampled_from(["gpu-01", "10.0.0.1", "::1", "/", "1", ""]), st.text(max_size=5)),
    st.text(max_size=12),
)


@settings(max_examples=examples(15, 200), phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(
    place=st.sampled_from(PLACES),
    value=hostile,
    raw=st.booleans(),
    openai=st.booleans(),
    planned=st.integers(0, 1),
)
@example(place="gateway:allow", value="::1%x\n  http-request deny", raw=False, openai=False, planned=0)
def test_nothing_hostile_becomes_configuration(
    folder: Path, place: str, value: Any, raw: bool, openai: bool, planned: int
) -> None:
    judge(
        World(
            folder,
            gateway=place.startswith("gateway:"),
            profile="openai" if openai else "gradio",
            place=place,
            value=value,
            raw=raw,
            planned=planned,
        )
    )


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("name:gpu-01", "-"),
        ("name:gpu-01", "default"),
        ("name:gpu-01", "0" * 16),
        ("name:gpu-01", "a" * 300),
        ("name:lb-01", ".."),
        ("name:cards", "x\n  http-request deny"),
        ("gpu-01:fleet_address", "::1"),
        ("gpu-01:fleet_address", "{{ '10.7.' ~ 7 * 7 }}.1"),
        ("gpu-01:fleet_address", "-"),
        ("all:my_own", "x\n  http-request deny"),
        ("gateway:allow", "10.0.0.0/8"),
        ("args:check_path", "/a~b?c=d&e"),
        ("gpu:name", '"a" "b" {{ 7*7 }}'),
        ("gpu:line", "x\n  http-request deny"),
        ("gpu:profile", "openai http-request deny"),
    ],
)
def test_what_is_accepted_haproxy_accepts(folder: Path, place: str, value: str) -> None:
    text = judge(World(folder, gateway=place.startswith("gateway:"), place=place, value=value))
    assert text
    assert real(text, folder) == ""


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("gateway:allow", "::1%x\n  http-request deny"),
        ("gateway:deny", "10.0.0.0/0.255.255.255"),
        ("gpu-01:fleet_address", "1.2.3.4:80"),
        ("args:stats_bind", "127.0.0.1:65536"),
    ],
)
def test_what_haproxy_would_take_otherwise_is_refused(folder: Path, place: str, value: str) -> None:
    assert judge(World(folder, gateway=place.startswith("gateway:"), place=place, value=value)) is None
