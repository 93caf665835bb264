#!/bin/sh
# Run fleet against this machine's own NVIDIA GPUs and write what came of it as Markdown. Needs root, and the
# bundle that build.py made; no network. Everything runs in namespaces that end with this script.
#
#   run.sh [--bundle DIR] [--work DIR] [--report FILE] [--unpack | --probe] [--no-gpu] [-- OPTIONS OF run.py]
set -eu

here=$(cd "$(dirname "$0")" && pwd)
checkout=$(cd "$here/../.." && pwd)
bundle=$checkout/build/real_gpu
work=/var/tmp/fleet-real-gpu
report=$checkout/build/real_gpu/report.md
gpu=1
unpack_only=
probe=
while [ $# -gt 0 ]; do
    case $1 in
        --bundle) bundle=$2; shift ;;
        --work) work=$2; shift ;;
        --report) report=$2; shift ;;
        --unpack) unpack_only=1 ;;
        --probe) probe=1 ;;
        --no-gpu) gpu= ;;
        --) shift; break ;;
        *) sed -n '2,6s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    esac
    shift
done
say() { printf '%s\n' "run.sh: $*" >&2; }
fail() { say "$*"; exit 1; }

[ "$(id -u)" = 0 ] || fail "run this as root"
[ "$(uname -m)" = x86_64 ] || fail "the bundle is for x86-64"
for program in unshare mount chroot tar; do
    command -v $program >/dev/null || fail "$program is missing (packages util-linux, coreutils, tar)"
done

unxz() { if command -v xz >/dev/null; then xz -dc "$1"; else python3 -c \
    'import lzma, shutil, sys; shutil.copyfileobj(lzma.open(sys.argv[1]), sys.stdout.buffer, 1 << 20)' "$1"; fi; }

mkdir -p "$work/bundle"
work=$(cd "$work" && pwd)
for part in "$bundle"/part*.tar.xz; do
    [ -e "$part" ] || continue
    mark=$work/bundle/.$(basename "$part").$(cksum <"$part" | tr ' ' -)
    [ -e "$mark" ] && continue
    say "unpacking $part"
    unxz "$part" | tar -C "$work/bundle" --numeric-owner -xpf -
    : >"$mark"
done
[ -z "$unpack_only" ] || { du -sh "$work/bundle" >&2; exit 0; }
for folder in root python site $([ -n "$probe" ] || echo packages debs); do
    [ -d "$work/bundle/$folder" ] || fail "the bundle has no $folder: make it with build.py, or give --bundle"
done

rm -rf "$work/live" "$work/driver"
mkdir -p "$work/live" "$work/driver"
[ -z "$gpu" ] || sh "$here/driver.sh" "$work/driver" || fail "no working driver"

mkdir -p "$(dirname "$report")"
rc=0
unshare --mount --net --pid --ipc --uts --fork --kill-child --propagation private \
    sh "$here/stage.sh" "$work" "$checkout" "$report" ${gpu:+--gpu} ${probe:+--probe} "$@" || rc=$?

# What the kernel keeps of the hosts: their control groups, empty now.
sed -n 's/^[^ ]* \([^ ]*\) cgroup2 .*/\1/p' /proc/mounts | head -n 1 | while read -r tree; do
    find "$tree/fleet-real-gpu" -depth -type d -exec rmdir {} \; 2>/dev/null || true
done
rm -rf "$work/live" "$work/driver"
say "the report is $report (exit code $rc)"
exit $rc
