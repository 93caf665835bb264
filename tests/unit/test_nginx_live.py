"""A real nginx before servers that know their own sessions only: a job's requests meet, and none is repeated."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import httpx
import pytest

from tests.unit.haproxy_world import free_port
from tests.unit.nginx_world import Balancer, Gradio, apps, gradio, running, slots


@pytest.fixture
def four() -> Iterator[list[Gradio]]:
    with apps(4) as found:
        yield found


@pytest.fixture
def balancer(tmp_path, four) -> Iterator[Balancer]:
    with running(tmp_path, slots([app.port for app in four])) as found:
        yield found


def client(balancer: Balancer) -> httpx.Client:
    return httpx.Client(base_url=balancer.url, timeout=20, trust_env=False, verify=False)


def queue_job(http: httpx.Client, session: str, text: str = "hello") -> None:
    """As a page does it; the session stands last in the body."""
    body = {"data": [text], "fn_index": 0, "session_hash": session}
    event = http.post("/gradio_api/queue/join", json=body).raise_for_status().json()["event_id"]
    events = http.get("/gradio_api/queue/data", params={"session_hash": session}).raise_for_status().text
    assert f"event: complete\ndata: {event}\n" in events


def call_job(http: httpx.Client, path: str = "/gradio_api/call/translate") -> str:
    event = http.post(path, json={"data": ["hello"]}).raise_for_status().json()["event_id"]
    events = http.get(f"{path}/{event}").raise_for_status().text
    assert f"event: complete\ndata: {event.rpartition('.')[2]}\n" in events
    return event


def asked(four: list[Gradio], part: str) -> list[int]:
    return [sum(part in line for line in app.asked) for app in four]


def test_jobs_of_clients_without_cookies_meet_their_server(balancer, four):
    for number in range(40):
        with client(balancer) as http:
            queue_job(http, f"session{number}")
            http.cookies.clear()
    assert asked(four, "join") == asked(four, "data")
    assert min(asked(four, "join")) > 0


@pytest.mark.parametrize("size", [20_000, 900_000])
def test_a_session_is_seen_in_long_bodies_full_of_quotes(balancer, size):
    for number in range(6):
        with client(balancer) as http:
            queue_job(http, f"long{number}", '"session_hash": "other", ' * (size // 30))


def test_a_cookie_stands_in_where_a_body_is_too_long(balancer):
    for number in range(6):
        with client(balancer) as http:
            http.get("/").raise_for_status()
            queue_job(http, f"longer{number}", "a" * 3_000_000)


def test_pages_are_dealt_evenly_and_stay_with_their_server(balancer, four):
    pages = [client(balancer) for _ in range(8)]
    for page in pages:
        assert page.get("/").headers["set-cookie"].startswith("FLEET=gpu-0")
    assert asked(four, "GET /") == [2, 2, 2, 2]
    for turn in range(3):
        for number, page in enumerate(pages):
            queue_job(page, f"page{number}turn{turn}")
    assert asked(four, "join") == asked(four, "data") == [6, 6, 6, 6]
    assert "set-cookie" not in pages[0].get("/").headers


def test_pages_are_dealt_by_weight(tmp_path, four):
    with running(tmp_path, slots([app.port for app in four], [10, 10, 10, 30])) as balancer:
        for _ in range(12):
            with client(balancer) as page:
                page.get("/")
                queue_job(page, "session")
    assert asked(four, "join") == [2, 2, 2, 6]


def test_calls_without_cookies_are_dealt_job_by_job(balancer, four):
    with client(balancer) as http:
        for _ in range(16):
            call_job(http)
            http.cookies.clear()
        call_job(http, "/gradio_api/call/v2/translate")
    assert asked(four, "POST /gradio_api/call/translate") == [4, 4, 4, 4]


def test_calls_with_a_page_cookie_are_dealt_too(balancer, four):
    with client(balancer) as http:
        http.get("/")
        for _ in range(16):
            call_job(http)
    assert asked(four, "POST /gradio_api/call/translate") == [4, 4, 4, 4]


def test_the_event_names_its_slot_and_the_app_sees_its_own_name_for_it(balancer, four):
    with client(balancer) as http:
        event = call_job(http)
    slot, _, own = event.rpartition(".")
    assert slot in {"gpu-01-0", "gpu-01-1", "gpu-02-0", "gpu-02-1"}
    assert sum(asked(four, f"GET /gradio_api/call/translate/{own}")) == 1


def test_a_compressed_answer_is_not_asked_for_where_it_is_read(balancer, four):
    with client(balancer) as http:
        call_job(http)
        http.get("/")
    seen = {
        line.split()[0] + line.split()[1][-10:]: headers.get("accept-encoding")
        for app in four
        for line, headers in zip(app.asked, app.headers, strict=True)
    }
    assert seen["POST/translate"] is None
    assert "gzip" in (seen["GET/"] or "")


def test_events_come_as_they_happen(balancer, four):
    for app in four:
        app.go_on.clear()
    with client(balancer) as http:
        body = {"data": ["x"], "session_hash": "slow"}
        http.post("/queue/join", json=body)
        with http.stream("GET", "/queue/data", params={"session_hash": "slow"}) as events:
            lines = events.iter_lines()
            assert next(lines) == "event: begin"
            for app in four:
                app.go_on.set()
            assert any(line == "event: complete" for line in lines)


def test_where_a_request_comes_from_and_for_whom(balancer, four):
    with client(balancer) as http:
        http.get("/", headers={"Host": "translate.example:8080", "X-Real-IP": "6.6.6.6"})
    (seen,) = [headers for app in four for headers in app.headers]
    assert seen["host"] == "translate.example:8080"
    assert seen["x-real-ip"] == "127.0.0.1"
    assert seen["x-forwarded-for"] == "127.0.0.1"


@pytest.mark.parametrize(
    ("upgrade", "passed"),
    [(None, (None, "close")), ("websocket", ("websocket", "upgrade")), ("h2c", (None, "close"))],
)
def test_only_websockets_are_passed_on(balancer, four, upgrade, passed):
    with client(balancer) as http:
        http.get("/", headers={"Upgrade": upgrade, "Connection": "upgrade"} if upgrade else {})
    (seen,) = [headers for app in four for headers in app.headers]
    assert (seen.get("upgrade"), seen.get("connection")) == passed


def test_health_is_the_balancers_own_and_not_logged(balancer, four):
    with client(balancer) as http:
        assert http.get("/health").status_code == 200
        assert http.get("/config").status_code == 200
    log = balancer.folder / "access.log"
    balancer.until(lambda: "/config" in log.read_text())
    assert "/health" not in log.read_text()
    assert sum(asked(four, "/health")) == 0


def test_a_body_too_large_is_refused(tmp_path, four):
    with (
        running(tmp_path, slots([app.port for app in four]), max_body=100_000) as balancer,
        client(balancer) as http,
    ):
        assert http.post("/gradio_api/upload", content=b"a" * 100_001).status_code == 413
        assert http.post("/gradio_api/upload", content=b"a" * 100_000).json()["body"] == 100_000


def test_with_no_server_users_are_told_when_to_come_back(tmp_path):
    with running(tmp_path, slots([free_port() for _ in range(2)])) as balancer, client(balancer) as http:
        for method, path in (
            ("GET", "/"),
            ("POST", "/queue/join"),
            ("GET", "/queue/data"),
            ("POST", "/call/x"),
        ):
            for _ in range(4):
                answer = http.request(method, path)
                assert (answer.status_code, answer.headers["retry-after"]) == (503, "10"), (method, path)
                assert "No translation server is free" in answer.text
        assert http.get("/health").status_code == 200


def test_without_any_slot_it_runs_and_says_so(tmp_path):
    with running(tmp_path, []) as balancer, client(balancer) as http:
        assert http.get("/").status_code == 503


@pytest.mark.parametrize("affinity", ["session", "none"])
def test_a_job_broken_off_is_never_repeated(tmp_path, four, affinity):
    for app in four:
        app.breaks = ("/join", "/call/translate", "/v1/chat")
    pool = slots([app.port for app in four])
    with running(tmp_path, pool, affinity=affinity) as balancer, client(balancer) as http:
        for path in ("/queue/join", "/call/translate", "/v1/chat"):
            answer = http.post(path, json={"session_hash": "s"})
            assert answer.status_code == 502
            assert "retry-after" not in answer.headers
            assert sum(asked(four, path)) == 1


def test_a_stream_broken_off_is_not_asked_of_another_server(balancer, four):
    for app in four:
        app.breaks = ("/data", "/event1")
    with client(balancer) as http:
        assert http.get("/queue/data", params={"session_hash": "s"}).status_code == 502
        assert http.get("/call/translate/gpu-01-0.event1").status_code == 502
    assert sum(asked(four, "/queue/data")) == sum(asked(four, "event1")) == 1


@pytest.mark.parametrize("cookies", [False, True])
def test_jobs_go_on_while_a_server_is_gone(tmp_path, four, cookies):
    """Both requests of a job find the same other server, from the first job on and when it is tried again."""
    with gradio() as fifth:
        gone = fifth.port
    ports = [app.port for app in four]
    with running(tmp_path, slots([gone, *ports]), fail_timeout=1) as balancer:
        for number in range(12):
            with client(balancer) as http:
                if cookies:
                    http.cookies.set("FLEET", "gpu-01-0")
                queue_job(http, f"session{number}")
                call_job(http)
        with gradio(gone) as back:

            def served() -> bool:
                with client(balancer) as http:
                    http.cookies.set("FLEET", "gpu-01-0")
                    return bool(http.get("/").json()["port"] == back.port)

            balancer.until(served)


def test_a_cookie_leads_to_its_slot(balancer, four):
    for number, app in enumerate(four):
        with client(balancer) as http:
            http.cookies.set("FLEET", f"gpu-0{number // 2 + 1}-{number % 2}")
            assert http.get("/").json()["port"] == app.port


def test_a_cookie_of_no_slot_is_replaced(balancer):
    with client(balancer) as http:
        for wrong in ("gpu-09-0", "", "; x", "gpu-01-0x"):
            answer = http.get("/", headers={"Cookie": f"FLEET={wrong}"})
            assert answer.headers["set-cookie"].startswith("FLEET=gpu-0")
            assert answer.headers["cache-control"] == "private"


def test_a_reload_loses_no_job(balancer, four):
    pool = slots([app.port for app in four])

    def jobs(name: str) -> int:
        with client(balancer) as http:
            for number in range(15):
                queue_job(http, f"{name}{number}")
                call_job(http)
        return 1

    with ThreadPoolExecutor(4) as threads:
        done = [threads.submit(jobs, f"w{i}s") for i in range(4)]
        for turn in range(5):
            balancer.reload([replace(slot, weight=100 + turn) for slot in pool])
        assert sum(job.result(timeout=30) for job in done) == 4


def test_streams_outlive_a_reload(balancer, four):
    for app in four:
        app.go_on.clear()
    with client(balancer) as http:
        http.post("/queue/join", json={"data": ["x"], "session_hash": "slow"})
        with http.stream("GET", "/queue/data", params={"session_hash": "slow"}) as events:
            lines = events.iter_lines()
            assert next(lines) == "event: begin"
            balancer.reload(slots([app.port for app in four], [5, 5, 5, 5]))
            for app in four:
                app.go_on.set()
            assert any(line == "event: complete" for line in lines)


def test_without_affinity_requests_go_where_fewest_are(tmp_path, four):
    """Two servers are held up by a stream each; the others get all else."""
    for app in four:
        app.session("s").put("event")
        app.go_on.clear()
    pool = slots([app.port for app in four])
    stream = "/queue/data?session_hash=s"
    with (
        running(tmp_path, pool, affinity="none") as balancer,
        client(balancer) as one,
        client(balancer) as two,
        one.stream("GET", stream),
        two.stream("GET", stream),
    ):
        busy = asked(four, "data")
        for _ in range(8):
            with client(balancer) as http:
                assert "set-cookie" not in http.get("/v1/models").headers
        held, one_free, other_free = sorted(zip(busy, asked(four, "/v1"), strict=True), reverse=True)[1:]
        assert held == (1, 0)
        # nginx may count a request for a moment after its answer is out: so nearly even.
        assert one_free[1] + other_free[1] == 8
        assert other_free[1] >= 3
        for app in four:
            app.go_on.set()


def test_json_stays_json(balancer):
    with client(balancer) as http:
        text = http.post("/call/translate", json={"data": []}).text
        assert set(json.loads(text)) == {"event_id"}
