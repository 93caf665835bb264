"""What runs in the containers is found by asking one, and decides affinity, queues and health checks."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from fleet.docker.profile import profile_of, profile_probe
from fleet.model.facts import Answer, Facts
from fleet.modules._haproxy_args import HaproxyArgs, chosen_profile
from tests.unit.test_haproxy_module import FLEET, ctx

GRADIO = {
    "/config": (200, '{"version":"6.31","api_prefix":"/gradio_api","dependencies":[]}'),
    "/": (200, "page"),
}
OPENAI = {"/v1/models": (200, '{"object":"list","data":[]}'), "/": (404, "")}
CLOSED = {"/v1/models": (401, "no key"), "/": (404, "")}
PLAIN = {"/": (200, "hello")}
LOADING: dict[str, tuple[int, str]] = {}


@contextmanager
def service(
    pages: dict[str, tuple[int, str]], missing: int = 404, address: str = "127.0.0.1"
) -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = pages.get(self.path, (missing, "nothing"))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in address else socket.AF_INET

        def server_bind(self) -> None:
            if self.address_family == socket.AF_INET6:  # as Docker's proxy listens
                self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            super().server_bind()

    server = Server((address, 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def ask(port: int) -> Facts:
    probe = profile_probe(port)
    # Other servers of this machine may listen just above.
    script = probe.script.replace("first + 32", "first + 1")
    assert script != probe.script
    done = subprocess.run(["sh", "-c", script], capture_output=True, timeout=30)
    return Facts({probe.key: Answer(done.returncode, done.stdout)})


@pytest.mark.parametrize(
    ("pages", "missing", "profile"),
    [
        (GRADIO, 404, "gradio"),
        (OPENAI, 404, "openai"),
        (CLOSED, 404, "openai"),
        (PLAIN, 404, "http"),
        (PLAIN, 200, "http"),
        (LOADING, 503, None),
    ],
)
def test_a_service_is_told_by_its_own_words(pages, missing, profile):
    with service(pages, missing) as port:
        assert profile_of(ask(port)) == profile


def test_where_nothing_listens_nothing_is_known():
    with service({}) as port:
        pass
    assert profile_of(ask(port)) is None
    assert profile_of(Facts({})) is None


def told(profile: str) -> Facts:
    return Facts({**FLEET["gpu-01"], profile_probe(7860).key: Answer(0, f"{profile}\n".encode())})


def test_the_inventory_has_the_last_word():
    fleet = {**FLEET, "gpu-01": told("openai")}
    assert chosen_profile(HaproxyArgs(profile="http"), ctx(fleet), "") == "http"
    assert chosen_profile(HaproxyArgs(), ctx(fleet), "") == "openai"


def test_what_was_deployed_stays_until_a_container_answers():
    deployed = "global\n  setenv FLEET_PROFILE openai\n"
    assert chosen_profile(HaproxyArgs(), ctx(), deployed) == "openai"
    assert chosen_profile(HaproxyArgs(), ctx({**FLEET, "gpu-02": told("gradio")}), deployed) == "gradio"
    assert chosen_profile(HaproxyArgs(), ctx(), "") == "gradio"
    assert chosen_profile(HaproxyArgs(), ctx(), "global\n  setenv FLEET_PROFILE x\n") == "gradio"


def test_the_profile_decides_what_is_not_said():
    gradio, openai, plain = (HaproxyArgs().settings(profile=p) for p in ("gradio", "openai", "http"))
    assert (gradio.affinity, gradio.slot_jobs, gradio.check_path) == ("job", 1, "/")
    assert (openai.affinity, openai.slot_jobs, openai.check_path) == ("none", 64, "/health")
    assert (plain.affinity, plain.slot_jobs) == ("none", None)
    said = HaproxyArgs(affinity="session", slot_jobs=0, check_path="/up").settings(profile="openai")
    assert (said.affinity, said.slot_jobs, said.check_path) == ("session", None, "/up")
