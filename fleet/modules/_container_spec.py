"""What a host's slots run, of a task's arguments and what the host's engine can do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fleet.docker.answers import Engine
from fleet.gpu.container import ContainerSpec, capabilities
from fleet.gpu.sizes import parse_size
from fleet.modules.base import Context

if TYPE_CHECKING:
    from fleet.modules.gpu_containers import GpuContainersArgs

_CDI_SINCE = 25


def gpu_driver(args: GpuContainersArgs, engine: Engine, ctx: Context) -> str:
    """How containers get their GPU there: "cdi" or "nvidia". Raises TaskError where the engine has it not."""
    if args.gpu_driver == "cdi" and engine.major < _CDI_SINCE:
        raise ctx.fail(
            f"Docker Engine {engine.version} has no CDI (it came with {_CDI_SINCE})",
            remedy="upgrade the engine, or set gpu_driver: nvidia",
        )
    if args.gpu_driver != "auto":
        return args.gpu_driver
    return "nvidia" if not engine.cdi and "nvidia" in engine.runtimes else "cdi"


def container_spec(args: GpuContainersArgs, engine: Engine, ctx: Context) -> ContainerSpec:
    """What the host's slots run on this engine. Raises TaskError for what it cannot do."""
    _check_limits(args, engine, ctx)
    return ContainerSpec(
        image=args.image,
        container_port=args.container_port,
        bind=args.bind,
        command=args.command,
        env={key: str(value) for key, value in args.env.items()},
        volumes=args.volumes,
        tmpfs=args.tmpfs,
        restart=args.restart,
        init=args.init,
        stop_timeout=args.stop_timeout,
        shm_size=parse_size(args.shm_size) if args.shm_size else None,
        log_max_size=args.log_max_size,
        log_max_file=args.log_max_file,
        user=str(args.user),
        read_only=args.read_only,
        network=args.network,
        gpu_driver=gpu_driver(args, engine, ctx),
        cap_drop=capabilities(args.cap_drop),
        cap_add=capabilities(args.cap_add),
        no_new_privileges=args.no_new_privileges,
        pids_limit=args.pids_limit,
        memory=parse_size(args.memory) if args.memory else None,
        non_root=args.non_root,
    )


def _check_limits(args: GpuContainersArgs, engine: Engine, ctx: Context) -> None:
    """Raise TaskError for a limit without means in the host's kernel: Docker leaves it out with a warning."""
    for name in sorted(engine.lacks):
        if getattr(args, name) is not None:
            raise ctx.fail(
                f"{name} cannot be limited on {ctx.host.name}: its kernel has no control group for that",
                remedy=f"leave {name} out for this host, or give its kernel that control group; "
                "`docker info` there ends with the warnings",
            )
