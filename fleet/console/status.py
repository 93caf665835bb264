"""`fleet status` on the screen: tables of hosts, slots and balancers, and what is wrong."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from fleet.console.table import Cell, Column, show_table
from fleet.docker.references import repository, tag
from fleet.model.problem import Problem
from fleet.status.model import HostStatus, ServerStatus, SlotStatus, Status

if TYPE_CHECKING:
    from rich.console import Console

_GOOD, _WARN, _BAD, _DIM, _NAME = "green", "yellow", "bold red", "dim", "bold"
_STATES = {
    "up": _GOOD,
    "ready": _GOOD,
    "running": _GOOD,
    "healthy": _GOOD,
    "drain": _WARN,
    "maint": _WARN,
    "starting": _WARN,
    "created": _WARN,
    "paused": _WARN,
    "unknown": _DIM,
}
_NOTHING = "-"
_HOT = 85
_FULL_MEMORY = 0.97
_DISK_LOW = 0.1
_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def show_status(status: Status, console: Console | None = None) -> None:
    """Print the tables that have rows, then what is wrong, or one line that says all is well."""
    from rich.console import Console
    from rich.text import Text

    console = console or Console(highlight=False)
    if status.hosts:
        show_table(console, "Hosts", _HOSTS, [_host(host) for host in status.hosts])
    if status.slots:
        show_table(console, *_slot_table(status.slots))
    if status.servers:
        show_table(console, *_server_table(status.servers))
    _print_problems(console, status.problems)
    if status.ok:
        console.print(Text(_summary(status), style=_GOOD))


_HOSTS = (
    Column("host"),
    Column("groups", drop=4),
    Column("address", drop=5),
    Column("state"),
    Column("system", drop=1),
    Column("service", drop=6),
    Column("driver", drop=7),
    Column("disk free", right=True, drop=8),
    Column("load", right=True, drop=2),
    Column("up", right=True, drop=3),
)
_SLOTS = (
    Column("slot"),
    Column("GPU", drop=8),
    Column("used GiB", right=True, drop=7),
    Column("use %", right=True, drop=4),
    Column("°C", right=True, drop=3),
    Column("container"),
    Column("for", right=True, drop=5),
    Column("restarts", right=True, drop=2),
    Column("image", drop=9),
    Column("digest", drop=1),
)
_SERVERS = (
    Column("server"),
    Column("state"),
    Column("weight", right=True, drop=6),
    Column("jobs", right=True, drop=8),
    Column("queue", right=True, drop=7),
    Column("5xx", right=True, drop=4),
    Column("conn err", right=True, drop=3),
    Column("ms", right=True, drop=5),
    Column("check", drop=1),
)


def _host(host: HostStatus) -> list[Cell]:
    low = host.disk_free is not None and host.disk_total and host.disk_free < _DISK_LOW * host.disk_total
    busy = host.load is not None and host.cpus and host.load > 2 * host.cpus
    return [
        (host.name, _NAME),
        (", ".join(host.groups) or _NOTHING, ""),
        (host.address, ""),
        (host.state, _STATES.get(host.state, _BAD)),
        (_short_os(host.os), ""),
        (_services(host), ""),
        (_known(host.driver), ""),
        (_bytes(host.disk_free), _WARN if low else ""),
        (_known(host.load, "{:.1f}"), _WARN if busy else ""),
        (_span(host.uptime), ""),
    ]


def _slot_table(slots: Sequence[SlotStatus]) -> tuple[str, Sequence[Column], list[list[Cell]]]:
    """The slots. An image that all share is named once, above the table."""
    images = {slot.image for slot in slots if slot.image}
    repositories = {image if image.startswith("sha256:") else repository(image) for image in images}
    shared = repositories.pop() if len(repositories) == 1 else None
    most = _most_common(slot.digest for slot in slots if slot.digest)
    return f"Slots of {shared}" if shared else "Slots", _SLOTS, [_slot(s, bool(shared), most) for s in slots]


def _slot(slot: SlotStatus, shared: bool, most: str | None) -> list[Cell]:
    image = _short_image(slot.image, shared) if slot.image else ""
    used, total = slot.memory_used, slot.memory_total
    full = used is not None and total and used > _FULL_MEMORY * total
    hot = slot.temperature is not None and slot.temperature >= _HOT
    state, style = slot.state, _STATES.get(slot.state, _BAD)
    if slot.exit_code is not None and slot.state in ("exited", "restarting"):
        state = f"{state} ({slot.exit_code})"
    elif slot.health == "unhealthy":
        state, style = slot.health, _BAD
    elif slot.health == "starting":
        state, style = slot.health, _WARN
    return [
        (slot.name, _NAME),
        (slot.gpu.removeprefix("NVIDIA ") or _NOTHING, ""),
        (_memory(used, total), _WARN if full else ""),
        (_known(slot.utilization), ""),
        (_known(slot.temperature), _WARN if hot else ""),
        (state, style),
        (_span(slot.age), ""),
        (str(slot.restarts) if slot.container else _NOTHING, _WARN if slot.restarts else ""),
        (image or _NOTHING, ""),
        (_short_digest(slot.digest), "" if slot.digest == most else _WARN),
    ]


def _server_table(servers: Sequence[ServerStatus]) -> tuple[str, Sequence[Column], list[list[Cell]]]:
    """The servers. Their balancer is a column only where there are several."""
    balancers = list(dict.fromkeys(server.balancer for server in servers))
    rows = [_server(server) for server in servers]
    if len(balancers) == 1:
        return f"Balancer {balancers[0]}", _SERVERS, rows
    named = [[(server.balancer, ""), *row] for server, row in zip(servers, rows, strict=True)]
    return "Balancers", (Column("balancer"), *_SERVERS), named


def _server(server: ServerStatus) -> list[Cell]:
    state, style = server.state, _STATES.get(server.state, _BAD)
    if server.down and state != "down":
        state, style = f"{state}, down", _BAD
    return [
        (server.server, _NAME),
        (state, style),
        (str(server.weight), "" if server.weight else _WARN),
        (str(server.jobs), ""),
        (str(server.queued), _WARN if server.queued else ""),
        (str(server.errors_5xx), _WARN if server.errors_5xx else ""),
        (str(server.errors_connection), _WARN if server.errors_connection else ""),
        (_known(server.response_time), ""),
        (_known(server.check), ""),
    ]


def _print_problems(console: Console, problems: Iterable[Problem]) -> None:
    from rich.text import Text

    for problem in problems:
        line = Text.assemble((problem.place, _NAME), ": ", (problem.what, _BAD))
        console.print(line, soft_wrap=not console.is_terminal)
        if problem.remedy:
            console.print(Text(f"  try: {problem.remedy}", style=_DIM), soft_wrap=not console.is_terminal)


def _summary(status: Status) -> str:
    counted = [_count(len(status.hosts), "host")]
    if status.slots:
        counted.append(_count(len(status.slots), "slot"))
    if status.servers:
        counted.append(_count(len({server.balancer for server in status.servers}), "balancer"))
    held = {server.server for server in status.servers if server.state in ("drain", "maint")}
    out = f", {_count(len(held), 'slot')} out of service on purpose (`fleet ready` ends that)" if held else ""
    return f"{', '.join(counted)}: all well{out}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _known(value: object, form: str = "{}") -> str:
    return _NOTHING if value is None or value == "" else form.format(value)


def _services(host: HostStatus) -> str:
    found = (("docker", host.engine), ("haproxy", host.haproxy))
    return ", ".join(f"{name} {re.split('[+-]', text)[0]}" for name, text in found if text) or _NOTHING


def _short_os(name: str | None) -> str:
    """`Debian 13`, `Ubuntu 24.04`: what tells systems apart."""
    words = (name or "").replace("GNU/Linux ", "").partition("(")[0].split()
    return " ".join(word for word in words if word not in ("LTS", "Linux")) or _NOTHING


def _short_image(reference: str, shared: bool) -> str:
    """The tag where the repository is told elsewhere, else with the repository's last word."""
    if reference.startswith("sha256:"):
        return _short_digest(reference)
    name, its_tag = repository(reference).rpartition("/")[2], tag(reference)
    return its_tag if shared else f"{name}:{its_tag}" if its_tag else name


def _short_digest(digest: str | None) -> str:
    return digest.rpartition(":")[2][:12] if digest else _NOTHING


def _memory(used: int | None, total: int | None) -> str:
    parts = [_NOTHING if mib is None else f"{mib / 1024:.1f}" for mib in (used, total)]
    return _NOTHING if used is None and total is None else "/".join(parts)


def _bytes(number: int | None) -> str:
    if number is None:
        return _NOTHING
    gib = number / 2**30
    return f"{gib / 1024:.1f} TiB" if gib >= 1000 else f"{gib:.0f} GiB" if gib >= 10 else f"{gib:.1f} GiB"


def _span(seconds: int | None) -> str:
    """A length of time in its two largest units at most: 45s, 12m, 3h 05m, 17d."""
    if seconds is None:
        return _NOTHING
    if seconds < _MINUTE:
        return f"{seconds}s"
    if seconds < _HOUR:
        return f"{seconds // _MINUTE}m"
    if seconds < _DAY:
        return f"{seconds // _HOUR}h{seconds % _HOUR // _MINUTE:02}m"
    return f"{seconds // _DAY}d"


def _most_common(values: Iterable[str]) -> str | None:
    from collections import Counter

    common = Counter(values).most_common(1)
    return common[0][0] if common else None
