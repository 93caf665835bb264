"""What the balancer adds to a request, and what open pages cost it, in one run on this machine.

1,000 requests a second of a small answer: straight to the server, through the balancer, and through the
gateway (TLS, an API key, limits on jobs, requests and connections). wrk sends them at random moments
(Poisson), several rounds in turn; figures are medians of the rounds. Then the memory that HAProxy holds for
2,000 open pages. The server is a stand-in for a slot: an HAProxy that answers by itself; the pages' streams
come from a few lines of asyncio. --json gives a document.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import platform
import re
import resource
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import trustme  # noqa: E402

from fleet.balancer.gateway import Gateway, Rate  # noqa: E402
from fleet.model.slot import Slot  # noqa: E402
from tests.unit.haproxy_world import Balancer, free_port, haproxy, running  # noqa: E402

RATE = 1000
SECONDS = 10
ROUNDS = int(os.environ.get("FLEET_BENCH_ROUNDS", "5"))
CLIENTS = 40
PAGES = 2000
KEY = "fleet_bench"
MOST = 10**6
PATH = "/gradio_api/app_id"

SERVER = """\
global
  nbthread 1
  maxconn 8000
defaults
  mode http
  timeout client 1h
  timeout connect 5s
  timeout server 1h
frontend small
  bind 127.0.0.1:{port}
  default_backend pages
  acl page path_sub /heartbeat/
  http-request return status 200 content-type application/json string '{{"app_id":1}}' unless page
backend pages
  server pages 127.0.0.1:{pages}
"""

# wrk waits so many milliseconds before each request of a connection.
POISSON = f"function delay() return -math.log(1 - math.random()) * {1000 * CLIENTS / RATE} end\n"


@contextmanager
def process(command: list[str], log: Path) -> Iterator[None]:
    with log.open("wb") as out:
        started = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        yield
    finally:
        started.terminate()
        started.wait(10)


@contextmanager
def streams() -> Iterator[int]:
    """A server whose every answer is an event stream that does not end; gives its port."""
    loop = asyncio.new_event_loop()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
            writer.write(f"{head}data: ALIVE\n\n".encode())
            await reader.read(1)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = loop.run_until_complete(asyncio.start_server(answer, "127.0.0.1", 0, backlog=4096))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


def latencies(url: str, script: Path) -> tuple[float, float, float]:
    """Median and 99th percentile of the answers' times in milliseconds, and requests a second."""
    command = ["wrk", "-t1", f"-c{CLIENTS}", f"-d{SECONDS}s", "--latency", "-s", str(script)]
    done = subprocess.run([*command, "-H", f"X-API-Key: {KEY}", url], capture_output=True, text=True)
    said = done.stdout
    if done.returncode != 0 or "Non-2xx" in said or "Socket errors" in said:
        sys.exit(f"{url}: not every request was answered\n{said}{done.stderr}")
    times = {}
    for percent, number, unit in re.findall(r"^ +(\d+)% +([\d.]+)(us|ms|s)$", said, re.MULTILINE):
        times[percent] = float(number) * {"us": 0.001, "ms": 1, "s": 1000}[unit]
    rate = float(said.split("Requests/sec:")[1].split()[0])
    if not 0.9 * RATE < rate < 1.1 * RATE:
        sys.exit(f"{url}: {rate:.0f} requests a second instead of {RATE}: the machine is too busy")
    return times["50"], times["99"], rate


def worker_memory(balancer: Balancer) -> float:
    """MiB that HAProxy's worker holds in memory."""
    pid = balancer.ask("show info").split("Pid: ")[1].split()[0]
    found = re.search(r"^VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1]) / 1024


async def with_pages(balancer: Balancer, port: int, trust: ssl.SSLContext | None) -> float:
    """MiB with all pages open."""
    gate = asyncio.Semaphore(50)

    async def one(number: int) -> asyncio.StreamWriter:
        async with gate:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trust)
            head = f"GET /gradio_api/heartbeat/{number:08d} HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEY}\r\n\r\n"
            writer.write(head.encode())
            answer = await reader.readuntil(b"ALIVE")
            assert b" 200 " in answer, answer
            return writer

    writers = await asyncio.gather(*(one(number) for number in range(PAGES)))
    await asyncio.sleep(1)
    used = worker_memory(balancer)
    for writer in writers:
        writer.transport.abort()
    return used


def guarded(folder: Path, tls: int, authority: trustme.CA) -> Gateway:
    """A gateway with everything on, and limits that refuse nothing."""
    certificate = authority.issue_cert("127.0.0.1")
    chain = b"".join(blob.bytes() for blob in certificate.cert_chain_pems)
    (folder / "tls.pem").write_bytes(chain + certificate.private_key_pem.bytes())
    keys = folder / "keys.map"
    keys.write_text(f"{hashlib.sha256(KEY.encode()).hexdigest()} bench 00000000 2026-01-01T00:00:00Z\n")
    return Gateway(
        bind=f"127.0.0.1:{tls}",
        certificate=str(folder / "tls.pem"),
        keys=True,
        keys_file=str(keys),
        key_jobs=Rate(MOST, 1),
        key_jobs_at_once=MOST,
        address_jobs=Rate(MOST, 1),
        address_jobs_at_once=MOST,
        address_requests=Rate(MOST, 1),
        address_connections=MOST,
    )


def measure() -> dict[str, object]:
    rounds: dict[str, list[tuple[float, float, float]]] = {}
    with tempfile.TemporaryDirectory() as name, streams() as pages:
        folder = Path(name)
        folder.chmod(0o755)
        port, tls = free_port(), free_port()
        (folder / "server.cfg").write_text(SERVER.format(port=port, pages=pages))
        (folder / "poisson.lua").write_text(POISSON)
        slots = [Slot("gpu-01", i, f"GPU-{i}", "127.0.0.1", port) for i in range(4)]
        authority = trustme.CA()
        trust = ssl.create_default_context()
        authority.configure_trust(trust)
        for part in ("plain", "gateway"):
            (folder / part).mkdir()
        with (
            process([haproxy(), "-f", str(folder / "server.cfg")], folder / "server.log"),
            running(folder / "plain", slots) as plain,
            running(folder / "gateway", slots, gateway=guarded(folder, tls, authority)) as gate,
        ):
            urls = {
                "direct": f"http://127.0.0.1:{port}{PATH}",
                "balancer": f"http://127.0.0.1:{plain.port}{PATH}",
                "gateway": f"https://127.0.0.1:{tls}{PATH}",
            }
            for _ in range(ROUNDS):
                for target, url in urls.items():
                    rounds.setdefault(target, []).append(latencies(url, folder / "poisson.lua"))
            memory = {}
            for target, balancer, where, context in (
                ("balancer", plain, plain.port, None),
                ("gateway", gate, tls, trust),
            ):
                before = worker_memory(balancer)
                memory[target] = before, asyncio.run(with_pages(balancer, where, context))
            version = plain.ask("show info").split("Version: ")[1].split()[0]
    return {
        "haproxy": version,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, load {os.getloadavg()[0]:.1f}",
        "median_ms": {target: statistics.median(r[0] for r in all_) for target, all_ in rounds.items()},
        "p99_ms": {target: statistics.median(r[1] for r in all_) for target, all_ in rounds.items()},
        "pages": PAGES,
        "memory_mib": memory,
    }


def main() -> None:
    subprocess.run([ROOT / "lab/bin/need", "wrk", "haproxy", "socat"], check=True)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (20_000, max(hard, 20_000)))
    found = measure()
    if "--json" in sys.argv:
        print(json.dumps(found, indent=2))
        return
    median, high = found["median_ms"], found["p99_ms"]
    assert isinstance(median, dict)
    assert isinstance(high, dict)
    print(f"HAProxy {found['haproxy']}, {found['machine']}; {RATE} requests/s, {ROUNDS} x {SECONDS} s each")
    print(f"{'':10} {'median ms':>10} {'added':>8} {'99th ms':>10} {'added':>8}")
    for target in median:
        added = median[target] - median["direct"], high[target] - high["direct"]
        print(f"{target:10} {median[target]:10.2f} {added[0]:8.2f} {high[target]:10.2f} {added[1]:8.2f}")
    assert isinstance(found["memory_mib"], dict)
    for target, (before, opened) in found["memory_mib"].items():
        each = (opened - before) * 1024 / PAGES
        print(f"{PAGES} open pages, {target}: {before:.0f} -> {opened:.0f} MiB, {each:.0f} KiB a page")


if __name__ == "__main__":
    main()
