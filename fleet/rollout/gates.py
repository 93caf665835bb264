"""Is green as good as blue, by the balancers' own numbers since a step began? Pure.

A balancer tells counts since its process started and the mean time of a server's last requests. Of two such
samples this makes what happened between them. How HAProxy averages (include/haproxy/freq_ctr.h,
`swrate_add_dynamic`; src/stream.c, `stream_update_time_stats`; src/stats-proxy.c, `stats_fill_sv_line`):

    the c-th request's time v:  S = S + v              while c <= N   (N: TIME_STATS_SAMPLES, 512)
                                S = S - ceil(S / N) + v     afterwards
    what it tells:              ceil(S / min(c, N)), in milliseconds

So until the window is full it is the plain mean, and then an old sum fades by q = 1 - 1/N with each request.
With p of the k new requests within the first N, and m = k - p after them, requests that all took v make

    S' = (S + p*v) * q^m + N * (1 - q^m) * v      so     v = (S' - S * q^m) / (p * q^m + N * (1 - q^m))

which is (mean' - mean * q^k) / (1 - q^k) in a full window. Where the times differ, v is their mean with
the later ones weighing a little more. The rounding is known too, and bounds how far off v can be.

A request counts when its response begins and its time when it ends: those in flight are not in the mean yet.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from fleet.rollout.model import Gates
from fleet.rollout.world import GateError, ServerNow

NOTICEABLE = 0.05
"""Seconds a request must take longer than blue's before "slower" means anything."""

NOTICEABLE_GOLDEN = 0.5
"""The same for a golden translation, which is one measurement and not a mean of many."""

_UNIT = 0.001


@dataclass(frozen=True)
class Delta:
    """What a slot did on one balancer, or on all of them, between two samples.

    `mean` is the time of a request in seconds, known to within `slack`; None without new requests.
    """

    slot: str
    requests: int = 0
    errors: int = 0
    mean: float | None = None
    slack: float = 0.0

    @property
    def share(self) -> float:
        """The share of errors, 0 to 1. A failed connection may be an error without being a request."""
        return self.errors / max(self.requests, self.errors, 1)


@dataclass(frozen=True)
class Verdict:
    """`no numbers`: nothing is wrong, but too little is known of `slots`, for the reason `text`.

    `error` is there where it failed.
    """

    state: Literal["ok", "no numbers", "failed"]
    text: str = ""
    slots: tuple[str, ...] = ()
    error: GateError | None = None


def changes(before: Iterable[ServerNow], after: Iterable[ServerNow]) -> dict[str, Delta]:
    """By slot, over all balancers: what happened between two samples of every slot on every balancer.

    A balancer that was restarted in between, or was not there before, counts from its start. Slots that are
    only in `before` are left out.
    """
    was = {(server.balancer, server.slot): server for server in before}
    found: dict[str, list[Delta]] = {}
    for server in after:
        change = delta(was.get((server.balancer, server.slot)), server)
        found.setdefault(server.slot, []).append(change)
    return {slot: together(slot, deltas) for slot, deltas in found.items()}


def delta(before: ServerNow | None, after: ServerNow) -> Delta:
    """What a slot did on one balancer between two samples."""
    if before is None or not _goes_on(before, after):
        requests, errors, mean = 0, 0, 0.0
    else:
        requests, errors, mean = before.requests, before.errors, before.mean
    count = after.requests - requests
    if count <= 0:
        return Delta(after.slot, 0, after.errors - errors)
    time, slack = _new_mean((requests, mean), (after.requests, after.mean), max(after.window, 1))
    return Delta(after.slot, count, after.errors - errors, time, slack)


def together(slot: str, deltas: Sequence[Delta]) -> Delta:
    """Several changes as one; the mean is that of all their requests."""
    timed = [(each.mean, each) for each in deltas if each.mean is not None]
    weight = sum(each.requests for _, each in timed)
    return Delta(
        slot,
        sum(each.requests for each in deltas),
        sum(each.errors for each in deltas),
        sum(mean * each.requests for mean, each in timed) / weight if weight else None,
        sum(each.slack * each.requests for _, each in timed) / weight if weight else 0.0,
    )


def judge(
    green: Iterable[Delta],
    blue: Iterable[Delta],
    gates: Gates,
    usual: Mapping[str, float] | None = None,
) -> Verdict:
    """Is every green slot as good as blue? One `Delta` a slot, as `changes` makes them.

    Errors fail it however few the requests: their share on a slot is above `gates.errors` and above blue's
    own (what both have is not green's fault). A mean time fails it above `gates.slower` times blue's, or, of
    a slot that has a `usual` time (what it took when it was blue), above that of the longer of the two: a
    slow card is not green's fault either.

    A slot with fewer than `gates.requests`, or without a time to compare with, has no numbers: the caller
    then makes the golden translation, and compares it with `judge_golden`.
    """
    slots = sorted(green, key=lambda each: each.slot)
    blues = together("blue", tuple(blue))
    for each in slots:
        if each.share > gates.errors and each.share > blues.share:
            return _errors(each, blues, gates)
    unknown = []
    for each in slots:
        own = (usual or {}).get(each.slot, 0.0)
        bar = own or None
        if blues.mean is not None and blues.requests >= gates.requests:
            bar = max(blues.mean + blues.slack, own)
        if each.requests < gates.requests or each.mean is None or bar is None:
            unknown.append(each)
        elif _slower(each.mean - each.slack, bar, gates, NOTICEABLE):
            return _slow(each, bar, gates)
    if unknown or not slots:
        text = ", ".join(f"{each.slot} {each.requests} requests" for each in unknown) or "no green slot"
        if all(each.requests >= gates.requests for each in unknown) and unknown:
            text += f", but blue {blues.requests} to compare with"
        return Verdict("no numbers", text, tuple(each.slot for each in unknown))
    return Verdict("ok", ", ".join(_said(each) for each in slots))


def judge_golden(slot: str, green: float, blue: float | None, gates: Gates) -> Verdict:
    """Is green's golden translation (seconds) as fast as blue's? Without blue's its answer is enough."""
    if blue is None or not _slower(green, blue, gates, NOTICEABLE_GOLDEN):
        return Verdict("ok", f"{slot} golden translation {green:.2f} s")
    text = f"{slot}: its golden translation takes {green:.2f} s, blue's {blue:.2f} s"
    return _failed("golden", slot, f"{text}; up to {gates.slower:g} times as long is let pass")


def _goes_on(before: ServerNow, after: ServerNow) -> bool:
    return (
        before.process == after.process
        and after.requests >= before.requests
        and after.errors >= before.errors
    )


def _new_mean(before: tuple[int, float], after: tuple[int, float], window: int) -> tuple[float, float]:
    """The mean time of the requests between two counts and means, and how far off it may be."""
    (first, mean_before), (last, mean_after) = before, after
    plain = max(min(last, window) - first, 0)
    fading = last - first - plain
    kept: float = (1 - 1 / window) ** fading
    old, new = min(first, window), min(last, window)
    weight = plain * kept + window * (1 - kept)
    mean = (mean_after * new - mean_before * old * kept) / weight
    # Each mean is rounded up to a unit, and so is what fades with each request.
    slack = _UNIT * (new + old * kept + window * (1 - kept)) / weight
    return max(mean, 0.0), slack


def _slower(time: float, than: float, gates: Gates, noticeable: float) -> bool:
    return time > than * gates.slower and time - than > noticeable


def _errors(each: Delta, blues: Delta, gates: Gates) -> Verdict:
    text = (
        f"{each.slot}: {each.errors} errors in {each.requests} requests ({each.share:.1%}); "
        f"{gates.errors:.1%} is let pass, and blue has {blues.share:.1%} of {blues.requests}"
    )
    return _failed("errors", each.slot, text)


def _slow(each: Delta, bar: float, gates: Gates) -> Verdict:
    text = (
        f"{each.slot}: {each.mean or 0.0:.2f} s a request in the mean of {each.requests}, blue {bar:.2f} s; "
        f"up to {gates.slower:g} times as long is let pass"
    )
    return _failed("time", each.slot, text)


def _failed(gate: str, slot: str, text: str) -> Verdict:
    remedy = "see the container's log for why; `gates` in playbooks/upgrade.yml says how much is let pass"
    return Verdict("failed", text, (slot,), GateError(gate, text, slot=slot, remedy=remedy))


def _said(each: Delta) -> str:
    return f"{each.slot} {each.requests} requests, {each.share:.1%} errors, {each.mean or 0.0:.2f} s"
