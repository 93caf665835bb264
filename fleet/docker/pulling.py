"""Pulling an image with live progress, the same bytes on every host."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fleet.docker.failures import engine_error
from fleet.docker.references import repository, tag
from fleet.docker.shared import Shared
from fleet.errors import StepError
from fleet.model.secret import Secret

if TYPE_CHECKING:
    from docker import DockerClient

Progress = Callable[[str, float, float], None]
_EVERY = 1 << 20
"""Bytes between two reports."""


@dataclass(frozen=True)
class RegistryLogin:
    """Who we are at a registry."""

    username: str
    password: Secret

    def as_config(self) -> dict[str, str]:
        """The Engine API's AuthConfig."""
        return {"username": self.username, "password": self.password.reveal()}


def pull(
    client: DockerClient,
    reference: str,
    digest: str | None,
    login: RegistryLogin | None,
    progress: Progress,
    shared: Shared,
) -> str:
    """Make `reference` mean the image `digest` on the host; returns the digest.

    Without a digest the registry is asked what the tag means, once for all hosts of the run: whoever
    moves the tag meanwhile, every host gets the same bytes. Raises StepError with a remedy.
    """
    wanted = digest or reference.partition("@")[2]
    wanted = wanted or shared.once(("digest", reference), lambda: resolve(client, reference, login))
    name = repository(reference)
    _pull_layers(client, f"{name}@{wanted}", login, progress)
    if label := tag(reference):
        doing = f"cannot name {name}@{wanted[:19]} {reference}"
        _engine(doing, login, lambda: client.api.tag(f"{name}@{wanted}", name, label))
    return wanted


def resolve(client: DockerClient, reference: str, login: RegistryLogin | None) -> str:
    """The digest a registry has for a reference now, asked by the host's own engine."""
    answer = _engine(
        f"the registry gives no digest for {reference}",
        login,
        lambda: client.api.inspect_distribution(reference, auth_config=_auth(login)),  # type: ignore[no-untyped-call]
    )
    return str(answer["Descriptor"]["digest"])


def _engine(doing: str, login: RegistryLogin | None, ask: Callable[[], Any]) -> Any:
    import requests
    from docker.errors import DockerException

    try:
        return ask()
    except (DockerException, requests.RequestException) as error:
        raise _error(error, doing, login) from None


def _error(error: BaseException | str, doing: str, login: RegistryLogin | None) -> StepError:
    return engine_error(error, doing, hide=(login.password.reveal(),) if login else ())


def _auth(login: RegistryLogin | None) -> dict[str, str]:
    # Never None: the SDK would then send this machine's own docker logins to the host.
    return login.as_config() if login else {}


def _pull_layers(
    client: DockerClient, reference: str, login: RegistryLogin | None, progress: Progress
) -> None:
    doing = f"cannot pull {reference}"
    events = _engine(
        doing,
        login,
        lambda: client.api.pull(reference, stream=True, decode=True, auth_config=_auth(login)),
    )
    layers = Layers()
    reported = -_EVERY
    for event in _iterate(events, doing, login):
        if "error" in event:
            raise _error(str(event["error"]), doing, login)
        layers.take(event)
        if layers.done - reported >= _EVERY or layers.done < reported:
            reported = layers.done
            progress(layers.text, float(layers.done), float(layers.total))
    progress("pulled", float(layers.total), float(layers.total))


def _iterate(
    events: Iterable[Mapping[str, Any]], doing: str, login: RegistryLogin | None
) -> Iterable[Mapping[str, Any]]:
    iterator = iter(events)
    end: Mapping[str, Any] = {}
    while (event := _engine(doing, login, lambda: next(iterator, end))) is not end:
        yield event


@dataclass
class Layers:
    """The progress of all layers as one: bytes downloaded of the bytes known to come.

    The total grows while the engine learns of further layers; extraction follows the download.
    """

    _sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    text: str = "pulling"

    def take(self, event: Mapping[str, Any]) -> None:
        """Take one line of the engine's stream."""
        layer, status = event.get("id"), str(event.get("status", ""))
        if not layer or status.startswith("Pulling from"):
            return
        detail = event.get("progressDetail") or {}
        _, total = self._sizes.get(layer, (0, 0))
        if status == "Downloading" and detail.get("total", 0) > 0:
            self._sizes[layer] = (int(detail.get("current", 0)), int(detail["total"]))
            self.text = "downloading"
        elif status in ("Download complete", "Pull complete"):
            self._sizes[layer] = (total, total)
        elif status == "Extracting":
            self._sizes[layer] = (total, total)
            if self.done >= self.total:
                self.text = "extracting"

    @property
    def done(self) -> int:
        """Bytes downloaded."""
        return sum(done for done, _ in self._sizes.values())

    @property
    def total(self) -> int:
        """Bytes known so far."""
        return sum(total for _, total in self._sizes.values())
