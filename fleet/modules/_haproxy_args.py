"""The arguments of the module `haproxy`, and what they are where a profile decides."""

from __future__ import annotations

from dataclasses import dataclass

from fleet.balancer.render import Affinity, Peer, Profile, Settings, config_profile
from fleet.docker.profile import profile_of
from fleet.modules._gateway import GatewayArgs
from fleet.modules.base import Args, Context

TEMPLATE = "haproxy.cfg.j2"


@dataclass(frozen=True)
class _Default:
    affinity: Affinity
    slot_jobs: int | None
    slot_queue: int
    check_path: str


# Gradio works on one job at a time and queues the others itself; vLLM works on many at once (continuous
# batching, 256 sequences by default) and gets slower with each.
PROFILES: dict[Profile, _Default] = {
    "gradio": _Default("job", 1, 24, "/"),
    "openai": _Default("none", 64, 64, "/health"),
    "http": _Default("none", None, 0, "/"),
}


class HaproxyArgs(Args, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Arguments of `haproxy`."""

    template: str = TEMPLATE
    group: str = "gpu"
    bind: str = "*"
    port: int = 80
    stats_bind: str = "127.0.0.1:8404"
    peer_port: int = 10240
    profile: Profile | None = None
    affinity: Affinity | None = None
    check_path: str | None = None
    check_interval: int = 10
    fall: int = 3
    rise: int = 2
    longest_job: int = 900
    request_timeout: int = 300
    max_body: int = 100 * 2**20
    maxconn: int | None = None
    slot_jobs: int | None = None
    slot_queue: int | None = None
    queue_timeout: int = 30
    agent_port: int | None = None
    gateway: GatewayArgs | None = None

    def __post_init__(self) -> None:
        for key, port in (("port", self.port), ("peer_port", self.peer_port)):
            if not 1 <= port <= 65535:
                raise ValueError(f"`{key}` is {port}, not a port")
        stats = self.stats_bind.rpartition(":")[2]
        ports = [("port", str(self.port)), ("stats_bind", stats), ("peer_port", str(self.peer_port))]
        if self.gateway is not None and self.gateway.certificate is not None:
            ports.append(("gateway.https_port", str(self.gateway.https_port)))
        for count, (name, number) in enumerate(ports):
            for other, taken in ports[:count]:
                if number == taken:
                    raise ValueError(
                        f"`{other}` and `{name}` are both {number}; each needs a port of its own"
                    )
        self.settings()

    def settings(
        self,
        name: str = "fleet",
        peers: tuple[Peer, ...] = (),
        profile: Profile = "gradio",
        certificate_hash: str = "",
        own_address: str = "*",
    ) -> Settings:
        """The settings these arguments mean; ValueError where one does not fit into a configuration."""
        default = PROFILES[self.profile or profile]
        jobs = default.slot_jobs if self.slot_jobs is None else self.slot_jobs
        return Settings(
            bind=f"{self.bind}:{self.port}",
            stats_bind=self.stats_bind,
            profile=self.profile or profile,
            affinity=self.affinity or default.affinity,
            check_path=default.check_path if self.check_path is None else self.check_path,
            check_interval=self.check_interval,
            check_retry=min(Settings().check_retry, self.check_interval),
            fall=self.fall,
            rise=self.rise,
            longest_job=self.longest_job,
            request_timeout=self.request_timeout,
            max_body=self.max_body,
            maxconn=self.maxconn,
            name=name,
            peer_bind=f"{own_address if peers else '127.0.0.1'}:{self.peer_port}",
            peers=peers,
            slot_jobs=jobs or None,
            slot_queue=default.slot_queue if self.slot_queue is None else self.slot_queue,
            queue_timeout=self.queue_timeout,
            agent_port=self.agent_port,
            gateway=self.gateway.gateway(self.bind, certificate_hash) if self.gateway else None,
        )


def chosen_profile(args: HaproxyArgs, ctx: Context, deployed: str) -> Profile:
    """What the containers run: as the inventory says, as one of them says, or as it was last known."""
    known: list[str | None] = [args.profile]
    known += [profile_of(ctx.fleet[host.name]) for host in ctx.group(args.group) if host.name in ctx.fleet]
    known += [config_profile(deployed)]
    return next((profile for profile in PROFILES if profile == next(filter(None, known), None)), "gradio")
