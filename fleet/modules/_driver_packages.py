"""Which packages make an NVIDIA driver, by system, GPU generation and branch.

Names are those of NVIDIA's driver installation guide (compute-only installation) for Debian and RHEL, and of
Ubuntu's own archive for Ubuntu. Open kernel modules exist from Turing on and are the only ones for Blackwell;
branch 580 is the last with modules for Maxwell, Pascal and Volta.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from fleet.gpu.architecture import Generation
from fleet.modules._os import System

DEFAULT_BRANCH = 580
LAST_BRANCH_OF = {Generation.MAXWELL: 580, Generation.PASCAL: 580, Generation.VOLTA: 580}
FIRST_BRANCH_OF = {Generation.BLACKWELL: 570}

MODULES = "linux-modules-nvidia-"
"""How the names of Ubuntu's packages of prebuilt modules begin."""

GA_KERNELS = {"22.04": "5.15.0", "24.04": "6.8.0"}
"""The kernel that an Ubuntu release came with; a newer one is of its hardware enablement (HWE) series."""

SUPPORTED = "Ubuntu 22.04 and 24.04, Debian 12 and 13, RHEL and Rocky Linux 9"

_REDHATS = ("rhel", "rocky", "almalinux", "centos")


class UnsupportedError(ValueError):
    """There is no driver for this system, these GPUs or this branch; the text says why."""


@dataclass(frozen=True)
class Recipe:
    """How a system gets a driver.

    `family` is "debian", "ubuntu" or "redhat"; `packages` the driver's, `first` what must be installed before
    them, `headers` what building a module needs (empty for `prebuilt` modules), `stream` the dnf module
    stream.
    """

    family: str
    branch: int
    open: bool
    packages: tuple[str, ...]
    first: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()
    stream: str = ""
    prebuilt: bool = False

    @property
    def held(self) -> tuple[str, ...]:
        """Those to hold. What brings prebuilt modules must be free: each new kernel's come with it."""
        return tuple(name for name in self.packages if not is_modules(name))

    def wish(self, name: str) -> str:
        """What apt is asked for: the branch's newest. Prebuilt modules have their kernel's version."""
        return name if is_modules(name) else f"{name}={self.branch}.*"


def is_modules(name: str) -> bool:
    """Whether a package brings prebuilt kernel modules; its name has the branch, its version does not."""
    return name.startswith(MODULES)


def family(host: System) -> str:
    """Which of the three families a system is of. Raises UnsupportedError for any other."""
    supported = {"debian": (12, 13), "ubuntu": (22, 24)}
    if host.id in supported and host.major in supported[host.id]:
        return host.id
    if host.id in _REDHATS and host.major == 9:
        return "redhat"
    raise UnsupportedError(f"fleet does not install drivers on {host.title or host.id}")


def wants_open(generations: Iterable[Generation]) -> bool:
    """Whether these GPUs get the open kernel modules. Raises UnsupportedError where no driver fits all."""
    known = sorted(set(generations))
    if known and known[0] is Generation.OLDER:
        raise UnsupportedError(
            "a GPU of generation Kepler or older: branch 470 was the last for it, and that has ended"
        )
    if not known or known[0] >= Generation.TURING:
        return True
    if known[-1] >= Generation.BLACKWELL:
        raise UnsupportedError(
            f"GPUs of {known[0].title} and of {known[-1].title} in one host: the one needs the proprietary "
            "modules, the other the open ones"
        )
    return False


def check_branch(branch: int, generations: Iterable[Generation]) -> None:
    """Raise UnsupportedError where a branch has no driver for one of these GPUs."""
    for generation in sorted(set(generations)):
        if branch > (last := LAST_BRANCH_OF.get(generation, branch)):
            raise UnsupportedError(
                f"branch {branch} has no driver for {generation.title}: {last} is the last"
            )
        if branch < (least := FIRST_BRANCH_OF.get(generation, branch)):
            raise UnsupportedError(
                f"branch {branch} has no driver for {generation.title}: {least} is the first"
            )


def recipe(
    host: System, generations: Iterable[Generation], branch: int, kernel: str, *, prebuilt: bool = False
) -> Recipe:
    """The packages for these GPUs on this system. Raises UnsupportedError where there are none."""
    known = tuple(generations)
    kind = family(host)
    is_open = wants_open(known)
    check_branch(branch, known)
    if prebuilt and kind != "ubuntu":
        raise UnsupportedError("only Ubuntu has prebuilt kernel modules for its kernels")
    if kind == "ubuntu":
        return _ubuntu(host, branch, is_open, kernel, prebuilt)
    if kind == "debian":
        return Recipe(
            kind,
            branch,
            is_open,
            packages=("nvidia-driver-cuda", f"nvidia-kernel-{'open-' if is_open else ''}dkms"),
            first=(f"nvidia-driver-pinning-{branch}",),
            headers=_debian_headers(kernel),
        )
    return Recipe(
        kind,
        branch,
        is_open,
        packages=("nvidia-driver-cuda", f"kmod-nvidia-{'open' if is_open else 'latest'}-dkms"),
        headers=("kernel-devel-matched", "kernel-headers"),
        stream=f"{branch}-{'open' if is_open else 'dkms'}",
    )


def other_branches(names: Iterable[str], wanted: Recipe) -> tuple[str, ...]:
    """Of installed packages, those that another branch or kind of modules brought and that must give way."""
    if wanted.family == "ubuntu":
        return tuple(name for name in sorted(names) if _is_ubuntu_rival(name, wanted))
    kept = {*wanted.packages, *wanted.first}
    if wanted.family == "debian":
        rivals = re.compile(r"nvidia-driver-pinning-[0-9.]+|nvidia-kernel-(open-)?dkms")
    else:
        rivals = re.compile(r"kmod-nvidia-((open|latest)-dkms|(open-)?[0-9].*)")
    return tuple(name for name in sorted(names) if rivals.fullmatch(name) and name not in kept)


_UBUNTUS = re.compile(
    r"(?P<part>nvidia-(?:headless-no-dkms|headless|dkms|utils|driver)|linux-modules-nvidia)"
    r"-(?P<branch>[0-9]+)(?P<server>-server)?(?P<open>-open)?(?:-.*)?"
)


def _is_ubuntu_rival(name: str, wanted: Recipe) -> bool:
    """Whether it is of another branch or brings other modules; dkms's go before prebuilt ones."""
    found = _UBUNTUS.fullmatch(name)
    if not found:
        return False
    if int(found["branch"]) != wanted.branch or not found["server"]:
        return True
    if wanted.prebuilt and found["part"] in ("nvidia-headless", "nvidia-dkms"):
        return True
    return found["part"] != "nvidia-utils" and bool(found["open"]) != wanted.open


def debians_own(names: Iterable[str]) -> tuple[str, ...]:
    """Of installed packages, those that only Debian's own driver has: nothing of NVIDIA's may be mixed in."""
    own = re.compile(
        r"nvidia-smi|nvidia-alternative|nvidia-tesla-.*|nvidia-legacy-.*|nvidia-driver-bin|nvidia-installer-cleanup"
    )
    return tuple(name for name in sorted(names) if own.fullmatch(name))


def is_driver(name: str) -> bool:
    """Whether a package is part of a driver, and not the container toolkit or the like."""
    return name.startswith(
        (
            "nvidia-driver",
            "nvidia-kernel",
            "nvidia-headless",
            "nvidia-utils",
            "nvidia-compute-utils",
            "nvidia-dkms",
            "nvidia-firmware",
            "nvidia-persistenced",
            "nvidia-modprobe",
            "nvidia-smi",
            "nvidia-fabricmanager",
            "libnvidia-",
            "libcuda1",
            "cuda-drivers",
            "linux-modules-nvidia-",
            "kmod-nvidia",
            "nvidia-kmod",
        )
    ) and not name.startswith("libnvidia-container")


def _ubuntu(host: System, branch: int, is_open: bool, kernel: str, prebuilt: bool) -> Recipe:
    kind = f"{branch}-server{'-open' if is_open else ''}"
    utils = f"nvidia-utils-{branch}-server"
    if prebuilt:
        modules = f"linux-modules-nvidia-{kind}-{_flavour(host, kernel)}"
        names = (modules, f"nvidia-headless-no-dkms-{kind}", utils)
        return Recipe("ubuntu", branch, is_open, packages=names, prebuilt=True)
    headers = (f"linux-headers-{kernel}", f"linux-headers-{_flavour(host, kernel)}")
    # The first needs the next two in no version: asked for alone, and held alone, it would move without them.
    parts = (f"nvidia-headless-{kind}", f"nvidia-headless-no-dkms-{kind}", f"nvidia-dkms-{kind}")
    return Recipe("ubuntu", branch, is_open, packages=(*parts, utils), headers=headers)


def _flavour(host: System, kernel: str) -> str:
    """What names Ubuntu's packages for each later kernel of this kind: `aws`, `generic-hwe-24.04`."""
    match = re.fullmatch(r"[0-9.]+-[0-9]+-(.+)", kernel)
    flavour = match[1] if match else "generic"
    first = GA_KERNELS.get(host.version)
    if first and flavour.startswith(("generic", "lowlatency")) and not kernel.startswith(f"{first}-"):
        return f"{flavour}-hwe-{host.version}"
    return flavour


def _debian_headers(kernel: str) -> tuple[str, ...]:
    """Those of the running kernel, and the package that brings those of each later one."""
    exact = f"linux-headers-{kernel}"
    flavour = re.search(r"-((?:cloud-|rt-)?(?:amd64|arm64))$", kernel)
    return (exact, f"linux-headers-{flavour[1]}") if flavour else (exact,)
