"""A page and a browser as Gradio's own JavaScript has them, over httpx: the real client takes too long to make.

A page joins Gradio's queue with its session's name and reads the events of that session from a stream (protocol
sse_v3). Failures tell the stage and, as far as the client was told, the slot.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import string
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import httpx

LANGUAGE = "Chinese"
API = "/gradio_api"
COOKIE = "FLEET"
DEADLINE = 120.0


def expected(text: str, language: str = LANGUAGE) -> str:
    """What the lab's image answers to a text that is not in its table."""
    return f"[{language}] {text}"


class JobError(Exception):
    """A job that did not come back as it should; the text begins with the stage it ended in.

    `slot` is where it was, as far as the client was told.
    """

    slot = ""


class RefusedError(JobError):
    """A job that was turned away before it began: 429 or 503, with `Retry-After` (seconds) where it has one."""

    def __init__(self, stage: str, answer: httpx.Response) -> None:
        super().__init__(f"{stage}: {answer.status_code} {answer.text[:80]!r}")
        self.status = answer.status_code
        self.retry_after = answer.headers.get("Retry-After")


@cache
def _no_tls() -> Any:
    """Plain http needs no certificates, which take longer to load than a job."""
    import ssl

    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


class Browser:
    """One browser: connections and cookies that all its tabs share; `cookies` says whether it keeps any."""

    def __init__(self, url: str, *, cookies: bool = True, headers: Mapping[str, str] | None = None) -> None:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=20, keepalive_expiry=20)
        self.http = httpx.AsyncClient(
            base_url=url,
            verify=_no_tls(),
            trust_env=False,
            timeout=httpx.Timeout(DEADLINE, connect=10),
            limits=limits,
            headers=headers,
        )
        self.cookies = cookies

    async def __aenter__(self) -> Browser:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.http.aclose()

    def page(self, other: Browser | None = None) -> Page:
        """A tab; with `other`, its events come by that one's connections, to another balancer perhaps."""
        return Page(self, other or self)

    async def post(self, stage: str, path: str, **more: Any) -> httpx.Response:
        """A POST that must be answered with 200; a refusal (429, 503) is told from a failure."""
        self.forget()
        answer = await self.http.post(path, **more)
        if answer.status_code in (429, 503):
            raise RefusedError(stage, answer)
        if answer.status_code != 200:
            raise JobError(f"{stage}: {answer.status_code} {answer.text[:80]!r}")
        return answer

    async def get(self, stage: str, path: str, **more: Any) -> httpx.Response:
        self.forget()
        answer = await self.http.get(path, **more)
        if answer.status_code != 200:
            raise JobError(f"{stage}: {answer.status_code} {answer.text[:80]!r}")
        return answer

    def forget(self) -> None:
        if not self.cookies:
            self.http.cookies.clear()

    async def call(self, text: str) -> str:
        """One job over the two plain requests that need no client library; the slot it was on."""
        body = {"data": [text, LANGUAGE]}
        asked = await self.post("call", f"{API}/call/translate", json=body)
        with on(slot := slot_of(asked)):
            event = asked.json()["event_id"]
            events = (await self.get("events of a call", f"{API}/call/translate/{event}")).text
            if "event: complete\ndata: " not in events:
                raise JobError(f"events of a call: no end in {events[-120:]!r}")
            answer = json.loads(events.split("event: complete\ndata: ")[1].splitlines()[0])
            same("events of a call", answer, [expected(text)])
        return slot

    async def document(self, number: int) -> str:
        """A file that is sent, a job on it, and the file it makes: as the page's lower half does it."""
        text = f"line of {self.http.base_url} {number} {time.time()}\n" * 500
        path = await self.upload(f"text-{number}.txt", text.encode())
        file = {"path": path, "meta": {"_type": "gradio.FileData"}, "orig_name": f"text-{number}.txt"}
        output, slot = await self.page().job(2, [file, LANGUAGE])
        found = (await self.download(output[0]["path"])).decode()
        same("download", found, "".join(expected(line) + "\n" for line in text.splitlines()))
        return slot

    async def upload(self, name: str, content: bytes) -> str:
        """Send a file; its path on the slot."""
        answer = await self.post("upload", f"{API}/upload", files={"files": (name, content, "text/plain")})
        path: str = answer.json()[0]
        return path

    async def download(self, path: str) -> bytes:
        return (await self.get("download", f"{API}/file={path}")).content


class Page:
    """One tab: a session of its own, whose jobs may overlap, and one stream for the events of all of them."""

    def __init__(self, browser: Browser, events_by: Browser) -> None:
        self.browser, self.events_by = browser, events_by
        self.session = "".join(random.choices(string.ascii_lowercase + string.digits, k=11))
        self._waiting: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._early: dict[str, dict[str, Any]] = {}
        self._stream: asyncio.Task[None] | None = None
        self._slot = ""

    async def translate(self, text: str) -> str:
        """One job by the page's button; the slot it was on (empty where a cookie does not tell)."""
        output, slot = await self.job(0, [text, LANGUAGE])
        same("answer", output, [expected(text)])
        return slot

    async def job(self, function: int, data: list[Any]) -> tuple[list[Any], str]:
        body = {
            "data": data,
            "event_data": None,
            "fn_index": function,
            "trigger_id": 7,
            "session_hash": self.session,
        }
        asked = await self.browser.post("join", f"{API}/queue/join", json=body)
        # Without a new cookie the job went where the session's jobs are.
        self._slot = slot = slot_of(asked) or self._slot
        event: str = asked.json()["event_id"]
        done: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[event] = done
        if event in self._early:
            done.set_result(self._early.pop(event))
        self._read()
        with on(slot):
            try:
                message = await asyncio.wait_for(done, DEADLINE)
            except TimeoutError:
                raise JobError(f"answer: none within {DEADLINE:.0f} s") from None
            finally:
                self._waiting.pop(event, None)
            if message["msg"] != "process_completed" or not message["success"]:
                raise JobError(f"answer: {_told(message)}")
        return message["output"]["data"], slot

    def _read(self) -> None:
        """Have the session's stream open while an answer is awaited."""
        if self._stream is None or self._stream.done():
            self._stream = asyncio.create_task(self._events())

    async def _events(self) -> None:
        try:
            while any(not done.done() for done in self._waiting.values()):
                await self._one_stream()
        except (JobError, httpx.HTTPError) as error:
            failure = error if isinstance(error, JobError) else JobError(f"stream: {name_of(error)}")
            for done in self._waiting.values():
                if not done.done():
                    done.set_exception(failure)

    async def _one_stream(self) -> None:
        self.events_by.forget()
        where = f"{API}/queue/data"
        async with self.events_by.http.stream("GET", where, params={"session_hash": self.session}) as answer:
            if answer.status_code != 200:
                text = (await answer.aread())[:80]
                raise JobError(f"stream: {answer.status_code} {text!r}")
            came = False
            async for line in answer.aiter_lines():
                if not line.startswith("data:"):
                    continue
                message = json.loads(line[5:])
                if message["msg"] == "close_stream":
                    return
                came = True
                self._take(message)
            if not came:
                raise JobError("stream: ended without a word")
            if any(not done.done() for done in self._waiting.values()):
                raise JobError("stream: cut off before its end")

    def _take(self, message: dict[str, Any]) -> None:
        event = message.get("event_id") or ""
        if message["msg"] == "unexpected_error" and not event:
            for done in self._waiting.values():
                if not done.done():
                    done.set_result({**message, "success": False})
        elif message["msg"] == "process_completed":
            waiting = self._waiting.get(event)
            if waiting is None:
                self._early[event] = message
            elif not waiting.done():
                waiting.set_result(message)

    async def heartbeat(self, over: Callable[[], bool]) -> int:
        """Keep the page's heartbeat open until `over`; how often it beat. An end before that is a failure."""
        beats = 0

        async def listen() -> None:
            nonlocal beats
            self.browser.forget()
            async with self.browser.http.stream("GET", f"{API}/heartbeat/{self.session}") as answer:
                if answer.status_code != 200:
                    raise JobError(f"heartbeat: {answer.status_code}")
                async for line in answer.aiter_lines():
                    beats += line.startswith("data:")
            raise JobError(f"heartbeat: ended after {beats} beats")

        listener = asyncio.create_task(listen())
        try:
            while not over():
                if listener.done():
                    await listener
                await asyncio.sleep(0.1)
        finally:
            listener.cancel()
        return beats


def slot_of(answer: httpx.Response) -> str:
    """Which slot answered, where the balancer gives its cookie, which names the slot; else empty."""
    found = re.search(rf"\b{COOKIE}=([^;]*)", answer.headers.get("Set-Cookie", ""))
    return found[1] if found else ""


@contextmanager
def on(slot: str) -> Iterator[None]:
    """A failure in here tells the slot."""
    try:
        yield
    except (JobError, httpx.HTTPError) as error:
        failure = error if isinstance(error, JobError) else JobError(name_of(error))
        failure.slot = slot
        raise failure from error


def same(stage: str, found: object, wanted: object) -> None:
    if found != wanted:
        raise JobError(f"{stage}: {str(found)[:80]!r} instead of {str(wanted)[:80]!r}")


def _told(message: Mapping[str, Any]) -> str:
    """What an event says of a failure, without the names that differ from job to job."""
    return json.dumps({key: value for key, value in message.items() if key != "event_id"})[:120]


def name_of(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:120]
