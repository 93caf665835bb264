"""Which HAProxy has what: the table against the template, and against the HAProxy that is installed."""

from __future__ import annotations

import re
import subprocess

import pytest

from fleet.balancer.features import FEATURES, KEYWORDS, OLDEST, missing, newer_words
from fleet.balancer.gateway import Gateway
from fleet.balancer.render import Settings, render
from tests.unit.haproxy_world import TEMPLATE, check, haproxy, settings, slots

GATEWAYS = {
    "none": None,
    "plain": Gateway(keys=True),
    "tls": Gateway(bind="*:8443", certificate_hash="0" * 16),
}
ALL = [
    *((affinity, gateway, 1) for affinity in ("job", "session", "none") for gateway in GATEWAYS),
    ("job", "none", None),
    ("none", "none", None),
]


def asked(affinity, gateway, jobs, **more) -> Settings:
    return Settings(affinity=affinity, gateway=GATEWAYS[gateway], slot_jobs=jobs, **more)


@pytest.mark.parametrize(("affinity", "gateway", "jobs"), ALL)
def test_a_feature_is_used_exactly_where_the_template_uses_its_words(affinity, gateway, jobs):
    wish = asked(affinity, gateway, jobs)
    text = "\n".join(
        line for line in render(slots(2), wish, TEMPLATE).splitlines() if not line.strip().startswith("#")
    )
    expected = {word for feature in FEATURES if feature.used(wish) for word in feature.keywords}
    ours = {word for feature in FEATURES for word in feature.keywords}
    found = {word for word in ours if re.search(rf"(?<![\w.-]){re.escape(word)}(?![\w-])", text)}
    # Peers stand in every configuration, and needs none of them without sessions; the same words, two reasons.
    assert found - {"localpeer"} == expected - {"localpeer"}
    newest = max((KEYWORDS[word] for word in KEYWORDS if newer_words(text, (0, 0)).get(word)), default=(0, 0))
    assert newest <= OLDEST, "nothing newer has crept into the template"


def test_nothing_is_missing_from_the_oldest_on():
    for wish in ALL:
        for version in (OLDEST, (2, 6), (3, 0), (3, 4), (4, 0)):
            assert missing(asked(*wish), version) == []


def test_what_is_missing_is_named_with_its_version_and_a_way_out():
    lacking = missing(Settings(gateway=Gateway(keys=True)), (2, 2))
    assert [(each.feature, each.since) for each in lacking] == [
        ("keeping a job's requests on one slot", (2, 4)),
        ("longer time limits for event streams", (2, 4)),
        ("the gateway", (2, 4)),
    ]
    assert str(lacking[0]) == "keeping a job's requests on one slot: HAProxy 2.4 is the first that has it"
    assert "affinity: none" in lacking[0].remedy
    assert "Debian 12" in lacking[0].remedy
    assert missing(Settings(affinity="none"), (2, 2)) == []
    assert {each.since for each in missing(Settings(affinity="none"), (1, 8))} == {(2, 0), (2, 2)}


def test_words_of_a_line_that_came_later_are_named():
    line = "http-request set-var(txn.t) http_auth_bearer"
    assert newer_words(line, (2, 4)) == {"http_auth_bearer": (2, 5)}
    assert newer_words(line, (2, 5)) == {}
    assert newer_words("http-request set-var(txn.t) my_http_auth_bearer_x", (2, 4)) == {}
    assert newer_words("  bind :80 shards by-thread", (2, 4)) == {"shards": (2, 5)}


def test_the_table_agrees_with_the_haproxy_that_is_installed(tmp_path):
    said = subprocess.run([haproxy(), "-v"], capture_output=True, text=True, timeout=20).stdout
    major, minor = map(int, re.findall(r"version (\d+)\.(\d+)", said)[0])
    wish = settings(tmp_path, affinity="job")
    assert missing(wish, (major, minor)) == []
    assert "unknown" not in check(render(slots(2), wish, TEMPLATE), tmp_path)
    assert "exit code" not in check(render(slots(2), wish, TEMPLATE), tmp_path)
    head = "defaults\n  mode http\n  timeout client 1s\n  timeout connect 1s\n  timeout server 1s\n"
    known = {
        "http_auth_bearer": f"{head}frontend f\n  bind unix@/x\n  http-request set-var(txn.a) http_auth_bearer\n",
        "tune.stick-counters": "global\n  tune.stick-counters 5\n",
        "bool-sample-conversion": "global\n  tune.lua.bool-sample-conversion normal\n",
        "log-profile": "log-profile p\n",
        "cpu-policy": "global\n  cpu-policy performance\n",
    }
    for word, config in known.items():
        path = tmp_path / "word.cfg"
        path.write_text(f"{config}\n{head}frontend g\n  bind unix@/y\n")
        done = subprocess.run([haproxy(), "-c", "-f", path], capture_output=True, timeout=20)
        refused = done.returncode != 0
        assert refused == ((major, minor) < KEYWORDS[word]), word
