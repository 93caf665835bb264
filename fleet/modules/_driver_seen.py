"""What a host's NVIDIA driver is: packages, kernel module, what runs, what nvidia-smi lists."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from fleet.gpu.pci import PCI_PROBE, PciSeen, parse_pci, same_address
from fleet.gpu.probe import GPU_PROBE, driver_problem, parse_gpus, tells_of_lost_gpu
from fleet.model.facts import Answer, Facts, Probe
from fleet.model.slot import Gpu
from fleet.modules._reboot import FLEET_FILE

TRIED_FILE = "/var/lib/fleet/nvidia-driver-reboot"
"""In which boot a reboot was asked for, one line a cause, on disk: none is asked for twice for the same."""

NOUVEAU_FILE = "/etc/modprobe.d/fleet-nouveau.conf"

MODULE = r"""
module() {
  modinfo -k "$1" -F "$2" nvidia 2>/dev/null || {
    name=$(modprobe -D nvidia 2>/dev/null | sed -n 's/^install modprobe -i \([^ ]*\).*/\1/p')
    [ -n "$name" ] && modinfo -k "$1" -F "$2" "$name" 2>/dev/null
  }
}
"""
"""A sh function: `module KERNEL FIELD`. Debian's own driver calls it nvidia-current, which modprobe knows."""

_CONFIGURED = ("i", "W", "t")

# modinfo looks the module up as the kernel would; SecureBoot's value is the fifth byte of the EFI variable.
# The kernel that comes next is the newest in /boot. fleet's own blacklist counts once an initramfs is newer.
DRIVER_PROBE = Probe(
    "nvidia.driver",
    f"""{MODULE}\
k=$(uname -r)
echo "kernel $k"
echo "machine $(uname -m)"
echo "boot $(cat /proc/sys/kernel/random/boot_id)"
if command -v modinfo >/dev/null; then
  echo "modinfo there"
  module "$k" version | sed 's/^/module /'
  module "$k" signer | sed 's/^/signer /'
  n=$(ls /boot 2>/dev/null | sed -n 's/^vmlinuz-//p' | sort -V | tail -n 1)
  if [ -n "$n" ] && [ "$n" != "$k" ]; then
    echo "next $n"
    module "$n" version | sed 's/^/next_module /'
  fi
fi
[ -r /proc/driver/nvidia/version ] &&
  sed -n '1s/.*  \\([0-9][0-9.]*\\)  .*/loaded \\1/p' /proc/driver/nvidia/version
[ -d /sys/module/nouveau ] && echo "nouveau loaded"
modinfo -k "$k" -F filename nouveau >/dev/null 2>&1 && echo "nouveau there"
i=$(ls -t /boot/initrd.img-* /boot/initramfs-*.img 2>/dev/null | head -n 1)
w='^[[:space:]]*blacklist[[:space:]]+nouveau'
for f in $(grep -rlsE "$w" /etc/modprobe.d /usr/lib/modprobe.d /lib/modprobe.d); do
  [ "${{f##*/}}" = {NOUVEAU_FILE.rpartition("/")[2]} ] && [ -n "$i" ] && [ "$f" -nt "$i" ] && continue
  echo "nouveau blacklisted" && break
done
[ -e "/lib/modules/$k/build" ] && echo "headers there"
s=$(mokutil --sb-state 2>/dev/null) || s=
[ -n "$s" ] || for e in /sys/firmware/efi/efivars/SecureBoot-*; do
  [ -r "$e" ] || continue
  [ "$(od -An -tu1 -j4 -N1 "$e" | tr -d ' ')" = 1 ] && s="SecureBoot enabled" || s="SecureBoot disabled"
done
case $s in
  *enabled*)
    echo "secureboot on"
    for f in /var/lib/dkms/mok.pub /var/lib/shim-signed/mok/MOK.der; do
      [ -e "$f" ] || continue
      case $(mokutil --test-key "$f" 2>&1) in *"is already enrolled"*) echo "enrolled $f" ;; esac
    done ;;
  ?*) echo "secureboot off" ;;
esac
for f in /usr/lib/*/libnvidia-ml.so.*.* /usr/lib64/libnvidia-ml.so.*.*; do
  [ ! -e "$f" ] || echo "library ${{f##*.so.}}"
done
for f in /usr/src/nvidia-[0-9]*; do [ -d "$f" ] && echo "dkms there" && break; done
smi=$(command -v nvidia-smi) && smi=$(readlink -f "$smi") && echo "smi $smi"
if command -v dpkg-query >/dev/null; then
  [ -z "$smi" ] || dpkg-query -S "$smi" 2>/dev/null | sed -n '/^diversion/!{{s/:.*//;s/^/owner /p;q}}'
  dpkg-query -W -f='${{db:Status-Abbrev}}\\t${{Package}}\\t${{Version}}\\n' | awk -F '\\t' '
    {{ s = substr($1, 1, 3); n = substr(s, 2, 1); r = substr(s, 3, 1) }}
    n ~ /[UFH]/ || r == "R" || (n == "i" && $2 ~ /nvidia|^libcuda1$|^cuda-drivers/) {{
      gsub(/ /, "-", s); print "package " s " " $2 " " $3 }}'
elif command -v rpm >/dev/null; then
  [ -z "$smi" ] || rpm -qf --qf 'owner %{{NAME}}\\n' "$smi" 2>/dev/null
  rpm -qa --qf 'package ii- %{{NAME}} %{{VERSION}}-%{{RELEASE}}\\n' |
    grep -E '^package ii- [^ ]*(nvidia|epel-release)'
  {{ rpm -q dkms || awk -F ' *= *' '/^\\[/ {{ e = tolower($0) ~ /epel/ }}
    e && $1 == "enabled" && $2 == 1 {{ f = 1 }} END {{ exit !f }}' /etc/yum.repos.d/*.repo
  }} >/dev/null 2>&1 && echo "package ii- epel-release enabled"
fi
[ ! -r {FLEET_FILE} ] || sed 's/^/noted /' {FLEET_FILE}
[ ! -r {TRIED_FILE} ] || sed 's/^/tried /' {TRIED_FILE}
exit 0
""",
)

DRIVER_PROBES = (DRIVER_PROBE, PCI_PROBE, GPU_PROBE)


@dataclass(frozen=True)
class Installed:
    """A package in dpkg's words: its version, its three status letters (`-` for none)."""

    version: str
    status: str = "ii-"

    @property
    def held(self) -> bool:
        """True where nothing may change it."""
        return self.status[:1] == "h"

    @property
    def there(self) -> bool:
        """True where it is configured."""
        return self.status[1:2] in _CONFIGURED and self.status[2:3] != "R"

    @property
    def trouble(self) -> str:
        """How it is broken, in dpkg's words; empty where it is not."""
        if self.status[2:3] == "R":
            return "must be installed again"
        words = {"U": "unpacked only", "F": "half-configured", "H": "half-installed"}
        return words.get(self.status[1:2], "")


@dataclass(frozen=True)
class Driver:
    """A host's driver as seen. Versions are the driver's own (`580.95.05`), empty where there is none.

    `module` is that on disk for the running `kernel`, signed by `signer`; `loaded` that in the kernel,
    `next_module` that for the kernel `next`, which another boot brings; `libraries` those on disk. `modinfo`
    tells whether the host can be asked for modules, `dkms` whether it has their sources, `secure_boot`
    whether it is on (None: not known), `enrolled` whether the kernel trusts dkms's key. `smi` is nvidia-smi's
    path, `owner` the package it is of; `packages` are the driver's, and any that is broken; `noted` are the
    reasons given for a reboot, `tried` the causes for which one was asked for: boot, then cause.
    """

    kernel: str = ""
    machine: str = ""
    boot: str = ""
    module: str = ""
    signer: str = ""
    loaded: str = ""
    next: str = ""
    next_module: str = ""
    libraries: tuple[str, ...] = ()
    modinfo: bool = False
    dkms: bool = False
    nouveau: frozenset[str] = frozenset()
    headers: bool = False
    secure_boot: bool | None = None
    enrolled: bool = False
    smi: str = ""
    owner: str = ""
    packages: Mapping[str, Installed] = field(default_factory=dict)
    noted: tuple[str, ...] = ()
    tried: tuple[tuple[str, str], ...] = ()
    pci: PciSeen = field(default_factory=PciSeen)
    gpus: tuple[Gpu, ...] | None = None
    problem: str = ""

    @property
    def version(self) -> str:
        """The driver's version: what answers, else what is on disk."""
        answering = next((gpu.driver_version for gpu in self.gpus or () if gpu.driver_version), None)
        return answering or self.loaded or self.module

    @property
    def fault(self) -> str:
        """Why it cannot be called working; empty where it works.

        It works where the running kernel has its module and nvidia-smi lists every GPU of the PCI bus. The
        module of a driver without packages may come from elsewhere than this file system: loaded is enough.
        """
        if not self.smi and not self.module:
            return "there is none"
        if not self.module and not (self.foreign and self.loaded):
            return f"the running kernel {self.kernel} has no module nvidia"
        if self.gpus is None:
            said = self.problem.splitlines()[0] if self.problem else "no output"
            return f"nvidia-smi does not answer ({said})"
        if missing := self.unlisted:
            return f"nvidia-smi does not list the GPU at {', '.join(missing)}"
        return ""

    @property
    def lost(self) -> bool:
        """True where the driver works and does not list each GPU: one has fallen off the bus."""
        if self.gpus is None:
            return tells_of_lost_gpu(self.problem)
        return bool(self.gpus) and bool(self.unlisted)

    @property
    def upgraded(self) -> bool:
        """True where another version is installed than is loaded: only a reboot is left to do."""
        return bool(self.loaded and self.module) and self.loaded != self.module

    @property
    def unlisted(self) -> tuple[str, ...]:
        """Addresses of GPUs on the PCI bus that nvidia-smi does not list."""
        listed = [gpu.pci_bus_id for gpu in self.gpus or () if gpu.pci_bus_id]
        if len(self.gpus or ()) > len(listed):  # some say no address: only their number can be compared
            return () if len(self.gpus or ()) >= len(self.pci.gpus) else ("an unknown address",)
        return tuple(
            gpu.address
            for gpu in self.pci.gpus
            if not any(same_address(gpu.address, address) for address in listed)
        )

    @property
    def broken(self) -> Mapping[str, Installed]:
        """Packages whose installation did not end."""
        return {name: package for name, package in self.packages.items() if package.trouble}

    @property
    def foreign(self) -> bool:
        """True for a driver that no package brought: NVIDIA's .run file, or an image's maker."""
        if self.smi:
            return not self.owner
        has_kernel_package = any(
            re.search(r"nvidia.*(dkms|kmod)|kmod.*nvidia|linux-modules-nvidia", name)
            for name in self.packages
        )
        return bool(self.module) and not has_kernel_package


def see_driver(facts: Facts) -> Driver:
    """The driver as the probes saw it."""
    answer = facts[GPU_PROBE.key]
    return replace(
        parse_driver(facts[DRIVER_PROBE.key]),
        pci=parse_pci(facts[PCI_PROBE.key]),
        gpus=parse_gpus(answer),
        problem=driver_problem(answer) or "",
    )


def parse_driver(answer: Answer) -> Driver:
    """What DRIVER_PROBE alone saw: not the bus, and not what nvidia-smi lists."""
    words: dict[str, str] = {}
    nouveau: set[str] = set()
    libraries: set[str] = set()
    packages: dict[str, Installed] = {}
    noted: list[str] = []
    tried: list[tuple[str, str]] = []
    for line in answer.text.splitlines():
        word, _, rest = line.partition(" ")
        match word:
            case "nouveau":
                nouveau.add(rest)
            case "noted":
                noted.append(rest)
            case "tried":
                boot, _, cause = rest.partition(" ")
                tried.append((boot, cause))
            case "library" if re.fullmatch(r"[0-9]+(\.[0-9]+)+", rest):
                libraries.add(rest)
            case "package":
                status, name, version = [*rest.split(" "), "", ""][:3]
                packages[name] = Installed(version, status)
            case _:
                words[word] = rest.strip()
    return Driver(
        kernel=words.get("kernel", ""),
        machine=words.get("machine", ""),
        boot=words.get("boot", ""),
        module=words.get("module", ""),
        signer=words.get("signer", ""),
        loaded=words.get("loaded", ""),
        next=words.get("next", ""),
        next_module=words.get("next_module", ""),
        libraries=tuple(sorted(libraries)),
        modinfo="modinfo" in words,
        dkms="dkms" in words,
        nouveau=frozenset(nouveau),
        headers="headers" in words,
        secure_boot=words["secureboot"] == "on" if "secureboot" in words else None,
        enrolled="enrolled" in words,
        smi=words.get("smi", ""),
        owner=words.get("owner", ""),
        packages=packages,
        noted=tuple(noted),
        tried=tuple(tried),
    )


def version_parts(text: str) -> tuple[int, ...]:
    """A driver's version as numbers, from `580.95.05` or a package's `580.95.05-1`."""
    match = re.match(r"(?:[0-9]+:)?([0-9]+(?:\.[0-9]+)*)", text)
    return tuple(int(part) for part in match[1].split(".")) if match else ()


def at_least(version: str, wanted: str) -> bool:
    """Whether `version` is `wanted` or newer; an empty `wanted` asks for nothing."""
    return not wanted or version_parts(version) >= version_parts(wanted)
