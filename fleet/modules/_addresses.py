"""The addresses a host has."""

from __future__ import annotations

from fleet.model.facts import Answer, Probe

ADDRESSES_PROBE = Probe("addresses", "ip -o addr show\n")


def addresses(answer: Answer) -> dict[str, str]:
    """The host's addresses, each with its interface; empty where it does not tell."""
    rows = [line.split() for line in answer.text.splitlines()]
    return {row[3].partition("/")[0]: row[1] for row in rows if len(row) > 3 and row[2] in ("inet", "inet6")}
