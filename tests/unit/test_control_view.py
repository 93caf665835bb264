"""What an operator reads during and after a drain, ready and weight."""

from __future__ import annotations

import io
from dataclasses import replace

from rich.console import Console

from fleet.balancer.stats import Admin, ServerState
from fleet.console.control import DrainView, ReadyView, WeightView, control_json
from fleet.control.model import BalancerReport, Drained, SlotDrain, Told
from fleet.errors import ExitCode, TaskError, UnreachableError
from fleet.model.problem import Problem

BUSY = SlotDrain("gpu-01-0", jobs=3, pages=11, at_start=3, seconds=1.2)
TOLD = BalancerReport("lb-01")
LOST = BalancerReport(
    "lb-02", False, UnreachableError("lb-02: no route to host", remedy="check that it is up")
)
SERVER = ServerState("work", "gpu-01-0", "UP", Admin.READY, 28, 28)


def pipe(width: int = 100) -> Console:
    return Console(file=io.StringIO(), width=width, highlight=False)


def said(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def drained(*slots: SlotDrain, **more) -> Drained:
    return Drained(slots, **{"balancers": (TOLD,), "deadline": 900.0, "seconds": 1.2, **more})


def result(*slots: SlotDrain, **more) -> str:
    console = pipe()
    DrainView(quiet=False, console=console).result(drained(*slots, **more), [slot.name for slot in slots])
    return said(console)


def test_a_pipe_gets_a_line_at_first_and_then_rarely():
    console = pipe()
    with DrainView(quiet=False, console=console) as view:
        for second in range(70):
            view((replace(BUSY, seconds=float(second), jobs=100 - second),))
        view((replace(BUSY, state="drained", jobs=0, seconds=71.0),))
    assert said(console).splitlines() == [
        "gpu-01-0: takes no new jobs; 100 jobs in flight, 11 open pages",
        "gpu-01-0: takes no new jobs; 70 jobs in flight, 11 open pages",
        "gpu-01-0: takes no new jobs; 40 jobs in flight, 11 open pages",
    ]


def test_a_terminal_sees_each_slot_live_and_no_trace_of_it_is_left():
    console = Console(file=io.StringIO(), width=100, force_terminal=True, highlight=False)
    with DrainView(quiet=False, console=console) as view:
        view((BUSY, SlotDrain("gpu-01-1", "drained", pages=2, seconds=0.6)))
        view._live.refresh()
    shown = said(console)
    for word in ("gpu-01-0", "draining", "gpu-01-1", "drained", "open pages"):
        assert word in shown
    assert shown.rstrip().endswith("\x1b[2K")


def test_of_many_slots_those_still_waited_for_are_shown():
    console = Console(file=io.StringIO(), width=100, force_terminal=True, highlight=False)
    many = [SlotDrain(f"gpu-{i:02}-0", "drained" if i else "draining", jobs=0 if i else 2) for i in range(40)]
    with DrainView(quiet=False, console=console) as view:
        view(many)
        view._live.refresh()
    shown = said(console)
    assert "gpu-00-0" in shown
    assert "gpu-17-0" not in shown
    assert "39 drained" in shown


def test_json_moves_all_else_away(capsys):
    view = DrainView(quiet=True)
    with view:
        view((BUSY,))
    view.result(drained(BUSY), ["gpu-01-0"])
    assert capsys.readouterr() == ("", "")


def test_how_a_drain_ended():
    assert result(replace(BUSY, state="drained", jobs=0)) == "gpu-01-0: drained after 1.2 s; 11 open pages\n"
    assert result(replace(BUSY, state="drained", jobs=0, pages=0, cut=1)) == (
        "gpu-01-0: drained after 1.2 s, cut 1 job\n"
    )
    left = result(replace(BUSY, state="in flight", jobs=1, pages=1, seconds=900.0))
    assert left.startswith("gpu-01-0: 1 job is still in flight after 15 min; 1 open page\n")
    assert "`fleet drain gpu-01-0 --deadline 0`" in left
    assert "`fleet ready gpu-01-0`" in left
    assert drained(replace(BUSY, state="in flight")).exit_code == ExitCode.HOST_FAILED
    gone = result(BUSY, interrupted=True)
    assert "stays drained until `fleet ready gpu-01-0`" in gone
    assert drained(BUSY, interrupted=True).exit_code == ExitCode.INTERRUPTED


def test_a_balancer_that_does_not_know_it_is_named_and_how_it_catches_up():
    text = result(replace(BUSY, state="drained"), balancers=(TOLD, LOST))
    assert "lb-02: was not told: no route to host\n  try: check that it is up\n" in text
    assert "  lb-01 was told; once lb-02 is back, run `fleet drain gpu-01-0` again\n" in text
    text = result(BUSY, balancers=(replace(LOST, error=TaskError("lb-02: HAProxy does not answer")),))
    assert "lb-02: HAProxy does not answer\n  once lb-02 is back" in text
    text = result(BUSY, balancers=(TOLD, replace(LOST, told=True)))
    assert "lb-02: was told, then lost: no route" in text
    assert "what it still has in flight is not known; once lb-02 is back, run" in text
    text = result(BUSY, balancers=(BalancerReport("lb-01", True, None, ("gpu-01-0",), ("gpu-01-1",), 2),))
    assert "lb-01: has no server for gpu-01-0\n  try: run `fleet provision`" in text
    assert "lb-01: has gpu-01-1 in maintenance" in text
    assert "nothing is known of 2 older HAProxy processes" in text


def told(*servers: ServerState, **more) -> Told:
    by_balancer = {f"lb-0{number}": server for number, server in enumerate(servers, 1)}
    return Told(
        ("gpu-01-0",),
        **{
            "before": {"gpu-01-0": by_balancer},
            "servers": {"gpu-01-0": by_balancer},
            "balancers": (TOLD,),
            **more,
        },
    )


def test_weights_show_a_drained_slot_that_does_not_answer_as_both():
    console = pipe()
    dead = replace(SERVER, status="DOWN", admin=Admin.DRAIN)
    shown = told(dead, replace(SERVER, status="DOWN"), SERVER)
    WeightView(quiet=False, console=console).result(shown, ["gpu-01-0"])
    assert [line.split("28")[-1].strip() for line in said(console).splitlines() if "lb-0" in line] == [
        "drain, down",
        "down",
        "ready",
    ]
    servers = shown.as_json()["slots"][0]["servers"]
    assert [(each["state"], each["down"]) for each in servers] == [
        ("drain", True),
        ("down", True),
        ("ready", False),
    ]


def test_ready_says_where_and_what_is_wrong():
    console = pipe()
    ReadyView(quiet=False, console=console).result(told(SERVER, SERVER, wanted=Admin.READY), ["gpu-01-0"])
    assert said(console) == "gpu-01-0: ready on lb-01, lb-02, weight 28\n"
    console = pipe()
    wrong = told(SERVER, problems=(Problem("gpu-01-0", "it is down", "look"),))
    ReadyView(quiet=False, console=console).result(wrong, ["gpu-01-0"])
    assert said(console) == "gpu-01-0: it is down\n  try: look\n"
    assert wrong.exit_code == ExitCode.HOST_FAILED


def test_a_weight_is_told_with_how_to_keep_it():
    before, after = {"lb-01": SERVER}, {"lb-01": replace(SERVER, weight=14)}
    console = pipe()
    change = told(SERVER, before={"gpu-01-0": before}, servers={"gpu-01-0": after}, wanted=14)
    WeightView(quiet=False, console=console).result(change, ["gpu-01-0"])
    lines = said(console).splitlines()
    assert lines[0] == "gpu-01-0: weight 28 -> 14 on lb-01"
    assert "`fleet provision`" in lines[1]
    assert "`weight: 14`" in lines[2]
    console = pipe()
    none = told(SERVER, servers={"gpu-01-0": {"lb-01": replace(SERVER, weight=0)}}, wanted=0)
    WeightView(quiet=False, console=console).result(none, ["gpu-01-0"])
    assert "`weight: 0`" not in said(console), "an inventory takes none"
    assert "`fleet drain`" in said(console)
    console = pipe()
    WeightView(quiet=False, console=console).result(told(SERVER, wanted=28), ["gpu-01-0"])
    assert said(console) == "gpu-01-0: weight is 28 already on lb-01\n"


def test_weights_are_a_table():
    console = pipe()
    WeightView(quiet=False, console=console).result(told(SERVER, replace(SERVER, weight=5)), ["all"])
    assert [line.split() for line in said(console).splitlines()[1:4]] == [
        ["slot", "balancer", "weight", "configured", "state"],
        ["gpu-01-0", "lb-01", "28", "28", "ready"],
        ["gpu-01-0", "lb-02", "5", "28", "ready"],
    ]


def test_the_document_has_the_balancers_errors():
    document = control_json(drained(BUSY, balancers=(TOLD, LOST)))
    first, second = document["balancers"]
    assert (first["told"], first["error"], second["told"]) == (True, None, False)
    assert second["error"]["message"] == "lb-02: no route to host"
    assert document["exit_code"] == ExitCode.UNREACHABLE
    assert control_json(told(SERVER))["slots"][0]["servers"][0]["takes_jobs"] is True
