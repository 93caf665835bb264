"""The webui image: Python and Gradio without any image registry, one tag per version and per fault."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from fleet.errors import FleetError
from fleet.lab.images import build, digest, find_recipe, hash_folder, image_id, root_filesystem
from fleet.lab.spec import Report

if TYPE_CHECKING:
    from docker import DockerClient

TAGS: Mapping[str, Mapping[str, str]] = {
    "v1": {},
    "v2": {"VERSION": "v2"},
    "v2-slow-start": {"VERSION": "v2", "START_DELAY": "20"},
    "v2-never-ready": {"VERSION": "v2", "NEVER_READY": "1"},
    "v2-wrong": {"VERSION": "v2", "WRONG": "1"},
    "v2-dies": {"VERSION": "v2", "DIE_AFTER": "3"},
    "v2-slow": {"VERSION": "v2", "SLOW": "3"},
    "v2-stuck": {"VERSION": "v2", "STUCK": "1"},
    "v2-wrong-gpu": {"VERSION": "v2", "WRONG_GPU": "1"},
}
"""Every tag of the image, with the build arguments that make it."""

REPOSITORY = "fleet-lab-webui"
"""Its repository on the outer engine."""

_PYTHON = "3.13"
_ROOT_PACKAGES = ("base-files", "busybox", "libstdc++6", "python3")
# Gradio's own server-side rendering, sample media and the packages' tests are no use here.
_UNUSED = (
    "gradio/media_assets",
    "gradio/templates/node",
    "hf_xet",
    "bin",
    "**/tests",
    "**/*.map",
    "**/*.pyi",
    "**/__pycache__",
)


def webui_images(client: DockerClient, assets: Path, report: Report) -> dict[str, str]:
    """The image name of every tag, on the outer engine; made when there is none yet."""
    base = _packages_image(client, assets / "webui" / "packages", report)
    source = assets / "webui" / "app"
    shared = [image_id(client, base), *hash_folder(source)]
    made = {}
    for tag, arguments in TAGS.items():
        made[tag] = f"{REPOSITORY}:{tag}"
        recipe = digest([*shared, repr(sorted(arguments.items()))])
        if find_recipe(client, made[tag]) != recipe:
            report(f"{made[tag]}: building")
            build(client, made[tag], source, {"BASE": base, **arguments}, recipe=recipe)
    return made


def _packages_image(client: DockerClient, source: Path, report: Report) -> str:
    """Python with Gradio: the one large layer under every tag."""
    base = root_filesystem(client, "fleet-lab-python:13", "trixie", "extract", _ROOT_PACKAGES, report)
    tag = f"{REPOSITORY}:packages"
    recipe = digest([image_id(client, base), *hash_folder(source), *_UNUSED])
    if find_recipe(client, tag) == recipe:
        return tag
    with tempfile.TemporaryDirectory(prefix="fleet-lab-") as folder:
        context = Path(folder)
        shutil.copytree(source, context, dirs_exist_ok=True)
        report(f"{tag}: fetching Gradio")
        _install(context / "packages", source / "requirements.txt")
        _trim(context / "packages")
        report(f"{tag}: building")
        build(client, tag, context, {"BASE": base}, recipe=recipe)
    return tag


def _install(target: Path, requirements: Path) -> None:
    """Install the packages for the image's Python with uv, or with pip where there is no uv."""
    machine = platform.machine()
    uv = shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")
    common = ["--only-binary", ":all:", "--target", str(target), "-r", str(requirements)]
    if uv:
        argv = [
            uv, "pip", "install", "--quiet", "--python-version", _PYTHON,
            "--python-platform", f"{machine}-manylinux_2_28", *common,
        ]  # fmt: skip
    else:
        argv = [
            sys.executable, "-m", "pip", "install", "--quiet", "--python-version", _PYTHON,
            "--platform", f"manylinux_2_28_{machine}", "--platform", f"manylinux_2_17_{machine}",
            "--platform", f"manylinux2014_{machine}", "--no-compile", *common,
        ]  # fmt: skip
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise FleetError(
            "Gradio could not be fetched for the lab's webui image",
            output="\n".join(done.stderr.splitlines()[-15:]),
            remedy="Install uv (or pip) in fleet's own environment, and check that it reaches the "
            "Python package index.",
        )


def _trim(packages: Path) -> None:
    for pattern in _UNUSED:
        for path in list(packages.glob(pattern)):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.exists():
                path.unlink()
