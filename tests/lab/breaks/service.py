"""Breaks of the service on a GPU host: ports, slots, the agent, and what containers see."""

from __future__ import annotations

from fleet.gpu.firewall import (
    PROGRAM_FILE,
    PROGRAM_TEXT,
    RULES_FILE,
    TABLE,
    UNIT,
    UNIT_FILE,
    UNIT_TEXT,
    Filter,
    rules_text,
)
from tests.lab.breaks.model import Break, Round

_NOTHING = ":"
_LISTEN = "use IO::Socket::INET; $s = IO::Socket::INET->new(LocalPort => 7861, Listen => 5) or die; sleep 600"
_HELD = "what a process holds on a simulated card stands in its environment"
_RUN = (
    "docker run -d --network none --name {0} --label fleet.slot=gpu-01-0 --label fleet.gpu={1} "
    "--entrypoint sleep $(docker inspect -f '{{{{.Image}}}}' fleet-gpu-01-0) 600"
)
_EXEC = "docker exec -u 0"
_ENTER = "nsenter -m -t $(docker inspect -f '{{.State.Pid}}' fleet-gpu-01-0)"
LONG_UP = """
for i in $(seq 60); do
  read -r up rest </proc/uptime
  since=$(systemctl show -p ActiveEnterTimestampMonotonic --value fleet-gpu-agent)
  [ $((${up%.*} - since / 1000000)) -lt 31 ] || break
  sleep 1
done
"""

INSIDE = Round(
    "inside",
    (
        Break("service/inside", "a container has lost its GPU", "gpu-01", f"{_EXEC} fleet-gpu-01-1 mv /dev/nvidia1 /dev/away",
              f"{_EXEC} fleet-gpu-01-1 mv /dev/away /dev/nvidia1", "docker restart fleet-gpu-01-1", "gpu-01-1"),
        Break("service/inside", "nvidia-smi is not in a container", "gpu-01",
              f"{_ENTER} mount --bind /etc/hostname /usr/bin/nvidia-smi", f"{_ENTER} umount /usr/bin/nvidia-smi",
              "nvidia-ctk cdi generate", "gpu-01-0"),
        Break("service/inside", "sees GPUs that are not its own", "gpu-02",
              f"{_EXEC} fleet-gpu-02-0 mknod -m 666 /dev/nvidia1 c 1 3", f"{_EXEC} fleet-gpu-02-0 rm /dev/nvidia1",
              "fleet provision --limit gpu-02", "gpu-02-0"),
        Break("service/inside", "does not see its own GPU", "gpu-02",
              f"{_EXEC} fleet-gpu-02-1 mv /dev/nvidia1 /dev/nvidia0",
              f"{_EXEC} fleet-gpu-02-1 mv /dev/nvidia0 /dev/nvidia1", "docker restart fleet-gpu-02-1", "gpu-02-1"),
        Break("service/agent", "the GPU agent is not installed", "gpu-01", "away /usr/local/sbin/fleet-gpu-agent",
              "back /usr/local/sbin/fleet-gpu-agent", "fleet provision --limit gpu-01"),
        Break("service/agent", "the GPU agent does not answer", "gpu-02",
              f"{LONG_UP} systemctl kill -s STOP fleet-gpu-agent", "systemctl kill -s CONT fleet-gpu-agent",
              "systemctl restart fleet-gpu-agent"),
    ),
)  # fmt: skip

SLOTS = Round(
    "slots",
    (
        Break("service/slots", "a GPU has no running container", "gpu-02", "docker stop -t 2 fleet-gpu-02-1",
              "docker start fleet-gpu-02-1", "docker logs fleet-gpu-02-1", "gpu-02-1"),
        *(
            Break("balancers/reach", "nothing listens on a slot's port", balancer, _NOTHING, _NOTHING,
                  "docker logs fleet-gpu-02-1", "gpu-02-1")
            for balancer in ("lb-01", "lb-02")
        ),
        Break("service/slots", "a container was to be replaced, and that has not ended", "gpu-02",
              "docker rename fleet-gpu-02-0 fleet-gpu-02-0.next", "docker rename fleet-gpu-02-0.next fleet-gpu-02-0",
              "fleet provision --limit gpu-02", "gpu-02-0"),
        Break("service/slots", "several containers run on one GPU", "gpu-01",
              _RUN.format("second", "$(uuid 0)"), "docker rm -f second", "leaves the right one", "gpu-01-0"),
        Break("service/slots", "a container is for a GPU that is not there", "gpu-01",
              _RUN.format("third", "GPU-00000000-0000-0000-0000-000000000000"), "docker rm -f third",
              "fleet provision --limit gpu-01"),
        Break("service/slots", "something else computes on a slot's GPU", "gpu-01",
              "systemd-run -q --collect --unit doctor-miner -E FLEET_LAB_GPU_HELD=100 sleep 600; sleep 0.2",
              "systemctl stop doctor-miner || true", "end it on gpu-01", "gpu-01-0", stand_in=_HELD),
        Break("service/slots", "a container computes on another slot's GPU", "gpu-01",
              "docker exec -d -e FLEET_LAB_GPU_HELD=100 -e FLEET_LAB_WRONG_GPU=1 fleet-gpu-01-0 sleep 601; sleep 0.2",
              "pkill -xf 'sleep 601' || true",
              "CUDA_VISIBLE_DEVICES", "gpu-01-1", stand_in=_HELD),
    ),
)  # fmt: skip

PORTS = Round(
    "ports",
    (
        Break("service/slots", "a GPU has no running container", "gpu-02", "docker stop -t 2 fleet-gpu-02-1",
              "systemctl stop doctor-port || true; docker start fleet-gpu-02-1", "docker logs fleet-gpu-02-1",
              "gpu-02-1"),
        Break("service/ports", "a port that a slot needs is taken", "gpu-02",
              f"systemd-run -q --collect --unit doctor-port perl -e '{_LISTEN}'; sleep 0.5",
              "systemctl stop doctor-port || true", "end perl (process", "gpu-02-1"),
    ),
)  # fmt: skip

# Rules for a port that nobody uses: what they close is tested in test_safety.
_CLOSE = f"""
command -v nft >/dev/null || apt-get -qq install -y nftables >/dev/null 2>&1
mkdir -p {RULES_FILE.rpartition("/")[0]}
cat >{RULES_FILE} <<'END'
{rules_text(Filter((65000,), ("192.0.2.1",)))}
END
cat >{PROGRAM_FILE} <<'END'
{PROGRAM_TEXT}
END
chmod 0755 {PROGRAM_FILE}
cat >{UNIT_FILE} <<'END'
{UNIT_TEXT}
END
systemctl daemon-reload
systemctl -q enable --now {UNIT}
"""
_OPEN = f"""
systemctl -q disable --now {UNIT}
rm -f {UNIT_FILE} {PROGRAM_FILE} {RULES_FILE}
systemctl daemon-reload
"""
_SAID = "fleet provision --limit {0}"

FIREWALL = Round(
    "firewall",
    (
        Break("service/firewall", "everybody can reach the slots' ports", "gpu-01",
              f"{_CLOSE} nft delete table inet {TABLE}", _OPEN, _SAID.format("gpu-01")),
        Break("service/firewall", "who can reach the slots' ports is not what fleet wrote", "gpu-02",
              f"{_CLOSE} nft flush chain inet {TABLE} incoming", _OPEN, f"nft list table inet {TABLE}"),
        Break("service/firewall", "everybody can reach the slots' ports after the next boot", "gpu-02",
              f"systemctl -q disable {UNIT}", _NOTHING, _SAID.format("gpu-02")),
    ),
    vars={name: {"slot_firewall": True} for name in ("gpu-01", "gpu-02")},
)  # fmt: skip

ROUNDS = (INSIDE, SLOTS, PORTS, FIREWALL)
