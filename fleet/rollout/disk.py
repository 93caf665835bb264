"""Is there room on a host for one more image? An estimate: the engine does not tell a manifest's sizes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Sequence

from fleet.docker.answers import Container, Image
from fleet.docker.references import repository
from fleet.errors import TaskError
from fleet.gpu.sizes import size_text

_SECONDS = 30.0
_MORE = 11, 10
_AVAILABLE = re.compile(r"\s\d+\s+\d+\s+(-?\d+)\s+(?:\d+%|-)\s+/")


def check_disk(host: str, folder: str, needed: int | None, ask: Callable[[str, float], bytes]) -> None:
    """Raise TaskError where `needed` bytes are more than `folder` has room for.

    `ask` runs a script on the host. What is not known, the one or the other, hinders nobody.
    """
    if needed is not None and (free := parse_free(ask(free_script(folder), _SECONDS))) is not None:
        check_room(host, folder, free, needed)


def free_script(folder: str) -> str:
    """A sh script that asks how much room a folder's file system has."""
    return f"LC_ALL=C df -Pk {shlex.quote(folder)}\n"


def parse_free(out: bytes) -> int | None:
    """The free bytes; None where df did not say."""
    found = _AVAILABLE.search(out.decode("utf-8", "replace"))
    return max(0, int(found[1])) * 1024 if found else None


def estimate(images: Sequence[Image], containers: Iterable[Container], image: str) -> int | None:
    """Bytes that `image` may need: the largest of its repository that a slot runs now, and a tenth more.

    None where none runs.
    """
    running = {each.image_id for each in containers if each.slot and each.running}
    wanted = repository(image)
    sizes = [
        each.size
        for each in images
        if each.id in running and any(repository(name) == wanted for name in (*each.tags, *each.digests))
    ]
    return max(sizes) * _MORE[0] // _MORE[1] if sizes else None


def check_room(host: str, folder: str, free: int, needed: int) -> None:
    """Raise TaskError where `free` bytes are less than those `needed`."""
    if free < needed:
        raise TaskError(
            f"{host}: {size_text(free)} are free in {folder}, an image like the one that runs needs about "
            f"{size_text(needed)} (an estimate: that one's size and a tenth more)",
            remedy=f"see `docker system df` on {host} and remove what is not needed, or set a lower `retain`",
        )
