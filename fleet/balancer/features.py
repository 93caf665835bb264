"""What the configuration uses of HAProxy, and since which version HAProxy has it.

The versions are those whose `doc/configuration.txt` (https://docs.haproxy.org/) describes the word first;
HAProxy 2.4, 2.5, 2.6, 2.8, 3.0, 3.2 and 3.4 were asked with `haproxy -c` as well.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fleet.balancer.render import Settings

Version = tuple[int, int]

OLDEST: Version = (2, 4)
"""The oldest version on which everything works; all of fleet's balancing is tried on it."""

KEYWORDS: Mapping[str, Version] = {
    # What the shipped template uses.
    "prometheus-exporter": (2, 0),
    "retry-on": (2, 0),
    "http_auth_pass": (2, 1),
    "sha2": (2, 1),
    "localpeer": (2, 2),
    "http-error": (2, 2),
    "http-request return": (2, 2),
    "http-after-response": (2, 2),
    "so_name": (2, 2),
    "res.body": (2, 2),
    "json_query": (2, 4),
    "wait-for-body": (2, 4),
    "set-timeout": (2, 4),
    # What a template of one's own may use.
    "default-path": (2, 4),
    "lua-load-per-thread": (2, 4),
    "normalize-uri": (2, 4),
    "http_auth_bearer": (2, 5),
    "ignore-empty": (2, 5),
    "jwt_verify": (2, 5),
    "sc-inc-gpc": (2, 5),
    "set-var-fmt": (2, 5),
    "shards": (2, 5),
    "add_item": (2, 6),
    "close-spread-time": (2, 6),
    "option forwarded": (2, 8),
    "ocsp-update": (2, 8),
    "tune.stick-counters": (2, 8),
    "limited-quic": (2, 9),
    "log-hash": (2, 9),
    "crt-store": (3, 0),
    "guid": (3, 0),
    "hash-key": (3, 0),
    "http-err-codes": (3, 0),
    "stats-file": (3, 0),
    "do-log": (3, 1),
    "init-state": (3, 1),
    "log-profile": (3, 1),
    "bool-sample-conversion": (3, 2),
    "cpu-policy": (3, 2),
    "hash-preserve-affinity": (3, 2),
    "idle-ping": (3, 2),
    "ktls": (3, 3),
    "max-threads-per-group": (3, 4),
}
"""A word of the configuration -> the version that has it first. Older words are left out."""


@dataclass(frozen=True)
class Feature:
    """Something fleet does with HAProxy: the words it needs, and what to do where HAProxy lacks them."""

    name: str
    keywords: tuple[str, ...]
    used: Callable[[Settings], bool]
    remedy: str = ""

    @property
    def since(self) -> Version:
        """The first version that has all of its words."""
        return max(KEYWORDS[word] for word in self.keywords)


@dataclass(frozen=True)
class Missing:
    """A feature that is asked for and that the installed HAProxy lacks."""

    feature: str
    since: Version
    remedy: str

    def __str__(self) -> str:
        return f"{self.feature}: HAProxy {spelled(self.since)} is the first that has it"


FEATURES: tuple[Feature, ...] = (
    Feature("statistics for Prometheus", ("prometheus-exporter",), lambda s: True),
    Feature("repeating only what may be repeated", ("retry-on",), lambda s: True),
    Feature("sessions that survive a reload", ("localpeer",), lambda s: s.affinity != "none"),
    Feature("answering by itself where no slot is free", ("http-error",), lambda s: True),
    Feature(
        "keeping a job's requests on one slot",
        ("json_query", "res.body", "wait-for-body"),
        lambda s: s.affinity != "none",
        "with `affinity: none` every request goes by itself, which Gradio does not bear",
    ),
    Feature(
        "longer time limits for event streams",
        ("set-timeout",),
        lambda s: s.affinity != "none",
        "with `affinity: none` one time limit holds for all requests",
    ),
    Feature(
        "a bounded queue", ("http-request return",), lambda s: s.slot_jobs is not None, "say `slot_jobs: 0`"
    ),
    Feature(
        "the gateway",
        ("http-request return", "http-after-response", "wait-for-body"),
        lambda s: s.gateway is not None,
        "leave `gateway` out",
    ),
    Feature(
        "HTTPS with a redirect to it",
        ("so_name",),
        lambda s: s.gateway is not None and s.gateway.bind is not None,
        "leave `certificate` out of `gateway`",
    ),
    Feature(
        "API keys",
        ("http_auth_pass", "sha2"),
        lambda s: s.gateway is not None and s.gateway.keys,
        "leave `keys` out of `gateway`",
    ),
)
"""All that fleet's own template does beyond what every HAProxy of the last years can do."""


def missing(settings: Settings, version: Sequence[int]) -> list[Missing]:
    """What the settings ask for and HAProxy `version` (2, 6, ...) lacks; empty where it has all of it."""
    have = tuple(version[:2])
    upgrade = "upgrade HAProxy there: Debian 12, Ubuntu 22.04 and later have one that is new enough"
    return [
        Missing(feature.name, feature.since, f"{upgrade}; or {feature.remedy}" if feature.remedy else upgrade)
        for feature in FEATURES
        if feature.since > have and feature.used(settings)
    ]


def newer_words(line: str, version: Sequence[int]) -> dict[str, Version]:
    """The words of a line of configuration that came only after `version`, each with its first version."""
    have = tuple(version[:2])
    return {
        word: since
        for word, since in KEYWORDS.items()
        if since > have and re.search(rf"(?<![\w.-]){re.escape(word)}(?![\w-])", line)
    }


def spelled(version: Version) -> str:
    """(2, 4) as "2.4"."""
    return f"{version[0]}.{version[1]}"
