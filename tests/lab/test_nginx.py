"""nginx as a balancer of real hosts and real apps, on a port of its own beside HAProxy."""

from __future__ import annotations

import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.lab.conftest import Done, Lab
from tests.lab.helpers import server_states, wait_for
from tests.lab.test_jobs import AT_ONCE, DEADLINE, JOBS, LANGUAGE, Pool, call, client, together, translate

pytestmark = pytest.mark.lab

PORT = 8081
SITE = "/etc/nginx/conf.d/fleet.conf"
PLAYBOOK = f"""\
- name: GPU hosts
  hosts: gpu
  defaults: {{slot_env: {{}}, slot_volumes: [], gpu_memory_min: 12GiB}}
  tasks:
    - name: One container per GPU
      gpu_containers:
        image: "{{{{ image }}}}"
- name: Balancers
  hosts: HOST
  tasks:
    - name: nginx
      nginx:
        port: {PORT}
        status_port: 8405
        fail_timeout: FAIL_TIMEOUT
        longest_job: 120
"""


class Nginx:
    """nginx on one balancer: its playbook, and its address on the lab's own network."""

    def __init__(self, lab: Lab, folder) -> None:
        self.lab = lab
        # The one with the oldest nginx.
        self.host = max(name for name in lab.hosts if name.startswith("lb-"))
        self.playbook = folder / "nginx.yml"
        self.write()
        form = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}"
        found = subprocess.run(
            ["docker", "inspect", "-f", form, lab.hosts[self.host]["container"]],
            capture_output=True,
            text=True,
            check=True,
        )
        self.url = f"http://{found.stdout.split()[0]}:{PORT}"

    def write(self, fail_timeout: int = 5) -> None:
        text = PLAYBOOK.replace("HOST", self.host).replace("FAIL_TIMEOUT", str(fail_timeout))
        self.playbook.write_text(text)

    def run(self, *args: str) -> Done:
        return self.lab.fleet("run", str(self.playbook), *args)

    def changes(self) -> int:
        done = self.run("--json")
        assert done.code == 0, done.out + done.err
        return int(done.json["hosts"][self.host]["recap"]["changed"])

    def sh(self, script: str) -> str:
        return self.lab.sh(self.host, script)

    def http(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=DEADLINE, trust_env=False)


@pytest.fixture(scope="module")
def nginx(lab: Lab, tmp_path_factory) -> Iterator[Nginx]:
    found = Nginx(lab, tmp_path_factory.mktemp("nginx"))
    done = found.run()
    assert done.code == 0, done.out + done.err
    yield found
    found.sh("apt-get purge -y -q 'nginx*' >/dev/null 2>&1; rm -rf /etc/nginx")


def job_on(nginx: Nginx, name: str, *, http: httpx.Client, gradio) -> Callable[[int], None]:
    def job(i: int) -> None:
        if i % 3 == 0:
            translate(gradio, f"{name} {i}")
        elif i % 3 == 1:
            translate(client(nginx.url), f"{name} {i}")
        else:
            with nginx.http() as plain:
                call(plain, f"{name} {i}", cookies=False)

    return job


def test_it_serves_beside_another_balancer_and_a_second_run_changes_nothing(nginx):
    assert nginx.changes() == 0
    assert httpx.get(f"{nginx.url}/health", trust_env=False).status_code == 200
    logged = nginx.sh("cat /var/log/nginx/access.log")
    assert "/health" not in logged
    assert "active" in nginx.sh("systemctl is-active haproxy")


def test_drift_is_mended(nginx):
    nginx.sh(f"sed -i 's/least_conn/random/' {SITE}; nginx -s reload")
    assert nginx.changes() == 1
    nginx.sh("systemctl disable --now nginx")
    assert nginx.changes() == 1
    # What runs is not what is on disk: reloaded with another text, which was then put back with its old time.
    nginx.sh(
        f"cp -p {SITE} /tmp/kept; sed -i 's/^# fleet-config.*//; s/[0-9a-f]\\{{16\\}}.n\"/x\"/' {SITE}; nginx -s reload"
    )
    nginx.sh(f"sleep 1; cp -p /tmp/kept {SITE}")
    assert nginx.changes() == 1
    assert nginx.changes() == 0


def test_a_configuration_nginx_refuses_changes_nothing(nginx):
    nginx.sh(f"printf 'server {{ listen {PORT} default_server; }}' > /etc/nginx/conf.d/other.conf")
    try:
        before = nginx.sh(f"cat {SITE}")
        nginx.write(fail_timeout=6)
        refused = nginx.run()
        assert refused.code == 1
        assert "duplicate default server" in refused.words
        assert "take `default_server` off it, or choose another port" in refused.words
        assert nginx.sh(f"cat {SITE}") == before
        with nginx.http() as http:
            call(http, "still there", cookies=False)
    finally:
        nginx.write()
        nginx.sh("rm /etc/nginx/conf.d/other.conf")
    assert nginx.changes() == 0


def test_a_configuration_that_is_not_seen_running_is_taken_back(nginx):
    folder = "/run/systemd/system/nginx.service.d"
    deaf = "[Service]\\nExecReload=\\nExecReload=/bin/true\\n"
    nginx.sh(f"mkdir -p {folder}; printf '{deaf}' > {folder}/deaf.conf; systemctl daemon-reload")
    try:
        before = nginx.sh(f"cat {SITE}")
        nginx.write(fail_timeout=6)
        failed = nginx.run()
        assert failed.code == 1
        assert "the configuration before is back in use" in failed.words
        assert nginx.sh(f"cat {SITE}") == before
        assert "fail_timeout=6s" in nginx.sh(f"cat {SITE}.failed")
    finally:
        nginx.sh(f"rm -r {folder}; systemctl daemon-reload")
        nginx.write()
    assert nginx.changes() == 0


def test_a_port_of_another_program_is_told(nginx, lab):
    nginx.playbook.write_text(nginx.playbook.read_text().replace(str(PORT), "80"))
    try:
        refused = nginx.run()
        assert refused.code == 1
        assert "port 80 is taken by another program" in refused.words
        assert "systemctl disable --now haproxy" in refused.words
    finally:
        nginx.write()
    assert nginx.changes() == 0


def test_many_clients_are_dealt_over_every_slot(nginx, lab):
    """Each client stays with the slot it was dealt, and they are dealt in turn."""
    clients = [client(nginx.url) for _ in range(AT_ONCE)]
    dealt = Counter(gradio.cookies["FLEET"] for gradio in clients)
    slots = len(lab.gpu_hosts) * 2
    assert len(dealt) == slots
    assert max(dealt.values()) == AT_ONCE // slots, dealt
    together(lambda i: translate(clients[i % AT_ONCE], f"many {i}"))


def test_one_client_with_many_jobs_at_once(nginx):
    gradio = client(nginx.url)
    together(lambda i: translate(gradio, f"one {i}"))


@pytest.mark.parametrize("size", [100_000, 900_000, 2_000_000])
def test_long_texts(nginx, size):
    together(lambda i: translate(client(nginx.url), f"{i} " + 'a"' * (size // 2)), 4, 4)


@pytest.mark.parametrize("cookies", [False, True], ids=["without cookies", "with a cookie jar"])
def test_plain_http_calls(nginx, cookies):
    pool = Pool(nginx.http)

    def job(i: int) -> None:
        with pool.one() as http:
            call(http, f"call {i}", cookies=cookies)

    together(job)


def test_reloads_under_load_lose_no_job(nginx):
    gradio = client(nginx.url)
    with nginx.http() as http, ThreadPoolExecutor(1) as reloader:
        done = reloader.submit(together, job_on(nginx, "reload", http=http, gradio=gradio), 2 * JOBS)
        while not done.done():
            nginx.sh("systemctl reload nginx")
            time.sleep(1.5)
        done.result()


def test_a_killed_container_costs_its_own_jobs_only(nginx, lab):
    """A job that was on it fails; every other, and every one asked for afterwards, comes back."""
    host = lab.gpu_hosts[0]
    slot = f"{host}-0"
    container = lab.sh(host, f"docker ps -q --filter label=fleet.slot={slot}").strip()
    clients = [client(nginx.url) for _ in range(AT_ONCE)]
    on_slot = [gradio for gradio in clients if gradio.cookies["FLEET"] == slot]
    assert 0 < len(on_slot) < AT_ONCE
    killed = threading.Event()
    failed: list[str] = []
    late: list[str] = []

    def work(gradio) -> None:
        done_since = 0
        while done_since < 3:
            before = killed.is_set()
            try:
                gradio.submit("killed", LANGUAGE, api_name="/translate").result(timeout=30)
            except Exception as error:
                (late if before else failed).append(f"{gradio.cookies['FLEET']}: {error!r}")
            done_since += before

    lab.sh(host, f"docker update --restart=no {container}")
    try:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            done = [pool.submit(work, gradio) for gradio in clients]
            time.sleep(1.5)
            lab.sh(host, f"docker kill {container}")
            killed.set()
            for each in done:
                each.result(timeout=DEADLINE)
        assert not late, late
        assert all(each.startswith(f"{slot}:") for each in failed), failed
        assert len(failed) <= len(on_slot), failed
    finally:
        lab.sh(host, f"docker update --restart=unless-stopped {container} && docker start {container}")

    def back() -> bool:
        with nginx.http() as http:
            http.cookies.set("FLEET", slot)
            event = http.post("/gradio_api/call/version", json={"data": []})
            return http.get("/config").status_code == 200 and event.status_code == 200

    wait_for(back, 60, f"{slot} does not answer again")
    wait_for(lambda: server_states(lab, slot) == {"UP"}, 60, f"HAProxy does not find {slot} again")
