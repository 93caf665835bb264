#!/bin/sh
# driver.sh FOLDER: lay this machine's driver out in FOLDER as a driver's packages would on a Debian host
# (libraries in the usual folder, programs in /usr/bin), and list its device nodes and GPUs there.
set -eu
to=$1
fail() { printf 'driver.sh: %s\n' "$*" >&2; exit 1; }

PATH=$PATH:/usr/local/nvidia/bin:/usr/sbin:/sbin
smi=$(command -v nvidia-smi) || fail "there is no nvidia-smi: install the NVIDIA driver first"
library=$(ldconfig -p | sed -n 's/.*libcuda\.so\.1 .*x86-64.*=> //p' | head -n 1)
[ -n "$library" ] || fail "ldconfig -p knows no libcuda.so.1"
library=$(readlink -f "$library")
from=$(dirname "$library")

mkdir -p "$to/usr/lib/x86_64-linux-gnu" "$to/usr/bin"
for file in "$from"/libcuda*.so.* "$from"/libnvidia-*.so.*; do
    case $file in *.so.*[0-9]) [ -f "$file" ] && [ ! -L "$file" ] && cp -p "$file" "$to/usr/lib/x86_64-linux-gnu/" ;; esac
done
for program in nvidia-smi nvidia-debugdump nvidia-persistenced nvidia-cuda-mps-control nvidia-cuda-mps-server; do
    [ ! -e "$(dirname "$smi")/$program" ] || cp -pL "$(dirname "$smi")/$program" "$to/usr/bin/"
done

# Path, major and minor of each node, for mknod.
for node in /dev/nvidia[0-9]* /dev/nvidiactl /dev/nvidia-modeset /dev/nvidia-uvm /dev/nvidia-uvm-tools \
    /dev/nvidia-nvswitch* /dev/nvidia-caps/*; do
    [ -c "$node" ] || continue
    stat -c '%n %t %T' "$node" | while read -r path major minor; do
        printf '%s %d %d\n' "$path" "0x$major" "0x$minor"
    done
done >"$to/nodes"
[ -s "$to/nodes" ] || fail "there are no /dev/nvidia* nodes"
nvidia-smi -L || fail "nvidia-smi fails on this machine"
