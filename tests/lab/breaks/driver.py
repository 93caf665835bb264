"""Breaks of cards and driver. The cards are simulated: what they tell stands in a file, as docs/lab.md says."""

from __future__ import annotations

from tests.lab.breaks.model import Break, Round

_CARD = "a simulated card tells it"
_WELL = "cards_well"
_NOTHING = ":"
_KO = '"/lib/modules/$(uname -r)/updates/dkms/nvidia.ko"'
_LOADED = "/proc/driver/nvidia/version"
_KERNEL = "files in /proc, /sys and /lib/modules; the lab loads no module"
_PROBE = "sh /usr/lib/fleet-lab/gpus.sh"
# Nothing can be made in the kernel's own folder of modules: root's shell gets one of its own, the real one's entries
# linked into an empty one.
_NOUVEAU = r"""
cat >/usr/local/bin/sh <<'END'
#!/bin/bash
exec unshare -m /bin/bash -c '
  mkdir -p /run/doctor/module; mount --rbind /sys/module /run/doctor/module; mount -t tmpfs modules /sys/module
  for each in /run/doctor/module/*; do ln -s "$each" /sys/module/; done
  mkdir /sys/module/nouveau
  exec /bin/sh "$@"' sh "$@"
END
chmod 755 /usr/local/bin/sh
"""

CARDS = Round(
    "cards",
    (
        Break("driver/health", "uncorrected memory errors", "gpu-01", "card 0 ecc_errors 3", _WELL,
              "fleet drain gpu-01-0", "gpu-01-0", stand_in=_CARD),
        Break("driver/health", "too hot", "gpu-01", "card 1 temperature 95", _WELL, "fans", "gpu-01-1",
              stand_in=_CARD),
        Break("driver/health", "asks for a GPU's reset", "gpu-01", "card 1 gpu_recovery_action '\"Reset\"'", _WELL,
              "nvidia-smi --gpu-reset -i 1", "gpu-01-1", stand_in=_CARD),
        Break("driver/health", "no spare memory left", "gpu-02", "card 0 remapped_rows_failure '\"Yes\"'", _WELL,
              "have the card replaced", "gpu-02-0", stand_in=_CARD),
        Break("driver/health", "repairs its memory at the next reset", "gpu-02",
              "card 0 remapped_rows_pending '\"Yes\"'", _WELL, "nvidia-smi --gpu-reset -i 0", "gpu-02-0", stand_in=_CARD),
        Break("driver/health", "too hot", "gpu-02",
              "card 1 clocks_throttle_reasons_hw_thermal_slowdown '\"Active\"'", _WELL, "fans", "gpu-02-1",
              stand_in=_CARD),
        Break("driver/health", "the kernel's log tells of a GPU's failure", "gpu-02",
              "logger -t kernel 'NVRM: Xid (PCI:0000:3c:00): 48, pid=1, name=x, DBE'; journalctl --sync",
              "mkdir -p /var/lib/fleet-gpu-agent/accepted;"
              " echo $(($(date +%s) + 1)) >/var/lib/fleet-gpu-agent/accepted/gpu-02-1; sleep 1",
              "fleet-gpu-agent accept gpu-02-1", "gpu-02-1",
              stand_in="a line that root wrote under the kernel's name"),
        Break("driver/persistence", "persistence mode is off", "gpu-02", "card 0 persistence_mode '\"Disabled\"'",
              _WELL, "nvidia-persistenced", stand_in=_CARD),
        Break("driver/memory", "less memory than the image needs", "gpu-01", "card 0 memory_total 8192", _WELL,
              "gpu_memory_min", "gpu-01-0", stand_in=_CARD),
        # Sick cards would be taken out by the agents, which go on from there when they are started again.
        *(
            Break("service/agent", "the GPU agent does not run", host, "systemctl stop fleet-gpu-agent",
                  "cards_well; systemctl start fleet-gpu-agent", "systemctl restart fleet-gpu-agent")
            for host in ("gpu-01", "gpu-02")
        ),
    ),
)  # fmt: skip

LOST = Round(
    "lost",
    (
        Break("driver/gpus", "the driver does not list every GPU", "gpu-01", "away /dev/nvidia1",
              "back /dev/nvidia1", "a lost card comes back only so", stand_in=_CARD),
        Break("driver/gpus", "does not tell its UUID", "gpu-02", "card 1 uuid '\"[Unknown Error]\"'", _WELL,
              "nvidia-smi --gpu-reset", stand_in=_CARD),
        Break("driver/gpus", "MIG mode", "gpu-02", "card 0 mig_mode '\"Enabled\"'", _WELL, "-mig 0", "gpu-02-0",
              stand_in=_CARD),
        Break("driver/versions", "another driver is installed than runs", "gpu-02",
              f"keep {_KO}; sed -i 's/580.95.05/580.95.06/' {_KO}", f"restore {_KO}", "fleet reboot gpu-02",
              stand_in=_KERNEL),
    ),
)  # fmt: skip

BUS = Round(
    "bus",
    (
        Break("driver/gpus", "no NVIDIA GPU is on its PCI bus", "gpu-01", "rm -r /sys/bus/pci/devices/*",
              _PROBE, "seat the card anew", stand_in=_KERNEL),
        Break("driver/versions", "the NVIDIA driver is not installed", "gpu-01", "away /usr/bin/nvidia-smi",
              "back /usr/bin/nvidia-smi", "fleet provision --limit gpu-01"),
        Break("driver/gpus", "the driver finds no GPU", "gpu-02", "away /dev/nvidia0; away /dev/nvidia1",
              "back /dev/nvidia0; back /dev/nvidia1", "gpu-reset", stand_in=_CARD),
        Break("driver/versions", "no driver module on disk", "gpu-02", f"away {_KO}", f"back {_KO}",
              "dkms autoinstall", stand_in=_KERNEL),
    ),
)  # fmt: skip

FALLEN = Round(
    "fallen",
    (
        Break("driver/versions", "a GPU has fallen off the bus", "gpu-01", "card 1 lost true", _WELL,
              "a lost card comes back only so", stand_in=_CARD),
        Break("driver/versions", "library is of another version than its module", "gpu-02",
              f"sed -i 's/580\\.[0-9.]*/999.1.1/' {_LOADED}", _PROBE, "fleet reboot gpu-02", stand_in=_KERNEL),
    ),
)  # fmt: skip

KERNEL = Round(
    "kernel",
    (
        Break("driver/versions", "the kernel that the next restart brings", "gpu-01",
              ": >/boot/vmlinuz-999.1.1-fleet", "rm -f /boot/vmlinuz-999.1.1-fleet",
              "linux-headers-999.1.1-fleet", stand_in=_KERNEL),
        Break("driver/versions", "the driver's module is not loaded", "gpu-02",
              f"rm {_LOADED}; fault 'NVIDIA-SMI has failed'", f"cards_well; {_PROBE}", "modprobe nvidia",
              stand_in=_KERNEL),
        Break("driver/secure-boot", "Secure Boot refuses", "gpu-02",
              "mount -t tmpfs firmware /sys/firmware; mkdir -p /sys/firmware/efi/efivars;"
              " printf '\\006\\000\\000\\000\\001' >/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c",
              "umount /sys/firmware", "mokutil --import", stand_in="the firmware's variable in a tmpfs over /sys/firmware"),
    ),
)  # fmt: skip

SILENT = Round(
    "silent",
    (
        Break("driver/versions", "the NVIDIA driver does not answer", "gpu-01",
              "fault 'Failed to initialize NVML: Unknown Error'", _WELL, "dmesg", stand_in=_CARD),
        Break("driver/nouveau", "nouveau holds the GPUs", "gpu-01", _NOUVEAU, "rm -f /usr/local/bin/sh",
              "blacklist nouveau", stand_in="a folder of modules of the shell's own, with one more"),
        Break("driver/versions", "the running kernel has no driver module", "gpu-02",
              f"away {_KO}; rm {_LOADED}; fault 'NVIDIA-SMI has failed'",
              f"cards_well; back {_KO}; {_PROBE}", "dkms autoinstall", stand_in=_KERNEL),
    ),
)  # fmt: skip

ROUNDS = (CARDS, LOST, BUS, FALLEN, KERNEL, SILENT)
