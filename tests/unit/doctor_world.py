"""Answers of hosts for the doctor's checks: real words of real programs, with only numbers changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fleet.balancer.marking import marked
from fleet.balancer.render import config_hash
from fleet.doctor.balancers import FEATURES_PROBE, REACH_PROBE
from fleet.doctor.containers import CDI_PROBE, ENGINE_UNIT_PROBE, TOOLKIT_PROBE
from fleet.doctor.disk import DISK_PROBE
from fleet.doctor.health import HEALTH_PROBE, XID_PROBE
from fleet.doctor.inside import INSIDE_PROBE
from fleet.doctor.packages import PACKAGES_PROBE
from fleet.doctor.patient import Patient
from fleet.doctor.service import AGENT_PROBE, PORTS_PROBE
from fleet.doctor.system import SYSTEM_PROBE
from fleet.gpu.container import ContainerSpec
from fleet.gpu.pci import PCI_PROBE
from fleet.lb.software import SOFTWARE
from fleet.model.facts import Answer, Facts
from fleet.model.host import Host
from fleet.modules._driver_seen import DRIVER_PROBE
from fleet.modules._os import OS_PROBE
from tests.unit import gpu_world as world

IMAGE = world.IMAGE
VARS: Mapping[str, Any] = {"ansible_host": "10.0.0.1", "image": IMAGE}
GPU = Host("gpu-01", VARS, ("gpu",))
LB = Host("lb-01", {"ansible_host": "10.0.0.9"}, ("balancer",))
SPEC = ContainerSpec(IMAGE)
RUNNING = (world.inspected(SPEC, world.slot(0)), world.inspected(SPEC, world.slot(1)))
REGISTRY_KEY = "doctor.registry:registry.example:5000"
NOW = 1772366400.0
DEBIAN = (
    'PRETTY_NAME="Debian GNU/Linux 13 (trixie)"\nNAME="Debian GNU/Linux"\nVERSION_ID="13"\n'
    'VERSION="13 (trixie)"\nVERSION_CODENAME=trixie\nID=debian\n'
)
HEALTH_FIELDS = (
    "uuid,persistence_mode,ecc.errors.uncorrected.volatile.total,temperature.gpu,"
    "clocks_throttle_reasons.hw_thermal_slowdown,remapped_rows.failure,remapped_rows.pending,"
    "retired_pages.pending,gpu_recovery_action"
)


def text(words: str, rc: int = 0) -> Answer:
    return Answer(rc, words.encode())


def health(index: int, *values: str) -> str:
    """A card's line: persistence mode, errors, temperature, slowdown, three of memory repair, recovery."""
    row = values or ("Enabled", "0", "38", "Not Active", "No", "No", "No", "None")
    return ", ".join((world.uuid(index), *row)) + "\n"


def inside(*rows: tuple[int, int, str]) -> Answer:
    """What nvidia-smi said in the containers: by place in RUNNING, its exit code and its words."""
    return text("".join(f"@{RUNNING[place]['Id']} {code}\n{said}\n" for place, code, said in rows))


def cdi(*extra: str, uuids: tuple[int, ...] = (0, 1), made: int = 2000, mounts: str = "580.95.05") -> Answer:
    lines = ["file=/var/run/cdi/nvidia.yaml", f"made={made}", *(f"uuid={world.uuid(each)}" for each in uuids)]
    return text("\n".join((*lines, f"mounts={mounts}", *extra, "driver=1000 580.95.05")) + "\n")


HEALTHY: Mapping[str, Answer] = {
    OS_PROBE.key: text(DEBIAN),
    SYSTEM_PROBE.key: text(f"now={NOW + 0.4}\nmachine=x86_64\nkernel=6.12.43+deb13-amd64\n"),
    DISK_PROBE.key: text(
        "root=/var/lib/docker\ndisk=1024-blocks Available\ndisk=264212084 80784308\n"
        "inodes=Inodes IFree\ninodes=16777216 16191321\n"
    ),
    REGISTRY_KEY: text(
        "registry=0\nregistry_code=401\nregistry_said=\nchallenge=Basic realm=lab\n"
        "image=0\nimage_code=200\nimage_said=\n"
    ),
    PACKAGES_PROBE.key: text(
        "package hi nvidia-driver-cuda 580.95.05-1\npackage ii nvidia-kernel-open-dkms 580.95.05-1\n"
        "package hi nvidia-container-toolkit 1.18.0-1\npackage ii nvidia-container-toolkit-base 1.18.0-1\n"
    ),
    DRIVER_PROBE.key: text(
        "kernel 6.12.43+deb13-amd64\nmodinfo there\nmodule 580.95.05\nsigner DKMS module signing key\n"
        "loaded 580.95.05\nsecureboot off\nlibrary 580.95.05\ndkms there\n"
    ),
    PCI_PROBE.key: text("0000:3b:00.0 0x030200 0x1eb8 nvidia\n0000:3c:00.0 0x030200 0x1eb8 nvidia\n"),
    HEALTH_PROBE.key: text(HEALTH_FIELDS + "\n" + health(0) + health(1)),
    XID_PROBE.key: text(""),
    ENGINE_UNIT_PROBE.key: text(
        "LoadState=loaded\nActiveState=active\nSubState=running\nUnitFileState=enabled\n"
    ),
    TOOLKIT_PROBE.key: text("1.18.0\n"),
    CDI_PROBE.key: cdi(),
    PORTS_PROBE.key: text(
        'LISTEN 0      128          0.0.0.0:22         0.0.0.0:*    users:(("sshd",pid=812,fd=3))\n'
        'LISTEN 0      4096         0.0.0.0:7860       0.0.0.0:*    users:(("docker-proxy",pid=2101,fd=8))\n'
        'LISTEN 0      128         10.0.0.1:7859       0.0.0.0:*    users:(("fleet-gpu-agent",pid=99,fd=3))\n'
    ),
    AGENT_PROBE.key: text(
        "ActiveState=active\nSubState=running\nActiveEnterTimestampMonotonic=5000000\nuptime=90.11\n"
        "said=gpu-01-0  up\nsaid=gpu-01-1  up\n"
    ),
    INSIDE_PROBE.key: inside((0, 0, world.uuid(0)), (1, 0, world.uuid(1))),
}


def gpu_facts(changed: Mapping[str, Answer | None] | None = None, *found: dict[str, Any]) -> Facts:
    """A healthy GPU host's answers, but for the `changed` ones (None: not asked)."""
    engine = world.framed(
        {
            "/version": {"Version": "26.1.5+dfsg1", "ApiVersion": "1.45", "Arch": "amd64"},
            "/info": {"CDISpecDirs": ["/etc/cdi"], "LiveRestoreEnabled": True, "SystemTime": world.NOW},
        }
    )
    answers = {**world.facts(*(found or RUNNING)), "docker.engine": engine, **HEALTHY, **(changed or {})}
    return Facts({key: answer for key, answer in answers.items() if answer is not None})


def patient(
    changed: Mapping[str, Answer | None] | None = None, *found: dict[str, Any], host: Host = GPU, **more: Any
) -> Patient:
    facts = gpu_facts(changed, *found)
    return Patient(host, facts, {host.name: host}, {host.name: facts}, NOW, NOW + 1, **more)


CONFIG = marked("global\n  setenv FLEET_CONFIG <config_hash>\n", "<config_hash>")
HAPROXY_VV = (
    "HAProxy version 3.0.11-1+deb13u2 2025/10/04 - https://haproxy.org/\nBuild options :\n"
    "Feature list : -51DEGREES +ACCEPT4 +EPOLL +LUA -MATH +OPENSSL +PCRE2 +PROMEX +TPROXY\n"
    "Built with Lua version : Lua 5.4.7\nAvailable services : prometheus-exporter\n"
)


def lb_facts(changed: Mapping[str, Answer] | None = None) -> Facts:
    """A healthy balancer's answers."""
    keys = [probe.key for probe in SOFTWARE["haproxy"].probes]
    state = "3 work 1 {0} 10.0.0.1 2 0 10 10\n"
    row = "work,{0},0,0,5,0,0,800,UP,L7OK,HTTP 200,10.0.0.1:{1},\n"
    running = (
        f"now=1772366400\nFLEET_CONFIG={config_hash(CONFIG)}\n\nName: HAProxy\nVersion: 3.0.11\nUptime_sec: 100\n\n1\n"
        "# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight\n"
        + "".join(state.format(name) for name in ("gpu-01-0", "gpu-01-1"))
        + "\n# pxname,svname,qcur,scur,stot,econ,hrsp_5xx,rtime,status,check_status,last_chk,addr,\n"
        + "".join(row.format(f"gpu-01-{n}", 7860 + n) for n in (0, 1))
    )
    return Facts(
        {
            OS_PROBE.key: HEALTHY[OS_PROBE.key],
            SYSTEM_PROBE.key: HEALTHY[SYSTEM_PROBE.key],
            keys[0]: text("HAProxy version 3.0.11-1+deb13u2 2025/10/04 - https://haproxy.org/\nsocat\n"),
            keys[1]: text(running),
            keys[2]: text(CONFIG),
            FEATURES_PROBE.key: text(HAPROXY_VV),
            PORTS_PROBE.key: text(
                'LISTEN 0      4096         0.0.0.0:80         0.0.0.0:*    users:(("haproxy",pid=517,fd=11))\n'
            ),
            REACH_PROBE.key: text("reach gpu-01-0 10.0.0.1 7860 0 \nreach gpu-01-1 10.0.0.1 7861 0 \n"),
            **(changed or {}),
        }
    )
