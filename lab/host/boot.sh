#!/bin/sh
# At every boot, before sshd: the device nodes of the simulated GPUs (/dev is new after each restart) and the
# password of the user `asks`, which arrives in a file once.
set -e

count=$(grep -c '"uuid"' /etc/fleet-lab/gpus.json 2>/dev/null || true)
if [ "${count:-0}" -gt 0 ]; then
    index=0
    while [ "$index" -lt "$count" ]; do
        [ -e "/dev/nvidia$index" ] || mknod -m 0666 "/dev/nvidia$index" c 1 3
        index=$((index + 1))
    done
    for node in nvidiactl nvidia-uvm; do
        [ -e "/dev/$node" ] || mknod -m 0666 "/dev/$node" c 1 3
    done
fi

if [ -s /var/lib/fleet-lab/password ]; then
    chpasswd </var/lib/fleet-lab/password
    rm -f /var/lib/fleet-lab/password
fi

/usr/lib/fleet-lab/gpus.sh
