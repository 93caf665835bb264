#!/bin/sh
# The hardware of a lab host, as the kernel would show it: its simulated GPUs on the PCI bus (a tmpfs over sysfs's
# folder), and the driver that the kernel has loaded at boot. Run it again after a change of gpus.json; for the
# driver that is what a reboot does.
set -e
describe=/etc/fleet-lab/gpus.json
bus=/sys/bus/pci/devices
kernel=$(uname -r)
[ -s "$describe" ] || exit 0

over() {
    [ -d "$1" ] || return 0
    grep -q "^$2 $1 " /proc/mounts || mount -t tmpfs -o mode=0755,size=1m "$2" "$1"
}

# device ADDRESS CLASS ID
device() {
    mkdir -p "$bus/$1"
    echo 0x10de >"$bus/$1/vendor"
    echo "0x$2" >"$bus/$1/class"
    echo "0x$3" >"$bus/$1/device"
}

over "$bus" fleet-lab-pci
if [ -d "$bus" ]; then
    rm -rf "${bus:?}"/*
    awk 'BEGIN { RS = "{" }
        match($0, /"pci_bus_id" *: *"[^"]*"/) {
            address = substr($0, RSTART, RLENGTH); sub(/.*: *"/, "", address); sub(/"$/, "", address)
            id = "1eb8"
            if (match($0, /"pci_device" *: *"[^"]*"/)) {
                id = substr($0, RSTART, RLENGTH); sub(/.*: *"/, "", id); sub(/"$/, "", id)
            }
            sub(/^0000/, "", address)
            print tolower(address), id
        }' "$describe" | while read -r address id; do device "$address" 030200 "$id"; done
    switches=$(sed -n 's/.*"nvswitches" *: *\([0-9][0-9]*\).*/\1/p' "$describe" | head -n 1)
    while [ "${switches:-0}" -gt 0 ]; do
        switches=$((switches - 1))
        device "0000:9$switches:00.0" 068000 22a3
    done
fi

# Whoever rents out a machine with GPUs gives its kernel the headers that building modules needs.
mkdir -p "/lib/modules/$kernel/build"
if command -v dkms >/dev/null; then dkms autoinstall -k "$kernel"; fi

over /proc/driver fleet-lab-driver
rm -rf /proc/driver/nvidia
version=$(modinfo -k "$kernel" -F version nvidia 2>/dev/null || true)
if [ -n "$version" ] && grep -q '^fleet-lab-driver ' /proc/mounts; then
    mkdir -p /proc/driver/nvidia
    printf 'NVRM version: NVIDIA UNIX Open Kernel Module for %s  %s  Release Build  (fleet lab)\n' "$(uname -m)" \
        "$version" >/proc/driver/nvidia/version
fi
