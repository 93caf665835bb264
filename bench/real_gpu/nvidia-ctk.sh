#!/bin/sh
# In place of NVIDIA's nvidia-ctk where the bundle has none: writes the CDI specification of this host's GPUs by
# index and by UUID, with the driver's libraries. It knows `cdi generate [--output=FILE]` and `--version` only.
set -eu
case "$*" in
    --version | version) echo 'fleet bench/real_gpu: a script in place of the NVIDIA Container Toolkit'; exit 0 ;;
    'cdi generate'*) ;;
    *) echo "this script knows only: cdi generate [--output=FILE]" >&2; exit 1 ;;
esac
output=
for argument in "$@"; do
    case $argument in --output=*) output=${argument#--output=} ;; esac
done
[ -n "$output" ] || { echo "name the file: --output=FILE" >&2; exit 1; }
version=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader | head -n 1)
libraries=/usr/lib/x86_64-linux-gnu
gpus=$(nvidia-smi --query-gpu=index,uuid --format=csv,noheader | tr -d ' ')

device() {
    printf '  - name: "%s"\n    containerEdits:\n      deviceNodes:\n        - path: /dev/nvidia%s\n' "$1" "$2"
}
mount() {
    printf '    - {hostPath: "%s", containerPath: "%s", options: [ro, nosuid, nodev, bind]}\n' "$1" "$2"
}
{
    printf 'cdiVersion: 0.5.0\nkind: nvidia.com/gpu\ndevices:\n'
    for gpu in $gpus; do
        # The node's number is the driver's minor, which may differ from the index.
        minor=$(nvidia-smi -i "${gpu#*,}" -q | sed -n 's/.*Minor Number *: *//p' | head -n 1)
        device "${gpu%%,*}" "$minor"
        device "${gpu#*,}" "$minor"
    done
    printf 'containerEdits:\n  env: [NVIDIA_VISIBLE_DEVICES=void]\n  deviceNodes:\n'
    for node in /dev/nvidiactl /dev/nvidia-uvm /dev/nvidia-uvm-tools; do
        [ ! -e $node ] || printf '    - path: %s\n' $node
    done
    printf '  mounts:\n'
    for file in "$libraries"/libcuda*.so."$version" "$libraries"/libnvidia-*.so."$version"; do
        [ -f "$file" ] || continue
        mount "$file" "$file"
        # The name programs ask for, which a toolkit's hook would make a link.
        soname=${file%".$version"}.1
        case $file in */libnvidia-nvvm.so.*) soname=$libraries/libnvidia-nvvm.so.4 ;; esac
        mount "$file" "$soname"
    done
    mount /usr/bin/nvidia-smi /usr/bin/nvidia-smi
} >"$output.part"
mv "$output.part" "$output"
