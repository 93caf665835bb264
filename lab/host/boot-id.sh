#!/bin/sh
# Before systemd: the stand-in for the kernel's boot id, which a container shares with its machine. A file with a new
# one is mounted over it, so that each start of the host is another boot to everybody who asks.
set -e
mkdir -p /var/lib/fleet-lab
cat /proc/sys/kernel/random/uuid >/var/lib/fleet-lab/boot-id
mount --bind /var/lib/fleet-lab/boot-id /proc/sys/kernel/random/boot_id
