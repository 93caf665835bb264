"""nginx's ring of `hash ... consistent`, computed as nginx does, to find keys that lead to a given server."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from math import gcd
from zlib import crc32

_POINTS = 160
_MOST_SHARE = 16


def shares(weights: Sequence[int]) -> list[int]:
    """Small weights in about the same proportion: a ring has 160 points for each unit of weight."""
    if not weights:
        return []
    most = max(weights)
    scaled = weights if most <= _MOST_SHARE else [max(1, round(w * _MOST_SHARE / most)) for w in weights]
    divisor = gcd(*scaled)
    return [share // divisor for share in scaled]


def place_keys(servers: Mapping[str, tuple[str, int]]) -> dict[str, str]:
    """For each server's name (with its `host:port` and share) a key whose place on the ring is that server's.

    Should an nginx arrange its ring otherwise, a key still leads all requests that carry it to one server,
    only to another one.
    """
    ring = sorted(
        (point, order, name)
        for order, (name, (endpoint, share)) in enumerate(servers.items())
        for point in _points(endpoint, share)
    )
    points = [point for point, _, _ in ring]
    keys: dict[str, str] = {}
    number = 0
    while len(keys) < len(servers):
        key = f"place.{number}"
        keys.setdefault(ring[bisect_left(points, crc32(key.encode())) % len(ring)][2], key)
        number += 1
    return keys


def _points(endpoint: str, share: int) -> Sequence[int]:
    host, _, port = endpoint.rpartition(":")
    base = crc32(f"{host}\0{port}".encode())
    points: list[int] = []
    previous = 0
    for _ in range(_POINTS * share):
        previous = crc32(previous.to_bytes(4, "little"), base)
        points.append(previous)
    return points
