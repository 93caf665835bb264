"""What agents say, in HAProxy's words and in the status."""

from datetime import UTC, datetime, timedelta

import pytest

from fleet.balancer.probe import RUNTIME_PROBE
from fleet.balancer.stats import Admin, ServerState, parse_balancer
from fleet.model.facts import Answer, Facts
from fleet.model.host import Host
from fleet.status import summarise
from tests.unit.test_status import BOTH, LB, RUNNING, STATE_HEAD, balancer, gpu_host, server, told
from tests.unit.test_status import HOST as GPU

HEAD = "# pxname,svname,scur,status,check_status,last_chk,agent_status,last_agt,\n"
LOST = "via agent : down (GPU lost (Xid 79))"


def asked(*rows: str, weights: str = "10 10") -> Facts:
    """A balancer that asks agents; a row is status,check_status,last_chk,agent_status,last_agt."""
    text = "now=1\nFLEET_CONFIG=abc\n\nName: HAProxy\nVersion: 3.0.11\nUptime_sec: 1\n\n1\n" + STATE_HEAD
    text += "".join(f"3 work {i} gpu-01-{i} 10.0.0.1 2 0 {weights}\n" for i in range(len(rows))) + "\n"
    text += HEAD + "".join(f"work,gpu-01-{i},0,{row},\n" for i, row in enumerate(rows)) + "\n"
    return Facts({RUNTIME_PROBE.key: Answer(0, text.encode())})


def first(row: str, weights: str = "10 10") -> ServerState:
    state = parse_balancer(asked(row, weights=weights)[RUNTIME_PROBE.key])
    assert state is not None
    return state.slots()[0]


WELL = "UP,L7OK,,L7OK,via agent : up"
SILENT = "UP,L7OK,,L4CON,Connection refused"


def test_the_reason_is_what_stands_in_brackets():
    assert first(f"DOWN (agent),* L7OK,,* L7STS,{LOST}").agent_reason == "GPU lost (Xid 79)"
    assert first(WELL).agent_reason == first(SILENT).agent_reason == ""
    assert first('UP,L7OK,,L7OK,"via agent : up (hot, 93 C)"').agent_reason == "hot, 93 C"


def test_whether_it_answers():
    assert first(WELL).agent_answers
    assert first("DOWN (agent),L7OK,,* L7STS,via agent : down").agent_answers
    assert first(SILENT).agent_answers is False
    assert first("UP,L7OK,,L7RSP,TCPCHK got an empty response at step 2").agent_answers is False
    for row in ("UP,L7OK,,,", "UP,L7OK,,INI,", "MAINT,,,,"):
        assert first(row).agent_answers is None


def test_whose_weight_it_is():
    sick = "UP,L7OK,,L7OK,via agent : up (3 uncorrected memory errors)"
    assert first(sick, "0 10").agent_holds
    assert first(sick, "5 11").agent_holds
    assert first(SILENT, "0 10").agent_holds
    assert first("UP,L7OK,,INI,", "0 10").agent_holds
    assert not first(sick, "10 10").agent_holds
    assert not first(sick, "7 10").agent_holds
    assert not first(WELL, "0 10").agent_holds
    assert not first("UP,L7OK,,,", "0 10").agent_holds
    assert first("UP,L7OK,,,").admin is Admin.READY


def test_what_the_agent_lowered_stays_its_doing_while_it_is_asked_again():
    asked_again = "UP,L7OK,,* L7OK,"
    assert first(asked_again, "0 10").agent_holds
    assert first(asked_again, "5 10").agent_holds
    assert not first(asked_again, "7 10").agent_holds


def test_of_two_looks_the_one_counts_that_knows_what_the_agent_said():
    before = asked("UP,L7OK,,* L7OK,", "UP,L7OK,,L7OK,via agent : up (hot: 91 C)", weights="5 10")
    first_look = before[RUNTIME_PROBE.key].text
    second = f"{HEAD}work,gpu-01-0,3,UP,L7OK,,L7OK,via agent : up (hot: 97 C),\nwork,gpu-01-1,4,UP,L7OK,,* L7OK,,\n\n"
    state = parse_balancer(Answer(0, (first_look + second).encode()))
    assert state is not None
    assert [(s.agent_reason, s.sessions, s.agent_holds) for s in state.slots()] == [
        ("hot: 97 C", 3, True),
        ("hot: 91 C", 0, True),
    ]


def test_the_weight_is_the_one_that_stands_beside_what_the_agent_said():
    text = asked(WELL, weights="5 10")[RUNTIME_PROBE.key].text
    text = text.replace(",last_agt,", ",last_agt,uweight,").replace("via agent : up,", "via agent : up,10,")
    state = parse_balancer(Answer(0, text.encode()))
    assert state is not None
    assert state.slots()[0].weight == 10


def status(*balancers: Facts):
    hosts = [GPU, *(Host(f"lb-{n:02d}", {}, ("balancer",)) for n in range(1, len(balancers) + 1))]
    seen = dict(zip([host.name for host in hosts], (gpu_host(*RUNNING), *balancers), strict=True))
    return summarise(hosts, seen, whole=True)


def test_agents_that_say_that_all_is_well():
    found = status(asked(WELL, WELL))
    assert told(found) == []
    assert [server.agent for server in found.servers] == ["ok", "ok"]


def test_a_finding_is_told_once_whatever_the_balancers_number():
    row = f"DOWN (agent),L7OK,,L7STS,{LOST}"
    found = status(asked(row, WELL), asked(row, WELL))
    assert told(found) == [("gpu-01-0", "its agent says: GPU lost (Xid 79)")]
    assert "fleet-gpu-agent show" in found.problems[0].remedy
    assert [server.state for server in found.servers] == ["down", "ready"] * 2
    assert found.servers[0].agent == "GPU lost (Xid 79)"


def test_a_failing_check_is_told_beside_it():
    row = f"DOWN (agent),L4CON,Connection refused,L7STS,{LOST}"
    assert told(status(asked(row, WELL))) == [
        ("gpu-01-0", "lb-01 finds it down: L4CON Connection refused"),
        ("gpu-01-0", "its agent says: GPU lost (Xid 79)"),
    ]


def test_a_silent_agent_is_told_once_a_host():
    found = status(asked(SILENT, SILENT), asked(SILENT, SILENT))
    assert told(found) == [("gpu-01", "the GPU agent does not answer lb-01 and lb-02")]
    assert {server.agent for server in found.servers} == {"no answer"}
    assert told(status(asked("DOWN 1/2,L7OK,,L7OK,via agent : up", WELL))) == [
        ("gpu-01-0", "lb-01 finds it down: L7OK")
    ]
    assert told(status(asked("DOWN,L4TOUT,,L4TOUT,", WELL))) == [("gpu-01-0", "lb-01 finds it down: L4TOUT")]


def test_a_server_that_a_dead_agent_took_out():
    found = status(asked("DOWN (agent),L7OK,,L4CON,Connection refused", WELL))
    assert told(found) == [
        ("gpu-01-0", "lb-01 keeps it out: its agent said so, and does not answer any more")
    ]
    assert found.problems[0].remedy == "`systemctl restart fleet-gpu-agent` on gpu-01"


def test_balancers_that_ask_no_agent():
    found = summarise([GPU, LB], {"gpu-01": gpu_host(*RUNNING), "lb-01": balancer(*BOTH)}, whole=True)
    assert found.ok
    assert {server.agent for server in found.servers} == {None}


def test_balancers_that_were_told_different_things_are_told():
    drained = balancer(server("gpu-01-0", "DRAIN", admin=8), server("gpu-01-1"))
    found = status(drained, balancer(*BOTH))
    assert told(found) == [("gpu-01-0", "state is drain on lb-01, ready on lb-02")]
    assert found.problems[0].remedy == "`fleet drain gpu-01-0` or `fleet ready gpu-01-0`"


def test_a_weight_that_differs_is_told_unless_the_agent_is_just_changing_it():
    assert told(status(asked(WELL, WELL), asked(WELL, WELL, weights="7 10"))) == [
        ("gpu-01-0", "weight is 10 on lb-01, 7 on lb-02"),
        ("gpu-01-1", "weight is 10 on lb-01, 7 on lb-02"),
    ]
    hot = "UP,L7OK,,L7OK,via agent : up (hot, 93 C)"
    assert [place for place, _ in told(status(asked(WELL, WELL), asked(hot, hot, weights="5 10")))] == [
        "gpu-01-0",
        "gpu-01-1",
    ]


def with_more(facts: Facts, more: str) -> Facts:
    answer = facts[RUNTIME_PROBE.key]
    return Facts({**facts, RUNTIME_PROBE.key: Answer(0, answer.out + more.encode())})


def test_a_gateway_that_one_balancer_lacks_is_told():
    guarded = with_more(asked(WELL, WELL), "\ngateway,FRONTEND,0,\n")
    assert told(status(guarded, guarded)) == []
    assert told(status(guarded, asked(WELL, WELL))) == [("lb-02", "it has no gateway; lb-01 has one")]


@pytest.mark.parametrize(
    ("days", "words"),
    [(400, None), (15, None), (3, "its certificate ends within 3 days, "), (-2, "its certificate ended on ")],
)
def test_a_certificate_that_ends_soon_is_told(days, words):
    ends = (datetime.now(UTC) + timedelta(days=days)).strftime("%b %d %H:%M:%S %Y GMT")
    found = told(status(with_more(asked(WELL, WELL), f"\nFilename: x\nNot After: {ends}\n")))
    assert [what.startswith(words or "") for _, what in found] == ([True] if words else [])


def test_a_weight_of_nothing_is_told():
    found = status(asked(WELL, WELL, weights="0 10"))
    assert ("gpu-01-0", "its weight on lb-01 is 0: it takes no jobs") in told(found)
