#!/bin/sh
# stage.sh WORK CHECKOUT REPORT OPTIONS: the controller's own root file system, in the namespaces run.sh made:
# Debian with fleet's packages, the checkout at /srv/fleet, the machine's devices.
set -eu
work=$1 checkout=$2 report=$3
shift 3
live=$work/live
root=$live/stage/root
overlay() {
    mkdir -p "$live/stage/upper" "$live/stage/work" "$root"
    mount -t overlay overlay -o "lowerdir=$work/bundle/root:$work/bundle/python,upperdir=$live/stage/upper,workdir=$live/stage/work" "$root"
}
if ! overlay 2>/dev/null; then
    # A disk that is an overlay itself cannot carry another; memory can.
    mount -t tmpfs tmpfs "$live"
    overlay
fi
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"
mkdir -p "$root/srv/bench/bundle" "$root/srv/bench/live" "$root/srv/bench/driver" "$root/srv/fleet" "$root/out"
mount --bind "$work/bundle" "$root/srv/bench/bundle"
mount --bind "$live" "$root/srv/bench/live"
mount --bind "$work/driver" "$root/srv/bench/driver"
mount --bind "$checkout" "$root/srv/fleet"
mount --bind "$(dirname "$report")" "$root/out"
if [ -d /lib/modules ]; then
    mkdir -p "$root/usr/lib/modules"
    mount --bind /lib/modules "$root/usr/lib/modules"
fi
cp /etc/os-release "$root/srv/bench/os-release"
cd "$root"
mkdir -p .before
pivot_root . .before
exec chroot . /usr/bin/env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root \
    LANG=C.UTF-8 PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=/srv/fleet:/srv/bench/bundle/site \
    sh -c 'umount -l /.before && exec python3 /srv/fleet/bench/real_gpu/run.py "$@"' sh \
    --report "/out/$(basename "$report")" "$@"
