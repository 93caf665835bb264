"""The gateway in a real HAProxy: TLS, keys, limits, and what it writes into the log."""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import trustme

from fleet.balancer.gateway import Gateway, Rate
from fleet.model.slot import Slot
from tests.unit.haproxy_world import Balancer, free_port, running

KEY = "fleet_of-alice"
OTHER = "fleet_of-bob"


class App:
    """Answers as Gradio does: a join at once, its events after `seconds`; remembers what it was sent."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.seen: list[dict[str, str]] = []

    @contextmanager
    def running(self) -> Iterator[int]:
        app = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                app.seen.append({key.lower(): value for key, value in self.headers.items()})
                if "/queue/data" in self.path:
                    time.sleep(app.seconds)
                self.answer(b"data: done\n\n")

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self.answer(b'{"event_id":"1"}')

            def answer(self, body: bytes) -> None:
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        server.handle_error = lambda *_: None  # type: ignore[method-assign]
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


@pytest.fixture
def app() -> App:
    return App()


@contextmanager
def gateway(folder: Path, app: App, *, slots: int = 1, **more: Any) -> Iterator[Balancer]:
    """A balancer behind a gateway, with two keys."""
    settings = {
        key: more.pop(key) for key in ("affinity", "slot_queue", "slot_jobs", "max_body") if key in more
    }
    keys = folder / "keys.map"
    keys.write_text(f"{digest(KEY)} alice 00000001 2026-01-01T00:00:00Z\n{digest(OTHER)} bob 00000002 x\n")
    with app.running() as port:
        servers = [Slot("gpu-01", i, f"GPU-{i}", "127.0.0.1", port) for i in range(slots)]
        asked = Gateway(keys_file=str(keys), **more)
        with running(folder, servers, gateway=asked, check_interval=1, check_retry=1, **settings) as balancer:
            yield balancer


def change(balancer: Balancer, old: str, new: str) -> None:
    """Have it run its configuration with one thing different."""
    text = balancer.config.read_text()
    assert old in text
    balancer.config.write_text(text.replace(old, new))
    balancer.reload()


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def http(balancer: Balancer, **more: Any) -> httpx.Client:
    # Without TLS to verify, a client is made in no time, and twenty of them really come at once.
    return httpx.Client(base_url=f"http://127.0.0.1:{balancer.port}", timeout=20, verify=False, **more)


def join(client: httpx.Client, session: str) -> int:
    return client.post("/gradio_api/queue/join", json={"data": ["x"], "session_hash": session}).status_code


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Balancer, App]]:
    """A gateway that asks for keys and limits nothing, for the tests that change neither it nor its keys."""
    app = App()
    with gateway(tmp_path_factory.mktemp("keyed"), app, keys=True) as balancer:
        yield balancer, app


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": "Bearer nobody's"}, 401),
        ({"Authorization": f"Bearer {digest(KEY)}"}, 401),
        ({"Authorization": KEY}, 401),
        ({"X-API-Key": ""}, 401),
        ({"X-API-Key": KEY.upper()}, 401),
        ({"Authorization": f"Bearer {KEY}"}, 200),
        ({"Authorization": f"bearer {KEY}"}, 200),
        ({"X-API-Key": OTHER}, 200),
        ({"Authorization": "Basic " + base64.b64encode(f"any:{KEY}".encode()).decode()}, 200),
        ({"Authorization": "Basic " + base64.b64encode(f"{KEY}:".encode()).decode()}, 401),
        ({"Authorization": "Basic !"}, 401),
    ],
)
def test_only_a_valid_key_is_served(keyed, headers, status):
    balancer, app = keyed
    app.seen.clear()
    with http(balancer) as client:
        answer = client.get("/config", headers=headers)
        assert answer.status_code == status
        if status == 401:
            assert answer.headers["www-authenticate"].startswith("Basic realm=")
            assert not [seen for seen in app.seen if seen.get("host") != "fleet-check"]
        else:
            (sent,) = [seen for seen in app.seen if seen.get("host") != "fleet-check"]
            assert "authorization" not in sent
            assert "x-api-key" not in sent


def test_a_key_comes_and_goes_while_haproxy_runs(tmp_path, app):
    with gateway(tmp_path, app, keys=True) as balancer, http(balancer, headers={"X-API-Key": KEY}) as client:
        assert client.get("/").status_code == 200
        keys = balancer.settings.gateway.keys_file
        assert balancer.ask(f"del map {keys} {digest(KEY)}").strip() == ""
        assert client.get("/").status_code == 401
        balancer.ask(f"add map {keys} {digest(KEY)} alice 00000001 x")
        assert client.get("/").status_code == 200


def test_a_key_revoked_after_a_reload_does_not_live_on_in_the_old_process(tmp_path, app):
    """A connection from before the reload is served by the old process, whose keys nobody changes any more."""
    app.seconds = 2.0
    with gateway(tmp_path, app, keys=True) as balancer, http(balancer, headers={"X-API-Key": KEY}) as client:
        assert client.get("/").status_code == 200
        with ThreadPoolExecutor(1) as pool:
            url = f"http://127.0.0.1:{balancer.port}/gradio_api/queue/data?session_hash=s"
            stream = pool.submit(httpx.get, url, headers={"X-API-Key": KEY}, timeout=20)
            time.sleep(0.3)
            balancer.reload()
            keys = balancer.settings.gateway.keys_file
            balancer.ask(f"del map {keys} {digest(KEY)}")
            assert client.get("/").status_code == 401
            assert stream.result().status_code == 200


@pytest.mark.parametrize("on", [True, False], ids=["turned on", "turned off"])
def test_connections_of_before_are_asked_for_a_key_as_all_others(tmp_path, app, on):
    """A request that began before the reload ends in the old process, which must not pass it round the gateway."""
    keys = tmp_path / "keys.map"
    keys.write_text(f"{digest(KEY)} alice 00000001 x\n")
    asked = Gateway(keys=True, keys_file=str(keys))
    with app.running() as port:
        slots = [Slot("gpu-01", 0, "GPU-0", "127.0.0.1", port)]
        with running(tmp_path, slots, **({} if on else {"gateway": asked})) as balancer:
            began = [socket.create_connection(("127.0.0.1", balancer.port), 5) for _ in range(2)]
            for one in began:
                one.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
            time.sleep(0.2)
            balancer.settings = msgspec.structs.replace(balancer.settings, gateway=asked if on else None)
            balancer.write(slots)
            balancer.reload()
            began[0].sendall(b"\r\n")
            began[1].sendall(f"X-API-Key: {KEY}\r\n\r\n".encode())
            answers = [one.recv(1000).split(b" ")[1] for one in began]
            assert answers == [b"401" if on else b"200", b"200"]
            for one in began:
                one.close()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@contextmanager
def tls(folder: Path, app: App, authority: trustme.CA, **more: Any) -> Iterator[tuple[Balancer, int]]:
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    pem = folder / "tls.pem"
    pem.write_bytes(
        b"".join(blob.bytes() for blob in certificate.cert_chain_pems) + certificate.private_key_pem.bytes()
    )
    port = free_port()
    with gateway(folder, app, bind=f"127.0.0.1:{port}", certificate=str(pem), **more) as balancer:
        yield balancer, port


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def test_tls_is_spoken_and_plain_http_is_sent_there(tmp_path, app, authority):
    with tls(tmp_path, app, authority) as (balancer, port):
        answer = httpx.get(f"https://127.0.0.1:{port}/config", verify=trusting(authority))
        assert answer.status_code == 200
        assert answer.headers["strict-transport-security"] == "max-age=15552000"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "SAMEORIGIN"
        assert "server" not in answer.headers
        assert "x-fleet-slot" not in answer.headers
        plain = httpx.get(
            f"http://127.0.0.1:{balancer.port}/config?a=b", headers={"Host": "translate.example"}
        )
        assert (plain.status_code, plain.headers["location"]) == (308, "https://translate.example/config?a=b")
        assert httpx.get(f"http://127.0.0.1:{balancer.port}/health").status_code == 200


def test_old_tls_is_refused(tmp_path, app, authority):
    with tls(tmp_path, app, authority) as (_, port):
        context = trusting(authority)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
        with pytest.raises(ssl.SSLError), socket.create_connection(("127.0.0.1", port), 5) as raw:
            context.wrap_socket(raw, server_hostname="127.0.0.1")


def test_jobs_at_once_are_limited_for_each_key(tmp_path, app):
    app.seconds = 1.5
    with gateway(tmp_path, app, keys=True, key_jobs_at_once=4) as balancer:

        def job(number: int, key: str = KEY) -> int:
            with http(balancer, headers={"X-API-Key": key}) as client:
                status = join(client, f"s{number}")
                if status == 200:
                    assert client.get(f"/gradio_api/queue/data?session_hash=s{number}").status_code == 200
                return status

        with ThreadPoolExecutor(21) as pool:
            many = [pool.submit(job, number) for number in range(20)]
            time.sleep(0.4)
            assert pool.submit(job, 100, OTHER).result() == 200
            assert Counter(future.result() for future in many) == {200: 4, 429: 16}
        assert job(200) == 200


def test_a_rate_holds_within_five_percent(tmp_path, app):
    """Steady, from more clients than the limit lets through; the first second may pass a full period's worth.

    A machine too busy to ask that often measures itself, so it may try again.
    """
    limit, seconds = 25, 4.0
    with gateway(tmp_path, app, address_requests=Rate(limit, 1)) as balancer:

        def steady() -> int:
            passed: list[float] = []
            start = time.monotonic()

            def ask(_: int) -> None:
                with http(balancer) as client:
                    while (at := time.monotonic() - start) < 1 + seconds:
                        answer = client.get("/config")
                        if answer.status_code == 200:
                            passed.append(at)
                        else:
                            assert answer.status_code == 429
                            assert answer.headers["retry-after"] == "1"
                            time.sleep(0.01)

            with ThreadPoolExecutor(4) as pool:
                list(pool.map(ask, range(4)))
            return sum(1 for at in passed if at >= 1)

        counts: list[int] = []
        while not counts or counts[-1] != pytest.approx(limit * seconds, rel=0.05):
            assert len(counts) < 3, counts
            counts.append(steady())


def test_jobs_have_a_rate_of_their_own(tmp_path, app):
    with gateway(tmp_path, app, keys=True, key_jobs=Rate.parse("3/hour")) as balancer:
        with http(balancer, headers={"X-API-Key": KEY}) as client:
            assert [join(client, f"s{i}") for i in range(5)] == [200, 200, 200, 429, 429]
            assert client.get("/config").status_code == 200
            assert client.get("/gradio_api/queue/data?session_hash=s1").status_code == 200
        with http(balancer, headers={"X-API-Key": OTHER}) as client:
            assert join(client, "other") == 200


def test_addresses_are_allowed_and_denied(tmp_path, app):
    with gateway(tmp_path, app, allow=("192.0.2.0/24",)) as balancer, http(balancer) as client:
        assert client.get("/").status_code == 403
        assert client.get("/health").status_code == 200
    (tmp_path / "second").mkdir()
    with gateway(tmp_path / "second", app, deny=("127.0.0.0/8",)) as balancer, http(balancer) as client:
        assert client.get("/").status_code == 403


def test_connections_of_an_address_are_limited(tmp_path, app):
    with gateway(tmp_path, app, address_connections=3) as balancer:
        open_ones = [socket.create_connection(("127.0.0.1", balancer.port), 5) for _ in range(3)]
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http://127.0.0.1:{balancer.port}/config", timeout=3)
        for one in open_ones:
            one.close()
        balancer.until(lambda: httpx.get(f"http://127.0.0.1:{balancer.port}/config").status_code == 200)


def test_what_is_too_long_is_refused_with_its_own_status(tmp_path, app):
    with gateway(tmp_path, app, max_body=1000, max_header=4096) as balancer, http(balancer) as client:
        assert client.post("/x", content=b"a" * 1001).status_code == 413
        assert client.post("/x", content=b"a" * 1000).status_code == 200
        assert client.post("/x", content=iter([b"a" * 10])).status_code == 411
        assert client.get("/x", headers={"X-Long": "a" * 5000}).status_code == 431
        assert client.get("/" + "a" * 9000).status_code == 414


def test_a_slow_request_is_ended(tmp_path, app):
    with gateway(tmp_path, app) as balancer:
        change(balancer, "wait-for-body time 10s", "wait-for-body time 1s")
        with socket.create_connection(("127.0.0.1", balancer.port), 5) as slow:
            slow.sendall(b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\na")
            slow.settimeout(15)
            assert b" 408 " in slow.recv(1000)


def test_the_queue_is_bounded_and_says_when_to_come_back(tmp_path, app):
    app.seconds = 1.5
    with gateway(tmp_path, app, slots=2, slot_jobs=1, slot_queue=2) as balancer:

        def job(number: int) -> int:
            with http(balancer) as client:
                answer = client.post("/gradio_api/queue/join", json={"session_hash": f"s{number}"})
                if answer.status_code == 200:
                    assert client.get(f"/gradio_api/queue/data?session_hash=s{number}").status_code == 200
                else:
                    assert int(answer.headers["retry-after"]) > 0
                return answer.status_code

        with ThreadPoolExecutor(30) as pool:
            assert Counter(pool.map(job, range(30))) == {200: 6, 503: 24}
        assert job(99) == 200


def test_without_affinity_haproxy_keeps_the_queue(tmp_path, app):
    app.seconds = 0.8
    limits = {"affinity": "none", "slot_jobs": 2, "slot_queue": 1}
    with gateway(tmp_path, app, slots=2, **limits) as balancer, http(balancer) as client:

        def job(number: int) -> tuple[int, float]:
            start = time.monotonic()
            answer = client.get(f"/queue/data?job={number}")
            return answer.status_code, time.monotonic() - start

        with ThreadPoolExecutor(20) as pool:
            answers = list(pool.map(job, range(20)))
        assert Counter(status for status, _ in answers) == {200: 6, 503: 14}
        assert sum(1 for status, seconds in answers if status == 200 and seconds > 1.4) == 2


def test_the_log_is_json_and_holds_neither_texts_nor_keys(tmp_path, app):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as syslog:
        syslog.bind(("127.0.0.1", 0))
        syslog.settimeout(5)
        with gateway(tmp_path, app, keys=True) as balancer:
            change(balancer, "log /dev/log", f"log 127.0.0.1:{syslog.getsockname()[1]}")
            with http(balancer, headers={"X-API-Key": KEY}) as client:
                body = {"data": ["a secret text"], "session_hash": "s1"}
                assert client.post("/gradio_api/queue/join", json=body).status_code == 200
                assert client.get("/gradio_api/queue/data?session_hash=s1&t=secret").status_code == 200
            lines = []
            while len(lines) < 2:
                line = syslog.recv(8192).decode()
                if "{" in line:
                    lines.append(line)
    first, second = (json.loads(line[line.index("{") :]) for line in lines)
    assert (first["method"], first["path"], first["status"]) == ("POST", "/gradio_api/queue/join", 200)
    assert (second["path"], second["slot"], second["key"]) == ("/gradio_api/queue/data", "gpu-01-0", "alice")
    assert abs(first["time"] - time.time()) < 60
    assert "secret" not in "".join(lines)
    assert KEY not in "".join(lines)
    assert digest(KEY) not in "".join(lines)
