"""The nvidia_container_toolkit module: NVIDIA's toolkit, and the CDI file that names the host's GPUs."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import ClassVar

import msgspec

from fleet.gpu.probe import GPU_PROBE, parse_gpus
from fleet.model.facts import Answer, Facts, Probe
from fleet.model.slot import Gpu
from fleet.model.steps import Change, Run
from fleet.modules import _apt, _dnf
from fleet.modules._driver_awaited import once_the_driver_works
from fleet.modules._files import check_path
from fleet.modules.base import Args, Context

PACKAGES = (
    "nvidia-container-toolkit",
    "nvidia-container-toolkit-base",
    "libnvidia-container-tools",
    "libnvidia-container1",
)
"""They are released together and depend on each other's exact version."""


class NvidiaContainerToolkitArgs(Args, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Arguments of `nvidia_container_toolkit`."""

    version: str | None = None
    packages: list[str] = msgspec.field(default_factory=lambda: list(PACKAGES))
    hold: bool | None = True
    allow_downgrade: bool = False
    cdi_spec: str = "/etc/cdi/nvidia.yaml"

    def __post_init__(self) -> None:
        if not self.packages:
            raise ValueError("`packages` is empty")
        for package in self.packages:
            if _apt.parse_wish(package).version:
                raise ValueError(f"give the version by `version`, not in `packages`: {package}")
        if self.version is not None:
            _apt.parse_wish(f"{self.packages[0]}={self.version}")
        check_path(self.cdi_spec, "cdi_spec")
        if not self.cdi_spec.endswith((".yaml", ".json")):
            raise ValueError("`cdi_spec` must end with .yaml or .json")


class NvidiaContainerToolkit:
    """Install NVIDIA's container toolkit and describe the host's GPUs for CDI.

    The packages come from a repository added before, such as by `apt_repository`; dnf installs them on RHEL.
    The CDI file is generated anew where it names other GPUs than the driver reports, or the libraries of
    another driver version. Without a driver that answers, the file waits for one.

    Arguments:
        version: version of all packages, in which `*` stands for anything. Default: the newest at
            installation, never changed after.
        packages: packages to install, pinned and held together; default the toolkit's four.
        hold: true (default) keeps apt and dnf from changing them; null leaves holds as they are.
        allow_downgrade: accept a `version` older than the installed one; default false.
        cdi_spec: the CDI file; default /etc/cdi/nvidia.yaml.

    Example:
        - name: GPUs for containers
          nvidia_container_toolkit:
            version: 1.18.*
    """

    name: ClassVar[str] = "nvidia_container_toolkit"
    args: ClassVar[type[Args]] = NvidiaContainerToolkitArgs

    def probes(self, args: NvidiaContainerToolkitArgs, ctx: Context) -> Sequence[Probe]:
        """Ask for the packages, the GPUs, and what the CDI file says of GPUs and driver."""
        return (
            _apt.packages_probe(args.packages, virtual=False),
            _dnf.rpm_probe(args.packages),
            _dnf.LOCKS_PROBE,
            GPU_PROBE,
            spec_probe(args.cdi_spec),
        )

    def plan(self, args: NvidiaContainerToolkitArgs, facts: Facts, ctx: Context) -> Sequence[Change]:
        """One change for the packages, one for holds, one for the CDI file."""
        changes = _packages(args, facts, ctx)
        gpus = parse_gpus(facts[GPU_PROBE.key])
        if gpus is None:
            return [*changes, once_the_driver_works(f"generate {args.cdi_spec}", facts, ctx)]
        if reason := _stale(facts[spec_probe(args.cdi_spec).key], gpus):
            generate = ("nvidia-ctk", "cdi", "generate", f"--output={args.cdi_spec}")
            diff = f"{args.cdi_spec}: {reason}\n"
            changes.append(Change(f"generate {args.cdi_spec}: {reason}", diff, (Run(generate),)))
        return changes


def _packages(args: NvidiaContainerToolkitArgs, facts: Facts, ctx: Context) -> list[Change]:
    if facts[_apt.packages_probe(args.packages, virtual=False).key].ok:
        known = _apt.packages(args.packages, facts, ctx, virtual=False)
        wishes = [_apt.Wish(name, args.version) for name in args.packages]
        return _apt.install(wishes, known, hold=args.hold, allow_downgrade=args.allow_downgrade)
    if not facts[_dnf.rpm_probe(args.packages).key].ok:
        raise ctx.fail(
            "the host has neither dpkg nor rpm",
            remedy="fleet has apt and dnf for it; install it by hand and leave this task out",
        )
    versions = dict.fromkeys(args.packages, args.version)
    return _dnf.install(versions, facts, hold=args.hold, allow_downgrade=args.allow_downgrade)


def spec_probe(path: str) -> Probe:
    """Ask a CDI file for the GPUs it names and the version of the driver's library it mounts."""
    quoted = shlex.quote(path)
    pattern = r"GPU-[0-9a-fA-F-]{36}|libcuda\.so\.[0-9]+\.[0-9.]+"
    script = f"[ -f {quoted} ] || {{ echo absent; exit 0; }}\ngrep -oE '{pattern}' -- {quoted} | sort -u\n"
    return Probe(f"cdi:{path}", script)


def _stale(answer: Answer, gpus: Sequence[Gpu]) -> str:
    """Why the CDI file does not describe these GPUs; empty where it does.

    A GPU in MIG mode is named by its instances, so it need not be named itself.
    """
    lines = answer.text.split()
    if lines == ["absent"]:
        return "it is not there"
    named = {line for line in lines if line.startswith("GPU-")}
    if missing := sorted({gpu.uuid for gpu in gpus if not gpu.mig} - named):
        return f"it does not name {', '.join(missing)}"
    if gone := sorted(named - {gpu.uuid for gpu in gpus}):
        return f"it names {', '.join(gone)}, not in this host"
    drivers = {gpu.driver_version for gpu in gpus if gpu.driver_version}
    mounted = {
        line.removeprefix("libcuda.so.").rstrip(".") for line in lines if line.startswith("libcuda.so.")
    }
    if mounted and drivers and not drivers <= mounted:
        return f"it mounts driver {', '.join(sorted(mounted))}, and {', '.join(sorted(drivers))} runs"
    return ""
