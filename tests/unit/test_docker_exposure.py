"""Ports on which a Docker Engine takes orders: found in the file, on the command line and among the sockets."""

import os
import shutil
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
import trustme

from fleet.docker.exposure import DOOR_REMEDY, EXPOSURE_PROBE, Door, configured_doors, describe, engine_doors
from fleet.engine.look import look
from fleet.errors import TaskError
from fleet.model.facts import Answer
from fleet.modules.registry import load
from tests.local import LocalRemote
from tests.ports import free_port
from tests.unit.modules_world import plan, typed
from tests.unit.test_modules_docker_engine import BARE, PATH, file_answer


def doors(text):
    return engine_doors(Answer(0, text.encode()))


def test_a_healthy_engine_has_no_door():
    assert doors("") == ()
    assert (
        doors('config {\nconfig   "live-restore": true\nconfig }\nargv dockerd\nargv -H\nargv fd://\n') == ()
    )
    assert doors("config { not json\nargv /usr/sbin/dockerd\nlisten 0100007F:2482 other\n") == ()


@pytest.mark.parametrize(
    ("line", "address", "local", "locked"),
    [
        ("listen 00000000:0947 open", "tcp://0.0.0.0:2375", False, False),
        ("listen 0100007F:0947 open", "tcp://127.0.0.1:2375", True, False),
        ("listen 0100000A:0948 locked", "tcp://10.0.0.1:2376", False, True),
        ("listen 00000000000000000000000000000000:0947 open", "tcp://[::]:2375", False, False),
        ("listen 00000000000000000000000001000000:0947 open", "tcp://[::1]:2375", True, False),
        ("listen 0000000000000000FFFF00000100000A:0947 open", "tcp://10.0.0.1:2375", False, False),
        ("listen B80D0120000000000000000001000000:0947 unknown", "tcp://[2001:db8::1]:2375", False, False),
    ],
)
def test_a_socket_that_takes_orders_is_a_door(line, address, local, locked):
    (door,) = doors(line)
    assert (door.address, door.local, door.locked, door.open, door.listening) == (
        address,
        local,
        locked,
        not locked,
        True,
    )


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({}, ()),
        ({"hosts": None}, ()),
        ({"hosts": ["unix:///run/docker.sock", "fd://"]}, ()),
        ({"hosts": ["tcp://0.0.0.0:2375"]}, (Door("tcp://0.0.0.0:2375", 2375, False, False),)),
        ({"hosts": ["tcp://"]}, (Door("tcp://0.0.0.0:2375", 2375, False, False),)),
        ({"hosts": "tcp://10.0.0.1"}, (Door("tcp://10.0.0.1:2375", 2375, False, False),)),
        ({"hosts": ["tcp://:2376"], "tlsverify": True}, (Door("tcp://0.0.0.0:2376", 2376, True, False),)),
        ({"hosts": ["tcp://h:2376"], "tls": True}, (Door("tcp://h:2376", 2376, False, False),)),
    ],
)
def test_what_the_file_would_open(config, found):
    assert configured_doors(config) == found


@pytest.mark.parametrize(
    "argv", ["-H\nargv tcp://:2375", "--host=tcp://:2375", "-Htcp://:2375", "-H=tcp://:2375"]
)
def test_a_door_from_a_units_drop_in_is_seen_on_the_command_line(argv):
    (door,) = doors(f"argv /usr/bin/dockerd\nargv {argv}\n")
    assert (door.port, door.open, door.listening) == (2375, True, False)
    (locked,) = doors(f"argv /usr/bin/dockerd\nargv --tlsverify\nargv {argv}\n")
    assert not locked.open


def test_a_door_that_is_open_now_is_told_once():
    (door,) = doors('config {"hosts": ["tcp://0.0.0.0:2375"]}\nlisten 00000000:0947 open\n')
    assert door.listening
    assert describe(door) == (
        "the Docker Engine takes orders on tcp://0.0.0.0:2375 without client certificates: "
        "whoever reaches it is root there"
    )
    later = Door("tcp://127.0.0.1:2375", 2375, listening=False)
    assert "is to take orders from its next start" in describe(later)
    assert "every user and program of the host is root" in describe(later)


# A stand-in for dockerd: it bears the name, holds the sockets and answers as the engine does.
DOCKERD = """
import http.server, ssl, sys, threading
open("/proc/self/comm", "w").write("dockerd")
class Engine(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        if self.server.engine:
            self.send_header("Api-Version", "1.45")
        self.end_headers()
    def log_message(self, *_): pass
class Tls(http.server.ThreadingHTTPServer):
    # Go's server says so in plain words to who speaks plainly to it.
    def get_request(self):
        sock, where = super().get_request()
        if sock.recv(1, 2) != b"\\x16":
            sock.recv(4096)
            sock.sendall(b"HTTP/1.0 400 Bad Request\\r\\n\\r\\nClient sent an HTTP request to an HTTPS server.\\n")
            sock.close()
            raise OSError("plain")
        return self.context.wrap_socket(sock, server_side=True), where
for at in sys.argv[2:]:
    kind, _, where = at.partition("=")
    host, _, port = where.rpartition(":")
    server = (Tls if kind.startswith("tls") else http.server.ThreadingHTTPServer)((host, int(port)), Engine)
    server.engine = kind != "metrics"
    if kind.startswith("tls"):
        server.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=sys.argv[1])
        server.context.load_cert_chain(sys.argv[1])
        server.context.verify_mode = ssl.CERT_REQUIRED if kind == "tlsverify" else ssl.CERT_NONE
    threading.Thread(target=server.serve_forever).start()
print("ready", flush=True)
"""


@pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("curl"), reason="needs root and curl, as hosts have them"
)
def test_the_sockets_of_a_running_engine_are_told_apart(tmp_path: Path):
    authority = trustme.CA()
    pem = tmp_path / "engine.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(pem)
    authority.cert_pem.write_to_path(pem, append=True)
    assert ssl.create_default_context(cafile=str(pem))
    ports = {kind: free_port() for kind in ("open", "tls", "tlsverify", "metrics")}
    named = [f"{kind}=127.0.0.1:{port}" for kind, port in ports.items()]
    engine = subprocess.Popen([sys.executable, "-c", DOCKERD, str(pem), *named], stdout=subprocess.PIPE)
    try:
        assert engine.stdout is not None
        assert engine.stdout.readline() == b"ready\n"
        answer = look(LocalRemote("here"), (EXPOSURE_PROBE,), timeout=60)[EXPOSURE_PROBE.key]
    finally:
        engine.kill()
        engine.wait()
    found = {door.port: door for door in engine_doors(answer)}
    assert found[ports["open"]].open
    assert found[ports["tls"]].open
    assert found[ports["tlsverify"]].locked
    assert ports["metrics"] not in found
    assert all(door.local and door.listening for door in found.values() if door.port in ports.values())


def test_fleet_opens_no_port_for_the_engine():
    with pytest.raises(ValueError, match=r"hosts has tcp://0\.0\.0\.0:2376: fleet opens no port"):
        typed("docker_engine", {"config": {"hosts": ["tcp://0.0.0.0:2376"], "tlsverify": True}})
    assert load("docker_engine").args(config={"hosts": ["fd://"]})


def test_a_host_whose_file_opens_a_port_is_refused_until_the_file_says_otherwise():
    old = file_answer(b'{"hosts": ["tcp://0.0.0.0:2375"]}')
    seen = BARE | {f"file.content:{PATH}": old}
    with pytest.raises(TaskError, match=r"listen on tcp://0\.0\.0\.0:2375 without asking") as error:
        plan("docker_engine", {}, seen)
    assert DOOR_REMEDY in error.value.remedy
    changes = plan("docker_engine", {"config": {"hosts": None}}, seen)
    assert '-{"hosts": ["tcp://0.0.0.0:2375"]}' in changes[0].diff
    # Certificates are their owner's business.
    locked = file_answer(b'{"hosts": ["tcp://0.0.0.0:2376"], "tlsverify": true}')
    assert plan("docker_engine", {}, BARE | {f"file.content:{PATH}": locked})
