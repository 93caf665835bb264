"""The haproxy module's plans: what differs is mended, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import msgspec
import pytest

from fleet.balancer import deploy
from fleet.balancer.paths import CERTIFICATE_FILE, CONFIG_FILE, LUA_FILE, STATE_FILE
from fleet.balancer.probe import PACKAGE_PROBE, RUNTIME_PROBE
from fleet.balancer.render import config_hash, render
from fleet.errors import TaskError
from fleet.gpu.probe import GPU_PROBE
from fleet.model.facts import Answer, Facts
from fleet.model.host import Host
from fleet.model.slot import Slot
from fleet.model.steps import Change, Run, Upload
from fleet.modules._addresses import ADDRESSES_PROBE
from fleet.modules._files import file_probe
from fleet.modules._systemd import unit_probe
from fleet.modules.base import Context
from fleet.modules.haproxy import Haproxy, HaproxyArgs
from tests.unit.gpu_world import gpu_line
from tests.unit.haproxy_world import TEMPLATE

LB = Host("lb-01", {"ansible_host": "10.0.0.9"}, ("balancer",))
ONE = Host("gpu-01", {"ansible_host": "10.0.0.1"}, ("gpu",))
TWO = Host("gpu-02", {"ansible_host": "10.0.0.2"}, ("gpu",))
STARTED = 1_772_000_000
V26 = "HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/\nsocat\n"
STATE_HEAD = (
    "be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight srv_time"
)


def gpus(*indexes: int, name: str = "Tesla T4") -> Facts:
    return Facts({GPU_PROBE.key: Answer(0, "".join(gpu_line(i, name=name) for i in indexes).encode())})


NO_DRIVER = Facts({GPU_PROBE.key: Answer(127, b"")})
FLEET = {"gpu-01": gpus(0, 1), "gpu-02": gpus(0, name="Tesla V100-SXM2-16GB")}
SLOTS = (
    Slot("gpu-01", 0, "", "10.0.0.1", 7860, weight=10),
    Slot("gpu-01", 1, "", "10.0.0.1", 7861, weight=10),
    Slot("gpu-02", 0, "", "10.0.0.2", 7860, weight=28),
)


def ctx(fleet=None, hosts: Sequence[Host] = (LB, ONE, TWO), **more) -> Context:
    return Context(
        host=LB, hosts={host.name: host for host in hosts}, fleet=FLEET if fleet is None else fleet, **more
    )


def text(slots=SLOTS, args: HaproxyArgs | None = None) -> str:
    return render(slots, (args or HaproxyArgs()).settings(), TEMPLATE)


def on_disk(content: bytes | None, mode: str = "644", at: float = STARTED - 60) -> Answer:
    if content is None:
        return Answer(0, b"absent\n")
    head = f"{mode}|root|root|0|0|{at:.6f}|{len(content)}|regular file\n"
    return Answer(0, head.encode() + content)


def unit(active="active", file="enabled", need_reload="no") -> Answer:
    words = {
        "LoadState": "loaded" if file else "not-found",
        "ActiveState": active,
        "SubState": "running",
        "UnitFileState": file,
        "NeedDaemonReload": need_reload,
    }
    return Answer(0, "".join(f"{key}={value}\n" for key, value in words.items()).encode())


def running(config_hash_: str | None, slots=SLOTS, weights=None, admin=None, started=STARTED) -> Answer:
    servers = "".join(
        f"4 work {i} {s.name} {s.address} 2 {(admin or {}).get(s.name, 0)} {(weights or {}).get(s.name, s.weight)}"
        f" {s.weight} 12\n"
        for i, s in enumerate(slots, 1)
    )
    stat = "# pxname,svname,scur,status,\n" + "".join(f"work,{s.name},0,UP,\n" for s in slots)
    marked = f"FLEET_CONFIG={config_hash_}\n" if config_hash_ else "Variable not found\n"
    return Answer(
        0,
        (
            f"now={started + 100}\n{marked}\nName: HAProxy\nVersion: 2.6.12\nUptime_sec: 100\n"
            f"Start_time_sec: {started}\n\n1\n# {STATE_HEAD}\n{servers}\n{stat}\n"
        ).encode(),
    )


def facts(**more) -> Facts:
    """A balancer as fleet leaves it, but for `more`."""
    settled = {
        PACKAGE_PROBE.key: Answer(0, V26.encode()),
        RUNTIME_PROBE.key: running(config_hash(text())),
        unit_probe("haproxy.service").key: unit(),
        ADDRESSES_PROBE.key: Answer(0, b"2: eth0    inet 10.0.0.9/24 scope global eth0\n"),
        file_probe(STATE_FILE, "attributes").key: on_disk(deploy.EMPTY_STATE, "600"),
        file_probe(CERTIFICATE_FILE, "hash").key: on_disk(None),
        file_probe(CONFIG_FILE, "whole").key: on_disk(text().encode()),
    }
    for file in deploy.support_files(HaproxyArgs().settings()):
        settled[file_probe(file.path, "content").key] = on_disk(file.content, file.mode[1:])
    named = {
        "package": PACKAGE_PROBE.key,
        "runtime": RUNTIME_PROBE.key,
        "unit": unit_probe("haproxy.service").key,
        "addresses": ADDRESSES_PROBE.key,
        "state": file_probe(STATE_FILE, "attributes").key,
        "config": file_probe(CONFIG_FILE, "whole").key,
        "lua": file_probe(LUA_FILE, "content").key,
        "unit_file": file_probe(deploy.UNIT_FILE, "content").key,
        "script": file_probe(deploy.SAVE_STATE, "content").key,
    }
    return Facts({**settled, **{named[key]: answer for key, answer in more.items()}})


BARE = {
    "package": Answer(0, b"absent\n"),
    "runtime": Answer(0, b"absent\n"),
    "unit": unit("inactive", ""),
    "state": on_disk(None),
    "config": on_disk(None),
    "lua": on_disk(None),
    "unit_file": on_disk(None),
    "script": on_disk(None),
}


def plan(args: HaproxyArgs | None = None, context: Context | None = None, **more) -> list[Change]:
    return list(Haproxy().plan(args or HaproxyArgs(), facts(**more), context or ctx()))


def only(changes: list[Change]) -> Change:
    assert len(changes) == 1, [change.summary for change in changes]
    return changes[0]


def uploads(changes: list[Change]) -> dict[str, Upload]:
    return {s.path: s for c in changes for s in c.steps if isinstance(s, Upload)}


def test_nothing_to_do_where_all_is_as_it_should_be():
    assert plan() == []


def test_every_probe_the_plan_reads_is_asked():
    asked = {probe.key for probe in Haproxy().probes(HaproxyArgs(), ctx())}
    assert asked == set(facts())


def test_a_bare_host_gets_everything_in_order():
    changes = plan(**BARE)
    assert [change.summary.split()[0] for change in changes] == ["install", *["create"] * 5]
    assert "haproxy" in " ".join(changes[0].steps[0].argv)
    assert changes[-1].summary == f"create {CONFIG_FILE}"
    new, check, switch = changes[-1].steps
    assert (new.path, new.content.decode()) == (f"{CONFIG_FILE}.new", text())
    assert check.argv == ("haproxy", "-c", "-f", f"{CONFIG_FILE}.new")
    assert switch.argv[-1] == config_hash(text())
    assert uploads(changes)[deploy.SAVE_STATE].mode == "0755"
    assert deploy.DAEMON_RELOAD in changes[2].steps


def test_an_edited_configuration_is_shown_as_a_diff_and_replaced():
    edited = text().replace("leastconn", "roundrobin")
    change = only(plan(config=on_disk(edited.encode())))
    assert "-  balance roundrobin\n+  balance leastconn\n" in change.diff
    assert change.steps[0].content.decode() == text()


def test_a_deleted_configuration_is_written_again():
    assert only(plan(config=on_disk(None))).summary == f"create {CONFIG_FILE}"


def test_a_stopped_unit_is_started():
    change = only(plan(unit=unit("inactive"), runtime=Answer(0, b"absent\n")))
    assert change.summary.startswith("start haproxy")


def test_a_disabled_unit_is_enabled():
    assert only(plan(unit=unit(file="disabled"))).steps == deploy.enable()


@pytest.mark.parametrize(
    "more",
    [
        {"runtime": running("0123456789abcdef")},
        {"runtime": running(None)},
        {"config": on_disk(text().encode(), at=STARTED + 30)},
        {"lua": on_disk(deploy.support_files(HaproxyArgs().settings())[2].content, at=STARTED + 30)},
    ],
    ids=["another hash", "no hash", "newer file", "newer lua"],
)
def test_a_process_with_an_older_configuration_is_reloaded(more):
    change = only(plan(**more))
    assert change.summary.startswith("reload haproxy.service")
    assert change.steps == deploy.start(config_hash(text()))


def test_changed_lua_is_written_and_loaded():
    write, reload = plan(lua=on_disk(b"-- edited\n"))
    assert write.summary == f"change {LUA_FILE}"
    assert reload.steps == deploy.start(config_hash(text()))


def test_a_unit_systemd_has_not_read_again_is_read():
    assert only(plan(unit=unit(need_reload="yes"))).steps == (deploy.DAEMON_RELOAD,)


def test_a_weight_changed_by_hand_is_set_back_at_run_time():
    change = only(plan(runtime=running(config_hash(text()), weights={"gpu-01-1": 7})))
    assert change.summary == "set weight of gpu-01-1 from 7 to 10"
    (step,) = change.steps
    assert isinstance(step, Run)
    assert step.stdin == b"set weight work/gpu-01-1 10\n"


@pytest.mark.parametrize("bits", [0x08, 0x01])
def test_a_server_drained_or_in_maintenance_is_left_alone(bits):
    seen = running(config_hash(text()), weights={"gpu-01-1": 7}, admin={"gpu-01-1": bits})
    assert plan(runtime=seen) == []


def test_a_new_weight_comes_with_the_configuration_alone():
    host = replace(ONE, vars={**ONE.vars, "weight": 40})
    change = only(plan(context=ctx(hosts=(LB, host, TWO))))
    assert "weight 40" in change.diff
    assert change.summary == f"change {CONFIG_FILE}"


def test_servers_of_a_host_nobody_looked_at_stay():
    assert plan(context=ctx({"gpu-01": FLEET["gpu-01"]})) == []
    assert plan(context=ctx({})) == []


def test_servers_of_a_host_whose_driver_does_not_answer_stay():
    assert plan(context=ctx({**FLEET, "gpu-02": NO_DRIVER})) == []


def test_servers_of_a_host_without_facts_follow_its_address():
    moved = replace(TWO, vars={"ansible_host": "10.0.0.22"})
    change = only(plan(context=ctx({"gpu-01": FLEET["gpu-01"]}, (LB, ONE, moved))))
    assert "+  server gpu-02-0 10.0.0.22:7860 weight 28" in change.diff
    assert "gpu-01" not in "".join(line for line in change.diff.splitlines() if line.startswith(("+", "-")))


def test_a_host_whose_name_begins_with_anothers_keeps_its_own_servers_only():
    long = Host("gpu-01-1", {}, ("gpu",))
    slots = (*SLOTS, Slot("gpu-01-1", 0, "", "gpu-01-1", 7860, weight=9))
    known = on_disk(text(slots).encode())
    assert (
        plan(
            context=ctx({}, (LB, ONE, TWO, long)),
            config=known,
            runtime=running(config_hash(text(slots)), slots),
        )
        == []
    )


def test_servers_of_a_host_that_left_the_inventory_go():
    assert "-  server gpu-02-0" in only(plan(context=ctx(hosts=(LB, ONE)))).diff


def test_a_gpu_that_appears_gets_a_server():
    change = only(plan(context=ctx({**FLEET, "gpu-02": gpus(0, 1, name="Tesla V100-SXM2-16GB")})))
    assert "+  server gpu-02-1 10.0.0.2:7861 weight 28" in change.diff


def test_gpus_that_no_driver_shows_yet_are_decided_later():
    change = plan(context=ctx({"gpu-01": NO_DRIVER, "gpu-02": NO_DRIVER}), **BARE)[-1]
    assert change.deferred
    assert "gpu-01, gpu-02" in change.summary


def test_one_host_without_driver_does_not_hold_up_the_others():
    changes = plan(context=ctx({**FLEET, "gpu-02": NO_DRIVER}), **BARE)
    assert not any(change.deferred for change in changes)
    assert "server gpu-01-0" in uploads(changes)[f"{CONFIG_FILE}.new"].content.decode()


def test_an_old_haproxy_is_refused():
    plan(package=Answer(0, b"HAProxy version 2.4.22-0ubuntu0 2023/08/14\nsocat\n"))
    with pytest.raises(TaskError, match=r"2\.2\.9\S* is too old: .*HAProxy 2\.4 is the first") as refused:
        plan(package=Answer(0, b"HAProxy version 2.2.9-2+deb11u6 2023/12/11\nsocat\n"))
    assert "upgrade" in refused.value.remedy


def test_socat_alone_is_installed_too():
    changes = plan(package=Answer(0, V26.replace("socat\n", "").encode()), runtime=Answer(0, b"absent\n"))
    assert [change.summary.split()[0] for change in changes] == ["install", "reload"]


def test_several_balancers_know_each_other():
    other = Host("lb-02", {"ansible_host": "10.0.0.10"}, ("balancer",))
    script, change = plan(context=ctx(hosts=(LB, other, ONE, TWO)))
    assert deploy.SAVE_STATE in script.summary
    assert "+  server lb-02 10.0.0.10:10240" in change.diff
    assert "+  localpeer lb-01" in change.diff
    assert "+  bind 10.0.0.9:10240" in change.diff


def test_a_balancer_behind_an_address_of_another_listens_for_the_others_on_all_of_its_own():
    other = Host("lb-02", {"ansible_host": "10.0.0.10"}, ("balancer",))
    elsewhere = Answer(0, b"2: eth0    inet 192.168.0.9/24 scope global eth0\n")
    _, change = plan(context=ctx(hosts=(LB, other, ONE, TWO)), addresses=elsewhere)
    assert "+  bind *:10240" in change.diff


def test_a_users_template_wins_over_the_shipped(tmp_path):
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "haproxy.cfg.j2").write_text(
        "global\n  setenv FLEET_CONFIG {{ config_hash }}\n"
    )
    change = only(plan(context=ctx(search=(tmp_path,))))
    assert change.steps[0].content.startswith(b"global\n  setenv FLEET_CONFIG ")


def test_without_affinity_no_lua_is_needed():
    args = HaproxyArgs(affinity="none")
    assert LUA_FILE not in {p.key.partition(":")[2] for p in Haproxy().probes(args, ctx())}
    assert b"lua-load" not in uploads(plan(args))[f"{CONFIG_FILE}.new"].content


@pytest.mark.parametrize(
    "bad",
    [{"port": 0}, {"bind": "*\n"}, {"check_path": "/ x"}, {"fall": 0}, {"affinity": "page"}, {"pool": 1}],
)
def test_wrong_arguments_are_refused(bad):
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(bad, HaproxyArgs)


def test_a_configuration_of_many_slots_settles():
    """Beyond 128 KiB other files are compared by hash; this one is read for the servers it has."""
    many = {f"gpu-{n:03d}": gpus(*range(8)) for n in range(120)}
    hosts = (LB, *(Host(name, {"ansible_host": f"10.1.0.{n}"}, ("gpu",)) for n, name in enumerate(many)))
    first = plan(context=ctx(many, hosts), config=on_disk(None))
    wanted = first[-1].steps[0].content
    assert len(wanted) > 131_072
    settled = {"config": on_disk(wanted), "runtime": running(config_hash(wanted.decode()))}
    assert plan(context=ctx(many, hosts), **settled) == []
    assert plan(context=ctx({}, hosts), **settled) == []
