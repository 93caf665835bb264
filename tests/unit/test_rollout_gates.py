"""Gates: what a balancer's sliding averages say of the requests since a step began, and the verdict."""

from __future__ import annotations

import csv
import io
import shutil
import socket
import subprocess
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.rollout.gates import Delta, changes, delta, judge, judge_golden, together
from fleet.rollout.model import Gates
from fleet.rollout.world import GateError, ServerNow
from tests.soaking import examples

NOW = ServerNow("lb-01", "gpu-01-0", 100, takes_jobs=True, up=True, held=False, process=7)
GATES = Gates(errors=0.01, slower=2.0, requests=10)
BLUE = [Delta("gpu-02-0", 200, 0, 1.0)]


class Haproxy:
    """HAProxy's own arithmetic, in whole milliseconds as it does it."""

    def __init__(self, window: int = 512) -> None:
        self.window, self.sum, self.count = window, 0, 0

    def add(self, milliseconds: int) -> None:
        self.count += 1
        n = self.window if self.count > self.window else 0
        self.sum = self.sum - ((self.sum + n - 1) // n if n else 0) + milliseconds

    def now(self, errors: int = 0) -> ServerNow:
        n = min(self.count, self.window) or self.window
        mean = (self.sum + n - 1) // n / 1000
        return replace(NOW, requests=self.count, errors=errors, mean=mean, window=self.window)


@given(
    window=st.sampled_from([1, 2, 8, 64, 512]),
    old=st.lists(st.integers(0, 60_000), max_size=700),
    same=st.integers(0, 60_000),
    count=st.integers(1, 700),
)
def test_requests_that_all_took_the_same_time_are_found_to_within_the_rounding(window, old, same, count):
    haproxy = Haproxy(window)
    for each in old:
        haproxy.add(each)
    before = haproxy.now()
    for _ in range(count):
        haproxy.add(same)
    change = delta(before, haproxy.now())
    assert change.requests == count
    assert change.mean == pytest.approx(same / 1000, abs=change.slack + 1e-6)


@given(
    old=st.lists(st.integers(0, 60_000), max_size=200),
    new=st.lists(st.integers(0, 60_000), min_size=1, max_size=300),
)
def test_until_the_window_is_full_the_mean_is_the_plain_one(old, new):
    haproxy = Haproxy()
    for each in old:
        haproxy.add(each)
    before = haproxy.now()
    for each in new:
        haproxy.add(each)
    change = delta(before, haproxy.now())
    assert change.mean == pytest.approx(sum(new) / len(new) / 1000, abs=change.slack + 1e-6)


@settings(max_examples=examples(15, 40))
@given(
    old=st.lists(st.integers(0, 60_000), min_size=513, max_size=700),
    new=st.lists(st.integers(1_000, 3_000), min_size=1, max_size=60),
)
def test_in_a_full_window_a_mixed_mean_lies_among_the_times_and_near_their_mean(old, new):
    haproxy = Haproxy()
    for each in old:
        haproxy.add(each)
    before = haproxy.now()
    for each in new:
        haproxy.add(each)
    change = delta(before, haproxy.now())
    assert change.mean is not None
    assert min(new) / 1000 - change.slack - 1e-6 <= change.mean <= max(new) / 1000 + change.slack + 1e-6
    # 60 requests fade by an eighth at most, so none weighs much more than another.
    assert change.mean == pytest.approx(sum(new) / len(new) / 1000, abs=change.slack + 0.25)


def test_a_full_window_of_slow_blue_requests_does_not_hide_fast_green_ones():
    haproxy = Haproxy()
    for _ in range(2000):
        haproxy.add(9000)
    before = haproxy.now()
    for _ in range(100):
        haproxy.add(500)
    after = haproxy.now()
    assert after.mean > 7
    assert delta(before, after).mean == pytest.approx(0.5, abs=0.02)


def test_a_few_requests_in_a_full_window_are_known_less_well_than_many():
    haproxy = Haproxy()
    for _ in range(1000):
        haproxy.add(700)
    before = haproxy.now()
    slacks = []
    for _ in range(40):
        haproxy.add(700)
        slacks.append(delta(before, haproxy.now()).slack)
    assert slacks == sorted(slacks, reverse=True)
    assert slacks[0] > 0.5 > 0.05 > slacks[-1]


def test_without_requests_there_is_no_mean():
    assert delta(NOW, NOW) == Delta("gpu-01-0", 0, 0, None)
    assert together("x", [delta(NOW, NOW), delta(NOW, NOW)]) == Delta("x", 0, 0, None)
    assert together("x", []) == Delta("x")


@pytest.mark.parametrize(
    "after",
    [
        replace(NOW, process=8, requests=900, errors=3, mean=0.5),
        replace(NOW, process=8, requests=12, errors=3, mean=0.5),
        replace(NOW, requests=12, errors=3, mean=0.5),
        replace(NOW, requests=900, errors=3, mean=0.5),
    ],
    ids=["another process with more", "another process", "fewer requests", "fewer errors"],
)
def test_a_balancer_that_was_restarted_counts_from_its_start(after):
    before = replace(NOW, requests=800, errors=5, mean=4.0)
    found = delta(before, after)
    assert (found.requests, found.errors) == (after.requests, 3)
    assert found.mean == pytest.approx(delta(None, after).mean)


def test_a_slot_is_counted_over_all_balancers_by_their_requests():
    before = [NOW, replace(NOW, balancer="lb-02", requests=5, mean=9.0)]
    after = [
        replace(NOW, requests=30, errors=1, mean=1.0),
        replace(NOW, balancer="lb-02", requests=15, mean=(5 * 9.0 + 10 * 3.0) / 15),
        replace(NOW, balancer="lb-03", requests=2, errors=2, mean=2.0, process=9),
        replace(NOW, slot="gpu-09-0"),
    ]
    found = changes(before, after)
    assert found["gpu-01-0"].requests == 42
    assert found["gpu-01-0"].errors == 3
    assert found["gpu-01-0"].mean == pytest.approx((30 * 1.0 + 10 * 3.0 + 2 * 2.0) / 42)
    assert found["gpu-09-0"] == Delta("gpu-09-0")


def failed(verdict, gate):
    assert verdict.state == "failed"
    assert isinstance(verdict.error, GateError)
    assert verdict.error.gate == gate
    assert (verdict.error.slot,) == verdict.slots
    assert verdict.error.remedy
    return str(verdict.error)


def test_as_good_as_blue_is_ok():
    verdict = judge([Delta("a", 100, 1, 1.9)], BLUE, GATES)
    assert (verdict.state, verdict.error) == ("ok", None)
    assert verdict.text == "a 100 requests, 1.0% errors, 1.90 s"


def test_errors_above_the_gate_fail_and_the_text_has_the_numbers():
    text = failed(judge([Delta("a", 100, 2, 1.0)], BLUE, GATES), "errors")
    assert text == "a: 2 errors in 100 requests (2.0%); 1.0% is let pass, and blue has 0.0% of 200"


def test_errors_of_one_slot_are_not_hidden_by_the_others():
    many = [Delta(f"s{n}", 1000, 0, 1.0) for n in range(20)]
    assert failed(judge([*many, Delta("bad", 20, 4, 1.0)], BLUE, GATES), "errors").startswith("bad: 4 errors")


def test_errors_fail_however_few_the_requests():
    failed(judge([Delta("a", 1, 1, 0.1)], BLUE, GATES), "errors")
    failed(judge([Delta("a", 0, 3, None)], BLUE, GATES), "errors")


def test_a_fault_that_blue_has_as_well_is_not_greens():
    assert judge([Delta("a", 100, 30, 1.0)], [Delta("b", 100, 30, 1.0)], GATES).state == "ok"
    failed(judge([Delta("a", 100, 31, 1.0)], [Delta("b", 100, 30, 1.0)], GATES), "errors")


def test_slower_than_blue_by_more_than_the_factor_fails():
    text = failed(judge([Delta("a", 10, 0, 2.1)], BLUE, GATES), "time")
    assert text == "a: 2.10 s a request in the mean of 10, blue 1.00 s; up to 2 times as long is let pass"


def test_what_may_be_rounding_alone_does_not_fail():
    assert judge([Delta("a", 10, 0, 2.1, slack=0.2)], BLUE, GATES).state == "ok"
    assert judge([Delta("a", 10, 0, 0.012)], [Delta("b", 100, 0, 0.003)], GATES).state == "ok"


def test_a_slow_card_is_compared_with_what_it_took_when_it_was_blue():
    slow = [Delta("t4", 50, 0, 5.0)]
    failed(judge(slow, BLUE, GATES), "time")
    assert judge(slow, BLUE, GATES, {"t4": 4.5}).state == "ok"
    failed(judge([Delta("t4", 50, 0, 9.5)], BLUE, GATES, {"t4": 4.5}), "time")
    assert judge([Delta("t4", 50, 0, 1.9)], BLUE, GATES, {"t4": 0.1}).state == "ok"


def test_too_few_requests_are_no_numbers_and_no_pass():
    verdict = judge([Delta("a", 9, 0, 99.0), Delta("b", 50, 0, 1.0), Delta("c")], BLUE, GATES)
    assert (verdict.state, verdict.slots) == ("no numbers", ("a", "c"))
    assert verdict.text == "a 9 requests, c 0 requests"
    assert judge([], BLUE, GATES).state == "no numbers"


def test_without_blue_to_compare_with_there_are_no_numbers_either():
    verdict = judge([Delta("a", 50, 0, 1.0)], [Delta("b", 9, 0, 1.0)], GATES)
    assert (verdict.state, verdict.slots) == ("no numbers", ("a",))
    assert verdict.text == "a 50 requests, but blue 9 to compare with"
    assert judge([Delta("a", 50, 0, 1.0)], [], GATES, {"a": 0.9}).state == "ok"


def test_a_slow_slot_fails_though_another_has_no_numbers():
    failed(judge([Delta("a"), Delta("b", 50, 0, 3.0)], BLUE, GATES), "time")


@pytest.mark.parametrize(
    ("green", "blue", "ok"),
    [(1.9, 1.0, True), (2.1, 1.0, False), (0.5, 0.1, True), (0.7, 0.1, False), (99.0, None, True)],
)
def test_a_golden_translation_is_compared_by_the_same_factor_but_not_below_half_a_second(green, blue, ok):
    verdict = judge_golden("a", green, blue, GATES)
    if ok:
        assert verdict.state == "ok"
    else:
        assert failed(verdict, "golden").startswith(f"a: its golden translation takes {green:.2f} s, blue's")


@pytest.mark.skipif(shutil.which("haproxy") is None, reason="no HAProxy")
def test_a_real_haproxy_averages_as_is_assumed(tmp_path):
    inside: list[float] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            began = time.monotonic()
            time.sleep(float(self.path[1:]))
            inside.append(time.monotonic() - began)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "haproxy.cfg").write_text(
        f"global\n  stats socket {tmp_path}/s\n"
        "defaults\n  mode http\n  timeout client 30s\n  timeout server 30s\n  timeout connect 5s\n"
        f"listen work\n  bind 127.0.0.1:{port}\n  server gpu-01-0 127.0.0.1:{server.server_address[1]}\n"
    )
    haproxy = subprocess.Popen(["haproxy", "-db", "-f", tmp_path / "haproxy.cfg"], stderr=subprocess.DEVNULL)
    try:
        while not (answers(port) and (tmp_path / "s").exists()):
            assert haproxy.poll() is None
            time.sleep(0.02)
        before = sample(tmp_path / "s")
        # The window fills in the third step, and is full in the last.
        for count, seconds in ((20, 0.005), (20, 0.06), (520, 0.0), (100, 0.04)):
            inside.clear()
            outside = ask(port, count, seconds)
            while (after := sample(tmp_path / "s")).requests < before.requests + count:
                time.sleep(0.02)
            found = delta(before, after)
            assert found.requests == count
            assert found.mean is not None
            # HAProxy's time is longer than the server's, and about as long as the client's.
            assert found.mean > sum(inside) / count - found.slack - 0.001
            assert found.mean < sum(outside) / count + found.slack + 0.02
            before = after
    finally:
        haproxy.terminate()
        haproxy.wait()
        server.shutdown()
        server.server_close()


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def ask(port: int, count: int, seconds: float) -> list[float]:
    def once(_: int) -> float:
        began = time.monotonic()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{seconds}") as answer:
            answer.read()
        return time.monotonic() - began

    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(once, range(count)))


def sample(path: Path) -> ServerNow:
    with socket.socket(socket.AF_UNIX) as talk:
        talk.connect(str(path))
        talk.sendall(b"show stat\n")
        table = b"".join(iter(lambda: talk.recv(65536), b"")).decode()
    [row] = [row for row in csv.DictReader(io.StringIO(table[2:])) if row["svname"] == "gpu-01-0"]
    requests = sum(int(row[f"hrsp_{kind}"]) for kind in ("1xx", "2xx", "3xx", "4xx", "5xx", "other"))
    return replace(NOW, requests=requests, mean=int(row["ttime"] or 0) / 1000)
