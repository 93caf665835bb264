"""The clients of an `upgrade_load`, in their process: gradio_client, plain calls, pages, Chromium."""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import threading
import time
from collections.abc import Awaitable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any, TextIO

import httpx

from tests.lab import pages
from tests.lab.idle import running_chromium, translate
from tests.lab.jobs import by_gradio, gradio
from tests.lab.pages import LANGUAGE, Browser, JobError, Page, RefusedError, expected, name_of, same
from tests.lab.upgrade_load import END, HUNG, READY, Clients, Job

_VERSION = 1  # the function's number in the lab's page

Told = tuple[str, str]
"""The slot and the version that answered."""


@dataclass
class Sender:
    """The clients of one load and what they write down."""

    clients: Clients
    out: TextIO
    over: threading.Event
    bare: dict[str, Browser] = field(default_factory=dict)
    idle: dict[str, list[Page]] = field(default_factory=dict)
    programs: dict[str, Any] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(64))
        urls = self.clients.urls
        self.bare = {url: Browser(url, cookies=False) for url in urls}
        self.idle = {url: [] for url in urls}
        for number in range(self.clients.pages):
            url = urls[number // 2 % len(urls)]
            # Every other page keeps its cookies, of which each is in a browser of its own.
            self.idle[url].append((self.bare[url] if number % 2 else Browser(url)).page())
        beating = [asyncio.create_task(self._beat(page)) for open_ in self.idle.values() for page in open_]
        if self.clients.gradio:
            made = await asyncio.gather(*(asyncio.to_thread(gradio, url) for url in urls))
            self.programs = dict(zip(urls, made, strict=True))
        chromium = await self._chromium()
        self._line(READY)
        await self._pace()
        for task in beating:
            task.cancel()
        await chromium
        self._line(END)

    async def _pace(self) -> None:
        began = time.monotonic()
        running: set[asyncio.Task[None]] = set()
        for number in itertools.count():
            due = began + number / self.clients.rate
            while (left := due - time.monotonic()) > 0 and not self.over.is_set():
                await asyncio.sleep(min(left, 0.2))
            if self.over.is_set():
                break
            task = asyncio.create_task(self._counted(number))
            running.add(task)
            task.add_done_callback(running.discard)
        await asyncio.gather(*running)

    async def _counted(self, number: int) -> None:
        # Every kind comes by every balancer.
        kind, url = self._kind(number), self.clients.urls[(number + number // 20) % len(self.clients.urls)]
        job = getattr(self, f"_{kind}")(number, url)
        await self._count(kind, url, asyncio.wait_for(job, self.clients.deadline + 5))

    def _kind(self, number: int) -> str:
        turn = number % 20
        if turn == 9 and self.clients.gradio:
            return "new_gradio" if number % 60 == 9 else "gradio"
        return "version" if turn == 4 else "call" if turn % 3 == 1 else "page"

    async def _count(self, kind: str, url: str, job: Awaitable[Told]) -> None:
        began = time.monotonic()
        slot = version = reason = ""
        try:
            slot, version = await job
        except Exception as error:
            slot, reason = getattr(error, "slot", ""), why(error)
        self._job(Job(kind, url, began, time.monotonic(), slot, version, reason))

    async def _page(self, number: int, url: str) -> Told:
        page = self._take(url)
        slot = await page.translate(f"page {number}")
        self.idle[url].append(page)
        return slot, ""

    async def _version(self, number: int, url: str) -> Told:
        page = self._take(url)
        output, slot = await page.job(_VERSION, [])
        self.idle[url].append(page)
        return slot, str(output[0])

    def _take(self, url: str) -> Page:
        """The page that has had nothing to do for longest; a new one where all wait for answers.

        One whose job fails is not used again.
        """
        return self.idle[url].pop(0) if self.idle[url] else self.bare[url].page()

    async def _call(self, number: int, url: str) -> Told:
        return await self.bare[url].call(f"call {number}"), ""

    async def _new_gradio(self, number: int, url: str) -> Told:
        return await by_gradio(url, f"new client {number}"), ""

    async def _gradio(self, number: int, url: str) -> Told:
        """A job of a client that has been there from the beginning."""
        text = f"client {number}"

        def work() -> None:
            job = self.programs[url].submit(text, LANGUAGE, api_name="/translate")
            same("answer", job.result(timeout=self.clients.deadline), expected(text))

        await asyncio.to_thread(work)
        return "", ""

    async def _beat(self, page: Page) -> None:
        """A page's heartbeat, opened again when it ends, as it does when its slot's container is replaced."""
        while not self.over.is_set():
            try:
                await page.heartbeat(self.over.is_set)
            except (JobError, httpx.HTTPError):
                await asyncio.sleep(0.5)

    async def _chromium(self) -> asyncio.Future[None]:
        """Ends, or fails, with the real browser's pages."""
        ready = threading.Event()
        work = asyncio.ensure_future(asyncio.to_thread(self._tabs, ready))
        while not ready.is_set() and not work.done():
            await asyncio.sleep(0.1)
        return work

    def _tabs(self, ready: threading.Event) -> None:
        """Pages in the real browser; one that waits in vain is loaded again."""
        if not self.clients.tabs:
            ready.set()
            return
        urls = itertools.cycle(self.clients.urls)
        with running_chromium() as chromium:
            opened = [(chromium.new_context().new_page(), next(urls)) for _ in range(self.clients.tabs)]
            for tab, url in opened:
                tab.goto(url, wait_until="domcontentloaded")
            ready.set()
            for number in itertools.count():
                tab, url = opened[number % len(opened)]
                if self.over.wait(1 / len(opened)):
                    return
                began, reason = time.monotonic(), ""
                try:
                    translate(tab, f"tab {number}")
                except Exception as error:
                    reason = why(error)
                self._job(Job("chromium", url, began, time.monotonic(), reason=reason))
                if reason:
                    tab.goto(url, wait_until="domcontentloaded")

    def _job(self, job: Job) -> None:
        self._line(json.dumps(asdict(job)))

    def _line(self, text: str) -> None:
        with self.lock:
            print(text, file=self.out, flush=True)


def why(error: Exception) -> str:
    """What a failed job is written down with."""
    if isinstance(error, RefusedError):
        return f"refused: {error}"
    if isinstance(error, JobError):
        waited = "none within" in str(error) or "ReadTimeout" in str(error)
        return HUNG if waited else str(error)
    if isinstance(error, TimeoutError | httpx.ReadTimeout) or type(error).__name__ == "TimeoutError":
        return HUNG
    return name_of(error)


def main() -> None:
    """CLIENTS as JSON; sends jobs until its standard input ends."""
    given = json.loads(sys.argv[1])
    clients = Clients(**{**given, "urls": tuple(given["urls"])})
    # How long a page waits for its answer; here it is this load's deadline.
    pages.DEADLINE = clients.deadline
    over = threading.Event()

    def wait() -> None:
        sys.stdin.read()
        over.set()

    threading.Thread(target=wait, daemon=True).start()
    asyncio.run(Sender(clients, sys.stdout, over).run())


if __name__ == "__main__":
    main()
