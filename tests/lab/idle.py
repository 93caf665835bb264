"""Pages in Debian's Chromium, and pages that nobody touches for a while."""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from tests.lab.jobs import Tally, in_thread, together
from tests.lab.pages import Browser, expected


@contextmanager
def running_chromium() -> Iterator[Any]:
    """Debian's Chromium, without the connections it makes of its own accord."""
    from playwright.sync_api import sync_playwright

    quiet = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    quiet += ["--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=quiet)
        yield browser
        browser.close()


class Idle:
    """Pages that nobody touches while the other tests run: their heartbeats stay open, and then each has a job."""

    def __init__(self, url: str, chromium: Any, count: int) -> None:
        self.opened = time.monotonic()
        self.tab = chromium.new_context().new_page()
        self.tab.goto(url, wait_until="domcontentloaded")
        translate(self.tab, "before the pause")
        self._over = threading.Event()
        self._ready = threading.Semaphore(0)
        self._thread = ThreadPoolExecutor(1)
        self._work = self._thread.submit(in_thread, lambda: together(self._page(url), count, count))
        for _ in range(count):
            assert self._ready.acquire(timeout=120)

    def _page(self, url: str) -> Callable[[int], Awaitable[str]]:
        async def page(number: int) -> str:
            async with Browser(url) as browser:
                tab = browser.page()
                try:
                    await tab.translate(f"before {number}")
                finally:
                    self._ready.release()
                beats = await tab.heartbeat(self._over.is_set)
                assert beats >= 2, f"heartbeat: {beats} beats"
                return await tab.translate(f"after {number}")

        return page

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.opened

    def wake(self) -> Tally:
        """End the pause with a job in each page."""
        translate(self.tab, "after the pause")
        self._over.set()
        tally = self._work.result()
        # How long the pause was says nothing of the jobs.
        tally.seconds = [0.0] * (len(tally.seconds) + 1)
        return tally

    def close(self) -> None:
        self._over.set()
        self._thread.shutdown()
        self.tab.context.close()


def translate(tab: Any, text: str, start_only: bool = False) -> None:
    """Type a text into the page, press the button, and wait for the answer."""
    tab.get_by_label("Text", exact=True).fill(text)
    tab.get_by_role("button", name="Translate").click()
    if not start_only:
        answer(tab, text)


def answer(tab: Any, text: str) -> None:
    output = tab.get_by_label("Translation", exact=True)
    tab.wait_for_function(
        "([box, wanted]) => box.value === wanted",
        arg=[output.element_handle(), expected(text)],
        timeout=60_000,
    )
