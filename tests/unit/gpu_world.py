"""A GPU host told as answers: what nvidia-smi and the Docker Engine would have said."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fleet.docker.boot import SCRIPT_FILE, SCRIPT_TEXT, UNIT_FILE, UNIT_TEXT
from fleet.gpu.container import ContainerSpec, container_name, create_body
from fleet.model.facts import Answer, Facts
from fleet.model.host import Host
from fleet.model.slot import Slot

IMAGE = "registry.example:5000/hunyuan-mt-webui:v1"
DIGEST = "sha256:" + "1" * 64
IMAGE_ID = "sha256:" + "a" * 64
NOW = "2026-03-01T12:00:00.123456789Z"
HOST = Host("gpu-01", {"ansible_host": "10.0.0.1"}, ("gpu",))


def uuid(index: int) -> str:
    return f"GPU-{index:08d}-0000-0000-0000-000000000000"


def slot(index: int = 0, port: int | None = None) -> Slot:
    return Slot("gpu-01", index, uuid(index), "10.0.0.1", port or 7860 + index, "Tesla T4")


def gpu_line(index: int, *, name: str = "Tesla T4", total: str = "15360", mig: str = "[N/A]") -> str:
    bus = f"00000000:{0x3B + index:02X}:00.0"
    return f"{index}, {uuid(index)}, {name}, {total}, 3, 0, 38, 9.50, 580.95.05, {bus}, {mig}\n"


def framed(answers: Mapping[str, Any]) -> Answer:
    """The engine's answers as curl and the probe write them."""
    out = b""
    for path, body in answers.items():
        data = body if isinstance(body, bytes) else json.dumps(body).encode() + b"\n"
        out += data + f"\nfleet 200 {len(data)} http://d{path}\n".encode()
    return Answer(0, out)


def engine(
    version: str = "26.1.5", *, cdi: bool = True, runtimes: Sequence[str] = ("runc",), **more: Any
) -> Answer:
    info: dict[str, Any] = {
        "OperatingSystem": "Debian GNU/Linux 13 (trixie)",
        "SystemTime": NOW,
        "Runtimes": {name: {} for name in runtimes},
        "CDISpecDirs": ["/etc/cdi", "/var/run/cdi"] if cdi else [],
        **more,
    }
    return framed({"/version": {"Version": version, "ApiVersion": "1.45", "Arch": "amd64"}, "/info": info})


def images(*, tag: str = IMAGE, digests: Sequence[str] = (DIGEST,), id_: str = IMAGE_ID) -> Answer:
    repository = tag.rpartition(":")[0]
    known = [f"{repository}@{digest}" for digest in digests]
    return framed({"/images/json": [{"Id": id_, "RepoTags": [tag], "RepoDigests": known, "Size": 5}]})


def id_of(name: str) -> str:
    """The id of a container that `inspected` makes under this name."""
    return f"{sum(name.encode()) * 7919:064x}"


def inspected(
    spec: ContainerSpec,
    place: Slot,
    digest: str = DIGEST,
    *,
    name: str | None = None,
    state: str = "running",
    exit_code: int = 0,
    started: str = "2026-03-01T09:00:00Z",
    finished: str = "0001-01-01T00:00:00Z",
    restarts: int = 0,
    oom: bool = False,
    error: str = "",
) -> dict[str, Any]:
    """A container of ours as the engine would show it after our own create call."""
    body = create_body(spec, place, digest)
    host = body["HostConfig"]
    name = name or container_name(place)
    return {
        "Id": id_of(name),
        "Name": f"/{name}",
        "Image": IMAGE_ID,
        "RestartCount": restarts,
        "State": {
            "Status": state,
            "ExitCode": exit_code,
            "OOMKilled": oom,
            "Error": error,
            "StartedAt": started,
            "FinishedAt": finished,
        },
        "Config": {key: body.get(key) for key in ("Image", "Labels", "Env", "Cmd", "StopTimeout")}
        | {"User": body.get("User", "")},
        "HostConfig": {**host, "Runtime": "runc", "ShmSize": host.get("ShmSize", 67108864)},
        "Mounts": [],
        "NetworkSettings": {"Ports": {}},
    }


def foreign(name: str, *, image: str = "other:1", **host: Any) -> dict[str, Any]:
    """A running container that is not ours."""
    return {
        "Id": f"{sum(name.encode()) * 104729:064x}",
        "Name": f"/{name}",
        "Image": "sha256:" + "f" * 64,
        "State": {"Status": "running", "StartedAt": "2026-03-01T09:00:00Z"},
        "Config": {"Image": image, "Labels": None, "Env": ["PATH=/bin"]},
        "HostConfig": host,
    }


def containers(*found: dict[str, Any], logs: Mapping[str, bytes] | None = None) -> Answer:
    answers: dict[str, Any] = {f"/containers/{each['Id']}/json": each for each in found}
    for each in found:
        if log := (logs or {}).get(each["Name"].lstrip("/")):
            answers[f"/containers/{each['Id']}/logs?stdout=1&stderr=1&tail=20"] = log
    return framed(answers)


def log_frames(*lines: str) -> bytes:
    """Lines as the engine sends the log of a container without a terminal."""
    data = (f"{line}\n".encode() for line in lines)
    return b"".join(b"\x02\0\0\0" + len(line).to_bytes(4, "big") + line for line in data)


def boot_unit(unit: str = UNIT_TEXT, script: str = SCRIPT_TEXT, *, enabled: bool = True) -> Answer:
    """The unit for boots as its probe finds it."""
    files = ((UNIT_FILE, unit), (SCRIPT_FILE, script))
    lines = (f"{path}:{line}" for path, text in files for line in text.splitlines(keepends=True))
    return Answer(0, ("enabled\n" * enabled + "".join(lines)).encode())


def facts(*found: dict[str, Any], gpus: int = 2, **answers: Answer) -> Facts:
    """A host with `gpus` T4 cards, Docker 26 with CDI, the image v1, the unit for boots, and containers."""
    keys = {name.replace("_", "."): answer for name, answer in answers.items()}
    return Facts(
        {
            "gpu": Answer(0, "".join(gpu_line(index) for index in range(gpus)).encode()),
            "gpu.processes": Answer(0),
            "docker.engine": engine(),
            "docker.images": images(),
            "docker.containers": containers(*found),
            "slots.boot": boot_unit(),
            "slots.heard": Answer(0),
            **keys,
        }
    )
