"""Jobs through the balancer, as pages, clients and plain HTTP send them: every one comes back with its own answer.

The request for a job and the stream of its events must meet the same process, while each new job may go to any.
So the clients here are the real ones, and several at once.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any, TypeVar

import httpx
import pytest

pytestmark = pytest.mark.lab

JOBS = 32
AT_ONCE = 8
DEADLINE = 240.0
LANGUAGE = "Chinese"

T = TypeVar("T")


def expected(text: str) -> str:
    """What the lab's image answers to a text that is not in its table."""
    return f"[{LANGUAGE}] {text}"


def together(job: Callable[[int], Any], count: int = JOBS, at_once: int = AT_ONCE) -> None:
    """`count` jobs, `at_once` of them at a time. All run; a failure tells how many there were."""
    failures = []
    with ThreadPoolExecutor(at_once) as pool:
        for future in as_completed([pool.submit(job, i) for i in range(count)], timeout=DEADLINE):
            try:
                future.result()
            except Exception as error:
                failures.append(f"{type(error).__name__}: {error}"[:200])
    assert not failures, f"{len(failures)} of {count} jobs failed: {Counter(failures).most_common(3)}"


class Pool:
    """Things that serve one job at a time, lent to whoever comes next."""

    def __init__(self, make: Callable[[], Any], count: int = AT_ONCE) -> None:
        self._free: SimpleQueue[Any] = SimpleQueue()
        for _ in range(count):
            self._free.put(make())

    @contextmanager
    def one(self) -> Iterator[Any]:
        lent = self._free.get()
        try:
            yield lent
        finally:
            self._free.put(lent)


def client(url: str) -> Any:
    from gradio_client import Client

    return Client(url, verbose=False)


def translate(gradio: Any, text: str) -> None:
    answer = gradio.submit(text, LANGUAGE, api_name="/translate").result(timeout=DEADLINE)
    assert answer == expected(text)


def call(http: httpx.Client, text: str, *, cookies: bool) -> None:
    """One job over the two plain requests that need no client library."""
    if not cookies:
        http.cookies.clear()
    path = "/gradio_api/call/translate"
    asked = http.post(path, json={"data": [text, LANGUAGE]}).raise_for_status()
    if not cookies:
        http.cookies.clear()
    events = http.get(f"{path}/{asked.json()['event_id']}").text
    assert "event: complete\ndata: " in events, events[-300:]
    assert json.loads(events.split("event: complete\ndata: ")[1].splitlines()[0]) == [expected(text)]


def curl(url: str, *args: str) -> str:
    """As a user's script would: no library, no cookies."""
    command = ["curl", "--silent", "--show-error", "--fail", "--noproxy", "*", "--max-time", "60", *args, url]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def served(lab: Any) -> dict[str, int]:
    """How many requests the balancer has sent to each slot."""
    table = lab.sh("lb-01", "echo 'show stat' | socat stdio /run/haproxy/admin.sock").splitlines()
    names = table[0].removeprefix("# ").split(",")
    rows = [dict(zip(names, line.split(","), strict=False)) for line in table[1:] if line]
    return {r["svname"]: int(r["stot"]) for r in rows if r["pxname"] == "work" and r["svname"] != "BACKEND"}


def tell(lab: Any, command: str) -> None:
    answer = lab.sh("lb-01", f"echo '{command}' | socat stdio /run/haproxy/admin.sock").strip()
    assert answer == "", answer


def test_many_clients_spread_over_every_slot(lab, service_url):
    before = served(lab)
    pool = Pool(lambda: client(service_url))

    def job(i: int) -> None:
        with pool.one() as gradio:
            translate(gradio, f"job {i} of many")

    together(job)
    more = {name: count - before[name] for name, count in served(lab).items()}
    assert len(more) > 1
    assert min(more.values()) > 0, more


def test_one_client_with_many_jobs_at_once(service_url):
    """The joins of one session race; all must meet the server that the first of them chose."""
    gradio = client(service_url)
    together(lambda i: translate(gradio, f"job {i} of one"))


@pytest.mark.parametrize("size", [20_000, 100_000, 400_000])
def test_long_texts_find_back_to_their_server(service_url, size):
    """Beyond the balancer's buffer the session cannot be seen, and a cookie takes its place."""
    pool = Pool(lambda: client(service_url), 4)

    def job(i: int) -> None:
        with pool.one() as gradio:
            translate(gradio, f"{i} " + "a" * size)

    together(job, 8, 4)


def test_long_and_short_texts_of_one_session(service_url):
    """What is known of a session from a short text must not mislead its long one."""
    pool = Pool(lambda: client(service_url), 4)

    def job(i: int) -> None:
        with pool.one() as gradio:
            translate(gradio, f"short {i}")
            translate(gradio, f"long {i} " + "a" * 400_000)

    together(job, 12, 4)


@pytest.mark.parametrize("cookies", [False, True], ids=["without cookies", "with a cookie jar"])
def test_plain_http_calls(service_url, cookies):
    pool = Pool(lambda: httpx.Client(base_url=service_url, timeout=DEADLINE))

    def job(i: int) -> None:
        with pool.one() as http:
            call(http, f"call {i}", cookies=cookies)

    together(job)


def test_a_drained_slot_gets_no_new_job_and_no_job_fails(lab, service_url):
    pool = Pool(lambda: client(service_url))

    def job(i: int) -> None:
        with pool.one() as gradio:
            translate(gradio, f"drain {i}")

    together(job, AT_ONCE)
    slot = min(served(lab))
    tell(lab, f"set server work/{slot} state drain")
    try:
        before = served(lab)[slot]
        together(job)
        assert served(lab)[slot] == before
    finally:
        tell(lab, f"set server work/{slot} state ready")


@pytest.mark.alone
def test_reloads_lose_no_job_and_no_decision(lab, service_url):
    """Streams stay with the old process, requests go to the new one, and what was drained stays so."""
    drained = min(served(lab))
    tell(lab, f"set server work/{drained} state drain")
    try:
        pool = Pool(lambda: client(service_url), 4)
        plain = Pool(lambda: httpx.Client(base_url=service_url, timeout=DEADLINE), 4)
        shared = client(service_url)

        def job(i: int) -> None:
            if i % 3 == 0:
                translate(shared, f"reload {i}")
            elif i % 3 == 1:
                with pool.one() as gradio:
                    translate(gradio, f"reload {i}")
            else:
                with plain.one() as http:
                    call(http, f"reload {i}", cookies=False)

        with ThreadPoolExecutor(1) as reloader:
            done = reloader.submit(together, job, 2 * JOBS)
            while not done.done():
                lab.sh("lb-01", "systemctl reload haproxy")
                time.sleep(1.5)
            done.result()
        admin = lab.sh("lb-01", "echo 'show servers state work' | socat stdio /run/haproxy/admin.sock")
        states = {line.split()[3]: int(line.split()[6]) for line in admin.splitlines() if " work " in line}
        assert [name for name, state in states.items() if state] == [drained]
    finally:
        tell(lab, f"set server work/{drained} state ready")


def test_the_health_page_answers_and_is_not_logged(lab, service_url):
    assert httpx.get(f"{service_url}/health").status_code == 200
    assert httpx.get(f"{service_url}/config").status_code == 200
    for _ in range(20):
        logged = lab.sh("lb-01", "journalctl -t haproxy --no-pager -o cat", check=False)
        if "/config" in logged:
            break
        time.sleep(0.25)
    assert "/config" in logged
    assert "/health" not in logged


def test_the_balancers_own_socket_and_numbers_are_not_public(lab, service_url):
    ports = lab.sh("lb-01", "ss -Hltn | awk '{ print $4 }'").split()
    assert any(port.endswith(":8404") for port in ports)
    assert all(port.startswith("127.0.0.1:") for port in ports if port.endswith(":8404"))
    mode = lab.sh("lb-01", "stat -c %a /run/haproxy/admin.sock").strip()
    assert mode == "600"


def test_calls_with_curl(service_url):
    url = f"{service_url}/gradio_api/call/translate"

    def job(i: int) -> None:
        data = json.dumps({"data": [f"curl {i}", LANGUAGE]})
        event = json.loads(curl(url, "-H", "Content-Type: application/json", "-d", data))["event_id"]
        assert expected(f"curl {i}") in curl(f"{url}/{event}", "-N")

    together(job, 16)


@pytest.fixture
def browser() -> Iterator[Any]:
    """Debian's Chromium, without the connections it makes of its own accord."""
    from playwright.sync_api import sync_playwright

    quiet = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    quiet += ["--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=quiet)
        yield browser
        browser.close()


def test_a_page_translates_again_and_again(service_url, browser):
    """Chromium with the page's heartbeat open, as users have it: two tabs that share one cookie."""
    context = browser.new_context()
    tabs = [context.new_page() for _ in range(2)]
    for tab in tabs:
        tab.goto(service_url, wait_until="domcontentloaded")
    for turn in range(4):
        for number, tab in enumerate(tabs):
            text = f"tab {number} turn {turn}"
            tab.get_by_label("Text", exact=True).fill(text)
            tab.get_by_role("button", name="Translate").click()
        for number, tab in enumerate(tabs):
            wanted = expected(f"tab {number} turn {turn}")
            output = tab.get_by_label("Translation", exact=True)
            tab.wait_for_function(
                "([box, wanted]) => box.value === wanted",
                arg=[output.element_handle(), wanted],
                timeout=60_000,
            )
