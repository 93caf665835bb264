"""The gateway on real balancers: TLS that a scanner likes, keys that come and go, jobs from clients and a browser."""

from __future__ import annotations

import os
import ssl
import subprocess
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme
import yaml

from tests.lab.conftest import Done, Lab
from tests.lab.helpers import wait_for

pytestmark = pytest.mark.lab


@dataclass
class Gateway:
    """The lab with the gateway on: two balancers with TLS and keys."""

    lab: Lab
    overlay: str
    ca: Path
    urls: dict[str, str]

    def fleet(self, *args: str, **more: Any) -> Done:
        return self.lab.fleet(*args, "-i", self.overlay, **more)

    @property
    def trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.ca))

    def add_key(self, name: str) -> str:
        done = self.fleet("key", "add", name)
        assert done.code == 0, done.err
        return done.out.strip()

    def ask(self, balancer: str, path: str = "/config", key: str | None = None) -> int:
        headers = {"X-API-Key": key} if key else {}
        return httpx.get(self.urls[balancer] + path, headers=headers, verify=self.trust).status_code


@pytest.fixture(scope="module")
def gateway(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("gateway")
    authority = trustme.CA()
    ca = folder / "ca.pem"
    authority.cert_pem.write_to_path(str(ca))
    services = {name: lab.hosts[name]["service"] for name in lab.balancers}
    certificate = authority.issue_cert("localhost", *services.values())
    (folder / "server.pem").write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
    certificate.private_key_pem.write_to_path(str(folder / "server.key"))
    asked = {
        "certificate": str(folder / "server.pem"),
        "certificate_key": str(folder / "server.key"),
        "keys": True,
        "key_jobs": "600/minute",
        "address_connections": 500,
    }
    overlay = folder / "gateway.yml"
    variables = {"gateway": asked, "fleet_url": f"https://{services[lab.balancers[0]]}"}
    hosts = dict.fromkeys(lab.balancers)
    overlay.write_text(
        yaml.safe_dump({"all": {"children": {"balancer": {"hosts": hosts, "vars": variables}}}})
    )
    urls = {}
    for name, address in services.items():
        port = lab.hosts[name]["ports"]["443"]
        urls[name] = f"https://{address}" + (f":{port}" if port != 443 else "")
    on = lab.fleet(
        "provision", "-i", str(overlay), "--json", env={"FLEET_API_KEY": "", "SSL_CERT_FILE": str(ca)}
    )
    assert on.code == 0, on.out + on.err
    assert on.json["translation"] is None
    yield Gateway(lab, str(overlay), ca, urls)
    off = lab.fleet("provision", "--json")
    assert off.code == 0, off.out + off.err
    assert httpx.get(f"{lab.url}/config").status_code == 200


@pytest.fixture(scope="module")
def key(gateway: Gateway) -> str:
    return gateway.add_key("alice")


def test_a_second_run_changes_nothing(gateway: Gateway, key: str):
    done = gateway.fleet("provision", "--json", env={"FLEET_API_KEY": key, "SSL_CERT_FILE": str(gateway.ca)})
    assert done.code == 0, done.out + done.err
    assert done.json["changed"] == 0
    assert "免费" in done.json["translation"]["answer"]


def test_no_valid_key_no_service(gateway: Gateway, key: str):
    for balancer in gateway.urls:
        assert gateway.ask(balancer) == 401
        assert gateway.ask(balancer, key="fleet_wrong") == 401
        assert gateway.ask(balancer, key=key) == 200
        assert gateway.ask(balancer, "/health") == 200
    plain = httpx.get(f"{gateway.lab.url}/config")
    assert (plain.status_code, plain.headers["location"][:8]) == (308, "https://")


def test_a_revoked_key_stops_within_a_second(gateway: Gateway):
    key = gateway.add_key("mallory")
    assert all(gateway.ask(balancer, key=key) == 200 for balancer in gateway.urls)
    with httpx.Client(verify=gateway.trust, headers={"X-API-Key": key}) as client:
        url = gateway.urls["lb-01"] + "/config"
        assert client.get(url).status_code == 200
        done = gateway.fleet("key", "revoke", "mallory", "--json")
        assert done.code == 0, done.err
        wait_for(lambda: client.get(url).status_code == 401, 1, "the key still works on an open connection")
    assert all(gateway.ask(balancer, key=key) == 401 for balancer in gateway.urls)


def test_a_key_survives_reloads_and_restarts(gateway: Gateway, key: str):
    for command in ("reload", "restart"):
        gateway.lab.sh("lb-02", f"systemctl {command} haproxy")
        wait_for(lambda: gateway.ask("lb-02", key=key) == 200, 10, f"no service after a {command}")
        assert gateway.ask("lb-02") == 401


def test_jobs_with_a_key(gateway: Gateway, key: str):
    from gradio_client import Client

    for url in gateway.urls.values():
        client = Client(url, headers={"X-API-Key": key}, ssl_verify=gateway.trust, verbose=False)
        jobs = [client.submit(f"job {i}", "Chinese", api_name="/translate") for i in range(8)]
        assert [job.result(timeout=60) for job in jobs] == [f"[Chinese] job {i}" for i in range(8)]


def test_a_browser_is_asked_for_the_key_once(gateway: Gateway, key: str):
    from playwright.sync_api import sync_playwright

    quiet = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=quiet)
        context = browser.new_context(
            ignore_https_errors=True, http_credentials={"username": "any", "password": key}
        )
        page = context.new_page()
        page.goto(gateway.urls["lb-01"], wait_until="domcontentloaded")
        page.get_by_label("Text", exact=True).fill("from a page")
        page.get_by_role("button", name="Translate").click()
        output = page.get_by_label("Translation", exact=True)
        page.wait_for_function(
            "([box, wanted]) => box.value === wanted",
            arg=[output.element_handle(), "[Chinese] from a page"],
            timeout=60_000,
        )
        browser.close()


def test_keys_and_texts_are_written_nowhere(gateway: Gateway, key: str):
    """Not into logs, not into a process' arguments, not into --json, not onto the balancers' disks."""
    text = "a text that nobody else sees"
    body = {"data": [text, "Chinese"]}
    with httpx.Client(
        verify=gateway.trust, base_url=gateway.urls["lb-01"], headers={"X-API-Key": key}
    ) as client:
        event = client.post("/gradio_api/call/translate", json=body).json()["event_id"]
        assert text in client.get(f"/gradio_api/call/translate/{event}").text
    assert '"key":"alice"' in gateway.lab.sh("lb-01", "sleep 1; journalctl -t haproxy --no-pager -o cat")
    for host in gateway.lab.balancers:
        found = gateway.lab.sh(
            host,
            f"journalctl --no-pager | grep -c -e '{key}' -e '{text}'; "
            f"grep -rlsF -e '{key}' -e '{text}' /etc /var/log /var/lib/haproxy /run /tmp | head; "
            "cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -o 'fleet_[A-Za-z0-9_-]\\{30,\\}' | head",
            check=False,
        )
        assert found.split() == ["0"], found
    listed = gateway.fleet("key", "list", "--json")
    shown = gateway.fleet("status", "--json")
    assert "alice" in listed.out
    assert key not in listed.out + listed.err + shown.out + shown.err


def test_a_scanner_finds_nothing_weak(gateway: Gateway):
    """Debian's sslscan: only TLS 1.2 and 1.3, only ciphers it calls strong, no compression, no Heartbleed."""
    for url in gateway.urls.values():
        host, _, port = url.removeprefix("https://").partition(":")
        command = ["sslscan", "--no-colour", "--xml=-", f"{host}:{port or 443}"]
        found = ET.fromstring(subprocess.run(command, capture_output=True, check=True, timeout=120).stdout)
        versions = {
            f"{p.get('type')} {p.get('version')}": p.get("enabled") == "1" for p in found.iter("protocol")
        }
        assert {name for name, enabled in versions.items() if enabled} == {"tls 1.2", "tls 1.3"}
        assert len(versions) >= 6, versions
        ciphers = list(found.iter("cipher"))
        assert ciphers
        assert {cipher.get("strength") for cipher in ciphers} <= {"strong", "acceptable"}, [
            cipher.attrib for cipher in ciphers
        ]
        assert all("CBC" not in (cipher.get("cipher") or "") for cipher in ciphers)
        assert all(method.get("supported") == "0" for method in found.iter("compression"))
        assert all(beat.get("vulnerable") == "0" for beat in found.iter("heartbleed"))
        renegotiation = next(found.iter("renegotiation"))
        assert (renegotiation.get("supported"), renegotiation.get("secure")) in {
            ("0", "1"),
            ("1", "1"),
            ("0", "0"),
        }


def test_a_bad_certificate_is_refused_before_anything_is_touched(gateway: Gateway, tmp_path: Path):
    other = trustme.CA().issue_cert("localhost")
    other.private_key_pem.write_to_path(str(tmp_path / "other.key"))
    document = yaml.safe_load(Path(gateway.overlay).read_text())
    asked = document["all"]["children"]["balancer"]["vars"]["gateway"]
    asked["certificate_key"] = str(tmp_path / "other.key")
    (tmp_path / "bad.yml").write_text(yaml.safe_dump(document))
    before = gateway.lab.sh("lb-01", "stat -c '%Y %n' /etc/haproxy/*")
    done = gateway.lab.fleet("provision", "--limit", "balancer", "-i", str(tmp_path / "bad.yml"))
    assert done.code == 1
    assert "is not the certificate's" in done.words
    assert gateway.lab.sh("lb-01", "stat -c '%Y %n' /etc/haproxy/*") == before


def test_an_unknown_option_is_named(gateway: Gateway, tmp_path: Path):
    document = yaml.safe_load(Path(gateway.overlay).read_text())
    asked = document["all"]["children"]["balancer"]["vars"]["gateway"]
    for change, words in (
        ({"key_job": "1/second"}, "key_job"),
        ({"key_jobs": "many"}, "'many' is not a rate"),
        ({"allow": ["10.0.0.0/40"]}, "10.0.0.0/40"),
        ({"certificate": None, "certificate_key": None}, "clear text"),
    ):
        given = {key: value for key, value in {**asked, **change}.items() if value is not None}
        document["all"]["children"]["balancer"]["vars"]["gateway"] = given
        (tmp_path / "bad.yml").write_text(yaml.safe_dump(document))
        done = gateway.lab.fleet("provision", "--check", "-i", str(tmp_path / "bad.yml"))
        assert done.code == 2, done.out + done.err
        assert words in done.words


def test_reloads_lose_no_request(gateway: Gateway, key: str):
    """One open connection, asked again and again while HAProxy is reloaded."""
    answers: list[int] = []
    with httpx.Client(verify=gateway.trust, headers={"X-API-Key": key}, timeout=30) as client:
        for _ in range(2):
            gateway.lab.sh("lb-01", "systemctl reload --no-block haproxy")
            until = time.monotonic() + 3
            while time.monotonic() < until:
                answers.append(client.get(gateway.urls["lb-01"] + "/config").status_code)
    assert len(answers) > 20
    assert set(answers) == {200}


def test_environment_key_is_only_for_translations(gateway: Gateway, key: str):
    done = gateway.fleet(
        "translate", "It's on the house.", env={"FLEET_API_KEY": key, "SSL_CERT_FILE": str(gateway.ca)}
    )
    assert (done.code, "免费" in done.out) == (0, True), done.err
    refused = gateway.fleet("translate", "x", env={"FLEET_API_KEY": "", "SSL_CERT_FILE": str(gateway.ca)})
    assert refused.code == 1
    assert "asks for an API key" in refused.words
    assert os.environ.get("FLEET_API_KEY") in (None, "")
