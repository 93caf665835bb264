"""`fleet lb`: which tasks and hosts it takes, what it tells of them, and how a push goes and ends."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
import trustme

from fleet.balancer.keys import KEYS_PROBE
from fleet.balancer.nginx import SITE_FILE
from fleet.balancer.paths import CERTIFICATE_FILE, CONFIG_FILE, KEYS_FILE, LUA_FILE
from fleet.balancer.render import config_hash
from fleet.data import data_dir
from fleet.engine.run import RunOptions, prepare, run
from fleet.errors import InputError, TaskError, UnreachableError
from fleet.inventory import load
from fleet.lb import ask_nginx
from fleet.lb.ask_haproxy import parse_messages
from fleet.lb.check import check
from fleet.lb.diff import difference
from fleet.lb.push import push
from fleet.lb.software import SOFTWARE
from fleet.lb.survey import Survey, look, planned, survey
from fleet.lb.work import Work, balancer_work
from fleet.model.facts import Answer, Facts
from fleet.modules.registry import MODULES
from fleet.playbook.load import load_playbook
from tests.local import LocalRemote
from tests.unit import test_nginx_module as nginx_world
from tests.unit.test_cli import fleet as command
from tests.unit.test_engine import MODULES as SMALL
from tests.unit.test_engine import Fleet
from tests.unit.test_haproxy_module import BARE, FLEET, NO_DRIVER, facts, running, text

LB_FILE = f"lb.file:{CONFIG_FILE}"
HOSTS = """\
all:
  vars: {image: 'r.example/webui:v1'}
  children:
    gpu:
      hosts:
        gpu-01: {ansible_host: 10.0.0.1}
        gpu-02: {ansible_host: 10.0.0.2}
    balancer:
      hosts:
        lb-01: {ansible_host: 10.0.0.9}
"""
SECOND = "        lb-02: {ansible_host: 10.0.0.10}\n"


def take(folder: Path, hosts: str = HOSTS, book: Path | None = None, **options) -> Work:
    (folder / "hosts.yml").write_text(hosts)
    path = book or data_dir("playbooks") / "provision.yml"
    return balancer_work(load_playbook(path, MODULES), load(folder / "hosts.yml"), RunOptions(**options))


def one(folder: Path, *, fleet_facts=None, deployed: str | None = "", **more):
    """The module's plan for lb-01, without arguments; `more` as in the module's own tests."""
    (folder / "plain.yml").write_text("- hosts: balancer\n  tasks:\n    - haproxy: {}\n")
    (task,) = take(folder, book=folder / "plain.yml").tasks
    content = text() if deployed == "" else deployed
    answer = Answer(1) if content is None else Answer(0, content.encode())
    seen = Facts({**facts(**more), LB_FILE: answer})
    return planned(task, seen, FLEET if fleet_facts is None else fleet_facts)


def edited(old: str, new: str):
    """A configuration on the host that somebody edited."""
    content = text().replace(old, new)
    head = f"644|root|root|0|0|1772000000.0|{len(content.encode())}|regular file\n"
    return {"deployed": content, "config": Answer(0, (head + content).encode())}


def test_only_the_balancers_tasks_are_taken_and_gpu_hosts_are_looked_at(tmp_path):
    found = take(tmp_path, HOSTS + SECOND)
    assert [(task.task.module, task.ctx.host.name) for task in found.tasks] == [
        ("haproxy", "lb-01"),
        ("haproxy", "lb-02"),
    ]
    assert [list(play.tasks) for play in found.plays] == [["lb-01"], ["lb-02"]], "one balancer at a time"
    assert set(found.witnesses) == {"gpu-01", "gpu-02"}
    assert "gpu_containers" in {task.task.module for task in found.witnesses["gpu-01"]}


def test_a_limit_chooses_balancers_and_never_hides_gpu_hosts(tmp_path):
    found = take(tmp_path, HOSTS + SECOND, limit="lb-02")
    assert found.balancers == ("lb-02",)
    assert set(found.witnesses) == {"gpu-01", "gpu-02"}
    with pytest.raises(InputError, match=r"no host among 'gpu-01' has a balancer task"):
        take(tmp_path, limit="gpu-01")


def test_a_host_that_is_both_is_asked_for_its_gpus_too(tmp_path):
    hosts = HOSTS.replace("lb-01: {ansible_host: 10.0.0.9}", "gpu-01: {}")
    found = take(tmp_path, hosts)
    assert found.balancers == ("gpu-01",)
    assert "gpu_containers" in {task.task.module for task in found.witnesses["gpu-01"]}
    assert "haproxy" not in {task.task.module for task in found.witnesses["gpu-01"]}


def test_the_users_arguments_and_variables_count(tmp_path):
    (task,) = take(tmp_path, extra={"lb_port": 8088}).tasks
    assert task.args.port == 8088


def test_a_playbook_without_a_balancer_is_refused_with_a_remedy(tmp_path):
    book = tmp_path / "book.yml"
    book.write_text("- hosts: gpu\n  tasks:\n    - command: {cmd: 'true'}\n")
    with pytest.raises(InputError, match="no task for a balancer") as refused:
        take(tmp_path, book=book)
    assert "--playbook" in refused.value.remedy


def test_what_is_deployed_and_right_is_what_is_shown(tmp_path):
    found = one(tmp_path)
    assert (found.rendered, found.changes, found.error) == (text(), (), None)
    assert not difference(found).any


def test_a_bare_balancer_has_a_rendered_configuration(tmp_path):
    found = one(tmp_path, deployed=None, **BARE)
    assert found.rendered == text()
    diff = difference(found)
    assert diff.config.startswith("--- /dev/null\n")
    assert "+  server gpu-02-0 10.0.0.2:7860" in diff.config
    assert "HAProxy does not run" in diff.remarks[0]
    assert {file.path for file in found.uploads} >= {LUA_FILE}


def test_an_edit_is_a_difference_named_as_one(tmp_path):
    diff = difference(one(tmp_path, **edited("leastconn", "roundrobin")))
    assert "-  balance roundrobin\n+  balance leastconn\n" in diff.config
    first, second, *_ = diff.config.splitlines()
    assert first == f"--- lb-01:{CONFIG_FILE}\tdeployed {config_hash(text())}, edited since"
    assert second == f"+++ lb-01:{CONFIG_FILE}\trendered {config_hash(text())}"
    assert diff.others == (), "the configuration is told once"


def test_a_process_that_runs_another_configuration_is_told(tmp_path):
    found = difference(one(tmp_path, runtime=running("0123456789abcdef")))
    assert found.config == ""
    assert [summary for summary, _ in found.others] == [
        f"reload haproxy.service: it runs another configuration than {CONFIG_FILE}"
    ]
    assert f"HAProxy runs 0123456789abcdef, not the {config_hash(text())} of {CONFIG_FILE}" in found.remarks
    foreign = difference(one(tmp_path, runtime=running(None)))
    assert "HAProxy runs a configuration that is not fleet's" in foreign.remarks


def test_a_weight_is_a_difference_and_a_drain_is_none(tmp_path):
    right = config_hash(text())
    weight = difference(one(tmp_path, runtime=running(right, weights={"gpu-01-1": 7})))
    assert [summary for summary, _ in weight.others] == ["set weight of gpu-01-1 from 7 to 10"]
    drained = running(right, weights={"gpu-01-1": 7}, admin={"gpu-01-1": 0x08, "gpu-02-0": 0x01})
    drain = difference(one(tmp_path, runtime=drained))
    assert not drain.any
    assert drain.remarks == (
        "gpu-01-1 is drained with weight 7 instead of 10; a push leaves it so",
        "gpu-02-0 is in maintenance; a push leaves it so",
    )


def test_gpus_nobody_knows_yet_are_an_error_with_a_remedy(tmp_path):
    unknown = {"gpu-01": NO_DRIVER, "gpu-02": NO_DRIVER}
    found = one(tmp_path, fleet_facts=unknown, deployed=None, **BARE)
    assert found.rendered is None
    assert "gpu-01, gpu-02" in found.error.message
    assert "fleet provision" in found.error.remedy


def test_a_template_of_ones_own_with_a_mistake_is_an_error_at_its_line(tmp_path):
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "haproxy.cfg.j2").write_text("{{ config_hash }}\n{{ nope }}\n")
    book = tmp_path / "provision.yml"
    book.write_bytes((data_dir("playbooks") / "provision.yml").read_bytes())
    (task,) = take(tmp_path, book=book).tasks
    found = planned(task, Facts({**facts(), LB_FILE: Answer(1)}), FLEET)
    assert isinstance(found.error, InputError)
    assert found.error.place.line == 2


def test_hosts_that_do_not_answer_are_troubles_of_their_own(tmp_path):
    work = take(tmp_path)

    def nobody(name):
        raise UnreachableError(f"{name}: connection refused")

    seen = survey(work, load(tmp_path / "hosts.yml"), nobody)
    assert set(seen.troubles) == {"gpu-01", "gpu-02"}
    (balancer,) = seen.balancers
    assert isinstance(balancer.error, UnreachableError)
    assert isinstance(look(work, load(tmp_path / "hosts.yml"), nobody)["lb-01"], UnreachableError)


# haproxy -c ------------------------------------------------------------------------------------------------

SAID = """\
[NOTICE]   (718) : haproxy version is 2.6.12-1+deb12u4
[ALERT]    (718) : config : parsing [/etc/haproxy/haproxy.cfg:2] : unknown keyword 'foo' in 'global' section
[WARNING]  (718) : config : parsing acl keyword 'path_end' :
  no pattern to match against were provided, so this ACL will never match.
  If this is what you intended, please add '--' to get rid of this warning.

[ALERT]    (718) : config : [/etc/haproxy/haproxy.cfg:10] : 'server b/s' : unknown keyword 'chekc'
[WARNING]  (718) : config : missing timeouts for backend 'b'.
   | While not properly invalid, you will certainly encounter various problems
[ALERT] script [/usr/local/sbin/x] 3: Syntax error: "fi" unexpected
[ALERT]    (718) : config : Error(s) found in configuration file : /etc/haproxy/haproxy.cfg
[ALERT]    (718) : config : Fatal errors found in configuration.
Configuration file has no error but will not start (no listener) => exit(2).
"""


def test_haproxys_words_become_messages_with_places():
    found = [(m.level, m.file, m.line, m.message) for m in parse_messages(SAID)]
    assert found == [
        ("error", "/etc/haproxy/haproxy.cfg", 2, "unknown keyword 'foo' in 'global' section"),
        (
            "warning",
            "",
            None,
            "acl keyword 'path_end' : no pattern to match against were provided, so this ACL will never match. "
            "If this is what you intended, please add '--' to get rid of this warning.",
        ),
        ("error", "/etc/haproxy/haproxy.cfg", 10, "'server b/s' : unknown keyword 'chekc'"),
        (
            "warning",
            "",
            None,
            "missing timeouts for backend 'b'. While not properly invalid, you will certainly encounter "
            "various problems",
        ),
        ("error", "/usr/local/sbin/x", None, '3: Syntax error: "fi" unexpected'),
    ]


root = pytest.mark.skipif(os.geteuid() != 0, reason="HAProxy's chroot and /run are root's")


def lua_here(found):
    """With the Lua file of this tree, where the host is said to have it already."""
    lua = data_dir("templates") / "haproxy-sessions.lua"
    return replace(found, rendered=found.rendered.replace(LUA_FILE, str(lua)))


def folders():
    return sorted(path.name for path in Path("/run").glob("fleet-check.*"))


@root
def test_haproxy_accepts_the_shipped_configuration_with_files_not_deployed_yet(tmp_path):
    before = folders()
    found = one(tmp_path, deployed=None, **{**BARE, "package": facts()["haproxy.package"]})
    assert LUA_FILE in found.rendered
    verdict = check(found, LocalRemote("lb-01"))
    assert verdict.error is None
    assert verdict.accepted, verdict.messages
    assert verdict.hash == config_hash(text())
    assert folders() == before, "the folder is gone"


@root
def test_haproxy_refuses_a_users_template_at_its_line(tmp_path):
    (tmp_path / "templates").mkdir()
    shipped = (data_dir("templates") / "haproxy.cfg.j2").read_text()
    mine = tmp_path / "templates" / "haproxy.cfg.j2"
    mine.write_text(shipped + "\nbackend spoiled\n  balance nonsense\n  server s 127.0.0.1:1 chekc\n")
    book = tmp_path / "provision.yml"
    book.write_bytes((data_dir("playbooks") / "provision.yml").read_bytes())
    (task,) = take(tmp_path, book=book).tasks
    found = planned(task, Facts({**facts(), LB_FILE: Answer(1)}), FLEET)
    found = lua_here(found)
    before = folders()
    verdict = check(found, LocalRemote("lb-01"))
    assert not verdict.accepted
    errors = [message for message in verdict.messages if message.level == "error"]
    lines = found.rendered.splitlines()
    assert [(lines[m.line - 1].strip(), m.text) for m in errors] == [
        ("balance nonsense", "balance nonsense"),
        ("server s 127.0.0.1:1 chekc", "server s 127.0.0.1:1 chekc"),
    ]
    assert {m.file for m in errors} == {CONFIG_FILE}
    written = len(mine.read_text().splitlines())
    assert [(m.template.file, m.template.line) for m in errors] == [
        (str(mine), written - 1),
        (str(mine), written),
    ]
    assert folders() == before


@root
def test_a_word_of_a_newer_haproxy_is_named_with_its_version(tmp_path):
    found = lua_here(one(tmp_path))
    spoiled = found.rendered + "\nfrontend spoiled\n  bind unix@/x\n  no-such-word ktls\n"
    verdict = check(replace(found, rendered=spoiled), LocalRemote("lb-01"))
    (error,) = [message for message in verdict.messages if message.level == "error"]
    assert "no-such-word" in error.message
    assert error.message.endswith("(ktls came with HAProxy 3.3)")


@root
def test_a_gateway_is_checked_before_its_certificate_and_keys_are_there(tmp_path):
    ca = trustme.CA()
    issued = ca.issue_cert("lb.example")
    chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
    (tmp_path / "tls.pem").write_bytes(chain + issued.private_key_pem.bytes())
    gateway = {"certificate": str(tmp_path / "tls.pem"), "keys": True, "address_jobs": "60/minute"}
    (task,) = take(tmp_path, extra={"gateway": gateway}).tasks
    asked = {probe.key: Answer(0, b"absent\n") for probe in task.probes()}
    known = {**asked, **facts(), LB_FILE: Answer(1), KEYS_PROBE.key: Answer(0, b"file absent\ndown\n")}
    found = planned(task, Facts(known), FLEET)
    assert found.error is None
    assert (CERTIFICATE_FILE in found.rendered, KEYS_FILE in found.rendered) == (True, True)
    verdict = check(lua_here(found), LocalRemote("lb-01"))
    assert verdict.accepted, verdict.messages


@root
def test_a_script_that_sh_cannot_read_is_an_error(tmp_path):
    found = one(tmp_path, script=Answer(0, b"absent\n"))
    (change,) = found.changes
    (upload,) = found.uploads
    spoiled = replace(upload, content=upload.content + b"\nif true; then fi\n")
    found = replace(found, changes=(replace(change, steps=(spoiled,)),))
    found = lua_here(found)
    verdict = check(found, LocalRemote("lb-01"))
    assert not verdict.accepted
    assert [(m.level, m.file) for m in verdict.messages] == [("error", upload.path)]


def test_without_haproxy_there_is_nobody_to_ask(tmp_path):
    verdict = check(one(tmp_path, deployed=None, **BARE), LocalRemote("lb-01"))
    assert not verdict.accepted
    assert "not installed" in verdict.error.message


# nginx -t --------------------------------------------------------------------------------------------------

NGINX_SAID = """\
nginx: [warn] conflicting server name "x" on 0.0.0.0:80, ignored
2026/11/23 16:02:43 [emerg] 4850#4850: unknown directive "foo" in /etc/nginx/conf.d/fleet.conf:224
nginx: [emerg] unknown directive "foo" in /etc/nginx/conf.d/fleet.conf:224
nginx: configuration file /etc/nginx/nginx.conf test failed
"""


def test_nginxs_words_become_messages_with_places():
    assert [(m.level, m.message, m.file, m.line) for m in ask_nginx.parse_messages(NGINX_SAID)] == [
        ("warning", 'conflicting server name "x" on 0.0.0.0:80, ignored', "", None),
        ("error", 'unknown directive "foo"', "/etc/nginx/conf.d/fleet.conf", 224),
    ]


def nginx(folder: Path, args: str = "{}", **more):
    """The nginx module's plan for lb-01; `more` as in the module's own tests."""
    (folder / "nginx.yml").write_text(f"- hosts: balancer\n  tasks:\n    - nginx: {args}\n")
    (task,) = take(folder, book=folder / "nginx.yml").tasks
    site = nginx_world.text().encode()
    return planned(task, Facts({**nginx_world.facts(**more), f"lb.file:{SITE_FILE}": Answer(0, site)}), FLEET)


def test_nginx_is_compared_as_haproxy_is(tmp_path):
    right = nginx(tmp_path)
    assert (right.rendered, right.changes) == (nginx_world.text(), ())
    assert not difference(right).any
    other = difference(nginx(tmp_path, runtime=nginx_world.running("0123456789abcdef")))
    assert other.any
    assert other.remarks == (f"nginx runs 0123456789abcdef, not the {right.hash} of {SITE_FILE}",)


@root
@pytest.mark.parametrize("add", ["", "\nserver { foo bar; }\n"], ids=["right", "spoiled"])
def test_nginx_itself_is_asked(tmp_path, add):
    before = folders()
    found = nginx(tmp_path, "{port: 48080, status_port: 48404}", main=Answer(0, b"absent\n"))
    found = replace(found, rendered=found.rendered + add)
    verdict = check(found, LocalRemote("lb-01"))
    assert verdict.error is None
    assert verdict.accepted == (not add), verdict.messages
    errors = [(m.message, m.file, m.text) for m in verdict.messages if m.level == "error"]
    assert errors == ([('unknown directive "foo"', SITE_FILE, "server { foo bar; }")] if add else [])
    assert folders() == before


# push ------------------------------------------------------------------------------------------------------


@pytest.fixture
def fleet(tmp_path, monkeypatch):
    return Fleet(tmp_path, monkeypatch)


@pytest.fixture
def small(fleet, monkeypatch):
    """Two balancers whose module is one of the engine's small test modules, on this machine."""
    for name in SMALL:
        here = {"path": f"{fleet.folder}/none", "waiting": f"{fleet.folder}/new"}
        monkeypatch.setitem(SOFTWARE, name, replace(SOFTWARE["haproxy"], **here))

    def go(tasks: str, **options):
        (fleet.folder / "play.yml").write_text(f"- name: LB\n  hosts: balancer\n  tasks:\n{tasks}")
        hosts = "all: {children: {gpu: {hosts: {g: {}}}, balancer: {hosts: {a: {}, b: {}}}}}\n"
        (fleet.folder / "hosts.yml").write_text(hosts)
        inventory = load(fleet.folder / "hosts.yml")
        wish = RunOptions(**options)
        book = load_playbook(fleet.folder / "play.yml", SMALL)
        work = balancer_work(book, inventory, wish)
        seen = survey(work, inventory, fleet.open)
        assert isinstance(seen, Survey)
        return push(work, inventory, fleet.open, fleet.events.append, wish, seen)

    return go


def line(fleet, more=""):
    return f"    - line: {{path: '{fleet.folder}/{{{{ inventory_hostname }}}}', line: x{more}}}\n"


def test_a_push_goes_one_after_another_and_a_second_changes_nothing(small, fleet):
    first = small(line(fleet))
    assert [(o.host, o.state) for o in first.outcomes] == [("a", "changed"), ("b", "changed")]
    assert [(o.host, o.state) for o in small(line(fleet)).outcomes] == [
        ("a", "unchanged"),
        ("b", "unchanged"),
    ]


def test_the_first_failure_leaves_the_others_untouched(small, fleet):
    done = small(line(fleet, ", broken: true"))
    assert [(o.host, o.state) for o in done.outcomes] == [("a", "failed"), ("b", "untouched")]
    assert isinstance(done.outcomes[0].error, TaskError)
    assert not fleet.runners["b"].steps
    assert (int(done.result.exit_code), done.result.interrupted) == (1, False)


def test_a_balancer_that_is_away_does_not_stop_the_others(small, fleet):
    fleet.dead.add("a")
    done = small(line(fleet))
    assert [(o.host, o.state) for o in done.outcomes] == [("a", "unreachable"), ("b", "changed")]
    assert int(done.result.exit_code) == 3


def test_check_plans_all_and_touches_nothing(small, fleet):
    done = small("    - fail: {}\n", check=True)
    assert [o.state for o in done.outcomes] == ["changed", "changed"]
    assert not any(runner.steps for runner in fleet.runners.values())


def test_witnesses_are_asked_and_never_worked_on(fleet):
    (fleet.folder / "hosts.yml").write_text("all: {children: {gpu: {hosts: {a: {}, b: {}}}}}\n")
    (fleet.folder / "play.yml").write_text(f"- hosts: gpu\n  tasks:\n{line(fleet)}")
    inventory, wish = load(fleet.folder / "hosts.yml"), RunOptions()
    (item,) = prepare(load_playbook(fleet.folder / "play.yml", SMALL), inventory, wish)
    only_a = [type(item)(item.play, {"a": item.tasks["a"]}, item.handlers)]
    result = run(only_a, inventory, fleet.open, fleet.events.append, wish, witnesses={"b": item.tasks["b"]})
    assert {name: len(host.tasks) for name, host in result.hosts.items()} == {"a": 1, "b": 0}
    assert fleet.remotes["b"].exchanges == 1
    assert not (fleet.folder / "b").exists()


# the command -----------------------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path):
    (tmp_path / "inventories").mkdir()
    (tmp_path / "inventories" / "one.yml").write_text(
        re.sub(r"ansible_host: [0-9.]+", "ansible_host: 127.0.0.1, ansible_port: 9", HOSTS)
    )
    return tmp_path


@pytest.mark.parametrize("verb", ["show", "diff", "check", "push"])
def test_an_unreachable_balancer_is_exit_code_3_and_a_document(project, verb):
    done = command(project, "lb", verb, "--json")
    assert done.returncode == 3, done.stdout + done.stderr
    document = json.loads(done.stdout)
    assert document["exit_code"] == 3
    assert "127.0.0.1" in document["balancers"]["lb-01"]["error"]["message"]
    assert set(document["troubles"]) == {"gpu-01", "gpu-02"}


def test_show_writes_nothing_but_configurations_to_stdout(project):
    for more in ([], ["--running"]):
        done = command(project, "lb", "show", *more)
        assert (done.returncode, done.stdout) == (3, "")
        assert "lb-01" in done.stderr


def test_a_limit_without_a_balancer_is_refused(project):
    done = command(project, "lb", "diff", "--limit", "gpu-01")
    assert done.returncode == 2
    assert "no host among 'gpu-01' has a balancer task" in done.stderr


def test_help_says_what_each_command_is_for(project):
    done = command(project, "lb", "--help")
    assert done.returncode == 0
    for verb in ("show", "diff", "check", "push"):
        assert f"  {verb} " in done.stdout
