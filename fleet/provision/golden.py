"""A golden translation: a sentence whose answer is known, sent as a user's would be.

An HTTP 200 on the page does not prove that the model works; a right answer does. It goes through Gradio's
two-step call (POST /call/NAME gives an event id, GET /call/NAME/ID streams the result), the form that needs
no cookie and no session.
"""

from __future__ import annotations

import json
import os
import re
import time
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from fleet.errors import InputError, Place, TaskError
from fleet.inventory import Inventory, variables
from fleet.model.decode import from_plain


class Golden(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A translation with a known answer.

    `inputs` go to the endpoint `api` in order; the answer must contain `contains` (upper and lower case
    alike). `deadline` in seconds covers connecting, queueing and the model.
    """

    inputs: tuple[str, ...] = ("It's on the house.", "Chinese")
    contains: str = "免费"
    api: str = "translate"
    deadline: float = 60.0

    @property
    def text(self) -> str:
        """The sentence to translate: the first input."""
        return self.inputs[0]

    def fault(self, answer: str) -> str:
        """What is wrong with an answer, such as "lacks '免费'"; empty where nothing is."""
        wanted = folded(self.contains).casefold()
        return "" if wanted in folded(answer).casefold() else f"lacks {self.contains!r}"


class Pair(Golden, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A translation whose answer is told in one of three ways; with none of them `contains` decides.

    `equals` is the whole answer; `similar` one that it must be like, by `ratio` (0 to 1, as difflib measures
    it). White space and the forms of characters that Unicode's NFKC makes the same are no difference.
    """

    equals: str = ""
    similar: str = ""
    ratio: float = 0.8

    def __post_init__(self) -> None:
        if not self.inputs:
            raise ValueError("inputs must have at least one text")
        if not _API.fullmatch(self.api):
            raise ValueError(f"api is {self.api!r}, not an endpoint's name such as translate")
        if not 0 < self.deadline <= 3600:
            raise ValueError(f"deadline is {self.deadline:g}; it must be above 0 and at most 3600 seconds")
        if self.equals and self.similar:
            raise ValueError("equals and similar cannot both be given")
        if not 0 < self.ratio <= 1:
            raise ValueError(f"ratio is {self.ratio:g}; it must be above 0 and at most 1")

    def fault(self, answer: str) -> str:
        """What is wrong with an answer; empty where nothing is."""
        from difflib import SequenceMatcher

        if self.equals:
            return "" if folded(answer) == folded(self.equals) else f"is not {self.equals!r}"
        if not self.similar:
            return super().fault(answer)
        # Without junk: it would leave frequent characters of long texts out.
        found = SequenceMatcher(None, folded(answer), folded(self.similar), autojunk=False).ratio()
        if found >= self.ratio:
            return ""
        return f"is like {self.similar!r} by {found:.2f} only, not {self.ratio:g}"


_API = re.compile(r"[A-Za-z0-9_.-]{1,200}")
_WAYS = ("contains", "equals", "similar")


def folded(text: str) -> str:
    """A text in Unicode's NFKC, with every run of white space as one space and none at the ends."""
    return " ".join(unicodedata.normalize("NFKC", text).split())


def read_pairs(given: Any, what: str, place: Place | None = None) -> tuple[Pair, ...]:
    """Golden pairs as a user wrote them: a mapping, or a list of mappings. `what` names them in errors.

    Raises InputError naming the key.
    """
    items = given if isinstance(given, list) else [given]
    remedy = (
        "each has `inputs` (a list), one of `contains`, `equals` and `similar`, and maybe "
        "`api`, `deadline` and `ratio`"
    )
    if not items:
        raise InputError(f"{what} is an empty list", place=place, remedy=remedy)
    pairs = []
    for number, item in enumerate(items):
        path = f"{what}[{number}]" if isinstance(given, list) else what
        try:
            pairs.append(from_plain(item, Pair))
        except msgspec.ValidationError as error:
            raise InputError(f"{path}: {_keyed(error)}", place=place, remedy=remedy) from error
        ways = [way for way in _WAYS if way in item]
        if len(ways) > 1:
            raise InputError(f"{path} has {' and '.join(ways)}; it takes one", place=place, remedy=remedy)
        if "inputs" in item and not ways:
            raise InputError(f"{path} says nothing of the answer", place=place, remedy=remedy)
    return tuple(pairs)


def _keyed(error: msgspec.ValidationError) -> str:
    """A message with the key as users write it: `$.inputs[0]` is `inputs[0]`."""
    return re.sub(r" - at `\$\.?([^`]*)`", lambda at: f" (`{at[1]}`)" if at[1] else "", str(error))


@dataclass(frozen=True)
class Translation:
    """An answer and how long it took, in seconds."""

    text: str
    seconds: float


class KeyNeededError(TaskError):
    """The service's gateway asks for an API key and was not given a valid one."""


KEY_VARIABLE = "FLEET_API_KEY"
"""The environment variable that holds an API key of the service, for translations fleet makes itself."""


def pairs_of(inventory: Inventory) -> tuple[Pair, ...]:
    """The inventory's `golden` variable (of the first balancer that has one), or the default sentence."""
    for host in inventory.select("balancer") if "balancer" in inventory.groups else ():
        given = host.vars.get("golden")
        if given is not None:
            return read_pairs(given, f"variable `golden` of {host.name}", host.place)
    return (Pair(),)


def golden_of(inventory: Inventory) -> Golden:
    """The first of the inventory's golden pairs."""
    return pairs_of(inventory)[0]


def service_url(inventory: Inventory) -> str | None:
    """Where users reach the service: `fleet_url`, else `lb_address`, else the first balancer's address.

    None without a balancer.
    """
    if "balancer" not in inventory.groups:
        return None
    for host in inventory.select("balancer"):
        scope = variables(inventory, host)
        if scope.get("fleet_url"):
            return str(scope["fleet_url"]).rstrip("/")
        address = str(scope.get("lb_address") or host.ssh_host).partition("/")[0]
        gateway = scope.get("gateway")
        if isinstance(gateway, dict) and gateway.get("certificate"):
            return _at("https", address, int(gateway.get("https_port", 443)))
        return _at("http", address, int(scope.get("lb_port", 80)))
    return None


def _at(scheme: str, host: str, port: int) -> str:
    usual = {"http": 80, "https": 443}[scheme]
    name = f"[{host}]" if ":" in host else host
    return f"{scheme}://{name}" + (f":{port}" if port != usual else "")


def translate(
    url: str, golden: Golden, *, patience: float = 0.0, waiting: Callable[[str], None] = lambda reason: None
) -> Translation:
    """Make the translation at `url`; while the service is not up, try again for `patience` seconds.

    `waiting` is told the reason, once, when it has to be tried again. The system's certificate authorities
    are trusted (SSL_CERT_FILE names others), and FLEET_API_KEY in the environment is sent as the key.

    Raises TaskError saying which rung failed: no answer, an HTTP status, a wrong translation; its kind
    KeyNeededError where the gateway wants a valid API key.
    """
    import ssl

    import httpx
    from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_delay, wait_fixed

    def again(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if state.attempt_number == 1 and error is not None:
            waiting(_reason(error))

    retry = Retrying(
        retry=retry_if_exception(_may_pass),
        stop=stop_after_delay(patience),
        wait=wait_fixed(1),
        before_sleep=again,
        reraise=True,
    )
    key = os.environ.get(KEY_VARIABLE)
    try:
        with httpx.Client(
            base_url=url,
            timeout=golden.deadline,
            trust_env=False,
            follow_redirects=True,
            verify=ssl.create_default_context(),
            headers={"X-API-Key": key} if key else {},
        ) as client:
            tried = time.monotonic()
            for attempt in retry:
                with attempt:
                    tried = time.monotonic()
                    text = _call(client, golden)
    except httpx.HTTPStatusError as error:
        if error.response.status_code == 401:
            raise KeyNeededError(
                f"{url} {'does not accept the API key' if key else 'asks for an API key'}",
                remedy=f"put a valid one into the environment variable {KEY_VARIABLE} (see `fleet key`)",
            ) from error
        raise TaskError(
            f"no translation from {url}: {_reason(error)}",
            output=error.response.text[:500],
            remedy="`fleet status` shows which slots are up",
        ) from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        untrusted = "CERTIFICATE_VERIFY_FAILED" in str(error)
        raise TaskError(
            f"no translation from {url}: {_reason(error)}",
            remedy="name its certificate authority's file in SSL_CERT_FILE, or the service in `fleet_url`"
            if untrusted
            else "check that this machine reaches the balancer; `fleet status` shows its state",
        ) from error
    if fault := golden.fault(text):
        raise TaskError(
            f"wrong translation from {url}: {golden.text!r} gave {text!r}, which {fault}",
            remedy="check the image, or set `golden` in the inventory to a sentence this model answers",
        )
    return Translation(text, time.monotonic() - tried)


def _may_pass(error: BaseException) -> bool:
    """True where a service that is still starting would fail like this."""
    response = getattr(error, "response", None)
    if response is not None:
        return response.status_code not in (401, 403)
    return type(error).__module__.startswith("httpx") and "CERTIFICATE_VERIFY_FAILED" not in str(error)


def _reason(error: BaseException) -> str:
    """Why a try failed, in a few words."""
    response = getattr(error, "response", None)
    if response is not None:
        return f"HTTP {response.status_code} on {response.request.url.path}"
    return str(error) or type(error).__name__


def _call(client: Any, golden: Golden) -> str:
    """One job over Gradio's /call; the prefix is /gradio_api from Gradio 5 and none before."""
    prefix = "/gradio_api"
    start = client.post(f"{prefix}/call/{golden.api}", json={"data": list(golden.inputs)})
    if start.status_code == 404:
        prefix = ""
        start = client.post(f"/call/{golden.api}", json={"data": list(golden.inputs)})
    start.raise_for_status()
    event = ""
    with client.stream("GET", f"{prefix}/call/{golden.api}/{start.json()['event_id']}") as stream:
        if stream.is_error:
            stream.read()
        stream.raise_for_status()
        for line in stream.iter_lines():
            if line.startswith("event:"):
                event = line[6:].strip()
            elif line.startswith("data:") and event in ("complete", "error"):
                if event == "error":
                    raise TaskError(
                        f"the service answered {golden.text!r} with an error: {line[5:].strip()}",
                        place=Place(str(client.base_url)),
                        remedy="look at the container's log: `docker logs` on the host",
                    )
                return " ".join(str(item) for item in json.loads(line[5:]))
    raise TaskError(
        f"the service ended the translation of {golden.text!r} without an answer",
        remedy="look at the container's log: `docker logs` on the host",
    )
