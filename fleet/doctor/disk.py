"""Room for the image: bytes and inodes of the file system that holds Docker's images."""

from __future__ import annotations

from fleet.docker.probe import ENGINE_PROBE, IMAGES_PROBE
from fleet.docker.references import find_image, repository
from fleet.docker.sites import seeds_of, site_of
from fleet.doctor import registry
from fleet.doctor.model import Check, Verdict, bad, skipped, well
from fleet.doctor.patient import Patient
from fleet.gpu.sizes import parse_size, size_text
from fleet.model.facts import Probe
from fleet.model.host import Host

DEFAULT_PACKED = 4 * 10**9
"""Bytes taken for an image whose size nobody tells: `image_size` in the inventory says better."""

UNPACKED = 2
"""An image's size on disk, as a multiple of its compressed size, where no host has it."""

SCARCE = 2 * 10**9
"""Bytes under which a disk is as good as full: logs and a container's own files need room, too."""

_INODES = 200_000
"""Inodes that a large Python image takes, with room to spare."""

# The engine may keep its images elsewhere than by default.
DISK_PROBE = Probe(
    "doctor.disk",
    """\
root=$(sed -n 's/.*"data-root" *: *"\\([^"]*\\)".*/\\1/p' /etc/docker/daemon.json 2>/dev/null | head -n 1)
root=${root:-/var/lib/docker}
while [ ! -d "$root" ]; do root=${root%/*}; root=${root:-/}; done
echo "root=$root"
df -Pk "$root" | while read -r device total used free rest; do echo "disk=$total $free"; done
df -Pi "$root" | while read -r device total used free rest; do echo "inodes=$total $free"; done
""",
)


def check_disk(patient: Patient) -> Verdict:
    """Room for the image, or, where the host has it, for what its containers write."""
    free = _free(patient.pairs(DISK_PROBE.key).get("disk", ""))
    if free is not None and free * 1024 < SCARCE and image_there(patient):
        where = patient.pairs(DISK_PROBE.key).get("root", "/var/lib/docker")
        return bad("the disk is nearly full", _CLEAR, f"{size_text(free * 1024)} are free in {where}")
    return check_room(patient)


def room_probes(host: Host) -> tuple[Probe, ...]:
    """What `check_room` wants to know; the registry is asked only where the image is missing."""
    return DISK_PROBE, IMAGES_PROBE, *registry.probes(host, missing=True)


def check_room(patient: Patient) -> Verdict:
    """Room for the image, packed and unpacked, and a tenth more; nothing where the host has it.

    With a seed in its site the image comes by fleet's own means, and is there packed twice while the engine
    loads it (`fleet.images.layers.held`).
    """
    pairs = patient.pairs(DISK_PROBE.key)
    free = _free(pairs.get("disk", ""))
    if free is None:
        return skipped("df does not say how much is free")
    free *= 1024
    packed, how = packed_size(patient)
    seeded = site_of(patient.host) in seeds_of(patient.hosts.values())
    needed = (packed * (2 if seeded else 1) + UNPACKED * packed) * 11 // 10
    if image_there(patient):
        # The engine has it: the room is for the next one, for which a rollout looks again by itself.
        return well(f"{size_text(free)} free, the image is there")
    if free >= needed:
        return well(f"{size_text(free)} free, {size_text(needed)} needed")
    return bad(
        "there is no room for the image",
        _CLEAR,
        f"{size_text(free)} are free in {pairs.get('root', '/var/lib/docker')}, it needs {size_text(needed)} "
        f"({size_text(packed)} packed, {how}{'; for a while twice' if seeded else ''}; {UNPACKED} times that "
        "unpacked; a tenth more)",
    )


def packed_size(patient: Patient) -> tuple[int, str]:
    """The image's compressed size in bytes, and who says so."""
    seen = registry.seen(patient)
    if seen is not None and seen.size:
        return seen.size, "by its registry"
    said = patient.host.vars.get("image_size")
    if said:
        try:
            return parse_size(str(said)), "by image_size"
        except ValueError:
            pass
    wanted = repository(str(patient.host.vars.get("image") or ""))
    sizes = [
        image.size
        for image in patient.images or ()
        if any(repository(name) == wanted for name in (*image.tags, *image.digests))
    ]
    if sizes:
        return max(sizes) // UNPACKED, "by the one that is there"
    return DEFAULT_PACKED, "a guess: set image_size in the inventory to what the registry shows"


def image_there(patient: Patient) -> bool:
    """True where the host has the inventory's image already."""
    image = str(patient.host.vars.get("image") or "")
    return bool(image) and find_image(patient.images or (), image) is not None


def check_inodes(patient: Patient) -> Verdict:
    """Inodes for the image's files."""
    parts = patient.pairs(DISK_PROBE.key).get("inodes", "").split()
    # Some file systems (btrfs, some xfs) make them as needed and tell 0 or nothing.
    if len(parts) != 2 or not parts[0].isdigit() or not int(parts[0]) or not parts[1].isdigit():
        return well("not counted by this file system")
    total, free = int(parts[0]), int(parts[1])
    if free >= _INODES or (image_there(patient) and free >= total // 50):
        return well(f"{free} free")
    return bad(
        "inodes run out where Docker keeps its images",
        "`docker system prune` on {host} removes what nothing uses; `df -i` and `du --inodes -x /` tell "
        "where they are",
        f"{free} of {total} are free",
    )


_CLEAR = (
    "`docker system df` and `du -xh / | sort -h | tail` on {host} tell what fills it; `fleet image prune` "
    "clears away the images that nothing needs; or give it a larger disk"
)


def _free(text: str) -> int | None:
    parts = text.split()
    return max(0, int(parts[1])) if len(parts) == 2 and parts[1].lstrip("-").isdigit() else None


CHECKS = (
    Check(
        "system",
        "disk",
        "a pull that fills the disk takes the containers' logs and the host with it",
        check_disk,
        lambda host: (DISK_PROBE, IMAGES_PROBE, ENGINE_PROBE, *registry.probes(host)),
    ),
    Check(
        "system",
        "inodes",
        "without inodes nothing can be unpacked, however much room there is",
        check_inodes,
        lambda host: (DISK_PROBE, IMAGES_PROBE),
    ),
)
