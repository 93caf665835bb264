"""Commands that change what balancers send where, while `fleet upgrade` works: a real sh and real HAProxy answer."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from fleet.balancer.at_work import ROLLOUT_PROBE, AtWork, parse_at_work
from fleet.balancer.holder import this_process
from fleet.balancer.rollouts import ROOT, Claim, take
from fleet.balancer.stats import Admin
from fleet.cli.main import app
from fleet.errors import ExitCode, UnreachableError
from fleet.model.facts import Answer
from fleet.model.slot import Slot
from fleet.rollout import journal
from fleet.rollout.at_work import images_needed
from fleet.rollout.model import Entry, Header
from fleet.rollout.world import LeaseError
from fleet.ssh.remote import Result as Said
from tests.local import LocalRemote, LocalRunner
from tests.unit.control_world import balancing, hosts
from tests.unit.haproxy_world import Balancer

FIRST, SECOND = "gpu-01-0", "gpu-01-1"
RESUME = "`fleet upgrade --resume`, or `fleet upgrade --abort`"
STEERING = (("ready", FIRST), ("drain", FIRST, "--no-wait"), ("weight", FIRST, "7"))


def claim(**more: object) -> Claim:
    told = {"holder": "ab", "by": "eve", "host": "desk", "command": "fleet upgrade app:v2", "pid": 4711}
    return Claim(**{**told, **more})  # type: ignore[arg-type]


def hold(root: Path, ttl: int = 30, who: Claim | None = None) -> None:
    said = LocalRemote("lb-01").run(
        (step := take(1, who or claim(), ttl, root=str(root))).argv, stdin=step.stdin
    )
    assert said.rc == 0, said.err


def write(root: Path, *steps: str) -> None:
    header = Header("20261125-1", "upgrade", "app:v2", "sha256:1", "eve@desk", 1.0, 10.0, 20, ((FIRST,),), ())
    lines = [journal.encode_header(header, 7)]
    lines += [journal.encode_entry(Entry(number, 2.0, step), 7) for number, step in enumerate(steps, 1)]
    folder = root / "20261125-1"
    folder.mkdir(parents=True)
    (folder / "journal").write_bytes(b"".join(line + b"\n" for line in lines))


def test_the_image_of_a_rollout_that_has_not_ended_is_needed(tmp_path: Path) -> None:
    write(tmp_path, "pulled", "draining")
    script = ROLLOUT_PROBE.script.replace(ROOT, str(tmp_path))
    said = LocalRemote("lb-01").run(("sh", "-c", script))
    seen = parse_at_work(Answer(said.rc, said.out))
    assert images_needed({"lb-01": seen, "lb-02": AtWork()}) == ("app:v2", "app@sha256:1")
    assert images_needed({"lb-02": AtWork()}) == ()
    assert images_needed({"lb-01": seen, "lb-02": AtWork(newest=seen.newest)}) == ()


def project(folder: Path, *balancers: str) -> None:
    (folder / "inventories").mkdir()
    names = "".join(f"        {name}: {{ansible_host: 127.0.0.1}}\n" for name in balancers)
    (folder / "inventories" / "one.yml").write_text(
        "all:\n  vars: {image: 'r.example/webui:v1', lb_port: 9, golden: {deadline: 0.1}}\n  children:\n"
        "    gpu: {hosts: {gpu-01: {ansible_host: 127.0.0.1}}}\n"
        f"    balancer:\n      hosts:\n{names}"
    )
    (folder / "playbooks").mkdir()
    (folder / "playbooks" / "provision.yml").write_text(
        "- hosts: gpu\n  tasks:\n    - command: {argv: [touch, " + str(folder / "touched") + "]}\n"
        "- hosts: balancer\n  tasks:\n    - command: {argv: ['true']}\n"
    )


def fleet(*words: str) -> Result:
    return CliRunner().invoke(app, words)


def refused(done: Result, *words: str) -> None:
    assert isinstance(done.exception, LeaseError), (done.exception, done.output)
    assert done.exception.exit_code == ExitCode.LEASE_HELD
    for word in ("eve on desk (process 4711)", "`fleet upgrade app:v2`", " UTC ", "lb-01", *words):
        assert word in done.exception.message + done.exception.remedy


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Balancer]:
    slots = [Slot("gpu-01", i, f"GPU-{i}", "127.0.0.1", 9, weight=100) for i in range(2)]
    with balancing(tmp_path_factory.mktemp("lb"), slots, check_interval=60) as balancer:
        yield balancer


@pytest.fixture
def steered(running: Balancer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Balancer:
    """A balancer to steer, alone in its project; nothing is drained and no rollout known."""
    shutil.rmtree(running.folder / "rollouts", ignore_errors=True)
    for slot in (FIRST, SECOND):
        running.ask(f"set server work/{slot} state ready; set weight work/{slot} 100")
    project(tmp_path, "lb-01")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fleet.engine.connect.opener", lambda *_: hosts(lb_01=running))
    return running


@pytest.mark.parametrize("words", STEERING)
def test_steering_is_refused_while_another_command_has_the_lease(
    steered: Balancer, words: tuple[str, ...]
) -> None:
    steered.ask(f"set server work/{SECOND} state drain")
    hold(steered.folder / "rollouts")
    before = [(server.admin, server.weight) for server in steered.look().slots()]
    refused(fleet(*words), f"fleet {words[0]}", "fleet status", "--force")
    assert [(server.admin, server.weight) for server in steered.look().slots()] == before


def test_force_steers_all_the_same(steered: Balancer) -> None:
    hold(steered.folder / "rollouts")
    for words in STEERING:
        done = fleet(*words, "--force")
        assert not isinstance(done.exception, LeaseError)
        assert "--resume" not in done.stderr
    assert (steered.look().slot(FIRST).admin, steered.look().slot(FIRST).weight) == (Admin.DRAIN, 7)


def test_weights_are_shown_whoever_has_the_lease(steered: Balancer) -> None:
    hold(steered.folder / "rollouts")
    assert fleet("weight", "all").exit_code == 0


def test_a_lease_without_a_journal_or_after_one_that_ended_counts(steered: Balancer) -> None:
    write(steered.folder / "rollouts", "pulled", "finished")
    hold(steered.folder / "rollouts")
    refused(fleet("drain", FIRST, "--no-wait"))


def test_a_lease_that_has_expired_or_whose_process_is_gone_holds_nobody_up(steered: Balancer) -> None:
    root = steered.folder / "rollouts"
    hold(root, -5)
    assert fleet("drain", FIRST, "--no-wait").exit_code == 0
    shutil.rmtree(root)
    here = this_process("eve", "fleet upgrade app:v2")
    gone = Claim(**{**vars(here), "started": here.started + 1})
    hold(root, 30, gone)
    assert fleet("drain", FIRST, "--no-wait").exit_code == 0
    assert steered.look().slot(FIRST).admin is Admin.DRAIN


def test_a_rollout_that_nobody_goes_on_with_is_one_line_on_stderr(steered: Balancer) -> None:
    write(steered.folder / "rollouts", "pulled", "draining")
    for words in STEERING:
        done = fleet(*words)
        assert not isinstance(done.exception, LeaseError)
        (line,) = [line for line in done.stderr.splitlines() if "20261125-1" in line]
        assert "upgrade 20261125-1 to app:v2, begun by eve@desk, has not ended" in line
        assert RESUME in line
        assert "20261125-1" not in done.stdout
    done = fleet("drain", FIRST, "--no-wait", "--json")
    assert "20261125-1" not in done.output
    assert json.loads(done.stdout)["slots"][0]["name"] == FIRST


def test_the_lease_costs_no_exchange_of_its_own(steered: Balancer, monkeypatch: pytest.MonkeyPatch) -> None:
    from fleet.control import open_balancers, select_slots
    from fleet.inventory import load

    opened: list[LocalRemote] = []

    def open_host(name: str) -> tuple[LocalRemote, LocalRunner]:
        remote, runner = hosts(lb_01=steered)(name)
        opened.append(remote)
        return remote, runner

    loaded = load([Path("inventories/one.yml")])
    with open_balancers(loaded, open_host, "fleet ready") as balancers:
        balancers.look()
        assert select_slots([FIRST], balancers.slots(), loaded) == (FIRST,)
        assert set(balancers.rollouts) == {"lb-01"}
    assert [remote.exchanges for remote in opened] == [1]


class Host(LocalRemote):
    """A host with rollouts of its own."""

    def __init__(self, name: str, root: Path) -> None:
        super().__init__(name)
        self._root = root

    def script(self, text: str, *, timeout: float) -> Said:
        return super().script(text.replace(ROOT, str(self._root)), timeout=timeout)


class Network:
    """A GPU host and two balancers, whose rollouts lie in folders of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.down: set[str] = set()
        self.tried: list[str] = []
        self.opened: list[Host] = []

    def root(self, name: str) -> Path:
        return self.folder / name

    def __call__(self, name: str) -> tuple[Host, LocalRunner]:
        self.tried.append(name)
        if name in self.down:
            raise UnreachableError(f"{name}: no route to host")
        self.opened.append(host := Host(name, self.root(name)))
        return host, LocalRunner(host)

    def touched(self) -> bool:
        return (self.folder / "touched").exists()


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Network:
    project(tmp_path, "lb-01", "lb-02")
    monkeypatch.chdir(tmp_path)
    made = Network(tmp_path)
    monkeypatch.setattr("fleet.engine.connect.opener", lambda *_: made)
    return made


@pytest.mark.parametrize("more", [(), ("--limit", "gpu-01"), ("--json",)])
def test_provision_touches_no_host_while_another_command_has_the_lease(
    network: Network, more: tuple[str, ...]
) -> None:
    hold(network.root("lb-01"))
    refused(fleet("provision", "--skip-preflight", *more), "`fleet provision`", "fleet status")
    assert not network.touched()
    assert "gpu-01" not in network.tried
    assert all(host.closed for host in network.opened)


def test_a_check_is_never_refused_and_asks_nothing_more(network: Network) -> None:
    hold(network.root("lb-01"))
    assert fleet("provision", "--skip-preflight", "--check", "--limit", "gpu-01").exit_code == 0
    assert network.tried == ["gpu-01"]
    assert not network.touched()


def test_a_playbook_of_ones_own_is_not_held_up(network: Network) -> None:
    hold(network.root("lb-01"))
    assert fleet("run", "playbooks/provision.yml", "--limit", "gpu-01").exit_code == 0
    assert network.tried == ["gpu-01"]
    assert network.touched()


def test_provision_looks_over_the_connections_of_the_run(network: Network) -> None:
    done = fleet("provision", "--skip-preflight", "--json")
    assert {host["status"] for host in json.loads(done.stdout)["hosts"].values()} == {"changed"}
    assert sorted(network.tried) == ["gpu-01", "lb-01", "lb-02"]
    assert network.touched()
    assert all(host.closed for host in network.opened)


def test_a_balancer_that_cannot_be_asked_refuses_nothing_and_is_not_named(network: Network) -> None:
    network.down = {"lb-01", "lb-02"}
    done = fleet("provision", "--skip-preflight", "--limit", "gpu-01")
    assert done.exit_code == 0
    assert "lb-0" not in done.output
    assert network.touched()


def test_one_of_two_balancers_is_enough_to_refuse(network: Network) -> None:
    network.down = {"lb-02"}
    hold(network.root("lb-01"))
    refused(fleet("provision", "--skip-preflight", "--limit", "gpu-01"))
    assert not network.touched()


def test_what_cannot_be_reached_is_tried_once_and_is_the_runs_to_tell(network: Network) -> None:
    network.down = {"lb-02"}
    done = fleet("provision", "--skip-preflight", "--json")
    assert done.exit_code == ExitCode.UNREACHABLE
    assert json.loads(done.stdout)["hosts"]["lb-02"]["status"] == "unreachable"
    assert network.tried.count("lb-02") == 1


def test_provision_names_a_rollout_that_nobody_goes_on_with(network: Network) -> None:
    for name in ("lb-01", "lb-02"):
        write(network.root(name), "pulled", "draining")
    done = fleet("provision", "--skip-preflight", "--limit", "gpu-01")
    assert done.exit_code == 0
    assert done.stderr.count(RESUME) == 1
    assert network.touched()
    assert "20261125-1" not in fleet("provision", "--skip-preflight", "--limit", "gpu-01", "--json").output


def test_a_push_is_refused_before_any_gpu_host_is_asked(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    (network.folder / "playbooks" / "provision.yml").unlink()  # the shipped one
    hold(network.root("lb-01"))
    refused(fleet("lb", "push", "--limit", "lb-02"), "`fleet lb push`")
    assert sorted(network.tried) == ["lb-01", "lb-02"]
    pushed = fleet("lb", "push", "--limit", "lb-02", "--check")
    assert not isinstance(pushed.exception, LeaseError)


def test_garbage_beside_a_lease_does_not_hide_it(network: Network) -> None:
    root = network.root("lb-01")
    (root / "20261125-1").mkdir(parents=True)
    (root / "20261125-1" / "journal").write_bytes(b"\xff garbage without an end")
    hold(root)
    refused(fleet("provision", "--skip-preflight"))
    (root / "lease").write_text("no lease\n")
    assert fleet("provision", "--skip-preflight", "--limit", "gpu-01").exit_code == 0


def test_the_age_of_a_lease_is_by_the_balancers_clock(network: Network) -> None:
    hold(network.root("lb-01"))
    since = time.strftime("%Y-%m-%d ", time.gmtime())
    refused(fleet("provision", "--skip-preflight"), since)
