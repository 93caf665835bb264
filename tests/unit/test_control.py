"""Drain, ready and weight on real HAProxy processes: what counts as in flight, when it ends, what is cut."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from fleet.balancer import workers
from fleet.balancer.stats import Admin, ServerState
from fleet.control import Wait, drain, ready, show, weight
from fleet.control.tell import _not_ready
from fleet.errors import ExitCode, FleetError, InputError, TaskError, UnreachableError
from fleet.model.slot import Slot
from tests.unit.control_world import Gradio, Job, balancing, control, open_page

FIRST, SECOND = "gpu-01-0", "gpu-01-1"


@pytest.fixture(scope="module")
def gradio():
    server = Gradio()
    yield server
    server.close()


@pytest.fixture(scope="module")
def two(gradio):
    return [Slot("gpu-01", i, f"GPU-{i}", "127.0.0.1", gradio.port, weight=100) for i in range(2)]


@pytest.fixture(scope="module")
def running(tmp_path_factory, two):
    """Two balancers that most tests share."""
    folders = [tmp_path_factory.mktemp(name) for name in ("first", "second")]
    more = {"check_interval": 1, "check_retry": 1}
    with balancing(folders[0], two, **more) as first, balancing(folders[1], two, **more) as second:
        yield first, second


@pytest.fixture
def pair(running, gradio):
    yield running
    gradio.finish()
    for each in running:
        for slot in (FIRST, SECOND):
            each.ask(f"set server work/{slot} state ready; set weight work/{slot} 100")
        each.until(lambda each=each: not any(server.sessions for server in each.look().servers))


@pytest.fixture
def balancer(pair):
    return pair[0]


@pytest.fixture
def second(pair):
    return pair[1]


def only(balancers, slot, balancer):
    """The other slot takes no jobs, so the next ones meet this one."""
    other = SECOND if slot == FIRST else FIRST
    balancers.drain([other])
    balancer.until(lambda: balancer.look().slot(other).admin is Admin.DRAIN)


def test_jobs_and_pages_are_counted_apart_and_the_end_comes_within_a_second(gradio, balancer):
    with control(lb_01=balancer) as balancers:
        only(balancers, FIRST, balancer)
        jobs = [Job(balancer).fetch() for _ in range(3)]
        pages = [open_page(balancer, f"page{i}") for i in range(5)]
        balancers.ready([SECOND])
        held = balancers.in_flight([FIRST, SECOND])
        assert (held[FIRST].jobs, held[SECOND].jobs) == (3, 0)
        assert sum(each.pages for each in held.values()) == 5

        seen = []

        def listen(slots):
            seen.append(slots[0])
            if len(seen) == 2:
                gradio.finish()

        result = drain(balancers, [FIRST], Wait(), listen)
        ended = time.monotonic()
        assert all(job.wait() for job in jobs)
        late = ended - max(job.ended for job in jobs)
        assert 0 <= late < 1
        (slot,) = result.slots
        assert (slot.state, slot.jobs, slot.at_start, slot.cut) == ("drained", 0, 3, 0)
        assert slot.pages == held[FIRST].pages
        assert result.exit_code == ExitCode.DONE
        assert seen[0].jobs == 3
        assert balancer.look().slot(FIRST).admin is Admin.DRAIN
        for page in pages:
            page.close()


def test_a_job_whose_events_nobody_fetches_yet_is_in_flight(balancer):
    with control(lb_01=balancer) as balancers:
        only(balancers, FIRST, balancer)
        job = Job(balancer)
        held = balancers.in_flight([FIRST, SECOND])
        assert (held[FIRST].jobs, held[FIRST].announced, held[SECOND].busy) == (0, 1, 0)
        job.fetch()
        held = balancers.in_flight([FIRST])
        assert (held[FIRST].jobs, held[FIRST].announced) == (1, 0)


def test_one_session_told_by_two_balancers_is_one_job(tmp_path):
    rows = "FLEET_LONGEST_JOB=300\n\n0x1: key=abc use=0 exp=299000 gpt0=2\n"
    owner = "@owner\n# table: owner\n0x2: key=abc use=0 exp=3599000 server_id=1 server_key=gpu-01-0\n"
    seen = workers.parse_watched(f"# pxname,svname,qcur,scur,\nwork,gpu-01-0,1,2,\n\n{rows}\n{owner}")
    assert seen.announced == {("gpu-01-0", "abc")}
    assert seen.servers["gpu-01-0"].jobs == 3
    stale = rows.replace("299000", "290000")
    assert not workers.parse_watched(f"# pxname,svname,qcur,scur,\n\n{stale}\n{owner}").announced
    assert workers.parse_watched("") is None


def test_what_a_process_of_before_a_reload_holds_is_waited_for(gradio, balancer):
    with control(lb_01=balancer) as balancers:
        only(balancers, FIRST, balancer)
        job = Job(balancer).fetch()
        page = open_page(balancer, job.session)
        balancers.ready([SECOND])
        balancer.save_state()
        balancer.reload()
        assert balancer.look().slot(FIRST).sessions == 0
        held = balancers.in_flight([FIRST])[FIRST]
        assert (held.jobs, held.pages, balancers.mute) == (1, 1, {})

        result = drain(balancers, [FIRST], Wait(), lambda _: gradio.finish())
        assert job.wait()
        assert 0 <= time.monotonic() - job.ended < 1
        assert result.slots[0].at_start == 1
        page.close()


def test_old_processes_that_cannot_be_asked_are_said(tmp_path, two):
    with balancing(tmp_path, two, master=False) as balancer, control(lb_01=balancer) as balancers:
        balancers.in_flight([FIRST])
        assert balancers.mute == {}
        only(balancers, FIRST, balancer)
        Job(balancer).fetch()
        balancers.ready([SECOND])
        balancer.save_state()
        balancer.reload()
        result = drain(balancers, [FIRST], Wait())
        assert [report.mute for report in result.balancers] == [1]


def test_the_deadline_cuts_jobs_in_every_process_and_counts_them(balancer):
    with control(lb_01=balancer) as balancers:
        only(balancers, FIRST, balancer)
        old = Job(balancer).fetch()
        balancer.save_state()
        balancer.reload()
        new = [Job(balancer).fetch() for _ in range(2)]
        page = open_page(balancer, "page")
        balancers.ready([SECOND])
        other = [Job(balancer).fetch() for _ in range(8)]
        elsewhere = balancers.in_flight([SECOND])[SECOND].jobs
        mine = balancers.in_flight([FIRST])[FIRST].jobs
        assert elsewhere + mine == 3 + len(other)
        assert elsewhere > 0
        result = drain(balancers, [FIRST], Wait(0.5, cut=True))
        (slot,) = result.slots
        assert (slot.state, slot.cut, slot.jobs, slot.pages) == ("drained", mine, 0, 1)
        assert result.exit_code == ExitCode.DONE
        assert not any(job.wait() for job in (old, *new))
        assert balancers.in_flight([SECOND])[SECOND].jobs == elsewhere
        page.close()


def test_a_deadline_that_cuts_nothing_leaves_and_says_so(gradio, balancer):
    with control(lb_01=balancer) as balancers:
        only(balancers, FIRST, balancer)
        job = Job(balancer).fetch()
        balancers.ready([SECOND])
        result = drain(balancers, [FIRST], Wait(0.3))
        (slot,) = result.slots
        assert (slot.state, slot.jobs, slot.cut) == ("in flight", 1, 0)
        assert result.exit_code == ExitCode.HOST_FAILED
        assert result.as_json()["slots"][0]["state"] == "in flight"
        gradio.finish()
        assert job.wait()


def test_without_waiting_it_tells_what_is_in_flight(balancer):
    with control(lb_01=balancer) as balancers:
        only(balancers, FIRST, balancer)
        Job(balancer).fetch()
        balancers.ready([SECOND])
        result = drain(balancers, [FIRST], None)
        assert (result.waited, result.slots[0].state, result.slots[0].jobs) == (False, "draining", 1)
        assert result.exit_code == ExitCode.DONE


def test_ctrl_c_leaves_it_drained_and_says_so(balancer):
    def interrupt(_):
        raise KeyboardInterrupt

    with control(lb_01=balancer) as balancers:
        result = drain(balancers, [FIRST], Wait(), interrupt)
        assert (result.interrupted, result.exit_code) == (True, ExitCode.INTERRUPTED)
        assert balancer.look().slot(FIRST).admin is Admin.DRAIN


def test_all_balancers_are_told_and_their_jobs_summed(gradio, balancer, second):
    with control(lb_01=balancer, lb_02=second) as balancers:
        only(balancers, FIRST, balancer)
        second.until(lambda: second.look().slot(SECOND).admin is Admin.DRAIN)
        for where in (balancer, second, second):
            Job(where).fetch()
        balancers.ready([SECOND])
        assert balancers.in_flight([FIRST])[FIRST].jobs == 3
        result = drain(balancers, [FIRST], Wait(), lambda _: gradio.finish())
        assert result.slots[0].at_start == 3
        assert {each.look().slot(FIRST).admin for each in (balancer, second)} == {Admin.DRAIN}


def test_an_unreachable_balancer_leaves_the_others_told(balancer):
    with control(lb_01=balancer, lb_02=None) as balancers:
        result = drain(balancers, [FIRST], Wait())
        assert result.slots[0].state == "drained"
        first, second = result.balancers
        assert first.error is None
        assert isinstance(second.error, UnreachableError)
        assert result.exit_code == ExitCode.UNREACHABLE
        assert [each["told"] for each in result.as_json()["balancers"]] == [True, False]
        assert balancer.look().slot(FIRST).admin is Admin.DRAIN


def test_a_balancer_lost_in_the_middle_leaves_the_others(balancer, second):
    def lose(_):
        balancers._open["lb-02"].line.close()

    with control(lb_01=balancer, lb_02=second) as balancers:
        only(balancers, FIRST, balancer)
        Job(balancer).fetch()
        balancers.ready([SECOND])
        result = drain(balancers, [FIRST], Wait(1), lose)
        assert result.slots[0].jobs == 1
        assert result.balancers[1].told
        assert result.balancers[1].error is not None
        assert result.exit_code == ExitCode.HOST_FAILED


def test_no_balancer_at_all_is_the_first_ones_error():
    with pytest.raises(UnreachableError), control(lb_01=None, lb_02=None):
        pass


def test_a_haproxy_that_does_not_answer_is_one_clear_error(tmp_path, two):
    with balancing(tmp_path, two) as balancer, control(lb_01=balancer) as balancers:
        balancer.process.terminate()
        balancer.process.wait(timeout=10)
        with pytest.raises(TaskError, match="lb-01: HAProxy does not answer") as error:
            drain(balancers, [FIRST], Wait())
        assert "systemctl status haproxy" in error.value.remedy


def test_a_server_that_one_balancer_lacks_is_said(tmp_path, balancer, two):
    with (
        balancing(tmp_path, two[:1]) as smaller,
        control(lb_01=balancer, lb_02=smaller) as balancers,
    ):
        assert balancers.slots() == (FIRST, SECOND)
        result = drain(balancers, [SECOND], Wait())
        assert [report.missing for report in result.balancers] == [(), (SECOND,)]
        assert result.exit_code == ExitCode.DONE
        assert result.slots[0].state == "drained"


def test_the_last_slots_are_drained_only_by_force(balancer):
    with control(lb_01=balancer) as balancers:
        with pytest.raises(InputError, match="service would be down"):
            drain(balancers, [FIRST, SECOND], Wait())
        drain(balancers, [FIRST], Wait())
        with pytest.raises(InputError, match=r"gpu-01-1 leaves lb-01 no slot .*gpu-01-0 is drained"):
            drain(balancers, [SECOND], Wait())
        assert balancer.look().slot(SECOND).admin is Admin.READY
        with pytest.raises(InputError, match="service would be down"):
            weight(balancers, [SECOND], 0)
        drain(balancers, [FIRST, SECOND], Wait(), force=True)
        assert {server.admin for server in balancer.look().slots()} == {Admin.DRAIN}
        assert drain(balancers, [SECOND], Wait()).exit_code == ExitCode.DONE


def test_a_server_in_maintenance_is_left_so(balancer):
    balancer.ask("set server work/gpu-01-0 state maint")
    with control(lb_01=balancer) as balancers:
        result = drain(balancers, [FIRST], Wait())
        assert result.balancers[0].maint == (FIRST,)
        assert balancer.look().slot(FIRST).admin is Admin.MAINT
        ready(balancers, [FIRST])
        assert balancer.look().slot(FIRST).admin is Admin.READY


def test_what_is_decided_survives_a_reload(balancer):
    with control(lb_01=balancer) as balancers:
        weight(balancers, [FIRST, SECOND], 7)
        drain(balancers, [FIRST], Wait())
        balancer.reload()
        first, second = balancer.look().slots()
        assert (first.admin, first.weight, second.admin, second.weight) == (Admin.DRAIN, 7, Admin.READY, 7)


def test_ready_says_when_the_checks_fail(tmp_path, gradio, two):
    from tests.unit.haproxy_world import free_port

    dead = [two[0], replace(two[1], port=free_port())]
    with balancing(tmp_path, dead, check_interval=1, check_retry=1, fall=1) as balancer:
        with control(lb_01=balancer) as balancers:
            balancers.drain([FIRST, SECOND])
            balancer.until(lambda: balancer.look().slot(SECOND).status == "DOWN")
            result = ready(balancers, [FIRST, SECOND])
        (problem,) = result.problems
        assert problem.place == SECOND
        assert "lb-01 finds it down: L4CON" in problem.what
        assert result.exit_code == ExitCode.HOST_FAILED


def test_what_an_agent_holds_is_not_given_back_by_hand():
    server = ServerState(
        "work", FIRST, "UP", Admin.READY, 0, 10, agent_status="L7OK", agent_reason="3 memory errors"
    )
    (problem,) = _not_ready({FIRST: {"lb-01": server}})
    assert problem.what == "its agent holds its weight at 0: 3 memory errors"
    assert f"fleet-gpu-agent accept {FIRST}` on gpu-01" in problem.remedy


def test_weights_are_set_shown_and_noted(balancer):
    with control(lb_01=balancer) as balancers:
        result = weight(balancers, [FIRST], 40)
        assert result.exit_code == ExitCode.DONE
        (server,) = show(balancers, [FIRST]).as_json()["slots"][0]["servers"]
        assert (server["weight"], server["configured_weight"], server["state"]) == (40, 100, "ready")
        weight(balancers, [FIRST], 0)
        (problem,) = ready(balancers, [FIRST]).problems
        assert "weight on lb-01 is 0" in problem.what
        with pytest.raises(InputError):
            weight(balancers, [FIRST], 257)


def test_a_refused_command_does_not_keep_the_others_from_being_told(balancer):
    from fleet.balancer import runtime

    with control(lb_01=balancer) as balancers:
        opened = balancers._open["lb-01"]
        with pytest.raises(FleetError) as error:
            opened.runner.execute(runtime.set_weights(["gpu-09-9", SECOND], 9), None)
        assert "work/gpu-09-9 9: No such" in error.value.output
        assert balancer.look().slot(SECOND).weight == 9
