"""A golden translation: a sentence whose answer is known, sent as a user's would be.

An HTTP 200 on the page does not prove that the model works; a right answer does. It goes through Gradio's
two-step call (POST /call/NAME gives an event id, GET /call/NAME/ID streams the result), the form that needs
no cookie and no session.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from fleet.errors import InputError, Place, TaskError
from fleet.inventory import Inventory, variables


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


@dataclass(frozen=True)
class Translation:
    """An answer and how long it took, in seconds."""

    text: str
    seconds: float


class KeyNeededError(TaskError):
    """The service's gateway asks for an API key and was not given a valid one."""


KEY_VARIABLE = "FLEET_API_KEY"
"""The environment variable that holds an API key of the service, for translations fleet makes itself."""


def golden_of(inventory: Inventory) -> Golden:
    """The inventory's `golden` variable (of the first balancer), or the default sentence."""
    for host in inventory.select("balancer") if "balancer" in inventory.groups else ():
        given = host.vars.get("golden")
        if given is not None:
            try:
                return msgspec.convert(given, Golden)
            except msgspec.ValidationError as error:
                raise InputError(
                    f"variable `golden` of {host.name}: {error}",
                    place=host.place,
                    remedy="it has `inputs` (a list), `contains`, `api` and `deadline`",
                ) from error
    return Golden()


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
    if golden.contains.lower() not in text.lower():
        raise TaskError(
            f"wrong translation from {url}: {golden.text!r} gave {text!r}, which lacks {golden.contains!r}",
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
