"""Make the bundle that run.sh needs, so that the GPU machine needs no network: build.py [--toolkit FOLDER].

Needs root on Debian or Ubuntu with mmdebstrap (`apt-get install mmdebstrap xz-utils`), Debian's packages and
the Python package index. Everything in the bundle comes from these two, but for nvidia-ctk, which is built
from NVIDIA's source where --toolkit names a checkout of github.com/NVIDIA/nvidia-container-toolkit.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

# The hosts and the service image are the lab's: by the lab's own recipes, so that they stay the same.
from fleet.lab import images, webui

CHECKOUT = Path(__file__).resolve().parents[2]
SUITE = "trixie"
PARTS = {
    "part1": ("root", "python", "site"),
    "part2": ("packages", "toolkit", "versions"),
    "part3": ("debs",),
}
_DEBS = ("docker.io", "docker-cli", "haproxy", "socat", "nftables", "docker-registry")
_PYTHON = "3.13"
# A window over a whole part: what two of its trees share is kept once.
_XZ = ("xz", "--threads=1", "--x86", "--lzma2=preset=9,dict=128MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=CHECKOUT / "build/real_gpu")
    parser.add_argument("--toolkit", type=Path, help="a checkout of NVIDIA's container toolkit")
    parser.add_argument("--no-pack", action="store_true", help="leave the trees in FOLDER/tree unpacked")
    wanted = parser.parse_args()
    tree = wanted.folder.absolute() / "tree"
    tree.mkdir(parents=True, exist_ok=True)
    for name, make in (
        ("root", root),
        ("python", python),
        ("packages", packages),
        ("site", site),
        ("debs", debs),
    ):
        if not (tree / name).exists():
            print(f"{name}: making", flush=True)
            made = tree / f".{name}"
            shutil.rmtree(made, ignore_errors=True)
            make(made, tree)
            made.rename(tree / name)
    (tree / "toolkit").mkdir(exist_ok=True)
    if wanted.toolkit and not (tree / "toolkit/nvidia-ctk").exists():
        toolkit(tree / "toolkit", wanted.toolkit.absolute())
    (tree / "versions").write_text(versions(tree))
    if not wanted.no_pack:
        pack(tree, wanted.folder)


def root(made: Path, tree: Path) -> None:
    """The bare host: the lab's host image."""
    _debootstrap(made, "minbase", images._HOST_PACKAGES)
    folder = made / "usr/lib/fleet-lab"
    folder.mkdir(parents=True)
    for source in ("users.sh", "boot.sh", "fleet-lab-host.service", "sshd.conf"):
        shutil.copy(CHECKOUT / "lab/host" / source, folder)
    _run("chroot", str(made), "/bin/sh", "-e", "/usr/lib/fleet-lab/users.sh")


def python(made: Path, tree: Path) -> None:
    """The service image's first layer: Python and a shell."""
    _debootstrap(made, "extract", webui._ROOT_PACKAGES)
    _run("chroot", str(made), "/usr/bin/busybox", "--install", "-s", "/usr/bin")


def packages(made: Path, tree: Path) -> None:
    """The service image's second layer: Gradio."""
    webui._install(made, CHECKOUT / "lab/webui/packages/requirements.txt")
    webui._trim(made)


def site(made: Path, tree: Path) -> None:
    """What fleet itself needs, at the versions it is tested with."""
    uv = shutil.which("uv", path=str(Path(sys.executable).parent)) or "uv"
    _run(
        uv, "pip", "install", "--quiet", "--python-version", _PYTHON, "--target", str(made),
        "--python-platform", "x86_64-manylinux_2_28", "--only-binary", ":all:",
        "--constraint", str(CHECKOUT / "requirements/dev.txt"),
        "-r", str(CHECKOUT / "pyproject.toml"),
    )  # fmt: skip
    webui._trim(made)


def debs(made: Path, tree: Path) -> None:
    """The packages that fleet installs on the hosts, with all they need that a bare host lacks."""
    bare = made.with_name(".bare")
    shutil.rmtree(bare, ignore_errors=True)
    _run("cp", "--archive", str(tree / "root"), str(bare))
    shutil.copy("/etc/resolv.conf", bare / "etc/resolv.conf")
    apt = ("chroot", str(bare), "apt-get", "-q", "-o", "APT::Sandbox::User=root")
    _run(*apt, "update")
    _run(*apt, "install", "-y", "--no-install-recommends", "--download-only", *_DEBS)
    made.mkdir()
    for package in sorted((bare / "var/cache/apt/archives").glob("*.deb")):
        _unpressed(package, made / package.name.replace("%3a", "-"))
    shutil.rmtree(bare)


def toolkit(made: Path, source: Path) -> None:
    """nvidia-ctk and nvidia-cdi-hook from NVIDIA's source, with the modules it vendors; needs Go and gcc."""
    module = "github.com/NVIDIA/nvidia-container-toolkit"
    lines = (source / "versions.mk").read_text().splitlines()
    version = next(line.split(":=")[1].strip() for line in lines if line.startswith("LIB_VERSION"))
    flags = f"-s -w -extldflags=-Wl,-z,lazy -X {module}/internal/info.version={version}"
    environment = {
        **os.environ,
        "CGO_ENABLED": "1",
        "GOFLAGS": "-mod=vendor -trimpath",
        "GOTOOLCHAIN": "local",
    }
    for program in ("nvidia-ctk", "nvidia-cdi-hook"):
        argv = ("go", "build", "-ldflags", flags, "-o", str(made / program), f"./cmd/{program}")
        subprocess.run(argv, cwd=source, env=environment, check=True)
    (made / "version").write_text(f"{version}\n")


def versions(tree: Path) -> str:
    """What is in the bundle: one `NAME VERSION` a line for what matters."""
    found = [f"Debian {(tree / 'root/etc/debian_version').read_text().strip()}"]
    for package in sorted((tree / "debs").glob("*.deb")):
        name, version, _ = package.name.split("_")
        if name in (*_DEBS, "containerd", "runc"):
            found.append(f"{name} {version}")
    for info in sorted((tree / "packages").glob("gradio-*.dist-info")):
        found.append(info.name.removesuffix(".dist-info").replace("-", " "))
    return "\n".join(found) + "\n"


def pack(tree: Path, folder: Path) -> None:
    """The parts, as small as they get: some ten minutes and 2 GB of memory."""
    for name, folders in PARTS.items():
        path = folder / f"{name}.tar.xz"
        tar = ["tar", "--numeric-owner", "--sort=name", "--exclude=root/dev/*", "--exclude=__pycache__"]
        tar += ["-C", str(tree), "-c", *folders]
        with path.open("wb") as sink:
            packing = subprocess.Popen(tar, stdout=subprocess.PIPE)
            subprocess.run(_XZ, stdin=packing.stdout, stdout=sink, check=True)
            if packing.wait() != 0:
                raise SystemExit(f"tar failed with exit code {packing.returncode}")
        print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB", flush=True)


def _unpressed(package: Path, made: Path) -> None:
    """The package with the same files, not compressed: all of them together get much smaller so."""
    folder = made.with_name(".package")
    _run("dpkg-deb", "--raw-extract", str(package), str(folder))
    _run("dpkg-deb", "--root-owner-group", "-Znone", "--build", str(folder), str(made))
    shutil.rmtree(folder)


def _debootstrap(made: Path, variant: str, wanted: tuple[str, ...]) -> None:
    options = [f"--dpkgopt={option}" for option in images._NO_DOCS]
    _run(
        "mmdebstrap",
        "--quiet",
        f"--variant={variant}",
        f"--include={','.join(wanted)}",
        *options,
        SUITE,
        str(made),
    )


def _run(*argv: str) -> None:
    subprocess.run(argv, stdin=subprocess.DEVNULL, check=True)


if __name__ == "__main__":
    main()
