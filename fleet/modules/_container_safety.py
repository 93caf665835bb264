"""What a slot's container may: the options that confine it, checked; and who its program would be."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from fleet.gpu.container import ContainerSpec

ROOT_REMEDY = "set `user` to a uid:gid that can read the image's files, or leave out non_root"

_NAME = r"[A-Za-z_][A-Za-z0-9_.-]*\$?"
_USER = re.compile(rf"(\d+|{_NAME})(:(\d+|{_NAME}))?")
_CAPABILITY = re.compile(r"(CAP_)?[A-Z][A-Z_]*", re.IGNORECASE)
_LAST_ID = 2**31 - 1


def check_safety(
    user: str,
    *,
    non_root: bool,
    tmpfs: Sequence[str],
    capabilities: Mapping[str, Sequence[str]],
    pids_limit: int | None,
) -> None:
    """Raise ValueError, naming the argument, for what no engine takes or what contradicts itself.

    `capabilities` are those of `cap_drop` and `cap_add`, by these names.
    """
    numbers = [part for part in user.split(":") if part.isdecimal()]
    if user and (not _USER.fullmatch(user) or any(int(number) > _LAST_ID for number in numbers)):
        raise ValueError(f"user is {user!r}; write it like 1000:1000, quoted, or as names the image knows")
    if non_root and user and is_root(user):
        raise ValueError(f"user {user!r} is root, and non_root refuses root")
    for option, names in capabilities.items():
        for name in names:
            if not _CAPABILITY.fullmatch(name):
                raise ValueError(f"{option} has {name!r}; write a capability like NET_RAW, or ALL")
    if pids_limit is not None and pids_limit < 1:
        raise ValueError(f"pids_limit is {pids_limit}; it must be 1 or more, or null for no limit")
    paths = [folder.partition(":")[0].rstrip("/") for folder in tmpfs]
    for folder, path in zip(tmpfs, paths, strict=True):
        if not path.startswith("/") or ".." in path.split("/"):
            raise ValueError(f"tmpfs {folder!r} is not a folder in the container such as /cache:size=1g")
        if paths.count(path) > 1:
            raise ValueError(f"tmpfs names {path} twice")


def root_problem(spec: ContainerSpec, image_user: str | None) -> str:
    """Why `non_root` refuses the container; empty where its program is not root.

    `image_user` is the image's own user, empty where it names none, None where nobody could tell.
    """
    if spec.user:
        return f"{spec.image} is to run as {spec.user}, and non_root refuses root" * is_root(spec.user)
    if image_user is None:
        return f"nobody can tell which user {spec.image} runs as, and non_root refuses root"
    if not is_root(image_user):
        return ""
    named = f"as {image_user}" if image_user else "as root: it names no user"
    return f"{spec.image} runs {named}, and non_root refuses root"


def is_root(user: str) -> bool:
    """True for root by name or number, and for no user at all, which is root; `user` may have a group."""
    name = user.partition(":")[0]
    return name in ("", "root") or (name.isdecimal() and int(name) == 0)
