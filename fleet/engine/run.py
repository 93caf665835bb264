"""A whole run: every host observed at once, then play after play, each host at its own pace."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial

from fleet.engine.bind import BoundTask, bind_play
from fleet.engine.everyone import MAX_FORKS
from fleet.engine.hostrun import Gate, HostRun, Opener, Operate, Settings
from fleet.engine.results import Listener, PlayStarted, RunResult, Stopping
from fleet.engine.turns import May, Turns, always
from fleet.errors import InputError
from fleet.inventory import Inventory, variables
from fleet.model.facts import Facts
from fleet.playbook.model import Play, Playbook


@dataclass(frozen=True)
class RunOptions:
    """A run's options. `extra` variables win over all others. `forks` 0 means as many as hosts, capped."""

    check: bool = False
    forks: int = 0
    limit: str = ""
    tags: tuple[str, ...] = ()
    extra: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class PlayWork:
    """A play's bound tasks and handlers, by host name."""

    play: Play
    tasks: Mapping[str, tuple[BoundTask, ...]]
    handlers: Mapping[str, tuple[BoundTask, ...]]


def prepare(book: Playbook, inventory: Inventory, options: RunOptions) -> list[PlayWork]:
    """Bind every task to every host. No host is touched; every mistake in the files is raised here."""
    limited = None
    if options.limit:
        limited = {host.name for host in inventory.select(options.limit, at_least_one=True)}
    work: list[PlayWork] = []
    for play in book.plays:
        tasks: dict[str, tuple[BoundTask, ...]] = {}
        handlers: dict[str, tuple[BoundTask, ...]] = {}
        for host in inventory.select(play.hosts, place=play.place):
            if limited is not None and host.name not in limited:
                continue
            scope = variables(inventory, host)
            where = partial(inventory.where, host.name)
            bound, bound_handlers = bind_play(play, book, host, inventory.hosts, scope, options.extra, where)
            tasks[host.name] = tuple(task for task in bound if _wanted(task, options.tags))
            handlers[host.name] = bound_handlers
        work.append(PlayWork(play, tasks, handlers))
    _check_tags(book, options.tags)
    if not any(item.tasks for item in work):
        raise InputError(
            "no host to work on",
            remedy="check --limit and the plays' `hosts` against `fleet inventory`",
        )
    return work


def run(
    work: Sequence[PlayWork],
    inventory: Inventory,
    opener: Opener,
    listen: Listener,
    options: RunOptions,
    *,
    stop: threading.Event | None = None,
    witnesses: Mapping[str, Sequence[BoundTask]] | None = None,
    operations: Mapping[str, Operate] | None = None,
    gate: Gate | None = None,
    may: May = always,
) -> RunResult:
    """Observe, plan, apply and verify on all hosts. `stop` set means: end at the next safe point.

    A host that fails or cannot be reached ends alone; the others go on. `witnesses` are tasks, by host,
    whose questions are asked but which are not worked on: for the plans that use other hosts' facts.
    `operations` are what modules may ask for beyond one host, by name. A host that the `gate` refuses has
    failed before anything was changed on it. `may` is asked before each change that is throttled, and raises
    where it must not begin.
    """
    started = time.monotonic()
    stop = stop or threading.Event()
    listen = _one_at_a_time(listen)
    settings = Settings(options.check, listen, stop.is_set, operations or {}, gate, Turns(may))
    asked = [*(item.tasks for item in work), witnesses or {}]
    names = [name for name in inventory.hosts if any(name in tasks for tasks in asked)]
    runs = {
        name: HostRun(name, [t for tasks in asked for t in tasks.get(name, ())], opener, settings)
        for name in names
    }
    looked = threading.Event()

    def fleet() -> Mapping[str, Facts]:
        looked.wait()
        return {name: each.facts for name, each in runs.items() if each.facts}

    forks = options.forks or min(len(names), MAX_FORKS)
    pool = ThreadPoolExecutor(max_workers=max(forks, 1), thread_name_prefix="host")
    try:
        observed = {name: pool.submit(runs[name].observe) for name in names}
        threading.Thread(target=_after, args=(list(observed.values()), looked.set), daemon=True).start()
        for item in work:
            if stop.is_set():
                break
            if not item.tasks:
                continue
            listen(PlayStarted(item.play.name, tuple(item.tasks)))
            futures = [pool.submit(_work, runs[name], item, fleet, observed[name]) for name in item.tasks]
            _drain([*futures, *observed.values()], stop, listen)
        _drain([pool.submit(each.close) for each in runs.values()], stop, listen)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return RunResult(
        hosts={name: each.result for name, each in runs.items()},
        check=options.check,
        seconds=time.monotonic() - started,
        interrupted=stop.is_set(),
    )


def _work(
    host: HostRun, item: PlayWork, fleet: Callable[[], Mapping[str, Facts]], observed: Future[None]
) -> None:
    """One play on one host. Observations stand before all work in the pool's queue, so waiting is safe."""
    observed.result()
    if host.alive:
        name = host.result.host
        host.work(item.tasks[name], item.handlers[name], fleet)


def _drain(futures: Sequence[Future[None]], stop: threading.Event, listen: Listener) -> None:
    """Wait for all. Ctrl-C asks the hosts to stop at a safe point; a second Ctrl-C is the caller's."""
    try:
        wait(futures)
    except KeyboardInterrupt:
        stop.set()
        listen(Stopping())
        wait(futures)
    for future in futures:
        if not future.cancelled():
            future.result()


def _after(futures: Sequence[Future[None]], then: Callable[[], None]) -> None:
    wait(futures)
    then()


def _one_at_a_time(listen: Listener) -> Listener:
    lock = threading.Lock()

    def locked(event: object) -> None:
        with lock:
            listen(event)  # type: ignore[arg-type]

    return locked


def _wanted(task: BoundTask, tags: tuple[str, ...]) -> bool:
    return not tags or bool(set(tags) & set(task.task.tags))


def _check_tags(book: Playbook, tags: tuple[str, ...]) -> None:
    known = sorted({tag for play in book.plays for task in play.tasks for tag in task.tags})
    for tag in tags:
        if tag not in known:
            raise InputError(
                f"no task of {book.path} has the tag {tag!r}",
                remedy=f"its tags are: {', '.join(known)}" if known else "its tasks have no tags",
            )
