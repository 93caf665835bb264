"""The module `gpu_agent`: a host's GPU health, told to the balancers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import ClassVar, Literal

from fleet.data import data_dir
from fleet.docker.probe import CONTAINERS_PROBE
from fleet.gpu.agent import (
    CONFIG_FILE,
    DEFAULT_PORT,
    PROGRAM_FILE,
    UNIT,
    UNIT_FILE,
    AgentConfig,
    AgentSlot,
    config_slots,
    config_text,
    is_network,
    listen_address,
    unit_text,
)
from fleet.gpu.probe import GPU_PROBE, parse_gpus
from fleet.gpu.slots import slots_of
from fleet.model.facts import Facts, Probe
from fleet.model.steps import Change, Run
from fleet.modules._driver_awaited import once_the_driver_works
from fleet.modules._files import FileState, Wanted, file_probe, file_state, write
from fleet.modules._systemd import SYSTEMCTL, unit_probe, unit_state
from fleet.modules.base import Args, Context

ADDRESSES_PROBE = Probe("host.addresses", "hostname -I\n")

_FILES = (PROGRAM_FILE, CONFIG_FILE, UNIT_FILE)
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?")
_DAEMON_RELOAD = Run(("systemctl", "daemon-reload"))
# A balancer that asks meanwhile gets no answer, so it is not "done" before there is one. That a driver does
# not answer takes longer to be sure of, and is not waited for.
_START = f"""\
systemctl -q enable -- {UNIT} || exit 1
({SYSTEMCTL}) || exit 1
for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do
  {PROGRAM_FILE} show | grep -q 'no answer' || exit 0
  sleep 0.2
done
exit 0
"""
_RESTART = Run(
    ("sh", "-c", _START, "systemctl", "restart", UNIT),
    title=f"systemctl restart {UNIT}",
)
# What operators accepted stays, for the findings stay in the log, too.
_REMOVE = f"""\
systemctl -q disable --now -- {UNIT}
rm -rf -- {" ".join(_FILES)}
rmdir -- {CONFIG_FILE.rpartition("/")[0]} 2>/dev/null
systemctl daemon-reload
"""


class GpuAgentArgs(Args, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Arguments of `gpu_agent`."""

    state: Literal["present", "absent"] = "present"
    port: int = DEFAULT_PORT
    group: str = "balancer"
    allow: tuple[str, ...] = ()
    hot: int = 90

    def __post_init__(self) -> None:
        if not 1 <= self.port <= 65535:
            raise ValueError(f"`port` is {self.port}, not a port")
        if not 40 <= self.hot <= 150:
            raise ValueError(f"`hot` is {self.hot}; it must be from 40 to 150 degrees Celsius")
        for each in self.allow:
            if not is_network(each) and not _NAME.fullmatch(each):
                raise ValueError(f"`allow` has {each!r}, which is no address, network (10.0.0.0/8) or name")


class GpuAgent:
    """Tell the balancers how the GPUs are, through HAProxy's agent-check.

    Installs a small service that asks nvidia-smi, the kernel's log and the Docker Engine, and answers
    balancers that ask for a slot by its name. A GPU that is lost, or whose slot has no running container,
    is taken out; one that needs a reset gets no new jobs; a hot one gets half of them. What is well is left
    to HAProxy's own checks and to operators. Only the balancers may ask. docs/agent.md has every answer.

    Arguments:
        state: `present` or `absent`, which removes it but for what operators accepted. Default: `present`.
        port: the TCP port it answers on, at the host's `fleet_address` where that is one of the host's
            own, else everywhere. Default: 7859.
        group: the inventory group whose hosts may ask. Default: `balancer`.
        allow: addresses, networks or names that may ask, too: what balancers look like behind NAT.
        hot: degrees Celsius from which a GPU counts as hot. Default: 90.

    Example:
        - name: GPU health for the balancers
          gpu_agent:
            allow: [198.51.100.0/28]
    """

    name: ClassVar[str] = "gpu_agent"
    args: ClassVar[type[Args]] = GpuAgentArgs

    def probes(self, args: GpuAgentArgs, ctx: Context) -> Sequence[Probe]:
        """The three files and the unit; GPUs and addresses where it is wanted."""
        asked = (*(file_probe(path, "content") for path in _FILES), unit_probe(UNIT))
        return asked if args.state == "absent" else (*asked, GPU_PROBE, CONTAINERS_PROBE, ADDRESSES_PROBE)

    def plan(self, args: GpuAgentArgs, facts: Facts, ctx: Context) -> Sequence[Change]:
        """Each file that differs, then one restart where the service does not run what is on disk."""
        if args.state == "absent":
            return list(_removed(facts, ctx))
        slots = _slots(facts, ctx)
        if slots is None:
            return [once_the_driver_works(f"start {UNIT}", facts, ctx)]
        return list(_present(_config(args, slots, facts, ctx), facts, ctx))


def _slots(facts: Facts, ctx: Context) -> tuple[AgentSlot, ...] | None:
    """The host's slots; where its driver does not answer, those the agent already has; None without any."""
    slots = slots_of(ctx.host, facts)
    if slots is None:
        deployed = file_state(CONFIG_FILE, "content", facts, ctx)
        return config_slots((deployed.content or b"").decode("utf-8", "replace")) or None
    buses = {gpu.uuid: gpu.pci_bus_id or "" for gpu in parse_gpus(facts[GPU_PROBE.key]) or ()}
    return tuple(AgentSlot(slot.name, slot.uuid, buses[slot.uuid]) for slot in slots)


def _config(args: GpuAgentArgs, slots: tuple[AgentSlot, ...], facts: Facts, ctx: Context) -> AgentConfig:
    known = slots_of(ctx.host, facts) or ()
    if args.port in (slot.port for slot in known):
        raise ctx.fail(
            f"{ctx.host.name}: port {args.port} is a slot's, the GPU agent cannot have it",
            remedy="set slot_port_base, or the agent's port, to another",
        )
    allowed = (*(host.address for host in ctx.group(args.group)), *args.allow)
    for each in allowed:
        if not is_network(each) and not _NAME.fullmatch(each):
            raise ctx.fail(
                f"a balancer's address is {each!r}, which is neither an address nor a name",
                remedy="mend its fleet_address or ansible_host in the inventory",
            )
    return AgentConfig(
        slots=slots,
        address=listen_address(ctx.host.address, facts[ADDRESSES_PROBE.key].text.split()),
        port=args.port,
        allow=tuple(dict.fromkeys(allowed)),
        hot=args.hot,
    )


def _present(config: AgentConfig, facts: Facts, ctx: Context) -> Iterator[Change]:
    program = (data_dir("templates") / "fleet-gpu-agent.pl").read_bytes()
    wanted = (
        Wanted(PROGRAM_FILE, program, "0755", "root", "root"),
        Wanted(CONFIG_FILE, config_text(config).encode(), "0644", "root", "root"),
        Wanted(UNIT_FILE, unit_text(config).encode(), "0644", "root", "root"),
    )
    unit = unit_state(UNIT, facts, ctx)
    started = unit.started.timestamp() if unit.started else 0.0
    stale = False
    for file in wanted:
        found = _found(file.path, facts, ctx)
        change = write(file, found, ctx)
        if change is not None and file.path == UNIT_FILE:
            change = replace(change, steps=(*change.steps, _DAEMON_RELOAD))
        elif file.path == UNIT_FILE and unit.need_reload:
            change = Change(f"have systemd read {UNIT} again", steps=(_DAEMON_RELOAD,))
        if change is not None:
            yield change
        stale = stale or not found.same_content(file.content) or found.mtime > started
    if not unit.running or unit.file not in ("enabled", "enabled-runtime"):
        yield Change(
            f"start {UNIT}, and at boot", f"{UNIT}: {unit.active or 'absent'} -> active\n", (_RESTART,)
        )
    elif stale:
        yield Change(f"restart {UNIT}", f"{UNIT}: runs what was there before\n", (_RESTART,))


def _removed(facts: Facts, ctx: Context) -> Iterator[Change]:
    there = [path for path in _FILES if _found(path, facts, ctx).exists]
    if there or unit_state(UNIT, facts, ctx).running:
        diff = "".join(f"{path}: present -> absent\n" for path in there)
        yield Change(f"remove {UNIT}", diff, (Run(("sh", "-c", _REMOVE), title=f"remove {UNIT}"),))


def _found(path: str, facts: Facts, ctx: Context) -> FileState:
    return file_state(path, "content", facts, ctx)
