"""`fleet image` as a user meets it: what it refuses, and what its tables say."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fleet.cli.main import app
from fleet.console.image import PullView, plan_json, show_listing, show_plan, show_pruned
from fleet.data import data_dir
from fleet.engine.run import RunOptions, prepare
from fleet.errors import InputError, TaskError
from fleet.images.layers import Held
from fleet.images.listing import Listing, Row
from fleet.images.manifest import Blob
from fleet.images.plan import HostPlan, PullPlan
from fleet.images.prune import Pruned
from fleet.inventory import load
from fleet.model.host import Host
from fleet.model.problem import Problem
from fleet.modules.registry import MODULES
from fleet.playbook.load import load_playbook

APP = "registry.example:5000/app"
D = "sha256:" + "1" * 64


@pytest.fixture
def project(tmp_path: Path, monkeypatch) -> Path:
    (tmp_path / "fleet.yml").write_text("gpu:\n  hosts:\n    gpu-01: {ansible_host: 127.0.0.1}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLEET_INVENTORY", str(tmp_path / "fleet.yml"))
    return tmp_path


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["list"], "`image` in the inventory is none"),
        (["prune"], "`image` in the inventory is none"),
        (["pull", "app:v1", "--limit-rate", "20M", "--engine"], "no limit of rate"),
        (["pull", "app:v1", "--limit-rate", "fast"], "is no rate"),
        (["pull", "App:v1"], "small letters"),
        (["pull", "app:v1", "--digest", "abc"], "is not a digest"),
        (["list", "--limit", "nobody"], "nobody"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_any_host_is_asked(project, words, said):
    with pytest.raises(InputError, match=said):
        app(["image", *words], standalone_mode=False)


def row(host: str, tag: str, **more: Any) -> Row:
    return Row(host, f"sha256:{tag}", (f"{APP}:{tag}",), D, 30 * 10**9, **more)


def test_the_list_says_who_needs_an_image_and_who_lacks_it(capsys):
    rows = (row("gpu-01", "v2", used=("gpu-01-0",), wanted=True), row("gpu-01", "v1", kept=("0123abcd",)))
    show_listing(Listing(f"{APP}:v2", rows, (Problem("gpu-02", f"it lacks {APP}:v2", "`fleet image pull`"),)))
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["host", "tag", "digest", "on", "disk", "used", "by", "kept", "by", "release"]
    assert lines[2].split() == ["gpu-01", "v2", "111111111111", "30.0", "GB", "gpu-01-0", "-"]
    assert lines[3].split() == ["gpu-01", "v1", "111111111111", "30.0", "GB", "-", "0123abcd"]
    assert lines[5] == f"gpu-02: it lacks {APP}:v2  (`fleet image pull`)"


def plan() -> PullPlan:
    held = Held(3, (Blob(D, 8 * 10**9),), 10**10, 2 * 10**10, 9 * 10**10, True)
    hosts = {
        "gpu-01": HostPlan(Host("gpu-01"), "pull", "/x", held, None, 10**9),
        "gpu-02": HostPlan(Host("gpu-02"), "pull", "/x", held, None, 0, "gpu-01"),
        "gpu-03": HostPlan(Host("gpu-03"), "there"),
    }
    return PullPlan(
        f"{APP}:v2", D, 12 * 10**9, 9, hosts, {"gpu-04": TaskError("gpu-04: no room", remedy="prune")}
    )


def test_the_plan_shows_sizes_what_is_there_and_from_whom(capsys):
    show_plan(plan())
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert lines[0] == f"{APP}:v2 is 111111111111, 12.0 GB in 9 layers"
    one, two, three = (line.split() for line in lines[4:7])
    assert " ".join(one) == "gpu-01 from the registry, seeds 1 of its site 3 of 9 7.0 GB 20.0 GB 90.0 GB"
    assert " ".join(two) == "gpu-02 from gpu-01 3 of 9 8.0 GB 20.0 GB 90.0 GB"
    assert " ".join(three) == "gpu-03 has it - - - -"
    assert "gpu-04: no room" in said.err
    assert "prune" in said.err


def test_the_plan_as_json_has_bytes():
    found = json.loads(json.dumps(plan_json(plan())))
    assert found["hosts"]["gpu-02"] == {
        "needs": "pull",
        "seed": "gpu-01",
        "stored": 0,
        "layers_present": 3,
        "to_fetch": 8 * 10**9,
        "needed": 2 * 10**10,
        "free": 9 * 10**10,
    }
    assert found["failed"]["gpu-04"]["remedy"] == "prune"


def test_what_goes_and_what_stays_is_shown(capsys):
    gone = Pruned(
        "gpu-01", (row("gpu-01", "v1"),), (row("gpu-01", "v2", used=("gpu-01-0",)),), ("x",), "/s", 10**9
    )
    show_pruned({"gpu-01": gone}, {}, check=True)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[2][-2:] == ["would", "go"]
    assert lines[3] == ["gpu-01", "unfinished", "pulls", "-", "1.0", "GB", "would", "go"]
    assert lines[4][-3:] == ["runs", "on", "gpu-01-0"]
    show_pruned({"gpu-01": Pruned("gpu-01", (), ())}, {}, check=False)
    assert capsys.readouterr().out == "nothing to remove\n"


def test_a_pipe_gets_a_line_for_each_step(capsys):
    with PullView(quiet=False) as view:
        for done in (1, 2, 3):
            view("gpu-01", "fetching", done * 10**9, 30 * 10**9)
        view("gpu-01", "loading", 0, 0)
    assert capsys.readouterr().out == "gpu-01: fetching 30.0 GB\ngpu-01: loading\n"
    with PullView(quiet=True) as view:
        view("gpu-01", "fetching", 1, 2)
    assert capsys.readouterr() == ("", "")


def bound(tmp_path: Path, variables: str) -> dict[str, Any]:
    path = tmp_path / "i.yml"
    path.write_text(
        f"gpu:\n  vars: {{image: app:v1{variables}}}\n  hosts:\n    gpu-01: {{}}\nbalancer: {{}}\n"
    )
    inventory = load([path])
    book = load_playbook(data_dir("playbooks") / "provision.yml", MODULES)
    tasks = prepare(book, inventory, RunOptions())[0].tasks["gpu-01"]
    return {task.name: task.args for task in tasks if not task.skipped}


def test_weights_are_read_only_to_every_container_and_off_by_default(tmp_path):
    plain = bound(tmp_path, "")
    assert "Model weights" not in plain
    assert "Registry of the site's seed" not in plain
    assert plain["One container per GPU"].volumes == ()
    source = ", model_weights: {dest: /srv/models/x, sums: x.sha256, url: 'https://m.example/x'}"
    weights = bound(tmp_path, f"{source}, slot_volumes: ['/a:/b'], image_seed: true")
    assert weights["Model weights"].dest == "/srv/models/x"
    assert tuple(weights["One container per GPU"].volumes) == ("/a:/b", "/srv/models/x:/models:ro")
    assert "Registry of the site's seed" in weights


def test_bars_count_bytes_and_tell_how_it_ended(monkeypatch):
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=110, color_system=None)
    monkeypatch.setattr("fleet.console.image._console", lambda **_: console)
    with PullView(quiet=False) as view:
        view("gpu-01", "fetching", 0, 40_000_000_000)
        view("gpu-01", "fetching", 9_000_000_000, 40_000_000_000)
        view("gpu-01", "fetching", 10_000_000_000, 40_000_000_000)
        view("gpu-02", "loading", 0, 0)
        view("gpu-03", "fetching", 3, 9_000)
        view("gpu-03", "failed", 0, 0)
        view("gpu-02", "done", 1, 1)
    last = [line for line in out.getvalue().splitlines() if "gpu-0" in line][-3:]
    assert "10.0 GB of 40.0 GB, " in last[0]
    assert re.search(r"/s, .* left +fetching", last[0])
    assert re.fullmatch(r"\S*gpu-02 ━+ +done\s*", last[1])
    assert re.search(r"9 kB +failed", last[2])
