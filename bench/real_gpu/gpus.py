"""What the GPU host is given: the machine's own driver and GPUs, or, in a rehearsal, the lab's stand-ins."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from hosts import BUNDLE, HERE, LIVE
from packages import Package, make

from fleet.lab.gpus import GPUS_FILE, describe

_STANDINS = HERE.parents[1] / "lab/registry/standins"
_DRIVER = "580.95.05"
_TOOLKIT = BUNDLE / "toolkit"


@dataclass(frozen=True)
class Toolkit:
    """The package that brings nvidia-ctk to the GPU host; `text` says what it is."""

    package: Package
    text: str


def standin_layer(count: int, mib: int) -> Path:
    """A layer with the lab's nvidia-smi and `count` cards that do not exist, of `mib` each."""
    layer = LIVE / "standins"
    cards = json.loads(describe("gpu-01", count))
    for card in cards["gpus"]:
        card |= {"name": "Rehearsal (no GPU)", "memory_total": mib}
    for path, text, mode in (
        ("usr/bin/nvidia-smi", (_STANDINS / "nvidia-smi").read_text().replace("@VERSION@", _DRIVER), 0o755),
        (GPUS_FILE.lstrip("/"), json.dumps(cards, indent=2), 0o644),
        # host.sh shows it as /proc/driver/nvidia/version: the driver that the kernel has loaded.
        ("etc/fleet-lab/loaded", f"NVRM version: NVIDIA UNIX Kernel Module  {_DRIVER}  (rehearsal)\n", 0o644),
    ):
        (layer / path).parent.mkdir(parents=True, exist_ok=True)
        (layer / path).write_text(text)
        (layer / path).chmod(mode)
    return layer


def standin_toolkit() -> Toolkit:
    """The lab's nvidia-ctk."""
    script = (_STANDINS / "nvidia-ctk").read_text().replace("@VERSION@", "1.18.0")
    files: dict[str, Path | str] = {"/usr/bin/nvidia-ctk": script}
    return Toolkit(Package("lab-nvidia-ctk", "1.18.0", "the lab's stand-in", files), "the lab's stand-in")


def toolkit(host: str) -> Toolkit:
    """NVIDIA's own nvidia-ctk where the bundle has it and it describes this host's GPUs; else our script."""
    script = Toolkit(
        Package("real-gpu-cdi", "1", "writes a CDI specification", {"/usr/bin/nvidia-ctk": _script()}),
        "the script bench/real_gpu/nvidia-ctk.sh, in place of NVIDIA's toolkit",
    )
    if not (_TOOLKIT / "nvidia-ctk").exists():
        return script
    version = (_TOOLKIT / "version").read_text().strip()
    subprocess.run(["scp", "-q", str(_TOOLKIT / "nvidia-ctk"), f"{host}:/tmp/nvidia-ctk"], check=True)
    tried = subprocess.run(
        ["ssh", host, "sudo /tmp/nvidia-ctk cdi generate; rm -f /tmp/nvidia-ctk"],
        capture_output=True,
        text=True,
        check=False,
    )
    if "libcuda.so" not in tried.stdout or "GPU-" not in tried.stdout:
        return Toolkit(
            script.package, f"{script.text}, which failed here:\n\n```\n{tried.stderr[-3000:]}\n```"
        )
    programs: dict[str, Path | str] = {
        f"/usr/bin/{name}": _TOOLKIT / name for name in ("nvidia-ctk", "nvidia-cdi-hook")
    }
    package = Package("nvidia-container-toolkit-base", version, "nvidia-ctk, built from its source", programs)
    return Toolkit(
        package, f"NVIDIA's nvidia-ctk and nvidia-cdi-hook {version}, built from their source by build.py"
    )


def make_package(chosen: Toolkit) -> Path:
    """The folder with the toolkit's package."""
    folder = LIVE / "made"
    folder.mkdir()
    make(chosen.package, folder)
    return folder


def _script() -> str:
    return (HERE / "nvidia-ctk.sh").read_text()
