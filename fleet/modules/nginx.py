"""The nginx module: a balancer in front of every slot, for hosts that have nginx."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from fleet.balancer import nginx_deploy as deploy
from fleet.balancer.nginx import (
    MAIN_FILE,
    SITE_FILE,
    Affinity,
    Settings,
    config_hash,
    deployed_servers,
    main_text,
    render,
)
from fleet.balancer.nginx_probe import (
    DEFAULT_SITE,
    DEFAULT_SITE_PROBE,
    PACKAGE_PROBE,
    RUNTIME_PROBE,
    NginxState,
    Package,
    parse_default_site,
    parse_package,
    parse_runtime,
)
from fleet.data import data_dir
from fleet.model.facts import Facts, Probe
from fleet.model.steps import Change
from fleet.modules._apt import apt_get
from fleet.modules._files import FileState, Wanted, content_diff, file_probe, file_state, find_source
from fleet.modules._slots import balanced_slots
from fleet.modules._systemd import unit_probe, unit_state
from fleet.modules.base import Args, Context

TEMPLATE = "nginx.conf.j2"
MIN_VERSION = (1, 18)

# The kernel tells when it booted, and so when a worker started, to the second.
_CLOCK_GRAIN = 2.0


class NginxArgs(Args, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Arguments of `nginx`."""

    template: str = TEMPLATE
    group: str = "gpu"
    bind: str = "*"
    port: int = 80
    status_port: int = 8404
    affinity: Affinity = "session"
    max_fails: int = 3
    fail_timeout: int = 30
    longest_job: int = 900
    request_timeout: int = 300
    max_body: int = 100 * 2**20

    def __post_init__(self) -> None:
        if not 1 <= self.port <= 65535:
            raise ValueError(f"`port` is {self.port}, not a port")
        if self.port == self.status_port:
            raise ValueError(f"`port` and `status_port` are both {self.port}")
        self.settings()

    def settings(self) -> Settings:
        """The settings these arguments mean; ValueError where one does not fit into a configuration."""
        return Settings(
            bind=f"{self.bind}:{self.port}",
            status_port=self.status_port,
            affinity=self.affinity,
            max_fails=self.max_fails,
            fail_timeout=self.fail_timeout,
            longest_job=self.longest_job,
            request_timeout=self.request_timeout,
            max_body=self.max_body,
        )


class Nginx:
    """Balance over every GPU of a group with nginx, and keep it so.

    Installs nginx, adds one site to it, and has nginx run exactly that: a site edited or deleted, one on disk
    but not in use and a stopped unit are found and mended. Other sites stay as they are; only the
    distribution's untouched welcome page is disabled. A configuration is checked with the host's own nginx
    and its other sites before it takes the old one's place, and the old one comes back where the new one is
    not seen running. Servers of a host that this run does not look at stay. What nginx cannot do that
    HAProxy does is in docs/nginx.md.

    Arguments:
        template: the site's template; looked for beside the playbook, in the project's `templates/`, then
            among the templates fleet ships. Default: `nginx.conf.j2`.
        group: the inventory group whose GPUs are balanced. Default: `gpu`.
        bind: IP address to listen on for users. Default: `*`.
        port: port to listen on for users. Default: 80.
        status_port: port of 127.0.0.1 where nginx tells its configuration and numbers. Default: 8404.
        affinity: `session` (a page stays with its server) or `none` (every request by itself, for
            OpenAI-style servers). Default: `session`.
        max_fails: failed requests within `fail_timeout` that take a server out. Default: 3.
        fail_timeout: seconds a server stays out before one request tries it again. Default: 30.
        longest_job: seconds an event stream may be silent, and a reload waits for it. Default: 900.
        request_timeout: seconds any other request may take. Default: 300.
        max_body: bytes a request's body may have. Default: 104857600.

    Example:
        - name: Balance over all GPUs
          nginx:
            port: 80
    """

    name: ClassVar[str] = "nginx"
    args: ClassVar[type[Args]] = NginxArgs
    needs_fleet: ClassVar[bool] = True

    def probes(self, args: NginxArgs, ctx: Context) -> Sequence[Probe]:
        """Ask for the package, the unit, both files, the default site and the running configuration."""
        return (
            PACKAGE_PROBE,
            RUNTIME_PROBE,
            DEFAULT_SITE_PROBE,
            unit_probe(deploy.UNIT),
            file_probe(SITE_FILE, "content"),
            file_probe(MAIN_FILE, "content"),
        )

    def plan(self, args: NginxArgs, facts: Facts, ctx: Context) -> Sequence[Change]:
        """Package, default site, configuration, unit: in this order, each only where it differs."""
        for variable, what in (("gateway", "TLS, API keys and limits"), ("lb_address", "the shared address")):
            if ctx.variables.get(variable):
                raise ctx.fail(
                    f"{ctx.host.name} runs nginx, which would leave out {what} (`{variable}`)",
                    remedy=f"balance with HAProxy there, or take `{variable}` from its variables",
                )
        package = parse_package(facts[PACKAGE_PROBE.key])
        if package is not None:
            _usable(package, args, ctx)
        settings = args.settings()
        site = file_state(SITE_FILE, "content", facts, ctx)
        main = file_state(MAIN_FILE, "content", facts, ctx)
        slots, unknown = balanced_slots(args.group, deployed_servers(_text(site)), ctx)
        changes: list[Change] = []
        default_site = parse_default_site(facts[DEFAULT_SITE_PROBE.key])
        if package is None:
            install = apt_get("install", 3600, "--no-install-recommends", "--", "nginx")
            # The package enables its welcome page; a site that was kept from an earlier nginx is the user's.
            welcome_off = deploy.disable_default_site() if default_site == "absent" else ()
            changes.append(Change("install nginx", steps=(install, *welcome_off)))
        if unknown and not slots:
            names = ", ".join(host.name for host in unknown)
            changes.append(Change(f"write {SITE_FILE} with a server for each GPU then found on {names}"))
            return changes
        welcome = default_site == "welcome"
        if welcome:
            diff = f"{DEFAULT_SITE}: link -> absent\n"
            changes.append(
                Change("disable the distribution's default site", diff, deploy.disable_default_site())
            )
        text = render(slots, settings, _template(args, ctx))
        wanted = Wanted(SITE_FILE, text.encode()), Wanted(MAIN_FILE, main_text(settings).encode())
        differ = [
            (want, found)
            for want, found in zip(wanted, (site, main), strict=True)
            if not found.regular or not found.same_content(want.content)
        ]
        if differ:
            verb = "change" if site.exists else "create"
            summary = f"{verb} {' and '.join(want.path for want, _ in differ)}"
            diff = "".join(content_diff(want, found) for want, found in differ)
            changes.append(Change(summary, diff, deploy.deploy(text, settings)))
        elif reason := _not_in_use(text, (site, main), welcome, facts, ctx):
            changes.append(Change(reason, steps=deploy.start(text, settings)))
        if package is not None and unit_state(deploy.UNIT, facts, ctx).file not in (
            "enabled",
            "enabled-runtime",
        ):
            changes.append(Change(f"start {deploy.UNIT} at boot", "at boot: no -> yes\n", deploy.enable()))
        return changes


def _usable(package: Package, args: NginxArgs, ctx: Context) -> None:
    if package.numbers < MIN_VERSION:
        raise ctx.fail(
            f"nginx {package.version} is too old", remedy="upgrade the host: nginx 1.18 or later is needed"
        )
    if args.affinity == "session" and not package.rewrites:
        raise ctx.fail(
            "this nginx was built without http_sub_module, which affinity: session needs",
            remedy="install the distribution's package nginx, or set affinity: none",
        )


def _template(args: NginxArgs, ctx: Context) -> Path:
    """The user's template, else the shipped one."""
    if args.template == TEMPLATE and not any(
        (folder / part).is_file() for folder in ctx.search for part in (TEMPLATE, f"templates/{TEMPLATE}")
    ):
        return data_dir("templates") / TEMPLATE
    return find_source(args.template, "templates", ctx)


def _not_in_use(
    text: str, files: Sequence[FileState], welcome: bool, facts: Facts, ctx: Context
) -> str | None:
    """What keeps the configuration on the host from being what nginx runs; None where it is."""
    state: NginxState | None = parse_runtime(facts[RUNTIME_PROBE.key])
    if state is None or not unit_state(deploy.UNIT, facts, ctx).running:
        return f"start {deploy.UNIT}"
    if state.config_hash != config_hash(text):
        return f"reload {deploy.UNIT}: it runs another configuration than {SITE_FILE}"
    if any(file.mtime > state.started + _CLOCK_GRAIN for file in files):
        return f"reload {deploy.UNIT}: its configuration is newer than what it runs"
    if welcome:
        return f"reload {deploy.UNIT} without the default site"
    return None


def _text(file: FileState) -> str:
    return (file.content or b"").decode("utf-8", "replace") if file.regular else ""
