"""The last step of a driver's installation: it works now, or the host waits for a reboot and says why."""

from __future__ import annotations

from fleet.gpu.pci import GIVEN_AWAY, PCI_FOLDER
from fleet.gpu.probe import LOST_WORDS
from fleet.model.steps import Change, Run
from fleet.modules._driver_seen import MODULE, TRIED_FILE, Driver
from fleet.modules._reboot import FLEET_FILE
from fleet.modules.base import Context

MARK = "nvidia driver: "
"""How a reason of this module begins in the file that the module `reboot` reads."""


def waits_for_reboot(seen: Driver) -> bool:
    """Whether a reboot for the driver's sake was asked for in this boot."""
    return any(reason.startswith(MARK) for reason in seen.noted)


def settle(seen: Driver, ctx: Context) -> list[Change]:
    """The change that loads the module, and asks for a reboot where that does not suffice.

    Raises TaskError where one was made for the same cause before: for a lost GPU, or for this driver on this
    kernel.
    """
    if not seen.fault or waits_for_reboot(seen):
        return []
    cause = "gpus" if seen.lost else f"driver {seen.module} {seen.kernel}"
    if not any(boot != seen.boot and before == cause for boot, before in seen.tried):
        return [settle_change(f"ask for a reboot: {seen.fault}" if seen.lost else "")]
    once_more = f"`fleet reboot {ctx.host.name} --force` makes one more reboot"
    if seen.lost:
        raise ctx.fail(
            f"a GPU has fallen off the bus: {seen.fault}; this host was rebooted for a lost GPU before, and "
            "is not again by itself",
            output=seen.problem,
            remedy="a card that goes away again may be hot, sit badly, lack power or be broken: look at "
            f"`dmesg | grep -iE 'nvrm|xid'` on it; {once_more}",
        )
    raise ctx.fail(
        f"the NVIDIA driver {seen.module} does not work, also after a reboot: {seen.fault}",
        output=seen.problem,
        remedy="look at `dmesg | grep -iE 'nvrm|nvidia|nouveau'` and `dkms status` on it; a card that is "
        f"missing may sit badly or be broken; {once_more}",
    )


def settle_change(summary: str = "") -> Change:
    """The change itself, for after an installation."""
    step = Run(
        ("sh", "-c", _SETTLE, "settle", FLEET_FILE, TRIED_FILE), timeout=1800.0, title="load the driver"
    )
    return Change(summary or "load the driver, or note that it needs a reboot", steps=(step,))


_GIVEN_AWAY = " | ".join(f"*/{name}" for name in GIVEN_AWAY)
_LOST_PATTERN = " | ".join(f'*"{words}"*' for words in LOST_WORDS)

# modprobe may fail (another driver has the cards, an older module is loaded): what counts is the answer then.
# A kernel that was installed together with the module may have been passed over: it is built for that, too.
_SETTLE = rf"""{MODULE}
note=$1 tried=$2 kernel=$(uname -r)
[ -d /sys/module/nouveau ] || modprobe -a nvidia nvidia_uvm >/dev/null 2>&1
version=$(module "$kernel" version)
cause="driver $version $kernel"
cards=0
for d in {PCI_FOLDER}/*; do
  read -r vendor <"$d/vendor" && read -r class <"$d/class" || continue
  case $(readlink "$d/driver") in {_GIVEN_AWAY}) continue ;; esac
  case $vendor:$class in 0x10de:0x03*) cards=$((cards + 1)) ;; esac
done 2>/dev/null
if [ -d /sys/module/nouveau ]; then
  reason="nouveau has the GPUs"
elif [ -z "$version" ]; then
  next=$(ls /lib/modules | sort -V | tail -n 1)
  built() {{ module "$next" version >/dev/null; }}
  built || ! command -v dkms >/dev/null || dkms autoinstall -k "$next" >/dev/null 2>&1
  built || {{
    echo "no module nvidia was built for the running kernel $kernel" >&2
    ! command -v dkms >/dev/null || dkms status >&2
    for log in /var/lib/dkms/nvidia*/*/build/make.log; do [ ! -r "$log" ] || tail -n 15 "$log" >&2; done
    exit 1
  }}
  reason="its module is built for kernel $next, and $kernel runs"
elif ! list=$(nvidia-smi -L 2>&1); then
  reason="nvidia-smi says: $(printf '%s\n' "$list" | head -n 1)"
  case $list in {_LOST_PATTERN}) cause=gpus ;; esac
else
  seen=$(printf '%s\n' "$list" | grep -c '^GPU .*UUID: GPU-')
  [ "$seen" -lt "$cards" ] || exit 0
  reason="nvidia-smi lists $seen of $cards GPUs"
  [ "$seen" = 0 ] || {{
    cause=gpus reason="$reason: one has fallen off the bus, and at most a start of the host brings it back"
  }}
fi
mkdir -p "${{note%/*}}" "${{tried%/*}}"
printf '{MARK}%s\n' "$reason" >>"$note"
touch "$tried"
while read -r boot before; do
  [ "$before" = "$cause" ] || printf '%s %s\n' "$boot" "$before"
done <"$tried" >"$tried.new"
printf '%s %s\n' "$(cat /proc/sys/kernel/random/boot_id)" "$cause" >>"$tried.new"
mv -f "$tried.new" "$tried"
"""
