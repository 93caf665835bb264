"""The haproxy module with a gateway: its certificate, its keys, and what it refuses."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
import trustme

from fleet.balancer.keys import KEYS_PROBE
from fleet.balancer.paths import CERTIFICATE_FILE
from fleet.balancer.render import config_hash
from fleet.errors import TaskError
from fleet.model.facts import Answer, Facts
from fleet.modules._files import file_probe
from fleet.modules.haproxy import Haproxy, HaproxyArgs
from tests.unit.test_haproxy_module import FLEET, LB, TWO, ctx, facts, on_disk, running

AUTHORITY = trustme.CA()
OLD_KEY = "a" * 64 + " alice 0000000a 2026-01-01T00:00:00Z"


def files(folder: Path, **more: object) -> dict[str, str]:
    issued = AUTHORITY.issue_cert("translate.example", **more)  # type: ignore[arg-type]
    (folder / "chain.pem").write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(str(folder / "key.pem"))
    return {"certificate": str(folder / "chain.pem"), "certificate_key": str(folder / "key.pem")}


def args(**gateway: object) -> HaproxyArgs:
    return msgspec.convert({"gateway": gateway}, HaproxyArgs)


def keys(content: str = "", mode: str = "600") -> Answer:
    lines = "".join(f"f {line}\n" for line in content.splitlines())
    return Answer(0, f"file {mode}\n{lines}map off\n".encode())


def plan(given: HaproxyArgs, *, tls: bytes | None = None, key_file: Answer | None = None, fleet=None, **more):
    found = {
        **facts(**more),
        file_probe(CERTIFICATE_FILE, "hash").key: on_disk(None) if tls is None else hashed(tls),
        KEYS_PROBE.key: key_file or keys(),
    }
    return list(Haproxy().plan(given, Facts(found), ctx(fleet)))


def hashed(content: bytes, mode: str = "600") -> Answer:
    import hashlib

    head = f"{mode}|root|root|0|0|1.0|{len(content)}|regular file\n"
    return Answer(0, f"{head}{hashlib.sha256(content).hexdigest()}  -\n".encode())


def test_everything_that_is_read_is_asked():
    asked = {probe.key for probe in Haproxy().probes(args(certificate="x", keys=True), ctx())}
    assert {KEYS_PROBE.key, file_probe(CERTIFICATE_FILE, "hash").key} <= asked
    assert KEYS_PROBE.key not in {probe.key for probe in Haproxy().probes(HaproxyArgs(), ctx())}


def test_certificate_and_key_come_before_the_configuration_and_are_not_shown(tmp_path):
    given = args(keys=True, **files(tmp_path))
    changes = plan(given, key_file=Answer(0, b"file absent\nmap off\n"))
    assert [change.summary.split()[-1].rpartition("/")[2] for change in changes] == [
        "fleet-tls.pem",
        "fleet-keys.map",
        "haproxy.cfg",
    ]
    upload = changes[0].steps[0]
    assert (upload.mode, upload.owner, upload.secret) == ("0600", "root", True)
    private = (tmp_path / "key.pem").read_text()
    assert upload.content.decode().count("BEGIN") >= 2
    assert private.strip() in upload.content.decode()
    assert not any("PRIVATE KEY" in change.diff for change in changes)
    text = changes[2].steps[0].content.decode()
    assert f"bind *:443 ssl crt {CERTIFICATE_FILE} alpn h2,http/1.1" in text

    settled = {"tls": upload.content, "config": on_disk(text.encode()), "runtime": running(config_hash(text))}
    assert plan(given, **settled) == []
    again = args(keys=True, **files(tmp_path))
    assert len(plan(again, **settled)) == 2, "another certificate is another configuration"


def test_a_private_key_does_not_stay_where_tls_is_off():
    (change,) = plan(HaproxyArgs(), tls=b"certificate and key")
    assert change.summary == f"remove {CERTIFICATE_FILE}: TLS is off"
    assert plan(HaproxyArgs()) == []


def test_a_balancer_gets_the_keys_of_the_others(tmp_path):
    other = Facts({KEYS_PROBE.key: keys(OLD_KEY)})
    lb_two = type(LB)("lb-02", {"ansible_host": "10.0.0.10"}, ("balancer",))
    context = ctx({**FLEET, "lb-02": other}, hosts=(LB, lb_two, TWO))
    found = Facts({**facts(), KEYS_PROBE.key: keys()})
    changes = Haproxy().plan(args(keys=True, plain_http=True), found, context)
    mended = next(change for change in changes if "fleet-keys.map" in change.summary)
    assert "alice 0000000a" in mended.diff


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"keys": True}, "clear text"),
        ({"certificate_key": "k"}, "no `certificate`"),
        ({"certificate": "c", "https_port": 0}, "not a port"),
        ({"key_jobs": "3/second"}, "need `keys: true`"),
        ({"address_jobs": "3 per second"}, "is not a rate"),
        ({"address_jobs": "0/second"}, "is not a rate"),
        ({"allow": ["10.0.0.1/8"]}, "host bits set"),
        ({"deny": ["10.0.0.0/8\n"]}, "deny"),
        ({"max_header": 10}, "max_header"),
        ({"rate": 1}, "rate"),
        ({"certificate": "c", "https_port": 80}, "`port` and `gateway.https_port` are both 80"),
        ({"certificate": "c", "https_port": 8404}, "`stats_bind` and `gateway.https_port` are both 8404"),
    ],
)
def test_what_cannot_be_meant_is_refused(given, words):
    with pytest.raises(msgspec.ValidationError, match=words):
        args(**given)


def test_a_key_of_another_certificate_is_refused(tmp_path):
    given = files(tmp_path)
    AUTHORITY.issue_cert("other").private_key_pem.write_to_path(given["certificate_key"])
    with pytest.raises(TaskError, match="is not the certificate's"):
        plan(args(**given))


def test_an_expired_certificate_is_refused(tmp_path):
    given = files(tmp_path, not_after=datetime.now(UTC) - timedelta(days=1))
    with pytest.raises(TaskError, match="was valid until"):
        plan(args(**given))


@pytest.mark.parametrize(
    ("certificate", "words"),
    [("", "no certificate in PEM form"), ("nonsense", "no certificate in PEM form")],
)
def test_what_is_no_certificate_is_refused(tmp_path, certificate, words):
    (tmp_path / "c.pem").write_text(certificate)
    with pytest.raises(TaskError, match=words):
        plan(args(certificate=str(tmp_path / "c.pem")))


def test_a_certificate_without_its_key_is_refused(tmp_path):
    given = files(tmp_path)
    with pytest.raises(TaskError, match="comes without its key"):
        plan(args(certificate=given["certificate"]))
    (tmp_path / "key.pem").write_text("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    with pytest.raises(TaskError, match="cannot be read"):
        plan(args(**given))
