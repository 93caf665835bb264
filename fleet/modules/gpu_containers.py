"""The module `gpu_containers`: exactly one container on each GPU of a host."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import msgspec

from fleet.docker.heard import heard, heard_probe
from fleet.docker.probe import (
    CONTAINERS_PROBE,
    ENGINE_PROBE,
    IMAGES_PROBE,
    image_user_probe,
    parse_containers,
    parse_engine,
    parse_image_user,
    parse_images,
)
from fleet.docker.profile import profile_probe
from fleet.docker.references import digests_of, find_image
from fleet.gpu.container import ContainerSpec
from fleet.gpu.probe import (
    GPU_PROBE,
    GPU_PROCESSES_PROBE,
    parse_gpu_processes,
    parse_gpus,
)
from fleet.gpu.sizes import MIB, parse_size, show_mib
from fleet.gpu.slots import port_base, port_beside, slots_of
from fleet.model.facts import Facts, Probe
from fleet.model.slot import Gpu, Slot
from fleet.model.steps import Change
from fleet.modules._boot_unit import BOOT_UNIT_PROBE, boot_unit
from fleet.modules._container_safety import ROOT_REMEDY, check_safety, root_problem
from fleet.modules._container_spec import container_spec, gpu_driver
from fleet.modules._driver_awaited import once_the_driver_works
from fleet.modules.base import Args, Context
from fleet.modules.gpu_container_plan import SlotPlanner

_LOG_SIZE = re.compile(r"\d+[kmg]?", re.IGNORECASE)


class GpuContainersArgs(Args, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The arguments of `gpu_containers`."""

    image: str
    container_port: int = 7860
    bind: str = "0.0.0.0"
    command: tuple[str, ...] = ()
    env: dict[str, str | int] = msgspec.field(default_factory=dict)
    volumes: tuple[str, ...] = ()
    tmpfs: tuple[str, ...] = ()
    memory_min: str | None = None
    restart: Literal["no", "on-failure", "always", "unless-stopped"] = "unless-stopped"
    init: bool = True
    stop_timeout: int = 120
    shm_size: str | None = None
    log_max_size: str = "50m"
    log_max_file: int = 3
    user: str | int = ""
    non_root: bool = False
    read_only: bool = False
    cap_drop: tuple[str, ...] = ()
    cap_add: tuple[str, ...] = ()
    no_new_privileges: bool = False
    pids_limit: int | None = None
    memory: str | None = None
    network: str = "bridge"
    gpu_driver: Literal["auto", "cdi", "nvidia"] = "auto"
    share_gpu: bool = False
    settle: float = 3.0
    ready: float = 600.0
    throttle: int = 1

    def __post_init__(self) -> None:
        if not self.image or any(c.isspace() for c in self.image):
            raise ValueError(f"image is {self.image!r}, not an image such as registry.example:5000/app:v1")
        if not 1 <= self.container_port <= 65535:
            raise ValueError(f"container_port is {self.container_port}, not a port (1 to 65535)")
        for name in ("memory_min", "shm_size", "memory"):
            if (value := getattr(self, name)) is not None:
                _check_size(name, value)
        check_safety(
            str(self.user),
            non_root=self.non_root,
            tmpfs=self.tmpfs,
            capabilities={"cap_drop": self.cap_drop, "cap_add": self.cap_add},
            pids_limit=self.pids_limit,
            memory=parse_size(self.memory) if self.memory is not None else None,
        )
        for key in self.env:
            if not key or "=" in key or any(c.isspace() or not c.isprintable() for c in key):
                raise ValueError(f"env has {key!r}, which cannot be a variable's name")
        if not _LOG_SIZE.fullmatch(self.log_max_size):
            raise ValueError(f"log_max_size is {self.log_max_size!r}; write it like 50m")
        if self.log_max_file < 1:
            raise ValueError(f"log_max_file is {self.log_max_file}; it must be 1 or more")
        if self.stop_timeout < 0 or not 0 <= self.settle <= 600:
            raise ValueError("stop_timeout must be 0 or more, settle from 0 to 600 seconds")
        if not 0 <= self.ready <= 86400:
            raise ValueError(f"ready is {self.ready:g}, not seconds from 0 (nobody waits) to 86400")
        if self.throttle < 0:
            raise ValueError(f"throttle is {self.throttle}, not a number of hosts (0: no bound)")
        if self.network in ("host", "none") or self.network.startswith("container:"):
            raise ValueError(
                f"network {self.network!r} cannot publish one port per GPU; use a bridge network"
            )
        for volume in self.volumes:
            parts = volume.split(":")
            if not 2 <= len(parts) <= 3 or not all(parts) or not parts[1].startswith("/"):
                raise ValueError(f"volume {volume!r} is not source:/destination or source:/destination:ro")


def _check_size(name: str, value: str) -> None:
    try:
        parse_size(value)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


class GpuContainers:
    """Run one container on each GPU of the host, bound to the GPU by its UUID.

    A container that already runs the same image bytes with the same settings is left alone; another is
    replaced, one GPU after the other. The new one is made before the old one stops; where the engine does not
    take it, or it does not stay up for `settle` seconds and answer HTTP within `ready` seconds, the old one
    runs again. Over all hosts of a run one GPU has that at a time, where its container may serve
    (`throttle`), and none after one that failed. Jobs in flight are cut: on a fleet that serves, `fleet
    upgrade` with the image that runs drains first. What runs for a GPU that is gone, or beside the right
    container, is removed. Slot `HOST-INDEX` publishes the port `slot_port_base` (an inventory variable, 7860)
    plus the GPU's index. Both stay with the GPU's UUID as long as its container is there, also where the
    driver numbers GPUs in another order after a boot.

    A unit of systemd, `fleet-slots.service`, is installed beside them. Whenever Docker starts, it starts the
    containers that Docker could not give their GPU, as happens with Docker older than 28.2 after each reboot.
    Containers that somebody stopped stay stopped until the next run.

    Arguments:
        image: repository and tag; it must be on the host already (see `docker_image`).
        container_port: the port the program listens on inside the container (7860).
        bind: the host address the port is published on (0.0.0.0).
        command: arguments in place of the image's own command.
        env: environment variables, text or whole numbers.
        volumes: `source:/destination` or `source:/destination:ro`.
        tmpfs: folders kept in memory, `/folder` or `/folder:options` such as `/cache:exec,size=4g`; Docker
            mounts them noexec,nosuid,nodev unless told otherwise.
        memory_min: the memory each GPU must have, such as 12GiB; a smaller GPU is refused.
        restart: no, on-failure, always or unless-stopped (unless-stopped).
        init: run a small init as process 1, so that a stop reaches the program (true).
        stop_timeout: seconds the program is given to end (120); longer than the longest job.
        shm_size: size of /dev/shm, such as 1GiB.
        log_max_size, log_max_file: rotation of the container's log (50m, 3).
        user: user the program runs as: `uid`, `uid:gid` or names that the image knows. Default: the image's.
        non_root: refuse an image that would run as root, unless `user` names another (false).
        read_only: mount the image read-only; `/tmp` is in memory then, and what `tmpfs` names (false).
        cap_drop: capabilities taken from the program, such as NET_RAW; ALL are all of them.
        cap_add: capabilities given to it, besides or after `cap_drop`.
        no_new_privileges: setuid programs in the image give nobody more rights (false).
        pids_limit: processes and threads it may have at most.
        memory: memory of the host it may take, such as 24GiB, without swap.
        network: a bridge network (bridge).
        gpu_driver: cdi, nvidia (the older runtime) or auto, which takes CDI where the engine has it (auto).
        share_gpu: start even where another program already uses the GPU (false).
        settle: seconds to wait after the last start before looking whether the containers stayed up (3).
        ready: seconds that a container which replaces another one is given to load its model, and to answer
            `GET /` by plain HTTP with anything below 500; 0 does not wait, and all hosts go at once (600).
        throttle: so many hosts at a time replace containers that may serve, once the first GPU of all is
            back; 0 is all (1). One that surely does not answer, and was not started in the last `ready`
            seconds, waits for nobody.

    Example:
        - name: One translator per GPU
          gpu_containers:
            image: "{{ image }}"
            memory_min: 12GiB
            env:
              HF_HUB_OFFLINE: 1
            volumes:
              - /srv/models:/models:ro
    """

    name: ClassVar[str] = "gpu_containers"
    args: ClassVar[type[Args]] = GpuContainersArgs

    def probes(self, args: GpuContainersArgs, ctx: Context) -> Sequence[Probe]:
        """GPUs, who uses them, the engine, its images and containers, the unit for boots, what answers."""
        base = port_base(ctx.host)
        asked = (
            GPU_PROBE,
            GPU_PROCESSES_PROBE,
            ENGINE_PROBE,
            IMAGES_PROBE,
            CONTAINERS_PROBE,
            BOOT_UNIT_PROBE,
            profile_probe(base),
            heard_probe(base, base + port_beside(ctx.host)),
        )
        return (*asked, image_user_probe(args.image)) if args.non_root else asked

    def plan(self, args: GpuContainersArgs, facts: Facts, ctx: Context) -> Sequence[Change]:
        """The unit for boots, then what is to be removed, then each slot in order."""
        return [*boot_unit(facts, ctx), *self._slots(args, facts, ctx)]

    def _slots(self, args: GpuContainersArgs, facts: Facts, ctx: Context) -> Sequence[Change]:
        slots = slots_of(ctx.host, facts)
        engine = parse_engine(facts[ENGINE_PROBE.key])
        images = parse_images(facts[IMAGES_PROBE.key])
        containers = parse_containers(facts[CONTAINERS_PROBE.key])
        if slots is None:
            return [once_the_driver_works(f"run {args.image} on each GPU", facts, ctx)]
        gpus = {gpu.uuid: gpu for gpu in parse_gpus(facts[GPU_PROBE.key]) or ()}
        _check_gpus(args, slots, gpus, ctx)
        if engine is None or images is None or containers is None:
            return [_deferred(args, slots, "once the Docker Engine runs")]
        if gpu_driver(args, engine, ctx) == "cdi" and not engine.cdi:
            return [_deferred(args, slots, "once the Docker Engine has CDI")]
        image = find_image(images, args.image)
        if image is None:
            return [_deferred(args, slots, "once it is pulled")]
        spec = container_spec(args, engine, ctx)
        if args.non_root:
            self._check_user(spec, facts, ctx)
        planner = SlotPlanner(
            ctx=ctx,
            spec=spec,
            digests=digests_of(image, args.image),
            slots=slots,
            containers=containers,
            processes=parse_gpu_processes(facts[GPU_PROCESSES_PROBE.key]) or (),
            now=engine.time,
            share_gpu=args.share_gpu,
            settle=args.settle,
            heard=heard(facts),
            ready=args.ready,
            throttle=args.throttle,
        )
        return planner.changes()

    def _check_user(self, spec: ContainerSpec, facts: Facts, ctx: Context) -> None:
        image_user = parse_image_user(facts[image_user_probe(spec.image).key])
        if problem := root_problem(spec, image_user):
            raise ctx.fail(problem, remedy=ROOT_REMEDY)


def _deferred(args: GpuContainersArgs, slots: tuple[Slot, ...], when: str) -> Change:
    count = "1 GPU" if len(slots) == 1 else f"each of {len(slots)} GPUs"
    return Change(f"run {args.image} on {count}, {when}")


def _check_gpus(
    args: GpuContainersArgs, slots: tuple[Slot, ...], gpus: Mapping[str, Gpu], ctx: Context
) -> None:
    if not slots:
        raise ctx.fail(
            f"{ctx.host.name}: the NVIDIA driver works but finds no GPU",
            remedy="look at `dmesg | grep -i -e nvrm -e xid` there, or take the host out of the group",
        )
    needed = parse_size(args.memory_min) // MIB if args.memory_min else 0
    for slot in slots:
        gpu = gpus[slot.uuid]
        if gpu.mig:
            raise ctx.fail(
                f"{_title(slot)} is cut into MIG instances and cannot be used whole",
                remedy=f"run `nvidia-smi -i {slot.uuid} -mig 0` there, or take the host out of the group",
            )
        if gpu.memory_total is not None and gpu.memory_total < needed:
            raise ctx.fail(
                f"{_title(slot)} has {show_mib(gpu.memory_total)} of memory, "
                f"{args.image} needs {show_mib(needed)} (memory_min)",
                remedy="use a quantised image with a lower memory_min, or take the host out of the group",
            )


def _title(slot: Slot) -> str:
    return f"GPU {slot.index} of {slot.host} ({slot.gpu_name}, {slot.uuid})"
