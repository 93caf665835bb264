"""What `fleet doctor --fix` mends by itself, broken in such a way that all of it can be mended in one go."""

from __future__ import annotations

from tests.lab.breaks.containers import AWAY, BACK, STALE, STOP, WELL
from tests.lab.breaks.model import Break
from tests.lab.breaks.service import LONG_UP

_PERSISTENCED = "nvidia-persistenced"
_STARTED = "systemctl show -p ActiveEnterTimestampMonotonic --value fleet-gpu-agent"

FIXABLE: tuple[tuple[Break, str], ...] = (
    (
        Break("system/holds", "not held", "gpu-01", "apt-mark unhold nvidia-container-toolkit",
              "apt-mark hold nvidia-container-toolkit", "apt-mark hold"),
        "apt-mark showhold | grep -qx nvidia-container-toolkit",
    ),
    (
        Break("driver/persistence", "persistence mode is off", "gpu-01",
              f"systemctl disable --now {_PERSISTENCED}; card 0 persistence_mode '\"Disabled\"'",
              f"cards_well; systemctl enable --now {_PERSISTENCED}", _PERSISTENCED,
              stand_in="a simulated card tells it"),
        f"systemctl is-active -q {_PERSISTENCED}; systemctl is-enabled -q {_PERSISTENCED};"
        " ! nvidia-smi --query-gpu=persistence_mode --format=csv,noheader | grep -v Enabled",
    ),
    (
        Break("containers/engine", "Docker does not start at boot", "gpu-01", "systemctl disable docker",
              "systemctl enable docker", "systemctl enable docker"),
        "systemctl is-enabled -q docker",
    ),
    (
        Break("containers/cdi", "the CDI file is out of date", "gpu-01", STALE, WELL, "nvidia-cdi-refresh"),
        'grep -q "$(uuid 0)" /run/cdi/nvidia.yaml',
    ),
    (
        Break("service/agent", "the GPU agent does not run", "gpu-01", "systemctl stop fleet-gpu-agent",
              "systemctl start fleet-gpu-agent", "systemctl restart fleet-gpu-agent"),
        "systemctl is-active -q fleet-gpu-agent",
    ),
    (
        Break("containers/engine", "the Docker Engine does not run", "gpu-02", STOP,
              "systemctl start docker.socket docker", "systemctl start docker"),
        "docker ps -q --filter label=fleet.slot | grep -q .",
    ),
    (
        Break("containers/cdi", "no CDI file names the GPUs", "gpu-02", AWAY, BACK, "nvidia-ctk cdi generate"),
        'grep -q "$(uuid 0)" /etc/cdi/nvidia.yaml',
    ),
    (
        Break("service/agent", "the GPU agent does not answer", "gpu-02",
              f"{LONG_UP} systemctl kill -s STOP fleet-gpu-agent; {_STARTED} >/run/doctor-agent",
              "rm -f /run/doctor-agent; systemctl kill -s CONT fleet-gpu-agent", "systemctl restart fleet-gpu-agent"),
        f'systemctl is-active -q fleet-gpu-agent; [ "$({_STARTED})" != "$(cat /run/doctor-agent)" ]',
    ),
)  # fmt: skip
"""Each with a shell command that succeeds where it is mended."""
