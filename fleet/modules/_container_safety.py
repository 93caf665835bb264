"""What a slot's container may: the options that confine it, checked; and who its program would be."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence

from fleet.gpu.container import ContainerSpec
from fleet.gpu.sizes import MIB, size_text

ROOT_REMEDY = "set `user` to a uid:gid that can read the image's files, or leave out non_root"

_NAME = r"[A-Za-z_][A-Za-z0-9_.-]*\$?"
_USER = re.compile(rf"(\d+|{_NAME})(:(\d+|{_NAME}))?")
_LAST_ID = 2**31 - 1
_LEAST_MEMORY = 6 * MIB
"""Below it the engine refuses a limit (moby, daemon/daemon_unix.go)."""
_CAPABILITIES = """
    ALL AUDIT_CONTROL AUDIT_READ AUDIT_WRITE BLOCK_SUSPEND BPF CHECKPOINT_RESTORE CHOWN DAC_OVERRIDE
    DAC_READ_SEARCH FOWNER FSETID IPC_LOCK IPC_OWNER KILL LEASE LINUX_IMMUTABLE MAC_ADMIN MAC_OVERRIDE MKNOD
    NET_ADMIN NET_BIND_SERVICE NET_BROADCAST NET_RAW PERFMON SETFCAP SETGID SETPCAP SETUID SYS_ADMIN SYS_BOOT
    SYS_CHROOT SYS_MODULE SYS_NICE SYS_PACCT SYS_PTRACE SYS_RAWIO SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG SYSLOG
    WAKE_ALARM
"""
"""capabilities(7), as of Linux 5.9, which brought the newest of them; and ALL."""


def check_safety(
    user: str,
    *,
    non_root: bool,
    tmpfs: Sequence[str],
    capabilities: Mapping[str, Sequence[str]],
    pids_limit: int | None,
    memory: int | None,
) -> None:
    """Raise ValueError, naming the argument, for what no engine takes or what contradicts itself.

    `capabilities` are those of `cap_drop` and `cap_add`, by these names; `memory` in bytes.
    """
    numbers = [part for part in user.split(":") if part.isdecimal()]
    if user and (not _USER.fullmatch(user) or any(int(number) > _LAST_ID for number in numbers)):
        raise ValueError(f"user is {user!r}; write it like 1000:1000, quoted, or as names the image knows")
    if non_root and user and is_root(user):
        raise ValueError(f"user {user!r} is root, and non_root refuses root")
    for option, names in capabilities.items():
        _check_capabilities(option, names)
    if memory is not None and memory < _LEAST_MEMORY:
        raise ValueError(f"memory is {size_text(memory)}; Docker takes no limit under 6MiB")
    if pids_limit is not None and pids_limit < 1:
        raise ValueError(f"pids_limit is {pids_limit}; it must be 1 or more, or null for no limit")
    paths = [folder.partition(":")[0].rstrip("/") for folder in tmpfs]
    for folder, path in zip(tmpfs, paths, strict=True):
        if not path.startswith("/") or ".." in path.split("/"):
            raise ValueError(f"tmpfs {folder!r} is not a folder in the container such as /cache:size=1g")
        if paths.count(path) > 1:
            raise ValueError(f"tmpfs names {path} twice")


def _check_capabilities(option: str, names: Sequence[str]) -> None:
    for name in names:
        plain = name.strip().upper().removeprefix("CAP_")
        if plain not in (known := _CAPABILITIES.split()):
            near = difflib.get_close_matches(plain, known, 3)
            meant = f"did you mean {' or '.join(near)}?" if near else "write one like NET_RAW, or ALL"
            raise ValueError(f"{option} has {name!r}, which is no capability of Linux; {meant}")


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
