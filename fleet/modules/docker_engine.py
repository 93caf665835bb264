"""The docker_engine module: a Docker Engine with CDI, configured without disturbing what runs."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import msgspec

from fleet.docker.exposure import DOOR_REMEDY, configured_doors
from fleet.docker.probe import ENGINE_PROBE, Engine, parse_engine
from fleet.model.facts import Facts, Probe
from fleet.model.steps import Change, Run
from fleet.modules import _apt, _docker_config
from fleet.modules._docker_apply import (
    LOADED,
    refuse_to_stop_containers,
    reload_engine,
    restart_engine,
)
from fleet.modules._files import FileState, Wanted, file_probe, file_state, find_source, read_source, write
from fleet.modules._os import OS_PROBE, System, system
from fleet.modules._sources import Source, source_changes, source_probes
from fleet.modules._systemd import SYSTEMCTL, Unit, unit_probe, unit_state
from fleet.modules.base import Args, Context

UNIT = "docker.service"
FINGERPRINT = "9DC858229FC7DD38854AE2D88D81803C0EBFCD88"
"""Docker's signing key for Debian and Ubuntu packages."""

_PACKAGES = ("docker.io", "docker-cli", "docker-ce", "docker-ce-cli", "containerd.io", "moby-engine")
_ENGINES = ("docker.io", "docker-ce", "moby-engine")
_REGISTRY = re.compile(r"[A-Za-z0-9.-]+(:[0-9]+)?|\[[0-9a-fA-F:]+\](:[0-9]+)?")
_VERSION = re.compile(r"(?:[0-9]+:)?v?([0-9]+)(?:\.([0-9]+))?")


class DockerEngineArgs(Args, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Arguments of `docker_engine`."""

    source: Literal["distribution", "docker"] = "distribution"
    version: str | None = None
    min_version: str = "25"
    hold: bool | None = None
    allow_downgrade: bool = False
    config: dict[str, Any] = msgspec.field(default_factory=dict)
    registry_ca: dict[str, str] = msgspec.field(default_factory=dict)
    repository: str = "https://download.docker.com/linux"
    stop_containers: bool = False

    def __post_init__(self) -> None:
        if _parts(self.min_version) is None:
            raise ValueError(f"`min_version` is not a version: {self.min_version!r}")
        if self.version is not None:
            _apt.parse_wish(f"docker={self.version}")
        if not self.repository.startswith("https://"):
            raise ValueError("`repository` must start with https://")
        if doors := configured_doors(self.config):
            raise ValueError(
                f"`config`: hosts has {doors[0].address}: fleet opens no port for the engine, for whoever "
                "reaches it is root on the host; it needs none itself"
            )
        for registry in self.registry_ca:
            if not _REGISTRY.fullmatch(registry):
                raise ValueError(f"`registry_ca`: not HOST or HOST:PORT: {registry!r}")


@dataclass(frozen=True)
class _Seen:
    """What the probes said."""

    system: System
    packages: Mapping[str, _apt.Package]
    unit: Unit
    file: FileState
    config: dict[str, Any]
    loaded_mark: str
    engine: Engine | None

    @property
    def package(self) -> str | None:
        """The installed engine's package; None where there is none, or one that came without a package."""
        return next((name for name in _ENGINES if self.packages[name].installed), None)

    @property
    def installed(self) -> bool:
        return self.package is not None or self.unit.exists

    @property
    def version(self) -> str:
        if self.engine is not None:
            return self.engine.version
        return self.packages[self.package].version if self.package else ""

    def file_is_loaded(self) -> bool:
        """Whether the running engine works with the file as it is now.

        It does where it started after the file was last written, or where fleet has had it reload exactly
        this content since (the mark names the engine's start and the content).
        """
        if self.unit.started is None:
            return False
        if not self.file.exists or self.file.mtime <= self.unit.started.timestamp():
            return True
        digest = hashlib.sha256(self.file.content or b"").hexdigest()
        return self.loaded_mark == f"{self.unit.invocation} {digest}"


class DockerEngine:
    """Install the Docker Engine where there is none, configure it, and keep it running.

    An engine that is already there is kept wherever it came from, if it is new enough. Its configuration
    file is merged into, never overwritten: keys that `config` does not name stay as they are. The engine
    checks the new file before it takes the old one's place. A running engine is only reloaded where that
    is enough; where it must restart, live-restore is switched on first, so that containers keep running,
    and if containers would stop all the same the task fails before it restarts anything. The engine
    restarts too where its file was changed by others after it started. A new engine starts once, with its
    configuration.

    No port is opened for the engine: `hosts` with `tcp://` is refused, and so is a file on the host that has
    it without `tlsverify`.

    Where neither `config` nor the host's file says otherwise, fleet sets `features.cdi` (containers get
    GPUs by it), `live-restore`, and logs in `json-file` with rotation.

    Arguments:
        source: where to install from: `distribution` (default; docker.io) or `docker` (Docker's own
            repository for Debian or Ubuntu, whose key is checked by its fingerprint).
        version: package version, in which `*` stands for anything, such as `5:28.*`. Default: the newest
            at installation, never changed after.
        min_version: oldest engine to accept; default `"25"`, the first with CDI.
        hold: true keeps apt from changing the engine; default: as it is.
        allow_downgrade: accept a `version` older than the installed one; default false.
        config: keys of /etc/docker/daemon.json; mappings are merged, null removes a key.
        registry_ca: certificate authorities of private registries: `HOST:PORT` and the certificate's
            file on the controller.
        repository: address of Docker's repository or of a mirror of it.
        stop_containers: true lets a restart stop containers where live-restore cannot keep them.

    Example:
        - name: Docker
          docker_engine:
            source: docker
            version: "5:28.*"
            hold: true
            config:
              data-root: /srv/docker
            registry_ca:
              registry.example:5000: certs/registry-ca.crt
    """

    name: ClassVar[str] = "docker_engine"
    args: ClassVar[type[Args]] = DockerEngineArgs

    def probes(self, args: DockerEngineArgs, ctx: Context) -> Sequence[Probe]:
        """Ask for packages, the unit, the configuration, certificates and the engine itself."""
        return (
            OS_PROBE,
            ENGINE_PROBE,
            _apt.packages_probe(_PACKAGES, virtual=False),
            unit_probe(UNIT),
            file_probe(_docker_config.PATH, "content"),
            file_probe(LOADED, "content"),
            *(file_probe(_ca_path(registry), "content") for registry in args.registry_ca),
            *(source_probes("docker") if args.source == "docker" else ()),
        )

    def plan(self, args: DockerEngineArgs, facts: Facts, ctx: Context) -> Sequence[Change]:
        """Certificates, then the engine: new, or reconfigured."""
        seen = _see(facts, ctx)
        _refuse_open_door(_docker_config.merged(seen.config, args.config), ctx)
        changes = _certificates(args, facts, ctx)
        if not seen.installed:
            return [*changes, *_install(args, seen, facts, ctx)]
        _check_version(args, seen, ctx)
        return [*changes, *_packages(args, seen, ctx), *_configure(args, seen, ctx)]


def _see(facts: Facts, ctx: Context) -> _Seen:
    file = file_state(_docker_config.PATH, "content", facts, ctx)
    mark = file_state(LOADED, "content", facts, ctx).content or b""
    return _Seen(
        system=system(facts, ctx),
        packages=_apt.packages(_PACKAGES, facts, ctx, virtual=False),
        unit=unit_state(UNIT, facts, ctx),
        file=file,
        config=_docker_config.parse(file.content, ctx),
        loaded_mark=mark.decode("utf-8", "replace").strip(),
        engine=parse_engine(facts[ENGINE_PROBE.key]),
    )


def _refuse_open_door(config: Mapping[str, Any], ctx: Context) -> None:
    for door in configured_doors(config):
        if door.open:
            raise ctx.fail(
                f"{_docker_config.PATH} on the host has the engine listen on {door.address} without asking "
                "for client certificates",
                remedy=f"{DOOR_REMEDY} (`config: {{hosts: null}}` takes it out of the file)",
            )


def _certificates(args: DockerEngineArgs, facts: Facts, ctx: Context) -> list[Change]:
    changes = []
    for registry, src in args.registry_ca.items():
        path = _ca_path(registry)
        content = read_source(find_source(src, "files", ctx), ctx)
        wanted = Wanted(path, content, "0644", "root", "root")
        if change := write(wanted, file_state(path, "content", facts, ctx), ctx):
            changes.append(change)
    return changes


def _install(args: DockerEngineArgs, seen: _Seen, facts: Facts, ctx: Context) -> list[Change]:
    """The file comes before the package, so that the engine's first start is with it."""
    changes: list[Change] = []
    host = seen.system
    if host.id not in ("debian", "ubuntu"):
        raise ctx.fail(
            f"fleet does not install Docker on {host.title}",
            remedy=f"install Docker Engine {args.min_version} or newer on it; fleet will use that",
        )
    if args.source == "distribution" and host.id == "debian" and (host.major or 99) < 13:
        offered = (20, 10) if host.major == 12 else (0, 0)
        if (_parts(args.min_version) or offered) > offered:
            raise ctx.fail(
                f"{host.title} has no Docker Engine {args.min_version}: its docker.io is older",
                remedy="say `source: docker`, which installs from Docker's own repository",
            )
    if args.source == "docker":
        base = f"{args.repository.rstrip('/')}/{host.id}"
        source = Source(
            name="docker",
            uris=(base,),
            suites=(host.codename,),
            components=("stable",),
            key_url=f"{base}/gpg",
            key_fingerprint=FINGERPRINT,
        )
        changes += source_changes(source, facts, ctx)
    config = _docker_config.merged(seen.config, args.config)
    if not _docker_config.same(seen.config, config):
        wanted = Wanted(_docker_config.PATH, _docker_config.render(config))
        if change := write(wanted, seen.file, ctx):
            changes.append(change)
    family = "docker.io" if args.source == "distribution" else "docker-ce"
    changes += _apt.install(
        _wishes(family, args, host), seen.packages, hold=args.hold, allow_downgrade=args.allow_downgrade
    )
    check = Run(("dockerd", "--validate", "--config-file", _docker_config.PATH))
    changes.append(Change("start Docker and enable it at boot", steps=(check, *_start(enable=True))))
    return changes


def _packages(args: DockerEngineArgs, seen: _Seen, ctx: Context) -> list[Change]:
    """A pinned version, a hold, or a client that is its own package and missing."""
    if seen.package not in ("docker.io", "docker-ce"):
        if args.version is not None:
            raise ctx.fail(
                f"the engine on this host came from {seen.package or 'elsewhere, without a package'}: "
                "fleet cannot bring it to a version",
                remedy="leave out `version`, or remove that engine first",
            )
        return []
    return _apt.install(
        _wishes(seen.package, args, seen.system),
        seen.packages,
        hold=args.hold,
        allow_downgrade=args.allow_downgrade,
    )


def _configure(args: DockerEngineArgs, seen: _Seen, ctx: Context) -> list[Change]:
    config = _docker_config.merged(seen.config, args.config)
    written = None
    if not _docker_config.same(seen.config, config):
        validate = ("dockerd", "--validate", "--config-file", "%s")
        wanted = Wanted(_docker_config.PATH, _docker_config.render(config), validate=validate)
        written = write(wanted, seen.file, ctx)
    changes = [written] if written else []
    if not seen.unit.running:
        return [*changes, Change("start Docker", steps=tuple(_start(enable=seen.unit.file != "enabled")))]
    if seen.unit.file not in ("enabled", "static", "alias"):
        changes.append(Change("enable Docker at boot", steps=(Run(("systemctl", "enable", UNIT)),)))
    if reason := _why_restart(seen, config, written is not None):
        live = config.get("live-restore") is True
        if written and not live and not args.stop_containers:
            changes[0] = replace(written, steps=(refuse_to_stop_containers(), *written.steps))
        step = restart_engine(live_restore=live, stop_containers=args.stop_containers)
        changes.append(Change(f"restart Docker: {reason}", steps=(step,)))
    elif written:
        changes.append(Change("reload Docker", steps=(reload_engine(_docker_config.render(config)),)))
    return changes


def _why_restart(seen: _Seen, config: Mapping[str, Any], written: bool) -> str:
    """Why the engine must start again to work with `config`; empty where it need not."""
    if not seen.file_is_loaded():
        return f"{_docker_config.PATH} changed after it started"
    if written and _docker_config.needs_restart(seen.config, config):
        return "it does not take up these keys while running"
    if seen.engine is None or written:
        return ""
    if config.get("live-restore") is True and not seen.engine.live_restore:
        return "it runs without live-restore"
    if _cdi(config) and not seen.engine.cdi:
        return "it runs without CDI"
    return ""


def _cdi(config: Mapping[str, Any]) -> bool:
    features = config.get("features")
    return isinstance(features, Mapping) and features.get("cdi") is True


def _check_version(args: DockerEngineArgs, seen: _Seen, ctx: Context) -> None:
    found, least = _parts(seen.version), _parts(args.min_version)
    if found is None or least is None or found >= least or args.version is not None:
        return
    raise ctx.fail(
        f"Docker Engine {seen.version} on this host is older than {args.min_version}",
        remedy="remove it and say `source: docker`, or name a newer `version`; CDI needs 25 or newer",
    )


def _parts(version: str) -> tuple[int, int] | None:
    match = _VERSION.match(version)
    return (int(match[1]), int(match[2] or 0)) if match else None


def _wishes(family: str, args: DockerEngineArgs, host: System) -> list[_apt.Wish]:
    """The packages that make an engine. Debian took the client out of docker.io with release 13."""
    pinned: tuple[str, ...] = ("docker.io",)
    free: tuple[str, ...] = ()
    if family == "docker-ce":
        pinned, free = ("docker-ce", "docker-ce-cli"), ("containerd.io",)
    elif host.id == "debian" and (host.major is None or host.major >= 13):
        pinned = ("docker.io", "docker-cli")
    return [*(_apt.Wish(name, args.version) for name in pinned), *map(_apt.Wish, free)]


def _start(*, enable: bool) -> list[Run]:
    steps = [Run(("systemctl", "enable", UNIT))] if enable else []
    return [
        *steps,
        Run(("sh", "-c", SYSTEMCTL, "systemctl", "start", UNIT), timeout=300.0, title="start Docker"),
    ]


def _ca_path(registry: str) -> str:
    return f"/etc/docker/certs.d/{registry}/ca.crt"
