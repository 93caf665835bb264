"""Hosts of several sites whose engines are tables: a real registry on loopback, the real sh and curl."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from fleet.docker.probe import ENGINE_PROBE, IMAGES_PROBE
from fleet.errors import UnreachableError
from fleet.images import seed
from fleet.images.layers import LAYERS_PROBE
from fleet.images.plan import Planner, PullPlan
from fleet.images.pull import Pull
from fleet.images.source import Source
from fleet.model.facts import Answer, Facts
from fleet.model.host import Host
from fleet.model.secret import Secret
from fleet.ssh.remote import Result
from tests.local import LocalRemote
from tests.unit.registry_world import NAME, Registry

LAYERS = [b"a" * 20_000, b"b" * 5_000]


def answer(**bodies: Any) -> Answer:
    out = b""
    for path, body in bodies.items():
        raw = json.dumps(body).encode()
        out += raw + f"\nfleet 200 {len(raw)} http://d/{path.replace('__', '/')}\n".encode()
    return Answer(0, out)


class Engine:
    """A host's engine: `images` by id, and the root folder."""

    def __init__(self, root: Path, name: str) -> None:
        self.name = name
        self.root = root
        self.images: dict[str, dict[str, Any]] = {}
        self.layers: list[list[str]] = []
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.lost = 0

    def has(self, image: str, top: str, layers: list[str] | None = None, size: int = 7) -> None:
        repo = image.rpartition(":")[0]
        self.images["sha256:" + "c" * 64] = {
            "Id": "sha256:" + "c" * 64,
            "RepoTags": [image],
            "RepoDigests": [f"{repo}@{top}"],
            "Size": size,
        }
        self.layers.append(layers or [])

    def facts(self) -> Facts:
        info = {"DockerRootDir": str(self.root), "Driver": "overlay2"}
        version = {"Version": "26.1.5", "ApiVersion": "1.45", "Arch": "amd64"}
        lines = "".join(json.dumps({"RootFS": {"Layers": each}}) + "\n" for each in self.layers)
        return Facts(
            {
                IMAGES_PROBE.key: answer(images__json=list(self.images.values())),
                ENGINE_PROBE.key: answer(version=version, info=info),
                LAYERS_PROBE.key: Answer(0, lines.encode()),
            }
        )


class Quick(LocalRemote):
    """This machine, where small questions to the registry are answered without a process for each."""

    def __init__(self, name: str, registry: Registry) -> None:
        super().__init__(name)
        self._registry = registry

    def run(self, argv: tuple[str, ...], **more: Any) -> Result:
        if "fleet-registry" not in argv or self._registry.auth != "none":
            return super().run(argv, **more)
        _, kind, what = more["stdin"].decode().splitlines()[0].rstrip('"').rsplit("/", 2)
        if kind == "manifests":
            body = self._registry.manifests[what][1]
        else:
            body = self._registry.blobs.get(what, b"{}")
        return Result(0, b"200\n\n" + body, b"")


class Wire:
    """A connection to this machine in the name of a host."""

    def __init__(self, engine: Engine, registry: Registry) -> None:
        self.engine = engine
        self.registry = registry

    def look(self, *_: object) -> Facts:
        return self.engine.facts()

    def do(self, work: Any) -> Any:
        if self.engine.lost:
            self.engine.lost -= 1
            raise UnreachableError(f"{self.engine.name}: lost")
        return work(Quick(self.engine.name, self.registry), self)

    def ask(self, call: Any, progress: Any = None) -> Any:
        self.engine.asked.append((call.operation, dict(call.arguments)))

    def end(self) -> None: ...


class Fleet:
    def __init__(self, tmp: Path, registry: Registry, **hosts: dict[str, Any]) -> None:
        self.registry = registry
        self.engines: dict[str, Engine] = {}
        self.targets: dict[str, Any] = {}
        for name, variables in hosts.items():
            (tmp / name).mkdir()
            self.engines[name] = Engine(tmp / name, name)
            auth = {"username": "fleet", "password": Secret("pass word")}
            host = Host(name, {"fleet_address": "127.0.0.1", **variables})
            self.targets[name] = SimpleNamespace(host=host, auth=lambda auth=auth: auth)
        self.wires = {name: Wire(engine, registry) for name, engine in self.engines.items()}
        self.said: list[tuple[str, str]] = []
        self.planner = Planner(self.targets, self.wires, registry.image)

    def plan(self, **options: Any) -> PullPlan:
        return self.planner.plan(**options)

    def pull(self, plan: PullPlan, **options: Any) -> Any:
        def listen(host: str, words: str, done: int, total: int) -> None:
            self.said.append((host, words))

        return Pull(plan, self.planner, self.targets, self.wires, listen, **options).run()


def serve_from(monkeypatch: Any, registry: Registry) -> list[str]:
    """Seeds that are a second registry on loopback, which has what the first has."""
    events: list[str] = []

    def start(remote: Any, store: str, blobs: Any, address: str, port: int) -> Any:
        for blob in blobs:
            assert (Path(store) / "blobs" / "sha256" / blob.hex).exists()
        events.append(f"start {remote.name}")
        login = SimpleNamespace(username="fleet", password=Secret("pass word"))
        source = Source(registry.host, NAME, "", "http")
        return SimpleNamespace(host=remote.name, ca="", login=login, source=source)

    monkeypatch.setattr(seed, "start", start)
    monkeypatch.setattr(seed, "stop", lambda remote, store: events.append(f"stop {remote.name}"))
    return events
