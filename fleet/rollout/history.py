"""What was rolled out before: rows for `fleet history`, and what an operator means by RELEASE. No I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fleet.docker import references
from fleet.errors import InputError
from fleet.rollout.model import Header
from fleet.rollout.store import Head

SHORTEST_DIGEST = 4
"""Hex digits of a digest that an operator must give."""


@dataclass(frozen=True)
class Row:
    """One rollout.

    `state` is finished, rolled-back, stopped, running (a lease names it), or interrupted: it has no end and
    nobody goes on with it. `when` is its start in seconds since the epoch, `seconds` the time from there to
    its last entry. `before_image` and `before_digest` served most of the weight before, empty where nothing
    else did.
    """

    id: str
    kind: str
    image: str
    digest: str
    by: str
    when: float
    seconds: float
    state: str
    reason: str = ""
    before_image: str = ""
    before_digest: str = ""


@dataclass(frozen=True)
class Release:
    """Something that served. `rollout` brought it; empty where it was there before all that is known."""

    image: str
    digest: str
    rollout: str = ""
    when: float = 0.0


def rows_of(heads: Iterable[Head], running: str = "") -> tuple[Row, ...]:
    """Rows in the heads' order, the newest first; `running` is the rollout that the lease names now."""
    return tuple(_row(head, running) for head in heads)


def previous_release(rows: Sequence[Row]) -> Release:
    """What served before the newest rollout that finished. Raises InputError where nothing is known of it."""
    finished = [row for row in rows if row.state == "finished"]
    if finished:
        newest = finished[0]
        older = next((row.digest for row in finished[1:] if row.digest != newest.digest), "")
        wanted = newest.before_digest or older
        if wanted:
            return next(release for release in releases(rows) if release.digest == wanted)
    raise InputError("nothing is known of what served before", remedy="name the image: `fleet upgrade IMAGE`")


def releases(rows: Sequence[Row]) -> tuple[Release, ...]:
    """Everything that is known to have served, each digest once, the last to come first."""
    known: dict[str, Release] = {}
    before: dict[str, Release] = {}
    for row in rows:
        if row.state == "finished" and row.digest:
            known.setdefault(row.digest, Release(row.image, row.digest, row.id, row.when))
        if row.before_digest:
            before.setdefault(row.before_digest, Release(row.before_image, row.before_digest))
    return (*known.values(), *(each for digest, each in before.items() if digest not in known))


def find_release(rows: Sequence[Row], text: str) -> Release:
    """The release that RELEASE names: a rollout's id or how it begins, an image, its tag, or a digest.

    A digest may be shortened. Raises InputError, with what there is, where none or several fit, and for a
    rollout that did not finish.
    """
    by_id = [row for row in rows if text and row.id.startswith(text)]
    exact = [row for row in by_id if row.id == text]
    if len(exact or by_id) == 1:
        row = (exact or by_id)[0]
        if row.state != "finished":
            raise InputError(
                f"rollout {row.id} did not finish ({row.state}): {row.image} never served alone",
                remedy=_known(rows),
            )
        return Release(row.image, row.digest, row.id, row.when)
    fitting = [release for release in releases(rows) if _means(release, text)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        several = ", ".join(_digest(release.digest) for release in fitting)
        raise InputError(f"`{text}` meant several releases: {several}", remedy="name one by its digest")
    if by_id:
        several = ", ".join(row.id for row in by_id)
        raise InputError(f"several rollouts begin with `{text}`: {several}", remedy="write more of the id")
    raise InputError(f"no release is known as `{text}`", remedy=_known(rows))


def find_row(rows: Sequence[Row], text: str) -> Row:
    """The rollout that RELEASE names, finished or not; of a release, the newest rollout that brought it.

    Raises InputError, with what there is, where none or several fit.
    """
    by_id = [row for row in rows if text and row.id.startswith(text)]
    exact = [row for row in by_id if row.id == text]
    if len(exact or by_id) == 1:
        return (exact or by_id)[0]
    brought = [row for row in rows if _means(Release(row.image, row.digest), text)]
    digests = {row.digest for row in brought}
    if len(digests) == 1:
        return next((row for row in brought if row.state == "finished"), brought[0])
    if digests:
        several = ", ".join(f"{row.id} ({_digest(row.digest)})" for row in brought)
        raise InputError(f"`{text}` meant several releases: {several}", remedy="name one by its rollout")
    if by_id:
        several = ", ".join(row.id for row in by_id)
        raise InputError(f"several rollouts begin with `{text}`: {several}", remedy="write more of the id")
    listed = ", ".join(f"{row.id} ({row.image})" for row in rows) or "no rollout"
    raise InputError(f"no rollout is known as `{text}`", remedy=f"there is: {listed}")


def _row(head: Head, running: str) -> Row:
    header, last = head.header, head.last
    if last is not None and head.ended:
        state = last.step
    elif head.id == running:
        state = "running"
    else:
        state = "stopped" if last is not None and last.step == "stopped" else "interrupted"
    # What stopped it once, before somebody went on with it, is no news.
    stale = state == "finished" or (state == "running" and head.why and head.why.step == "stopped")
    image, digest = _before(header)
    return Row(
        id=head.id,
        kind=header.kind,
        image=header.image,
        digest=header.digest,
        by=header.by,
        when=header.started,
        seconds=max(0.0, last.at - header.started) if last else 0.0,
        state=state,
        reason=str(head.why.detail.get("reason", "")) if head.why and not stale else "",
        before_image=image,
        before_digest=digest,
    )


def _before(header: Header) -> tuple[str, str]:
    """What most of the weight ran that is to be replaced by something else."""
    weights: Counter[tuple[str, str]] = Counter()
    for origin in header.origins:
        if origin.digest and origin.digest != header.digest:
            weights[origin.image, origin.digest] += origin.weight
    return weights.most_common(1)[0][0] if weights else ("", "")


def _means(release: Release, text: str) -> bool:
    if not text:
        return False
    hexes = text.removeprefix("sha256:")
    if len(hexes) >= SHORTEST_DIGEST and release.digest.removeprefix("sha256:").startswith(hexes):
        return True
    if "@" in text:
        name, _, digest = text.partition("@")
        return release.digest == digest and references.repository(name) == references.repository(
            release.image
        )
    return references.familiar(text) == references.familiar(release.image) or text == references.tag(
        release.image
    )


def _known(rows: Sequence[Row]) -> str:
    listed = ", ".join(
        f"{release.image} {_digest(release.digest)}" + (f" ({release.rollout})" if release.rollout else "")
        for release in releases(rows)
    )
    return f"releases that served: {listed}" if listed else "no release is known to have served"


def _digest(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]
