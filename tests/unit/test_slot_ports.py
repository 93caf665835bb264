"""A slot's second port: green beside blue, and the balancer that follows, at once and over reloads."""

from __future__ import annotations

import http.server
import os
import subprocess
import threading
import urllib.request
from contextlib import contextmanager
from dataclasses import replace

import pytest

from fleet.balancer import deploy, runtime
from fleet.balancer.paths import CONFIG_FILE, PORTS_FILE, STATE_FILE
from fleet.balancer.stats import Admin, parse_balancer
from fleet.docker.probe import CONTAINERS_PROBE
from fleet.errors import InputError
from fleet.gpu.container import ContainerSpec, create_body, labels_for, release_of
from fleet.gpu.probe import GPU_PROBE
from fleet.gpu.slots import ports_of, slots_of
from fleet.model.facts import Answer, Facts
from fleet.model.host import Host
from fleet.model.slot import Slot
from fleet.modules._slots import balanced_slots, moved
from fleet.modules.base import Context
from tests.unit.gpu_world import DIGEST, HOST, IMAGE, containers, gpu_line, inspected, slot
from tests.unit.haproxy_world import free_port, running, web_server

SPEC = ContainerSpec(IMAGE)
LB = Host("lb-01", {"ansible_host": "10.0.0.9"}, ("balancer",))
SECOND = 7876


def beside(index=0, **changed):
    """A container of ours on its slot's second port."""
    return on_port(slot(index), slot(index).port + 16, **changed)


def on_port(place, port, **changed):
    found = inspected(SPEC, place, **changed)
    body = create_body(SPEC, place, DIGEST, port)
    found["Config"]["Labels"] = body["Labels"]
    found["HostConfig"]["PortBindings"] = body["HostConfig"]["PortBindings"]
    return found


# -- the two ports ---------------------------------------------------------------------------------------------


def gpus(count, last=None):
    return Facts({GPU_PROBE.key: Answer(0, "".join(gpu_line(i) for i in last or range(count)).encode())})


def test_a_slot_has_a_second_port_sixteen_above_the_usual():
    first, second = slots_of(HOST, gpus(2)) or ()
    assert (ports_of(HOST, first), ports_of(HOST, second)) == ((7860, 7876), (7861, 7877))


def test_how_far_above_is_a_variable():
    host = Host("gpu-01", {"slot_port_base": 8000, "slot_port_beside": "100"})
    (only,) = slots_of(host, gpus(1)) or ()
    assert ports_of(host, only) == (8000, 8100)


@pytest.mark.parametrize("value", ["some", 0, 65536, True, None, 1.5, -16])
def test_what_is_no_distance_of_ports_is_refused(value):
    with pytest.raises(InputError, match="slot_port_beside"):
        slots_of(Host("a", {"slot_port_beside": value}), gpus(1))


def test_the_second_ports_must_not_run_out_either():
    with pytest.raises(InputError, match=r"slot_port_beside 16 leave no second ports.*65537"):
        slots_of(Host("a", {"slot_port_base": 65520}), gpus(2))


def test_one_gpus_second_port_must_not_be_another_ones_usual_port():
    assert len(slots_of(HOST, gpus(16)) or ()) == 16
    with pytest.raises(InputError, match=r"slot_port_beside 16 .* GPU 16") as refused:
        slots_of(HOST, gpus(17))
    assert "at least 17" in refused.value.remedy
    assert len(slots_of(replace(HOST, vars={**HOST.vars, "slot_port_beside": 17}), gpus(17)) or ()) == 17


# -- the container ---------------------------------------------------------------------------------------------


def test_a_container_beside_publishes_the_second_port_and_says_so():
    body = create_body(SPEC, slot(0), DIGEST, SECOND)
    assert body["HostConfig"]["PortBindings"] == {"7860/tcp": [{"HostIp": "0.0.0.0", "HostPort": "7876"}]}
    assert body["Labels"] == {**labels_for(SPEC, slot(0), DIGEST), "fleet.port": "7876"}
    assert body["Labels"]["fleet.release"] == release_of(SPEC, DIGEST)


def test_a_container_on_the_usual_port_is_as_it_ever_was():
    assert create_body(SPEC, slot(0), DIGEST, 7860) == create_body(SPEC, slot(0), DIGEST)
    assert "fleet.port" not in create_body(SPEC, slot(0), DIGEST)["Labels"]


# -- what the balancer's configuration has ---------------------------------------------------------------------


def ports(found=None, deployed=(), host=HOST):
    """The ports rendered for the two slots of gpu-01, with these containers there; None: nobody asked."""
    facts = {GPU_PROBE.key: Answer(0, (gpu_line(0) + gpu_line(1)).encode())}
    if found is not None:
        facts[CONTAINERS_PROBE.key] = found if isinstance(found, Answer) else containers(*found)
    context = Context(LB, {"gpu-01": host, "lb-01": LB}, {"gpu-01": Facts(facts)})
    servers = [deploy.DeployedServer(f"gpu-01-{i}", "10.0.0.1", port, 10) for i, port in enumerate(deployed)]
    return [one.port for one in balanced_slots("gpu", servers, context)[0]]


def test_a_slot_is_reached_where_its_container_runs():
    assert ports([beside(0), inspected(SPEC, slot(1))]) == [7876, 7861]
    assert ports([beside(0), inspected(SPEC, slot(1))], (7860, 7877)) == [7876, 7861]


@pytest.mark.parametrize("found", [None, Answer(7), []])
def test_a_slots_port_stays_as_deployed_where_nobody_knows_better(found):
    assert ports(found, (7876, 7861)) == [7876, 7861]
    assert ports(found) == [7860, 7861]


def test_only_one_of_the_slots_own_ports_stays():
    moved_host = replace(HOST, vars={**HOST.vars, "slot_port_base": 8000})
    assert ports(None, (7876, 7861), moved_host) == [8000, 8001]


@pytest.mark.parametrize("deployed", [(7860, 7861), (7876, 7861)])
def test_while_both_ports_are_served_the_deployed_one_stays(deployed):
    both = [inspected(SPEC, slot(0)), beside(0, name="fleet-gpu-01-0.green")]
    assert ports(both, deployed) == list(deployed)


@pytest.mark.parametrize(
    "found",
    [
        beside(0, state="exited"),
        beside(1),
        on_port(slot(0), 9000),
    ],
)
def test_what_does_not_run_or_is_elsewhere_moves_no_slot(found):
    assert ports([found])[0] == 7860


# -- a balancer that was told another port than its configuration and the container have -------------------------


def moves(found, deployed, now):
    facts = {GPU_PROBE.key: Answer(0, gpu_line(0).encode()), CONTAINERS_PROBE.key: containers(*found)}
    context = Context(LB, {"gpu-01": HOST, "lb-01": LB}, {"gpu-01": Facts(facts)})
    head = "be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight"
    said = (
        f"Version: 2.6.12\n\n1\n# {head}\n3 work 1 gpu-01-0 10.0.0.1 2 0 10 10\n\n"
        f"# pxname,svname,status,addr,\nwork,gpu-01-0,UP,10.0.0.1:{now},\n\n"
    )
    servers = [deploy.DeployedServer("gpu-01-0", "10.0.0.1", deployed, 10)]
    return list(moved("gpu", servers, parse_balancer(Answer(0, said.encode())), context))


def test_a_balancer_that_sends_jobs_where_nothing_runs_is_told():
    (change,) = moves([inspected(SPEC, slot(0))], 7860, SECOND)
    assert change.summary == "send gpu-01-0 to port 7860, where its container runs"
    assert change.diff == "gpu-01-0: port 7876 -> 7860\n"
    assert change.steps == (runtime.set_endpoint("gpu-01-0", "10.0.0.1", 7860),)


@pytest.mark.parametrize(
    ("found", "deployed", "now"),
    [
        ([inspected(SPEC, slot(0))], 7860, 7860),
        ([beside(0)], 7860, SECOND),  # the new configuration brings it
        ([beside(0)], 7860, 7860),
        ([inspected(SPEC, slot(0), state="exited")], 7860, SECOND),
        ([inspected(SPEC, slot(0)), beside(0, name="fleet-gpu-01-0.green")], 7860, SECOND),
        ([], 7860, SECOND),
    ],
)
def test_a_balancer_is_told_nothing_where_it_is_right_or_nobody_knows_better(found, deployed, now):
    assert moves(found, deployed, now) == []


# -- a running HAProxy ------------------------------------------------------------------------------------------


@contextmanager
def named(name, begun=None, go=None):
    """A server that answers with its name, to /slow only once `go` is set; gives its port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path == "/slow":
                begun.set()
                go.wait(20)
            self.send_response(200)
            self.send_header("Content-Length", str(len(name)))
            self.end_headers()
            self.wfile.write(name.encode())

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def blue():
    with named("blue") as port:
        yield port


@pytest.fixture
def green():
    with named("green") as port:
        yield port


@pytest.fixture
def two(blue):
    return [Slot("gpu-01", i, f"GPU-{i}", "127.0.0.1", blue, weight=100) for i in range(2)]


@pytest.fixture
def balancer(tmp_path, two):
    with running(tmp_path, two, check_interval=1, check_retry=1) as balancer:
        yield balancer


def tell(balancer, step):
    """Run a step's script for this folder's HAProxy, with the host's files in the folder too."""
    saves = balancer.folder / "save-state"
    if not saves.exists():
        saves.write_text(deploy.save_state_script(balancer.settings, str(balancer.config)))
        saves.chmod(0o755)
    script = (
        step.argv[2].replace(PORTS_FILE, str(told_ports(balancer))).replace(deploy.SAVE_STATE, str(saves))
    )
    return balancer.sh(script, step.stdin)


def told_ports(balancer):
    return balancer.folder / "fleet-ports"


def addresses(balancer, name="gpu-01-0"):
    """The address of a slot in every backend that has it."""
    return {server.backend: server.address for server in balancer.look().servers if server.name == name}


def everywhere(port):
    return dict.fromkeys(("work", "tabs", "files"), f"127.0.0.1:{port}")


def get(balancer, path="/", slot_name="gpu-01-0"):
    request = urllib.request.Request(
        f"http://127.0.0.1:{balancer.port}{path}", headers={"Cookie": f"FLEET={slot_name}"}
    )
    with urllib.request.urlopen(request, timeout=5) as response:
        return response.read().decode()


def reload(balancer):
    balancer.save_state()
    balancer.reload()


def test_jobs_and_open_pages_go_to_the_other_port_at_once_and_nothing_else_does(balancer, blue, green):
    assert get(balancer) == "blue"
    done = tell(balancer, runtime.set_endpoint("gpu-01-0", "127.0.0.1", green))
    assert (done.returncode, done.stderr) == (0, b"")
    assert addresses(balancer) == everywhere(green)
    assert addresses(balancer, "gpu-01-1") == everywhere(blue)
    assert get(balancer) == "green"
    assert get(balancer, slot_name="gpu-01-1") == "blue"
    tell(balancer, runtime.drain("gpu-01-1"))
    assert get(balancer, "/gradio_api/heartbeat/abc") == "green"
    assert told_ports(balancer).read_text() == f"gpu-01-0 {green}\n"


def test_what_is_under_way_ends_where_it_is(tmp_path, green):
    begun, go, answers = threading.Event(), threading.Event(), []
    with named("blue", begun, go) as blue:
        slots = [Slot("gpu-01", 0, "", "127.0.0.1", blue, weight=100)]
        with running(tmp_path, slots, check_interval=1, check_retry=1) as balancer:
            job = threading.Thread(target=lambda: answers.append(get(balancer, "/slow")))
            job.start()
            assert begun.wait(10)
            tell(balancer, runtime.set_endpoint("gpu-01-0", "127.0.0.1", green))
            assert get(balancer) == "green"
            go.set()
            job.join(20)
    assert answers == ["blue"]


def test_its_health_checks_go_there_too(balancer, green):
    tell(balancer, runtime.set_endpoint("gpu-01-0", "127.0.0.1", free_port()))
    balancer.until(lambda: balancer.look().slot("gpu-01-0").status == "DOWN", 15)
    tell(balancer, runtime.set_endpoint("gpu-01-0", "127.0.0.1", green))
    balancer.until(lambda: balancer.look().slot("gpu-01-0").status == "UP", 15)


def test_a_reload_keeps_the_port_for_jobs_and_open_pages_and_what_else_was_decided(balancer, blue, green):
    tell(balancer, runtime.set_weight("gpu-01-0", 7))
    tell(balancer, runtime.set_endpoint("gpu-01-0", "127.0.0.1", green))
    tell(balancer, runtime.drain("gpu-01-1"))
    for _ in range(2):
        reload(balancer)
        assert addresses(balancer) == everywhere(green)
        assert addresses(balancer, "gpu-01-1") == everywhere(blue)
        first, second = balancer.look().slots()
        assert (first.weight, first.admin, second.admin) == (7, Admin.READY, Admin.DRAIN)
        assert get(balancer) == "green"
        assert get(balancer, "/gradio_api/heartbeat/abc") == "green"


def test_what_a_reload_made_of_a_moved_slot_still_follows_its_checks_and_drains(balancer, green):
    tell(balancer, runtime.set_endpoint("gpu-01-0", "127.0.0.1", green))
    tell(balancer, runtime.drain("gpu-01-0"))
    reload(balancer)
    shadows = [s for s in balancer.look().servers if s.name == "gpu-01-0"]
    assert {s.admin for s in shadows} == {Admin.DRAIN}
    tell(balancer, runtime.ready("gpu-01-0"))
    assert {(s.admin, s.status) for s in balancer.look().servers if s.name == "gpu-01-0"} == {
        (Admin.READY, "UP")
    }


def test_back_on_the_configurations_port_nothing_is_remembered(balancer, blue, green):
    tell(balancer, runtime.set_endpoint("gpu-01-0", "127.0.0.1", green))
    tell(balancer, runtime.set_endpoint("gpu-01-1", "127.0.0.1", green))
    done = tell(balancer, runtime.set_endpoint("gpu-01-0", "127.0.0.1", blue))
    assert (done.returncode, done.stderr) == (0, b"")
    assert told_ports(balancer).read_text() == f"gpu-01-1 {green}\n"
    tell(balancer, runtime.set_endpoint("gpu-01-1", "127.0.0.1", blue))
    assert not told_ports(balancer).exists()
    reload(balancer)
    assert (addresses(balancer), addresses(balancer, "gpu-01-1")) == (everywhere(blue), everywhere(blue))
    left = {path.name for path in balancer.folder.iterdir()}
    assert left == {"admin.sock", "haproxy.cfg", "log", "save-state", "servers.state"}


def test_a_configuration_with_the_same_port_ends_what_was_told(balancer, two, blue, green):
    tell(balancer, runtime.set_endpoint("gpu-01-0", "127.0.0.1", green))
    balancer.write([replace(two[0], port=green), two[1]])
    reload(balancer)
    assert not told_ports(balancer).exists()
    assert addresses(balancer) == everywhere(green)
    balancer.write(two)
    reload(balancer)
    assert addresses(balancer) == everywhere(blue)


def test_a_slot_that_left_the_configuration_is_forgotten(balancer, two, green):
    tell(balancer, runtime.set_endpoint("gpu-01-0", "127.0.0.1", green))
    balancer.write(two[1:])
    reload(balancer)
    assert not told_ports(balancer).exists()


def test_telling_the_same_twice_is_no_error(balancer, green):
    for _ in range(2):
        done = tell(balancer, runtime.set_endpoint("gpu-01-0", "127.0.0.1", green))
        assert (done.returncode, done.stderr) == (0, b"")
    assert told_ports(balancer).read_text() == f"gpu-01-0 {green}\n"


def test_a_host_known_by_a_name_keeps_the_address_haproxy_found_for_it(balancer, green):
    done = tell(balancer, runtime.set_endpoint("gpu-01-0", "gpu-01.example.com", green))
    assert (done.returncode, done.stderr) == (0, b"")
    assert addresses(balancer) == everywhere(green)


def test_a_slot_haproxy_does_not_have_fails_and_is_not_remembered(balancer):
    done = tell(balancer, runtime.set_endpoint("gpu-09-0", "127.0.0.1", 7876))
    assert done.returncode == 1
    assert b"gpu-09-0" in done.stderr
    assert b"no such server" in done.stderr
    assert not told_ports(balancer).exists()


def test_a_port_haproxy_does_not_take_fails_with_its_words(balancer, blue):
    step = runtime.set_endpoint("gpu-01-0", "127.0.0.1", 7876)
    done = tell(balancer, replace(step, stdin=step.stdin.replace(b"127.0.0.1", b"127.0.0.1.2")))
    assert done.returncode == 1
    assert b"127.0.0.1.2" in done.stderr
    assert not told_ports(balancer).exists()
    assert addresses(balancer) == everywhere(blue)


def test_a_balancer_whose_reloads_would_forget_the_port_is_not_told_it(balancer, blue, green):
    saves = balancer.folder / "save-state"
    saves.write_text("#!/bin/sh\n# of an older fleet\n")
    saves.chmod(0o755)
    done = tell(balancer, runtime.set_endpoint("gpu-01-0", "127.0.0.1", green))
    assert done.returncode == 1
    assert b"fleet provision" in done.stderr
    assert addresses(balancer) == everywhere(blue)


def test_without_affinity_only_the_working_servers_are_there_to_be_told(tmp_path, two, green):
    with running(tmp_path, two, affinity="none", check_interval=1, check_retry=1) as balancer:
        done = tell(balancer, runtime.set_endpoint("gpu-01-0", "127.0.0.1", green))
        assert (done.returncode, done.stderr) == (0, b"")
        reload(balancer)
        assert addresses(balancer) == {"work": f"127.0.0.1:{green}"}


@pytest.mark.parametrize("port", [0, 65536])
def test_only_ports_reach_the_socket(port):
    with pytest.raises(InputError):
        runtime.set_endpoint("gpu-01-0", "127.0.0.1", port)


def test_only_names_and_addresses_reach_the_socket():
    for server, address in (("a b", "10.0.0.1"), ("a", "10.0.0.1; disable server work/b"), ("a", "")):
        with pytest.raises(InputError):
            runtime.set_endpoint(server, address, 7876)


def test_an_ipv6_address_is_told_as_haproxy_writes_it():
    step = runtime.set_endpoint("gpu-01-0", "2001:0db8:0::1", 7876)
    assert step.stdin == b"gpu-01-0 2001:db8::1 7876\n"


# -- deployment -------------------------------------------------------------------------------------------------


def config(**slot_ports):
    lines = (
        f"  server {name.replace('_', '-')} 10.0.0.1:{port} weight 10 check"
        for name, port in slot_ports.items()
    )
    return (
        "backend tabs\n  server gpu-01-0 10.0.0.1:1 track work/gpu-01-0\n\nbackend work\n"
        + "\n".join(lines)
        + "\n"
    )


@pytest.fixture
def host(tmp_path):
    """A host whose HAProxy takes every configuration, or none where a file `refuses` lies there."""
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "systemctl").write_text(
        f'#!/bin/sh\n[ ! -e {tmp_path}/refuses ] || exit 1\necho "$@" >> {tmp_path}/asked\n'
    )
    (tools / "socat").write_text(
        f"#!/bin/sh\nread -r command\ncase $command in\n"
        f'  "show info") echo "Pid: $(wc -c < {tmp_path}/asked)" ;;\n'
        f"  *) echo FLEET_CONFIG=new ;;\nesac\n"
    )
    (tools / "journalctl").write_text("#!/bin/sh\n")
    (tools / "ss").write_text("#!/bin/sh\n")
    for tool in tools.iterdir():
        tool.chmod(0o755)
    (tmp_path / "asked").write_text("")
    return tmp_path


def switch(host, old, new, ports):
    """Deploy `new` in place of `old` where these ports were told; what is remembered then."""
    (host / "haproxy.cfg.new").write_text(new)
    if old is not None:
        (host / "haproxy.cfg").write_text(old)
    if ports is not None:
        (host / "fleet-ports").write_text(ports)
    *_, step = deploy.deploy("", "new")
    script = (
        step.argv[2].replace(CONFIG_FILE, f"{host}/haproxy.cfg").replace(PORTS_FILE, f"{host}/fleet-ports")
    )
    environment = {"PATH": f"{host}/bin:{os.environ['PATH']}"}
    done = subprocess.run(
        ["sh", "-c", script, *step.argv[3:]], capture_output=True, timeout=30, env=environment
    )
    assert done.returncode == (1 if (host / "refuses").exists() else 0), done.stderr
    told = host / "fleet-ports"
    assert sorted(path.name for path in host.glob("fleet-ports*")) == (
        ["fleet-ports"] if told.exists() else []
    )
    return told.read_text() if told.exists() else ""


TOLD = "gpu-01-0 7876\ngpu-01-1 7877\n"


def test_a_port_that_a_new_configuration_changes_is_that_configurations(host):
    new = config(gpu_01_0=8000, gpu_01_1=7861)
    assert switch(host, config(gpu_01_0=7860, gpu_01_1=7861), new, TOLD) == "gpu-01-1 7877\n"


def test_a_new_configuration_with_the_same_ports_leaves_what_was_told(host):
    old = config(gpu_01_0=7860, gpu_01_1=7861)
    assert switch(host, old, old + "# another line\n", TOLD) == TOLD


def test_a_first_configuration_begins_with_its_own_ports(host):
    assert switch(host, None, config(gpu_01_0=7860, gpu_01_1=7861), TOLD) == ""


def test_nothing_is_remembered_where_nothing_was_told(host):
    assert switch(host, config(gpu_01_0=7860), config(gpu_01_0=7861), None) == ""


def test_a_configuration_that_does_not_start_takes_back_what_it_changed(host):
    (host / "refuses").touch()
    old = config(gpu_01_0=7860, gpu_01_1=7861)
    assert switch(host, old, config(gpu_01_0=8000, gpu_01_1=8001), TOLD) == TOLD
    assert (host / "haproxy.cfg").read_text() == old


def test_the_file_of_ports_is_beside_the_state_file():
    assert os.path.dirname(PORTS_FILE) == os.path.dirname(STATE_FILE)


# -- admit ------------------------------------------------------------------------------------------------------


def test_a_server_whose_checks_failed_takes_jobs_at_once_with_its_weight(tmp_path):
    dead = [Slot("gpu-01", 0, "", "127.0.0.1", free_port(), weight=100)]
    # So seldom that no check can be what brings the server back.
    with (
        running(tmp_path, dead, check_interval=600, check_retry=1, fall=1) as balancer,
        named("green") as green,
    ):
        balancer.until(lambda: balancer.look().slot("gpu-01-0").status == "DOWN")
        tell(balancer, runtime.drain("gpu-01-0"))
        tell(balancer, runtime.set_endpoint("gpu-01-0", "127.0.0.1", green))
        assert not balancer.look().slot("gpu-01-0").up
        done = tell(balancer, runtime.admit({"gpu-01-0": 10}))
        assert (done.returncode, done.stderr) == (0, b"")
        server = balancer.look().slot("gpu-01-0")
        assert (server.status, server.admin, server.weight) == ("UP", Admin.READY, 10)
        assert server.takes_jobs
        assert get(balancer) == "green"
        assert {s.status for s in balancer.look().servers if s.name == "gpu-01-0"} == {"UP"}


def test_several_are_admitted_in_one_step_each_with_its_weight(balancer):
    tell(balancer, runtime.set_admins(["gpu-01-0", "gpu-01-1"], Admin.MAINT))
    assert tell(balancer, runtime.admit({"gpu-01-0": 10, "gpu-01-1": 50})).returncode == 0
    assert [(s.weight, s.takes_jobs) for s in balancer.look().slots()] == [(10, True), (50, True)]


def test_an_agents_word_does_not_keep_out_what_is_admitted(tmp_path, blue):
    with web_server() as agent:  # what it says is no agent's word, so only what HAProxy is told counts
        slots = [Slot("gpu-01", 0, "", "127.0.0.1", blue, weight=100)]
        with running(tmp_path, slots, check_interval=600, agent_port=agent, agent_interval=600) as balancer:
            balancer.ask("set server work/gpu-01-0 agent down")
            balancer.until(lambda: balancer.look().slot("gpu-01-0").status == "DOWN")
            done = tell(balancer, runtime.admit({"gpu-01-0": 50}))
            assert (done.returncode, done.stderr) == (0, b"")
            assert balancer.look().slot("gpu-01-0").takes_jobs


def test_what_cannot_be_admitted_fails_with_haproxys_words(balancer):
    done = tell(balancer, runtime.admit({"gpu-09-0": 50, "gpu-01-0": 50}))
    assert done.returncode == 1
    assert b"No such" in done.stderr
    assert balancer.look().slot("gpu-01-0").weight == 50


def test_weights_are_checked_before_anything_is_told():
    with pytest.raises(InputError):
        runtime.admit({"gpu-01-0": 257})
    assert runtime.admit({"a": 5}).stdin == (
        b"set weight work/a 5\nset server work/a health up\n"
        b"set server work/a agent up\nset server work/a state ready\n"
    )
