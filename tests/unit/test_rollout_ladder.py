"""The readiness ladder over looks that a test makes up, and the golden pairs it asks."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from fleet.docker.readiness import Call, Page, Reply, Seen, State
from fleet.errors import InputError, UnreachableError
from fleet.gpu.probe import GPU_PROBE, GPU_PROCESSES_PROBE
from fleet.inventory import load
from fleet.model.facts import Answer, Facts
from fleet.provision.golden import Golden, golden_of
from fleet.rollout import golden
from fleet.rollout.golden import Pair, pairs_for, read_pairs
from fleet.rollout.gpu_memory import Owner
from fleet.rollout.ladder import Wanted, climb, memory_now, shape_before, translate
from fleet.rollout.shape import Shape, shape_of
from fleet.rollout.world import RungError

ID = "ab" * 32
GPU0, GPU1 = "GPU-0", "GPU-1"
UP = State(ID, "running")
WANTED = Wanted("gpu-01-0", Owner(ID, GPU0, {GPU0: 10, GPU1: 4000}), (Pair(),))
RIGHT = Reply(1.5, "这是免费的。")
WRONG = Reply(0.5, "房子上")
LATE = Reply(60.0, trouble="no answer in time")


def config(version="6.31.0", prefix="/gradio_api", **endpoints):
    names = endpoints or {"translate": (2, 1)}
    rows = [
        {"api_name": name, "inputs": list(range(n)), "outputs": list(range(m))}
        for name, (n, m) in names.items()
    ]
    rows += [{"api_name": False, "inputs": [1], "outputs": []}, {"inputs": []}]
    rows += [{"api_name": "inner", "api_visibility": "private", "inputs": [], "outputs": []}]
    return json.dumps({"version": version, "api_prefix": prefix, "dependencies": rows}).encode()


def nvidia(used=(9000, 4000), processes=()) -> Facts:
    gpus = "\n".join(
        f"{index}, GPU-{index}, NVIDIA T4, 15360, {mib}, 0, 40, 30, 550, 0000, [N/A]"
        for index, mib in enumerate(used)
    )
    apps = "\n".join(
        f"{uuid}, {n}, {mib}, python\t0::/docker/{id_}" for n, (uuid, mib, id_) in enumerate(processes, 1)
    )
    return Facts({
        GPU_PROBE.key: Answer(0, gpus.encode()),
        GPU_PROCESSES_PROBE.key: Answer(0, apps.encode()),
    })  # fmt: skip


OWN = nvidia(processes=[(GPU0, 9000, ID), (GPU1, 4000, "cd" * 32)])


@dataclass
class Host:
    """A host whose clock moves only when somebody sleeps or waits for an answer."""

    ready_after: float = 0.0
    page: Page = field(default_factory=lambda: Page(200, config()))
    state: Callable[[float], State | None] = lambda now: UP
    replies: list[Reply] = field(default_factory=lambda: [RIGHT])
    facts: list[Facts] = field(default_factory=lambda: [OWN])
    engine: int = 200
    now: float = 1000.0
    asked: list[str] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def __call__(self, calls=(), *, gpu=False, log=False, wait=False) -> Seen:
        self.asked.append("log" if log else "gpu" if gpu else "golden" if calls else "look")
        self.calls += calls
        replies = [self.replies.pop(0) if len(self.replies) > 1 else self.replies[0] for _ in calls]
        self.now += sum(min(reply.seconds, call.deadline) for reply, call in zip(replies, calls, strict=True))
        state = self.state(self.now - 1000)
        facts = Facts()
        if gpu:
            facts = self.facts.pop(0) if len(self.facts) > 1 else self.facts[0]
        page = self.page if self.now - 1000 >= self.ready_after else Page(0, trouble="nothing listens")
        lines = "\n".join(f"line {n}" for n in range(60))
        engine = self.engine if state or self.engine == 404 else 0
        return Seen(engine, state, page, tuple(replies), facts, lines if log else "", whole=True)

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def climb(self, wanted: Wanted = WANTED, deadline: float = 100.0) -> float:
        def say(slot: str, text: str) -> None:
            assert slot == "gpu-01-0"
            self.said.append(text)

        return climb(self, wanted, deadline, say, sleep=self.sleep, clock=lambda: self.now)

    def falls(self, rung: str, wanted: Wanted = WANTED, deadline: float = 100.0) -> str:
        with pytest.raises(RungError) as caught:
            self.climb(wanted, deadline)
        error = caught.value
        assert (error.rung, error.slot) == (rung, "gpu-01-0")
        assert error.output.splitlines() == [f"line {n}" for n in range(20, 60)]
        assert error.remedy
        return error.message.removeprefix("gpu-01-0: ")


def test_a_container_that_is_well_climbs_in_order_and_tells_the_golden_seconds():
    host = Host()
    assert host.climb() == 1.5
    assert host.asked == ["look", "gpu", "golden"]


def test_a_model_that_loads_is_waited_for_and_it_is_said_for_how_long():
    host = Host(ready_after=35.5)
    host.climb()
    assert "loading for 35 s" in host.said
    assert host.asked.count("look") == 143


def test_a_port_that_never_answers_fails_at_the_deadline():
    host = Host(ready_after=1e9)
    assert host.falls("port") == "its port has not answered after 100 s: nothing listens"
    assert host.now == 1100


@pytest.mark.parametrize(
    ("page", "words"),
    [
        (Page(503, b"loading"), "HTTP 503 on /config"),
        (Page(200, b"<html>"), "its /config describes no Gradio page"),
    ],
)
def test_a_port_that_answers_something_else_is_not_ready(page, words):
    assert Host(page=page).falls("port") == f"its port answers, but not as it should, after 100 s: {words}"


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (replace(UP, status="exited", exit_code=3, error="no such GPU"), "is exited, with exit code 3: no"),
        (replace(UP, status="restarting", exit_code=1), "does not stay up: it ended with exit code 1"),
        (replace(UP, restarts=2, exit_code=139), "does not stay up: it ended with exit code 139"),
        (replace(UP, status="exited", oom_killed=True), "out of memory"),
        (replace(UP, status="paused"), "it is paused"),
        (replace(UP, id="cd" * 32), "another container has taken its place"),
    ],
)
@pytest.mark.parametrize("after", [0.0, 20.0])
def test_a_container_that_does_not_stay_up_fails_at_once(state, words, after):
    host = Host(ready_after=50.0, state=lambda now: state if now >= after else UP)
    assert words in host.falls("running")
    assert host.now == 1000 + after


def test_a_container_that_ends_with_its_first_job_fails_as_not_running():
    host = Host(state=lambda now: replace(UP, status="exited", exit_code=1) if now > 1 else UP)
    assert host.falls("running") == "it is exited, with exit code 1"


def test_a_container_that_is_gone_or_never_starts_fails():
    gone = Host(engine=404, state=lambda now: None)
    assert gone.falls("running") == "the container is not there any more"
    created = Host(ready_after=1e9, state=lambda now: replace(UP, status="created"))
    assert created.falls("running") == "it has not started within 100 s"


def test_an_engine_that_is_silent_for_a_while_is_waited_for():
    host = Host(state=lambda now: UP if now >= 10 else None)
    assert host.climb() == 1.5
    silent = Host(state=lambda now: None)
    assert silent.falls("running") == "Docker on its host does not tell how the container is"


def test_a_log_that_cannot_be_read_does_not_hide_why():
    host = Host(state=lambda now: replace(UP, status="exited"))

    def look(calls=(), *, gpu=False, log=False, wait=False):
        if log:
            raise UnreachableError("gpu-01: connection lost")
        return host()

    with pytest.raises(RungError) as caught:
        climb(look, WANTED, 10, lambda slot, text: None, sleep=host.sleep, clock=lambda: host.now)
    assert (caught.value.rung, caught.value.output) == (
        "running",
        "(its log could not be read: gpu-01: connection lost)",
    )


BEFORE = Shape({"translate": (2, 1), "detect": (1, 1)}, "/gradio_api", 6)


def test_the_shape_is_read_from_config():
    assert shape_of(config(translate=(2, 1), detect=(1, 1))) == BEFORE
    assert shape_before(Host(page=Page(200, config()))) == Shape({"translate": (2, 1)}, "/gradio_api", 6)
    old = json.dumps({"version": "4.44.1", "dependencies": [{"api_name": "t", "inputs": [1], "outputs": []}]})
    assert shape_of(old.encode()) == Shape({"t": (1, 0)}, "", 4)


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"\xff", b'{"dependencies": 3}', b'{"dependencies"'])
def test_what_is_no_config_has_no_shape(body):
    assert shape_of(body) is None


@pytest.mark.parametrize("item", [None, 3, "x", {"api_name": ["a"]}, {"api_name": ""}])
def test_dependencies_of_another_form_are_no_endpoints(item):
    assert shape_of(json.dumps({"dependencies": [item]}).encode()) == Shape()


@pytest.mark.parametrize(
    ("now", "words"),
    [
        (config(translate=(2, 1)), "the endpoint detect is missing"),
        (
            config(translate=(3, 1), detect=(1, 0)),
            "the endpoint detect had 1 input and 1 output and has 1 input and 0 outputs; "
            "the endpoint translate had 2 inputs and 1 output and has 3 inputs and 1 output",
        ),
        (
            config("4.44.0", "", translate=(2, 1), detect=(1, 1)),
            "Gradio 6 became 4; its paths began with /gradio_api and begin with /",
        ),
    ],
)
def test_an_api_that_lacks_something_fails_at_once_and_names_it(now, words):
    host = Host(page=Page(200, now))
    assert host.falls("shape", replace(WANTED, before=BEFORE)) == f"the API is not as before: {words}"
    assert host.asked == ["look", "log"]


def test_more_endpoints_are_fine_and_without_a_before_any_shape_is():
    more = Host(page=Page(200, config(translate=(2, 1), detect=(1, 1), extra=(0, 0))))
    assert more.climb(replace(WANTED, before=BEFORE)) == 1.5
    assert Host(page=Page(200, config(other=(0, 0)))).climb() == 1.5


def test_memory_on_another_gpu_fails_at_once_with_the_numbers():
    host = Host(facts=[nvidia(processes=[(GPU1, 9000, ID)])])
    message = host.falls("memory")
    assert message == "it holds memory on GPU 1 (GPU-1): 9000 MiB; its own is GPU 0 (GPU-0)"
    both = Host(facts=[nvidia(processes=[(GPU0, 9000, ID), (GPU1, 300, ID)])])
    assert "GPU 1 (GPU-1): 300 MiB" in both.falls("memory")
    assert "golden" not in host.asked + both.asked


@pytest.mark.parametrize(
    ("used", "busy", "words"),
    [
        ((267, 4000), (), ""),
        ((9000, 4256), (), ""),
        ((9000, 4257), (), "memory in use grew on GPU 1 (GPU-1): +257 MiB"),
        ((9000, 4257), (GPU1,), ""),
        ((10, 9000), (), "memory in use grew on GPU 1 (GPU-1): +5000 MiB; its own is GPU 0 (GPU-0): +0"),
        ((266, 4000), (), "no memory of it is found on its GPU: GPU 0 (GPU-0): +256 MiB since"),
        (("[N/A]", 9000), (), "GPU 1 (GPU-1): +5000 MiB; GPU 0 (GPU-0) does not report"),
    ],
)
@pytest.mark.parametrize("processes", [(), [(GPU1, 4000, "cd" * 32)]])
def test_where_no_process_bears_the_containers_id_the_rise_tells(used, busy, words, processes):
    host = Host(facts=[nvidia(used, processes)])
    wanted = replace(WANTED, owner=replace(WANTED.owner, busy=busy))
    if words:
        assert words in host.falls("memory", wanted)
    else:
        assert host.climb(wanted) == 1.5


@pytest.mark.parametrize(("used", "before"), [("[N/A]", 10), (9000, None)])
def test_a_card_that_does_not_report_its_memory_passes_as_unknown(used, before):
    host = Host(facts=[nvidia((used, "[N/A]"))])
    owner = replace(WANTED.owner, before={GPU0: before})
    assert host.climb(replace(WANTED, owner=owner)) == 1.5
    assert "memory unknown: GPU 0 (GPU-0) does not report its memory" in host.said


def test_processes_whose_memory_is_not_told_still_tell_the_gpu():
    host = Host(facts=[nvidia(processes=[(GPU0, "[N/A]", ID)])])
    assert host.climb() == 1.5


def test_a_model_that_loads_with_its_first_job_is_judged_after_it():
    empty = nvidia((10, 4000))
    host = Host(facts=[empty, OWN])
    assert host.climb() == 1.5
    assert host.asked == ["look", "gpu", "golden", "gpu"]
    elsewhere = Host(facts=[empty, nvidia(processes=[(GPU1, 9000, ID)])])
    assert "it holds memory on GPU 1" in elsewhere.falls("memory")


def test_a_model_on_the_cpu_fails_and_so_does_a_driver_that_is_silent():
    cpu = Host(facts=[nvidia((10, 4000))])
    assert cpu.falls("memory").startswith("it translates, yet no memory of it is found on its GPU")
    dead = Facts({GPU_PROBE.key: Answer(9, b"failed"), GPU_PROCESSES_PROBE.key: Answer(9)})
    assert "nvidia-smi does not answer" in Host(facts=[dead]).falls("memory")
    lost = nvidia((10, 4000))
    other = replace(WANTED, owner=replace(WANTED.owner, uuid="GPU-9"))
    assert "nvidia-smi does not list its GPU GPU-9" in Host(facts=[lost]).falls("memory", other)


def test_the_memory_before_is_by_uuid():
    assert memory_now(Host(facts=[nvidia((10, "[N/A]"))])) == {GPU0: 10, GPU1: None}
    assert memory_now(Host(facts=[Facts()])) == {}


def test_a_wrong_answer_is_asked_for_once_more_and_then_fails_at_once():
    host = Host(replies=[WRONG])
    message = host.falls("golden")
    assert message == ("wrong translation, twice: \"It's on the house.\" gave '房子上', which lacks '免费'")
    assert host.asked.count("golden") == 2
    assert Host(replies=[WRONG, RIGHT]).climb() == 1.5


def test_a_service_that_says_no_counts_as_wrong_one_that_is_silent_is_asked_until_the_deadline():
    refused = Host(replies=[Reply(0.1, trouble="HTTP 404: 'no'", final=True)])
    assert refused.falls("golden").endswith("\"It's on the house.\": HTTP 404: 'no' (after 0.1 s)")
    assert refused.asked.count("golden") == 2
    patient = Host(replies=[LATE, LATE, RIGHT])
    assert patient.climb(deadline=200) == 1.5
    silent = Host(replies=[Reply(9.0, trouble="HTTP 503: ''")])
    message = silent.falls("golden")
    assert message == (
        "no right translation after 99 s; the last try, \"It's on the house.\": HTTP 503: '' (after 9.0 s)"
    )


def test_no_translation_is_given_more_time_than_is_left():
    host = Host(ready_after=80.0)
    host.climb()
    assert [call.deadline for call in host.calls] == [20.0]


def test_every_pair_must_be_right_and_their_seconds_are_together():
    pairs = (Pair(), Pair(inputs=("Danke", "English"), contains="thank", api="other"))
    wanted = replace(WANTED, pairs=pairs)
    thanks = Reply(2.0, "Thank you")
    host = Host(replies=[RIGHT, thanks, RIGHT])
    assert host.climb(wanted) == 3.5
    assert [(call.inputs, call.api) for call in host.calls] == [
        (("It's on the house.", "Chinese"), "translate"),
        (("Danke", "English"), "other"),
    ]
    assert "'Danke' gave '房子上'" in Host(replies=[RIGHT, WRONG, RIGHT, WRONG]).falls("golden", wanted)
    assert golden.score(pairs, [RIGHT]).missing == "'Danke': it was not asked"


def test_an_openai_server_is_ready_when_it_lists_a_model():
    wanted = replace(WANTED, profile="openai", pairs=())
    assert Host(page=Page(200, b'{"data": [{"id": "m"}]}')).climb(wanted) == 0.0
    assert Host(page=Page(401, b"key?")).climb(wanted) == 0.0
    empty = Host(page=Page(200, b'{"data": []}'))
    assert "/v1/models lists no model (HTTP 200)" in empty.falls("port", wanted)


def test_an_openai_servers_golden_pairs_are_asked_of_its_first_model():
    host = Host(page=Page(200, b'{"data": [{"id": "m"}, {"id": "n"}]}'))
    assert host.climb(replace(WANTED, profile="openai")) == 1.5
    assert [call.model for call in host.calls] == ["m"]


def test_a_plain_http_service_is_ready_below_500_and_is_asked_nothing():
    wanted = replace(WANTED, profile="http")
    host = Host(page=Page(404))
    assert host.climb(wanted) == 0.0
    assert host.calls == []
    assert "HTTP 500" in Host(page=Page(500)).falls("port", wanted)


def test_the_golden_translation_alone_is_tried_twice():
    host = Host(replies=[LATE, RIGHT])
    assert translate(host, WANTED, sleep=host.sleep) == 1.5
    assert [call.deadline for call in host.calls] == [60.0, 60.0]
    for replies in ([WRONG], [LATE], [WRONG, LATE], [LATE, WRONG]):
        host = Host(replies=[*replies, LATE])
        with pytest.raises(RungError) as caught:
            translate(host, WANTED, sleep=host.sleep)
        assert caught.value.rung == "golden"
        assert host.asked == ["golden", "golden", "log"]


# Golden pairs


@pytest.mark.parametrize(
    ("pair", "answer", "fault"),
    [
        ({"contains": "FREE"}, "it is for free", ""),
        ({"contains": "Straße"}, "die STRASSE", ""),
        ({"contains": "free"}, "gratis", "lacks 'free'"),
        ({"contains": "カタカナ"}, "これはｶﾀｶﾅです", ""),
        ({"contains": ""}, "", ""),
        ({"equals": "C'est offert par la maison."}, " C'est offert\u00a0par la\nmaison. ", ""),
        ({"equals": "gratis"}, "Gratis", "is not 'gratis'"),
        ({"equals": "무료"}, "무료".encode().decode(), ""),
        ({"equals": "가"}, "\u1100\u1161", ""),
        ({"equals": "𝒳 😀"}, "X 😀", ""),
        ({"similar": "Das geht aufs Haus.", "ratio": 0.8}, "Das geht auf das Haus.", ""),
        (
            {"similar": "Das geht aufs Haus."},
            "Auf dem Haus",
            "is like 'Das geht aufs Haus.' by 0.45 only, not 0.8",
        ),
        ({"similar": "Это за счёт заведения.", "ratio": 1}, "Это за счёт заведения.", ""),
    ],
)
def test_an_answer_is_matched_exactly_or_in_part_or_by_likeness(pair, answer, fault):
    [read] = read_pairs({"inputs": ["x"], **pair}, "golden")
    assert read.fault(answer) == fault


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "golden is an empty list"),
        ("hello", "golden: Expected `object`, got `str`"),
        ([{"inputs": ["a"], "contains": "b"}, {"inputs": [1]}], "golden[1]: Expected `str`, got `int` (`inputs[0]`)"),
        ({"deadline": "1m"}, "golden: Expected `float`, got `str` (`deadline`)"),
        ({"deadline": 0}, "golden: deadline is 0; it must be above 0 and at most 3600 seconds"),
        ({"deadline": float("nan")}, "golden: deadline is nan; it must be above 0"),
        ({"inputs": [], "contains": "x"}, "golden: inputs must have at least one text"),
        ({"api": "../x"}, "golden: api is '../x', not an endpoint's name"),
        ({"inputs": ["a"], "similar": "b", "ratio": 1.1}, "golden: ratio is 1.1; it must be above 0"),
        ({"inputs": ["a"]}, "golden says nothing of the answer"),
        ({"inputs": ["a"], "contains": "b", "equals": "c"}, "golden has contains and equals; it takes one"),
        ({"inputs": ["a"], "equals": "b", "similar": "c"}, "golden: equals and similar cannot both be given"),
        ({"input": ["a"]}, "golden: Object contains unknown field `input`"),
    ],
)  # fmt: skip
def test_a_pair_that_means_nothing_is_refused_and_the_key_is_named(given, message):
    with pytest.raises(InputError) as caught:
        read_pairs(given, "golden")
    assert str(caught.value).startswith(message)
    assert "contains" in str(caught.value.remedy)


def inventory(tmp_path: Path, text: str):
    (tmp_path / "all.yml").write_text(
        f"balancer:\n  hosts:\n    lb-01:\n{text}", encoding="utf-8"
    )  # fmt: skip
    return load(tmp_path / "all.yml")


def test_the_inventorys_golden_variable_makes_the_pairs(tmp_path):
    found = inventory(tmp_path, "      golden: {inputs: [Hi, German], contains: Hallo, deadline: 5}\n")
    [pair] = pairs_for(found, "gradio")
    assert pair == Pair(inputs=("Hi", "German"), contains="Hallo", deadline=5)
    assert pairs_for(found, "openai") == (pair,)
    assert pairs_for(found, "http") == ()
    first = golden_of(found)
    assert isinstance(first, Golden)
    assert (first.text, first.fault("hallo!"), first.deadline) == ("Hi", "", 5)


def test_without_the_variable_it_is_the_one_sentence_and_for_gradio_alone(tmp_path):
    found = inventory(tmp_path, "")
    assert pairs_for(found, "gradio") == (Pair(),)
    assert pairs_for(found, "openai") == ()
    assert golden_of(found).text == "It's on the house."
