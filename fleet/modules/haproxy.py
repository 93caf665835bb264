"""The haproxy module: one balancer in front of every slot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from fleet.balancer import deploy, runtime
from fleet.balancer.features import missing
from fleet.balancer.keys import KEYS_PROBE, mend, merge, parse_keys
from fleet.balancer.paths import CERTIFICATE_FILE, CONFIG_FILE, KEYS_FILE, LUA_FILE, STATE_FILE
from fleet.balancer.probe import PACKAGE_PROBE, RUNTIME_PROBE, Package, parse_package
from fleet.balancer.render import (
    Peer,
    Profile,
    Settings,
    config_hash,
    render,
)
from fleet.balancer.stats import Admin, BalancerState, parse_balancer
from fleet.data import data_dir
from fleet.model.facts import Answer, Facts, Probe
from fleet.model.slot import Slot
from fleet.model.steps import Change, Run
from fleet.modules._addresses import ADDRESSES_PROBE, addresses
from fleet.modules._apt import apt_get
from fleet.modules._files import FileState, Wanted, content_diff, file_probe, file_state, find_source, write
from fleet.modules._gateway import certificate, hash_of
from fleet.modules._haproxy_args import TEMPLATE, HaproxyArgs, chosen_profile
from fleet.modules._slots import balanced_slots, moved
from fleet.modules._systemd import unit_probe, unit_state
from fleet.modules.base import Args, Context

UNIT = "haproxy.service"
PACKAGES = ("haproxy", "socat")

# The worker's start is known to the second.
_CLOCK_GRAIN = 1.0


class Haproxy:
    """Balance jobs over every GPU of a group with HAProxy, and keep it so.

    Installs HAProxy and socat, writes a configuration with one server for each slot, and has HAProxy run
    exactly that: a configuration edited or deleted, one on disk but not in use, a stopped unit and a
    weight changed at run time are found and mended. A configuration is checked by the host's own HAProxy
    before it takes the old one's place, and the old one comes back where the new one does not start. A
    weight is mended without a reload; a server that somebody drained or put into maintenance stays so.
    Servers of a host that this run does not look at stay as they are: unreachable is not dead.

    Arguments:
        template: the configuration's template; looked for beside the playbook, in the project's
            `templates/`, then among the templates fleet ships. Default: `haproxy.cfg.j2`.
        group: the inventory group whose GPUs are balanced. Default: `gpu`.
        bind: address to listen on for users. Default: `*`.
        port: port to listen on for users. Default: 80.
        stats_bind: where the statistics page and Prometheus' `/metrics` are. Default: `127.0.0.1:8404`.
        peer_port: port on which several balancers share what they know of sessions. Default: 10240.
        profile: what runs in the containers: `gradio`, `openai` (an OpenAI-style server such as vLLM) or
            `http`. Default: found by asking a running container; `gradio` as long as none has answered.
        affinity: `job` (each job goes where there is room), `session` (a page stays with its server, for
            apps with state) or `none` (every request by itself). Default: by profile: `job` for gradio,
            `none` for the others.
        check_path: path the health check gets. Default: `/health` for openai, `/` for the others.
        check_interval: seconds between health checks. Default: 10.
        fall: failed checks in a row that take a server out. Default: 3.
        rise: passed checks in a row that bring it back. Default: 2.
        longest_job: seconds a job may take; a reload waits for it. Default: 900.
        request_timeout: seconds any other request may take. Default: 300.
        max_body: bytes a request's body may have. Default: 104857600.
        maxconn: connections at most. Default: what HAProxy derives from the system's limits.
        slot_jobs: jobs a slot works on at once; 0 sets no limit. Default: by profile: 1 for gradio, 64 for
            openai, no limit for http.
        slot_queue: jobs that may wait for each slot beyond those; more are refused at once, with 503 and
            `Retry-After`. Default: 24 for gradio, 64 for openai.
        queue_timeout: seconds a request may wait in HAProxy's own queue (affinity `none`). Default: 30.
        agent_port: port of the GPU hosts' health agents (module `gpu_agent`). Default: none is asked.
        gateway: TLS, API keys and limits; off by default. docs/gateway.md has its keys.

    Example:
        - name: Balance over all GPUs
          haproxy:
            port: 80
            affinity: job
    """

    name: ClassVar[str] = "haproxy"
    args: ClassVar[type[Args]] = HaproxyArgs
    needs_fleet: ClassVar[bool] = True

    def probes(self, args: HaproxyArgs, ctx: Context) -> Sequence[Probe]:
        """Ask for the packages, the unit, every file, and the running HAProxy's own account."""
        # The profile is not known yet: ask for what any would need.
        files = [file.path for file in deploy.support_files(args.settings())]
        gateway = args.gateway
        return (
            PACKAGE_PROBE,
            RUNTIME_PROBE,
            unit_probe(UNIT),
            ADDRESSES_PROBE,
            file_probe(STATE_FILE, "attributes"),
            *((KEYS_PROBE,) if gateway and gateway.keys else ()),
            file_probe(CERTIFICATE_FILE, "hash"),
            file_probe(CONFIG_FILE, "whole"),
            *(file_probe(path, "content") for path in files),
        )

    def plan(self, args: HaproxyArgs, facts: Facts, ctx: Context) -> Sequence[Change]:
        """Packages, files, configuration, unit, weights: in this order, each only where it differs."""
        package = parse_package(facts[PACKAGE_PROBE.key])
        changes: list[Change] = []
        if package is None or not package.socat:
            steps = (apt_get("install", 3600, "--no-install-recommends", "--", *PACKAGES),)
            changes.append(Change(f"install {' and '.join(PACKAGES)}", steps=steps))
        deployed = file_state(CONFIG_FILE, "whole", facts, ctx)
        tls = certificate(args.gateway, ctx) if args.gateway else None
        settings = self._settings(args, facts, ctx, chosen_profile(args, ctx, _text(deployed)), hash_of(tls))
        if package is not None:
            _refuse_lacking(package, settings, ctx)
        slots, unknown = balanced_slots(args.group, deploy.deployed_servers(_text(deployed)), ctx)
        if unknown and not slots:
            names = ", ".join(host.name for host in unknown)
            changes.append(Change(f"write {CONFIG_FILE} with a server for each GPU then found on {names}"))
            return changes
        changes += _support(settings, facts, ctx)
        changes += _gateway(settings, tls, facts, ctx)
        text = render(slots, settings, _template(args, ctx))
        state = parse_balancer(facts[RUNTIME_PROBE.key])
        if text != _text(deployed) or not deployed.regular:
            changes.append(_rewrite(text, deployed))
        elif (reason := _not_in_use(text, settings, state, facts, ctx)) is not None:
            changes.append(Change(reason, steps=deploy.start(_hash(text))))
        if package is not None and unit_state(UNIT, facts, ctx).file not in ("enabled", "enabled-runtime"):
            changes.append(Change(f"start {UNIT} at boot", "at boot: no -> yes\n", deploy.enable()))
        if state is not None:
            changes += _weights(slots, state)
            changes += moved(args.group, deploy.deployed_servers(_text(deployed)), state, ctx)
        if tls is None and file_state(CERTIFICATE_FILE, "hash", facts, ctx).exists:
            remove = Run(("rm", "-f", "--", CERTIFICATE_FILE))
            changes.append(Change(f"remove {CERTIFICATE_FILE}: TLS is off", steps=(remove,)))
        return changes

    def _settings(
        self, args: HaproxyArgs, facts: Facts, ctx: Context, profile: Profile, certificate: str
    ) -> Settings:
        balancers = ctx.group("balancer")
        if ctx.host not in balancers or len(balancers) < 2:
            return args.settings(profile=profile, certificate_hash=certificate)
        peers = tuple(
            Peer(name=host.name, address=f"{host.address}:{args.peer_port}")
            for host in balancers
            if host.name != ctx.host.name
        )
        try:
            return args.settings(ctx.host.name, peers, profile, certificate, _own_address(facts, ctx))
        except ValueError as error:
            raise ctx.fail(
                f"the balancers cannot be named to each other: {error}",
                remedy="use letters, digits and _ . : - in their names and in fleet_address",
            ) from error


def _gateway(settings: Settings, tls: Wanted | None, facts: Facts, ctx: Context) -> Iterator[Change]:
    """The files the gateway needs before HAProxy can start with it."""
    if tls is not None and (change := write(tls, file_state(tls.path, "hash", facts, ctx), ctx)):
        yield change
    if settings.gateway is not None and settings.gateway.keys:
        found = parse_keys(facts[KEYS_PROBE.key])
        if found is None:
            raise ctx.fail(
                f"{KEYS_FILE} cannot be read",
                output=facts[KEYS_PROBE.key].text,
                remedy="look at it on the host",
            )
        others = (
            parse_keys(ctx.fleet[host.name].get(KEYS_PROBE.key, Answer(255)))
            for host in ctx.group("balancer")
            if host.name in ctx.fleet and host.name != ctx.host.name
        )
        yield from mend(found, merge(other.keys for other in others if other is not None))


def _refuse_lacking(package: Package, settings: Settings, ctx: Context) -> None:
    lacking = missing(settings, package.numbers)
    if lacking:
        raise ctx.fail(
            f"HAProxy {package.version} is too old: " + "; ".join(str(each) for each in lacking),
            remedy=lacking[0].remedy,
        )


def _own_address(facts: Facts, ctx: Context) -> str:
    """Where the other balancers reach this one, if that is an address it has; else every address."""
    address = ctx.host.address
    if address not in addresses(facts[ADDRESSES_PROBE.key]):
        return "*"
    return f"[{address}]" if ":" in address else address


def _template(args: HaproxyArgs, ctx: Context) -> Path:
    """The user's template, else the shipped one."""
    shipped = data_dir("templates") / args.template
    if args.template == TEMPLATE and not any(
        (folder / part).is_file() for folder in ctx.search for part in (TEMPLATE, f"templates/{TEMPLATE}")
    ):
        return shipped
    return find_source(args.template, "templates", ctx)


def _support(settings: Settings, facts: Facts, ctx: Context) -> Iterator[Change]:
    for file in deploy.support_files(settings):
        wanted = Wanted(file.path, file.content, file.mode, "root", "root")
        change = write(wanted, file_state(file.path, "content", facts, ctx), ctx)
        if change is not None:
            more = (deploy.DAEMON_RELOAD,) if file.path == deploy.UNIT_FILE else ()
            yield replace(change, steps=(*change.steps, *more))
        elif file.path == deploy.UNIT_FILE and unit_state(UNIT, facts, ctx).need_reload:
            yield Change(f"have systemd read {UNIT} again", steps=(deploy.DAEMON_RELOAD,))
    if not file_state(STATE_FILE, "attributes", facts, ctx).exists:
        yield Change(f"create {STATE_FILE}", f"{STATE_FILE}: absent -> empty\n", (deploy.empty_state(),))


def _rewrite(text: str, deployed: FileState) -> Change:
    wanted = Wanted(CONFIG_FILE, text.encode())
    verb = "change" if deployed.exists else "create"
    return Change(
        f"{verb} {CONFIG_FILE}", content_diff(wanted, deployed), tuple(deploy.deploy(text, _hash(text)))
    )


def _not_in_use(
    text: str, settings: Settings, state: BalancerState | None, facts: Facts, ctx: Context
) -> str | None:
    """What keeps the configuration on the host from being what HAProxy runs; None where it is."""
    if not unit_state(UNIT, facts, ctx).running:
        return f"start {UNIT}"
    if state is None:
        return f"reload {UNIT}: it does not answer on its socket"
    if state.config_hash != _hash(text):
        return f"reload {UNIT}: it runs another configuration than {CONFIG_FILE}"
    for file in deploy.support_files(settings):
        found = file_state(file.path, "content", facts, ctx)
        if file.path == LUA_FILE and (not found.same_content(file.content) or _newer(found, state)):
            return f"reload {UNIT}: {LUA_FILE} is newer than what it runs"
    if _newer(file_state(CONFIG_FILE, "whole", facts, ctx), state):
        return f"reload {UNIT}: {CONFIG_FILE} is newer than what it runs"
    return None


def _newer(file: FileState, state: BalancerState) -> bool:
    return file.mtime > state.started + _CLOCK_GRAIN


def _weights(slots: Sequence[Slot], state: BalancerState) -> Iterator[Change]:
    """Weights that differ from the configuration HAProxy runs; a reload brings those it does not run yet."""
    for slot in slots:
        server = state.slot(slot.name)
        if server is None or server.admin is not Admin.READY or server.configured_weight != slot.weight:
            continue
        if server.weight != slot.weight and not server.agent_holds:
            yield Change(
                f"set weight of {slot.name} from {server.weight} to {slot.weight}",
                f"{slot.name}: weight {server.weight} -> {slot.weight}\n",
                (runtime.set_weight(slot.name, slot.weight),),
            )


def _hash(text: str) -> str:
    return config_hash(text) or ""


def _text(file: FileState) -> str:
    return (file.content or b"").decode("utf-8", "replace") if file.regular else ""
