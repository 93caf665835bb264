"""Which of an image's layers a host has already, and whether there is room for the others. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from fleet.docker.answers import Engine, Image
from fleet.docker.probe import SOCKET
from fleet.docker.references import repository
from fleet.errors import TaskError
from fleet.gpu.sizes import size_text
from fleet.images.manifest import Blob, Manifest
from fleet.model.decode import from_json
from fleet.model.facts import Answer, Probe

_CURL = f"curl -s -g --max-time 60 --unix-socket {SOCKET}"

# One line of JSON an image: an id is taken only where it is hexadecimal, for a label may be called "Id" too.
LAYERS_PROBE = Probe(
    "images.layers",
    f"""\
[ -S {SOCKET} ] || exit 7
set -f
rest=$({_CURL} http://d/images/json) || exit $?
urls=
while :; do
  case $rest in *'"Id":"sha256:'*) ;; *) break ;; esac
  rest=${{rest#*'"Id":"sha256:'}}
  id=${{rest%%'"'*}}
  case $id in ''|*[!0-9a-f]*) continue ;; esac
  urls="$urls http://d/images/sha256:$id/json"
done
[ -z "$urls" ] || {_CURL} -w '\\n' $urls
""",
)

_UNPACKED = 2
"""So many times its size in the registry an image is taken to have on disk, where no host has it yet."""


@dataclass(frozen=True)
class Held:
    """What a host has of an image, and what it needs for the rest. Sizes in bytes.

    `present` are unpacked layers, from the lowest; `missing` the blobs that must come. `needed` is the room
    it takes while it is being brought in, `free` what there is; `estimated` tells that the unpacked size is
    one.
    """

    present: int
    missing: tuple[Blob, ...]
    unpacked: int
    needed: int
    free: int | None
    estimated: bool

    @property
    def to_fetch(self) -> int:
        """Bytes to fetch from a registry."""
        return sum(blob.size for blob in self.missing)


def parse_layers(answer: Answer) -> tuple[tuple[str, ...], ...]:
    """The unpacked layers of each local image, from the lowest; none where no engine answers."""
    found = []
    for line in answer.out.splitlines() if answer.ok else ():
        try:
            found.append(tuple(from_json(line, _Inspect).root.layers or ()))
        except msgspec.MsgspecError:
            continue
    return tuple(found)


def shared(local: Iterable[Sequence[str]], wanted: Sequence[str]) -> int:
    """How many layers, from the lowest, some local image has in common with `wanted`.

    A layer is worth something only on top of the very layers it was made on.
    """
    best = 0
    for layers in local:
        same = 0
        for own, other in zip(layers, wanted, strict=False):
            if own != other:
                break
            same += 1
        best = max(best, same)
    return best


def held(
    manifest: Manifest,
    diff_ids: Sequence[str],
    local: Iterable[Sequence[str]],
    engine: Engine,
    *,
    free: int | None,
    unpacked: int | None,
    stored: int = 0,
) -> Held:
    """What a host has of an image. `unpacked` is its size on a host that has it whole, None where none has.

    `stored` bytes were fetched by an earlier run. Where the engine keeps its images in containerd's store,
    all is fetched: that store wants the compressed layers too.
    """
    fitting = len(diff_ids) == len(manifest.layers)
    classic = engine.storage_driver == "overlay2"
    present = shared(local, diff_ids) if classic and fitting else 0
    lower, upper = manifest.layers[:present], manifest.layers[present:]
    missing = tuple(dict.fromkeys((manifest.config, *upper)))
    compressed = sum(blob.size for blob in missing)
    whole = unpacked if unpacked is not None else _UNPACKED * manifest.size
    share = compressed / manifest.size if manifest.size else 1.0
    growth = int(whole * share) if lower else whole
    # To load an image the engine first unpacks the archive: the compressed layers lie there twice.
    needed = (max(0, compressed - stored) + compressed + growth) * 11 // 10
    return Held(present, missing, growth, needed, free, unpacked is None)


def check_room(host: str, folder: str, found: Held) -> None:
    """Raise TaskError where the image does not fit. What is not known hinders nobody."""
    if found.free is not None and found.free < found.needed:
        how = "an estimate: twice the compressed size" if found.estimated else "as on another host"
        raise TaskError(
            f"{host}: {size_text(found.free)} are free in {folder}, and the image needs "
            f"{size_text(found.needed)}: {size_text(found.to_fetch)} compressed, for a while twice, "
            f"{size_text(found.unpacked)} unpacked ({how}), and a tenth more",
            remedy=f"`fleet image prune` clears away what nothing needs; on {host}, `docker system df`",
        )


def whole_size(images: Iterable[Image], reference: str, digest: str) -> int | None:
    """The size on disk of an image, where these local images have it."""
    exact = f"{repository(reference)}@{digest}"
    return next((image.size for image in images if exact in image.digests and image.size), None)


class _RootFs(msgspec.Struct, rename="pascal"):
    layers: list[str] | None = None


class _Inspect(msgspec.Struct):
    root: _RootFs = msgspec.field(name="RootFS")
