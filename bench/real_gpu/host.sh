#!/bin/sh
# host.sh NAME ROOT DOCKER NODES: this process becomes the first one of a host. ROOT is its root file system,
# mounted; DOCKER a folder for its /var/lib/docker, which must not lie on an overlay; NODES lists its devices.
set -eu
name=$1 root=$2 docker=$3 nodes=$4
case ${STEP:-1} in
    1) STEP=2 exec nsenter --net="/run/netns/$name" unshare --mount --pid --ipc --uts --fork --kill-child \
        --propagation private sh "$0" "$@" ;;
    # Alone: with the process that waits outside in its group, too, systemd could hand on no controllers.
    2) echo 0 >"/sys/fs/cgroup/fleet-real-gpu/$name/cgroup.procs"
        STEP=3 exec unshare --cgroup sh "$0" "$@" ;;
esac
echo "$name" >/proc/sys/kernel/hostname
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
mkdir "$root/dev/pts" "$root/dev/shm" "$root/dev/mqueue"
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620,gid=5 devpts "$root/dev/pts"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
mount -t mqueue mqueue "$root/dev/mqueue"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
for stream in 0:stdin 1:stdout 2:stderr; do ln -s "/proc/self/fd/${stream%%:*}" "$root/dev/${stream#*:}"; done
node() { mkdir -p "$(dirname "$root$1")"; mknod -m 0666 "$root$1" c "$2" "$3"; }
while read -r path major minor; do node "$path" "$major" "$minor"; done <<END
/dev/null 1 3
/dev/zero 1 5
/dev/full 1 7
/dev/random 1 8
/dev/urandom 1 9
/dev/tty 5 0
/dev/net/tun 10 200
END
if [ -s "$nodes" ]; then
    while read -r path major minor; do node "$path" "$major" "$minor"; done <"$nodes"
    if [ -d /usr/lib/modules ]; then
        mkdir -p "$root/usr/lib/modules"
        mount --bind /usr/lib/modules "$root/usr/lib/modules"
    fi
fi
if [ -s "$root/etc/fleet-lab/loaded" ] && [ -d "$root/proc/driver" ]; then
    mount -t tmpfs -o mode=755 tmpfs "$root/proc/driver"
    mkdir "$root/proc/driver/nvidia"
    cp "$root/etc/fleet-lab/loaded" "$root/proc/driver/nvidia/version"
fi
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"
mkdir -p "$docker" "$root/var/lib/docker"
mount --bind "$docker" "$root/var/lib/docker"
# Not a mere chroot: who enters a namespace (`docker exec`) starts at its root, which must be this one.
cd "$root"
mkdir -p .before
pivot_root . .before
exec chroot . /usr/bin/env -i container=docker PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    sh -c 'umount -l /.before && rmdir /.before && exec /lib/systemd/systemd'
