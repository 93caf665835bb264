"""The nginx module's plans: what differs is mended, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from fleet.balancer import nginx_deploy as deploy
from fleet.balancer.nginx import MAIN_FILE, SITE_FILE, config_hash, main_text, render
from fleet.balancer.nginx_probe import DEFAULT_SITE, DEFAULT_SITE_PROBE, PACKAGE_PROBE, RUNTIME_PROBE
from fleet.errors import TaskError
from fleet.model.facts import Answer, Facts
from fleet.model.steps import Change, Run, Upload
from fleet.modules._files import file_probe
from fleet.modules._systemd import unit_probe
from fleet.modules.nginx import Nginx, NginxArgs
from tests.unit.nginx_world import TEMPLATE
from tests.unit.test_haproxy_module import FLEET, LB, NO_DRIVER, ONE, SLOTS, STARTED, TWO, ctx, on_disk, unit

V122 = "nginx version: nginx/1.22.1\nconfigure arguments: --with-http_sub_module --with-http_ssl_module\n"


def text(slots=SLOTS, args: NginxArgs | None = None) -> str:
    return render(slots, (args or NginxArgs()).settings(), TEMPLATE)


def running(config: str | None, started: int = STARTED) -> Answer:
    line = f"config={config}\n" if config else ""
    return Answer(0, f"nginx version: nginx/1.22.1\nstarted={started}\n{line}".encode())


MAIN = main_text(NginxArgs().settings()).encode()
NAMED = {
    "package": PACKAGE_PROBE.key,
    "runtime": RUNTIME_PROBE.key,
    "default_site": DEFAULT_SITE_PROBE.key,
    "unit": unit_probe(deploy.UNIT).key,
    "site": file_probe(SITE_FILE, "content").key,
    "main": file_probe(MAIN_FILE, "content").key,
}
BARE = {
    "package": Answer(0, b"absent\n"),
    "runtime": Answer(0, b"absent\n"),
    "unit": unit("inactive", ""),
    "site": on_disk(None),
    "main": on_disk(None),
}


def facts(**more: Answer) -> Facts:
    """A balancer as fleet leaves it, but for `more`."""
    settled = {
        "package": Answer(0, V122.encode()),
        "runtime": running(config_hash(text())),
        "default_site": Answer(0, b"absent\n"),
        "unit": unit(),
        "site": on_disk(text().encode()),
        "main": on_disk(MAIN),
    }
    return Facts({NAMED[key]: answer for key, answer in {**settled, **more}.items()})


def plan(args: NginxArgs | None = None, context=None, **more: Answer) -> list[Change]:
    return list(Nginx().plan(args or NginxArgs(), facts(**more), context or ctx()))


def only(changes: list[Change]) -> Change:
    assert len(changes) == 1, [change.summary for change in changes]
    return changes[0]


def test_nothing_to_do_where_all_is_as_it_should_be():
    assert plan() == []


def test_every_probe_the_plan_reads_is_asked():
    assert {probe.key for probe in Nginx().probes(NginxArgs(), ctx())} == set(facts())


def test_a_bare_host_gets_everything_in_order():
    install, write = plan(**BARE)
    package, welcome = install.steps
    assert install.summary == "install nginx"
    assert package.argv[-1] == "nginx"
    assert welcome.argv == ("rm", "-f", "--", DEFAULT_SITE)
    assert write.summary == f"create {SITE_FILE} and {MAIN_FILE}"
    site, main, check, switch = write.steps
    assert (site.path, site.content.decode()) == (f"{SITE_FILE}.new", text())
    assert (main.path, main.content) == (f"{MAIN_FILE}.new", MAIN)
    assert check.argv[-3:] == switch.argv[-3:] == (config_hash(text()), "80", "8404")


def test_an_earlier_nginxs_site_is_not_taken_for_the_packages():
    install = plan(**BARE, default_site=Answer(0, b"used\n"))[0]
    assert len(install.steps) == 1


def test_the_welcome_page_is_disabled_and_a_used_one_left_alone():
    disable, reload = plan(default_site=Answer(0, b"welcome\n"))
    assert disable.steps == (Run(("rm", "-f", "--", DEFAULT_SITE)),)
    assert reload.steps == deploy.start(text(), NginxArgs().settings())
    assert plan(default_site=Answer(0, b"used\n")) == []


def test_an_edited_site_is_shown_as_a_diff_and_replaced():
    change = only(plan(site=on_disk(text().replace("least_conn", "random").encode())))
    assert "-  random;\n+  least_conn;\n" in change.diff
    assert [s.path for s in change.steps if isinstance(s, Upload)] == [f"{SITE_FILE}.new", f"{MAIN_FILE}.new"]


@pytest.mark.parametrize("key", ["site", "main"])
def test_a_deleted_file_is_written_again(key):
    path = SITE_FILE if key == "site" else MAIN_FILE
    assert only(plan(**{key: on_disk(None)})).summary.endswith(path)


def test_a_longer_job_changes_both_files():
    change = only(plan(NginxArgs(longest_job=1800)))
    assert change.summary == f"change {SITE_FILE} and {MAIN_FILE}"
    assert "+worker_shutdown_timeout 1860s;" in change.diff


@pytest.mark.parametrize("more", [{"unit": unit("inactive")}, {"runtime": Answer(0, b"absent\n")}])
def test_a_stopped_nginx_is_started(more):
    assert only(plan(**more)).summary == "start nginx.service"


def test_a_disabled_unit_is_enabled():
    assert only(plan(unit=unit(file="disabled"))).steps == deploy.enable()


@pytest.mark.parametrize(
    "more",
    [
        {"runtime": running("0123456789abcdef")},
        {"runtime": running(None)},
        {"site": on_disk(text().encode(), at=STARTED + 30)},
        {"main": on_disk(MAIN, at=STARTED + 30)},
    ],
    ids=["another hash", "none of fleet's", "newer site", "newer main file"],
)
def test_a_process_with_an_older_configuration_is_reloaded(more):
    change = only(plan(**more))
    assert change.summary.startswith("reload nginx.service")
    assert change.steps == deploy.start(text(), NginxArgs().settings())


def test_servers_of_a_host_nobody_looked_at_stay():
    assert plan(context=ctx({"gpu-01": FLEET["gpu-01"]})) == []
    assert plan(context=ctx({})) == []


def test_servers_of_a_host_whose_driver_does_not_answer_stay():
    assert plan(context=ctx({**FLEET, "gpu-02": NO_DRIVER})) == []


def test_servers_of_a_host_without_facts_follow_its_address():
    moved = replace(TWO, vars={"ansible_host": "10.0.0.22"})
    change = only(plan(context=ctx({"gpu-01": FLEET["gpu-01"]}, (LB, ONE, moved))))
    assert "+  server 10.0.0.22:7860 weight=28 max_fails=3 fail_timeout=30s; # gpu-02-0" in change.diff


def test_servers_of_a_host_that_left_the_inventory_go():
    assert "-  server 10.0.0.2:7860" in only(plan(context=ctx(hosts=(LB, ONE)))).diff


def test_gpus_that_no_driver_shows_yet_are_decided_later():
    change = plan(context=ctx({"gpu-01": NO_DRIVER, "gpu-02": NO_DRIVER}), **BARE)[-1]
    assert change.deferred
    assert "gpu-01, gpu-02" in change.summary


@pytest.mark.parametrize("variable", ["gateway", "lb_address"])
def test_what_nginx_would_leave_out_is_refused(variable):
    """A service that was to ask for keys must not stand open on one balancer."""
    with pytest.raises(TaskError, match=f"lb-01 runs nginx, which would leave out .*`{variable}`"):
        plan(context=ctx(variables={variable: {"keys": True}}))


def test_an_old_nginx_is_refused():
    with pytest.raises(TaskError, match=r"1\.14\.2 is too old") as refused:
        plan(package=Answer(0, V122.replace("1.22.1", "1.14.2").encode()))
    assert refused.value.remedy


def test_an_nginx_that_cannot_rewrite_answers_serves_without_affinity_only():
    bare = Answer(0, b"nginx version: nginx/1.22.1\nconfigure arguments:\n")
    with pytest.raises(TaskError, match="http_sub_module"):
        plan(package=bare)
    assert plan(NginxArgs(affinity="none"), package=bare)


def test_a_users_template_wins_over_the_shipped(tmp_path):
    (tmp_path / "templates").mkdir()
    own = "# fleet-config: {{ config_hash }}\n# {{ config_hash }}\n"
    (tmp_path / "templates" / "nginx.conf.j2").write_text(own)
    change = only(plan(context=ctx(search=(tmp_path,))))
    assert change.steps[0].content.startswith(b"# fleet-config: ")


@pytest.mark.parametrize(
    "bad",
    [{"port": 0}, {"port": 8404}, {"bind": "a b"}, {"bind": "lb"}, {"affinity": "job"}, {"max_fails": 0}],
)
def test_wrong_arguments_are_refused(bad):
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(bad, NginxArgs)
