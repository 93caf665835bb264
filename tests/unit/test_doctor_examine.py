"""An examination: one exchange a host, hosts that do not answer, fixes, and what people read."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from fleet.balancer.render import config_hash
from fleet.console.doctor import report_json, show_report
from fleet.doctor.checks import ALL, chosen
from fleet.doctor.examine import Look, examine, mend, probes_of, report
from fleet.doctor.fold import fold
from fleet.doctor.model import Check, Fix, Report, bad, well
from fleet.errors import InputError, UnreachableError
from fleet.model.facts import Answer, Probe
from fleet.model.host import Host
from fleet.model.steps import Run
from tests.local import LocalRemote, LocalRunner
from tests.unit import doctor_world as world
from tests.unit.doctor_world import GPU, LB, NOW, gpu_facts, lb_facts, text
from tests.unit.gpu_world import uuid

HOSTS = {"gpu-01": GPU, "lb-01": LB}


def shown(found: Report) -> str:
    out = io.StringIO()
    show_report(found, Console(file=out, width=400))
    return out.getvalue()


def fleet_of(count: int, sick: int, changed: dict[str, Answer]) -> Report:
    """A fleet of GPU hosts, the first `sick` of which have the changed answers."""
    hosts = [replace(GPU, name=f"gpu-{number:03}") for number in range(1, count + 1)]
    seen = {
        host.name: Look(gpu_facts(changed if place < sick else {}), NOW, NOW + 1)
        for place, host in enumerate(hosts)
    }
    checks = [check for check in ALL if check.group != "service"]
    return report(hosts, checks, {host.name: host for host in hosts}, seen)


class Here:
    """This machine under every name; remembers its connections."""

    def __init__(self, lost: tuple[str, ...] = ()) -> None:
        self.remotes: list[LocalRemote] = []
        self._lost = lost

    def __call__(self, name: str) -> tuple[LocalRemote, LocalRunner]:
        if name in self._lost:
            raise UnreachableError(f"{name}: connection refused", remedy="start sshd there")
        remote = LocalRemote(name)
        self.remotes.append(remote)
        return remote, LocalRunner(remote)


def test_all_checks_of_a_host_take_one_exchange():
    here = Here()
    found = examine([GPU, LB], ALL, HOSTS, here)
    assert [(remote.exchanges, remote.closed) for remote in here.remotes] == [(1, True), (1, True)]
    assert {result.check.id for result in found.results} == {check.id for check in ALL}
    assert not [each for each in found.findings if each.trouble.what == "the check itself failed"]


def test_a_host_that_is_lost_is_told_and_the_others_are_examined():
    found = examine([GPU, LB], chosen(["os"]), HOSTS, Here(("gpu-01",)))
    assert found.unreachable == ("gpu-01",)
    assert [(each.check.id, each.host) for each in found.findings if each.host == "gpu-01"] == [
        ("connection/ssh", "gpu-01")
    ]
    assert any(result.host == "lb-01" and result.check.id == "system/os" for result in found.results)


def test_checks_are_chosen_by_group_by_name_and_by_both():
    assert {check.group for check in chosen(["driver"])} == {"connection", "driver"}
    assert [check.id for check in chosen(["driver/health,cdi"])][2:] == ["driver/health", "containers/cdi"]
    with pytest.raises(InputError, match="there is no check 'helth'") as wrong:
        chosen(["helth"])
    assert "did you mean health?" in wrong.value.remedy


def test_a_mistake_in_one_check_leaves_the_others_their_verdicts():
    def fails(patient):
        raise KeyError("nothing")

    checks = [Check("system", "broken", "", fails), Check("system", "whole", "", lambda patient: well("yes"))]
    found = report([GPU], checks, HOSTS, {"gpu-01": Look(gpu_facts(), NOW, NOW)})
    assert [each.trouble.what for each in found.findings] == ["the check itself failed"]
    assert [result.verdict.found for result in found.results][1] == "yes"


def test_a_fix_is_carried_out_once_and_looked_at_again(tmp_path):
    mark = tmp_path / "mended"
    probe = Probe("mark", f"[ -e {mark} ] && echo yes\nexit 0\n")
    fix = Fix("make the mark", (Run(("sh", "-c", f"echo x >>{mark}")),))

    def judge(patient):
        return well("there") if patient.text("mark") else bad("no mark", "make it on {host}", fix=fix)

    twice = [
        Check("system", name, "it is wanted", judge, lambda host: (probe,)) for name in ("first", "second")
    ]
    here = Here()
    before = examine([GPU], twice, HOSTS, here)
    assert len(before.findings) == 2
    after = mend(before.findings, [GPU], twice, HOSTS, here, before, pause=lambda _: None)
    assert after.ok
    assert mark.read_text() == "x\n"
    assert [(each.host, each.what, each.error) for each in after.mended] == [("gpu-01", "make the mark", "")]
    assert "gpu-01: done: make the mark" in shown(after)


def test_a_fix_that_fails_is_told_and_its_trouble_stays():
    fix = Fix("try", (Run(("sh", "-c", "echo no such thing >&2; exit 3")),))
    check = Check("system", "one", "it is wanted", lambda patient: bad("wrong", "mend it", fix=fix))
    here = Here()
    before = examine([GPU], [check], HOSTS, here)
    after = mend(before.findings, [GPU], [check], HOSTS, here, before, pause=lambda _: None)
    assert not after.ok
    assert "no such thing" in after.mended[0].error
    assert "could not try" in shown(after)
    assert "--fix` mends" not in shown(after)  # it has just shown that it cannot
    other = replace(before, mended=(replace(after.mended[0], error=""),))
    assert shown(other).splitlines()[-1].endswith("`fleet doctor --fix` mends 1 of them")


def test_what_could_be_looked_at_on_some_hosts_only_is_said_so():
    lines = shown(fleet_of(3, 1, {"docker.engine": Answer(7)})).splitlines()
    (head,) = [line for line in lines if line.startswith("containers")]
    assert "live-restore (on 2 of 3)" in head
    assert any("not looked at: live-restore: no engine answers (gpu-001)" in line for line in lines)


def test_the_same_problem_on_a_hundred_hosts_is_one():
    found = fleet_of(100, 100, {"doctor.toolkit": Answer(127)})
    (folded,) = fold(found.findings)
    assert len(folded.hosts) == 100
    assert folded.remedy == "`fleet provision --limit HOST`"
    text_ = shown(found)
    assert "gpu-008, and 92 more (all in --json)" in text_
    assert len(text_.splitlines()) < 20
    assert len(report_json(found)["problems"]) == 100


def test_hosts_that_cannot_be_reached_for_the_same_reason_are_one_problem():
    hosts = [replace(GPU, name=f"gpu-{number}") for number in range(3)]
    lost = {
        host.name: UnreachableError(
            f"{host.name}: 10.0.0.{place}:22 refused the connection", remedy="start sshd"
        )
        for place, host in enumerate(hosts)
    }
    (folded,) = fold(report(hosts, ALL, {}, lost).findings)
    assert folded.what == "it refused the connection"
    assert folded.places[1] == ("gpu-1", "10.0.0.1:22 refused the connection")


@pytest.mark.parametrize(
    ("said", "alike"),
    [
        ("10.0.0.{} refused the connection", "it refused the connection"),
        ("no answer from 10.0.0.{} within 10 s", "it does not answer"),
        ("10.0.0.{} accepted the connection, then did not speak SSH", "it does not speak SSH"),
        ("the name gpu-{}.example cannot be resolved", "its name cannot be resolved"),
    ],
)
def test_addresses_do_not_keep_hosts_with_the_same_trouble_apart(said, alike):
    hosts = [replace(GPU, name=f"gpu-{number}") for number in range(3)]
    lost = {host.name: UnreachableError(f"{host.name}: {said.format(host.name)}") for host in hosts}
    (folded,) = fold(report(hosts, ALL, {}, lost).findings)
    assert folded.what == alike
    assert folded.places[2] == ("gpu-2", said.format("gpu-2"))


def test_few_hosts_are_named_in_the_command_to_type():
    found = fleet_of(10, 2, {"doctor.toolkit": Answer(127)})
    assert "try: `fleet provision --limit gpu-001,gpu-002`" in shown(found)


def test_what_differs_from_host_to_host_stands_beside_its_name():
    sick = {"doctor.cdi": world.cdi(uuids=(0,))}
    assert f"gpu-001 (/var/run/cdi/nvidia.yaml: it does not name {uuid(1)})" in shown(fleet_of(3, 1, sick))


def test_a_group_that_is_well_is_one_line():
    seen = {"gpu-01": Look(gpu_facts(), NOW, NOW + 1), "lb-01": Look(lb_facts(), NOW, NOW + 1)}
    lines = shown(report([GPU, LB], ALL, HOSTS, seen)).splitlines()
    assert [line.split()[:2] for line in lines if " ok " in line] == [
        [group, "ok"] for group in ("connection", "system", "driver", "containers", "service", "balancers")
    ]
    assert lines[-1] == f"2 hosts, {len(ALL)} checks: all well"


def test_on_a_narrow_terminal_words_stay_whole_and_later_lines_are_indented():
    out = io.StringIO()
    found = fleet_of(
        3, 3, {"doctor.toolkit": Answer(127), "doctor.packages": text("package ii nvidia-driver-cuda 1\n")}
    )
    show_report(found, Console(file=out, width=60, force_terminal=True, color_system=None))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 60
    place = next(number for number, line in enumerate(lines) if line.startswith("    try: `apt-mark hold"))
    assert lines[place + 1].startswith(" " * 9 + "gpu-001,gpu-002,gpu-003")
    words = " ".join(" ".join(lines).split())
    assert all(result.check.name in words for result in found.results)


def test_the_json_has_each_check_and_each_problem_with_its_remedy():
    seen = {"gpu-01": Look(gpu_facts({"doctor.toolkit": Answer(127)}), NOW, NOW + 1)}
    document = report_json(report([GPU], chosen(["containers"]), HOSTS, seen))
    assert document["ok"] is False
    states = {row["check"]: row["state"] for row in document["results"]}
    assert states == {"containers/toolkit": "problem"} | {
        f"containers/{name}": "ok" for name in ("engine", "live-restore", "cdi")
    } | {"connection/ssh": "ok", "connection/sudo": "ok"}
    (problem,) = document["problems"]
    assert (problem["place"], problem["remedy"]) == ("gpu-01", "`fleet provision --limit gpu-01`")
    assert problem["why"]


def reach(*rows: str) -> list[str]:
    seen = {
        "gpu-01": Look(gpu_facts(), NOW, NOW + 1),
        "lb-01": Look(lb_facts({"doctor.reach": text("\n".join(rows) + "\n")}), NOW, NOW + 1),
    }
    found = report([GPU, LB], chosen(["reach"]), HOSTS, seen)
    return [f"{each.place}: {each.trouble.what} | {each.remedy}" for each in found.findings]


def test_a_balancer_tells_a_closed_port_from_a_firewall_and_from_no_route():
    (refused,) = reach("reach gpu-01-0 10.0.0.1 7860 1 Connection refused")
    assert refused.startswith("gpu-01-0: nothing listens on a slot's port")
    (silent,) = reach("reach gpu-01-1 10.0.0.1 7861 124 ")
    assert "let lb-01 through to 10.0.0.1 port 7861" in silent
    (route,) = reach("reach gpu-01-1 10.0.0.1 7861 1 No route to host")
    assert "ip route get 10.0.0.1" in route


def balancer(id_: str, changed: dict[str, Answer]) -> str:
    seen = {
        "gpu-01": Look(gpu_facts(), NOW, NOW + 1),
        "lb-01": Look(lb_facts(changed), NOW, NOW + 1),
    }
    found = report([GPU, LB], chosen([id_]), HOSTS, seen)
    return " / ".join(f"{each.trouble.what} | {each.trouble.detail}" for each in found.findings)


def test_haproxy_that_is_missing_old_or_built_without_lua():
    assert "HAProxy is not installed" in balancer("software", {"haproxy.package": text("absent\n")})
    old = {"haproxy.package": text("HA-Proxy version 2.2.9-2+deb11u6 2023/11/14\nsocat\n")}
    assert "2.2.9-2+deb11u6; 2.4 is the first" in balancer("software", old)
    assert "without what" in balancer(
        "software",
        {"doctor.haproxy": text(world.HAPROXY_VV.replace("+LUA", "-LUA").replace("Built with Lua", ""))},
    )


def test_a_configuration_that_is_not_fleets_not_in_force_or_lacks_a_slot():
    facts = lb_facts()
    runs = facts["haproxy.runtime"].text
    assert "is not fleet's" in balancer(
        "config", {"haproxy.runtime": text(runs.replace("FLEET_CONFIG", "OTHER"))}
    )
    assert "does not answer" in balancer("config", {"haproxy.runtime": text("absent\n")})
    file = next(key for key in facts if key.startswith("lb.file:"))
    other = {file: text("global\n  setenv FLEET_CONFIG 0000000000000000\n")}
    assert f"{config_hash(world.CONFIG)} runs, 0000000000000000 is on disk" in balancer("config", other)
    touched = {"lb.file:/etc/haproxy/haproxy.cfg": text(world.CONFIG + "# by hand\n")}
    assert "somebody edited the configuration that fleet wrote" in balancer("config", touched)
    renamed = {"haproxy.runtime": text(runs.replace("gpu-01-1", "gpu-01-7"))}
    said = balancer("config", renamed)
    assert "it does not know every slot | gpu-01-1" in said
    assert "servers that are no slots | gpu-01-7" in said


def test_nginx_in_haproxys_place_and_nginx_that_is_not_there():
    listens = 'LISTEN 0 511 0.0.0.0:80 0.0.0.0:* users:(("nginx",pid=812,fd=5),("nginx",pid=813,fd=5))\n'
    assert "has the service's port | 80 by nginx (process 812)" in balancer(
        "port", {"doctor.ports": text(listens)}
    )
    assert balancer("port", {"doctor.ports": text(listens.replace("nginx", "haproxy"))}) == ""
    assert balancer("port", {"doctor.ports": text(listens.replace(":80 ", ":8080 "))}) == ""
    other = replace(LB, vars={**LB.vars, "balancer_software": "nginx"})
    for said, whats in (("absent\n", ["nginx is not installed"]), ("nginx version: nginx/1.26.3\n", [])):
        look = Look(lb_facts({"nginx.package": text(said)}), NOW, NOW + 1)
        found = report([other], chosen(["software"]), {"lb-01": other}, {"lb-01": look})
        assert [each.trouble.what for each in found.findings] == whats


def test_the_slots_are_asked_for_where_only_a_balancers_configuration_is_looked_at():
    asked = {probe.key for probe in probes_of(GPU, chosen(["balancers/config"]))}
    assert {"gpu", "docker.containers"} <= asked
    alone = report([LB], chosen(["config"]), {"lb-01": LB}, {"lb-01": Look(lb_facts(), NOW, NOW + 1)})
    assert alone.results[-1].verdict.found.endswith("no host told its slots")


def test_other_hosts_of_the_inventory_are_not_examined():
    other = Host("registry-01", {}, ("registry",))
    assert not [check for check in ALL if check.concerns(other)]
