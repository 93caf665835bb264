"""What `fleet status` asks: everything about a host in one exchange."""

from __future__ import annotations

from dataclasses import dataclass

from fleet.balancer import nginx_probe
from fleet.balancer.probe import RUNTIME_PROBE
from fleet.balancer.software import software
from fleet.docker.probe import CONTAINERS_PROBE, ENGINE_PROBE
from fleet.gpu.probe import GPU_PROBE
from fleet.model.facts import Answer, Probe
from fleet.model.host import Host
from fleet.status.rollout import ROLLOUT_PROBE

GPU_GROUP = "gpu"
BALANCER_GROUP = "balancer"

# All but df and nproc are the shell's own words.
HOST_PROBE = Probe(
    "status.host",
    """\
[ -r /etc/os-release ] && . /etc/os-release
read -r uptime rest < /proc/uptime
read -r load rest < /proc/loadavg
read -r kernel < /proc/sys/kernel/osrelease
reboot=
[ -e /run/reboot-required ] || [ -e /run/fleet/reboot-required ] && reboot=yes
[ -s /var/lib/fleet/reboot ] && reboot=begun
images=/var/lib/docker
[ -d $images ] || images=/
printf 'os=%s\\nuptime=%s\\nload=%s\\nkernel=%s\\n' "$PRETTY_NAME" "$uptime" "$load" "$kernel"
printf 'reboot=%s\\ncpus=%s\\n' "$reboot" "$(nproc)"
df -Pk $images | while read -r device total used free rest; do printf 'disk=%s %s\\n' "$total" "$free"; done
""",
)


@dataclass(frozen=True)
class HostFacts:
    """What the host probe tells; units as in HostStatus."""

    os: str | None = None
    kernel: str | None = None
    cpus: int | None = None
    load: float | None = None
    uptime: int | None = None
    disk_free: int | None = None
    disk_total: int | None = None
    reboot_required: bool = False
    reboot_begun: bool = False


def probes(host: Host) -> list[Probe]:
    """The questions for one host, by what it is for."""
    asked = [HOST_PROBE]
    if GPU_GROUP in host.groups:
        asked += [GPU_PROBE, ENGINE_PROBE, CONTAINERS_PROBE]
    if BALANCER_GROUP in host.groups:
        asked += [nginx_probe.RUNTIME_PROBE] if software(host) == "nginx" else [RUNTIME_PROBE, ROLLOUT_PROBE]
    return asked


def parse_host(answer: Answer | None) -> HostFacts:
    """The host's own facts; what is missing is None."""
    lines = answer.text.splitlines() if answer else []
    found = dict(line.partition("=")[::2] for line in lines if "=" in line)
    disk = [int(word) * 1024 for word in found.get("disk", "").split() if word.isdigit()]
    return HostFacts(
        os=found.get("os") or None,
        kernel=found.get("kernel") or None,
        cpus=int(found["cpus"]) if found.get("cpus", "").isdigit() else None,
        load=_number(found.get("load", "")),
        uptime=None if (seconds := _number(found.get("uptime", ""))) is None else int(seconds),
        disk_total=disk[0] if len(disk) == 2 else None,
        disk_free=disk[1] if len(disk) == 2 else None,
        reboot_required=bool(found.get("reboot")),
        reboot_begun=found.get("reboot") == "begun",
    )


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
