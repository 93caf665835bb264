"""The engine operations a plan's steps may name, and how each is done.

| operation | arguments |
|---|---|
| pull | reference, digest (optional), auth (optional: username, password as Secret) |
| tag | source, reference |
| create | name, body (the Engine API's ContainerCreate body) |
| start | name, id (optional) |
| stop | name, id (optional), timeout (seconds before SIGKILL; default 10) |
| remove | name, id (optional), force (default false; true: also one that runs, or none at all) |
| rename | name, id (optional), to |
| login | registry, auth (checks a login, stores nothing) |
| resolve | reference, auth (optional); answers the digest that the registry has for it now |
| images_in_use | answers the ids of the images that containers were made from, running or not, whoever's |
| remove_image | reference, force (default false; true: under all its names); one that is gone is no error |

Where an id is given, that very container is meant, whatever it is called by now; its name is for messages.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from fleet.docker.failures import engine_error
from fleet.docker.pulling import Progress, RegistryLogin, pull, resolve
from fleet.docker.references import repository, tag
from fleet.docker.shared import Shared
from fleet.model.secret import Secret

if TYPE_CHECKING:
    from docker import DockerClient

__all__ = ["CALLS", "Call", "Progress", "RegistryLogin", "Shared"]

Arguments = Mapping[str, Any]
Call = Callable[["DockerClient", Arguments, Progress, Shared], Any]


def _pull(client: DockerClient, arguments: Arguments, progress: Progress, shared: Shared) -> str:
    reference, digest = str(arguments["reference"]), arguments.get("digest")
    return pull(client, reference, digest, _login(arguments), progress, shared)


def _tag(client: DockerClient, arguments: Arguments, progress: Progress, shared: Shared) -> None:
    source, reference = str(arguments["source"]), str(arguments["reference"])
    _do(
        f"cannot tag {source} as {reference}",
        lambda: client.api.tag(source, repository(reference), tag(reference)),
    )


def _create(client: DockerClient, arguments: Arguments, progress: Progress, shared: Shared) -> str:
    name, body = str(arguments["name"]), dict(arguments["body"])
    made = _do(
        f"cannot create container {name}",
        lambda: client.api.create_container_from_config(body, name=name),  # type: ignore[no-untyped-call]
    )
    return str(made["Id"])


def _start(client: DockerClient, arguments: Arguments, progress: Progress, shared: Shared) -> None:
    name, which = _which(arguments)
    _do(f"cannot start container {name}", lambda: client.api.start(which))


def _stop(client: DockerClient, arguments: Arguments, progress: Progress, shared: Shared) -> None:
    (name, which), timeout = _which(arguments), int(arguments.get("timeout", 10))
    progress(f"stopping, up to {timeout} s", 0.0, 0.0)
    _do(f"cannot stop container {name}", lambda: client.api.stop(which, timeout=timeout))


def _remove(client: DockerClient, arguments: Arguments, progress: Progress, shared: Shared) -> None:
    (name, which), force = _which(arguments), bool(arguments.get("force", False))

    def remove() -> None:
        from docker.errors import NotFound

        with contextlib.suppress(*((NotFound,) if force else ())):
            client.api.remove_container(which, v=True, force=force)

    _do(f"cannot remove container {name}", remove)


def _rename(client: DockerClient, arguments: Arguments, progress: Progress, shared: Shared) -> None:
    (name, which), to = _which(arguments), str(arguments["to"])
    _do(f"cannot rename container {name} to {to}", lambda: client.api.rename(which, to))


def _check_login(client: DockerClient, arguments: Arguments, progress: Progress, shared: Shared) -> None:
    registry, login = str(arguments["registry"]), _login(arguments)
    if login is None:
        raise ValueError("login needs auth")
    _do(
        f"the registry {registry} refuses the login of {login.username}",
        lambda: client.api.login(login.username, login.password.reveal(), registry=registry, reauth=True),
        hide=login.password,
    )


def _resolve(client: DockerClient, arguments: Arguments, progress: Progress, shared: Shared) -> str:
    return resolve(client, str(arguments["reference"]), _login(arguments))


def _images_in_use(
    client: DockerClient, arguments: Arguments, progress: Progress, shared: Shared
) -> list[str]:
    found = _do("cannot list the containers", lambda: client.api.containers(all=True))
    return sorted({str(container["ImageID"]) for container in found})


def _remove_image(client: DockerClient, arguments: Arguments, progress: Progress, shared: Shared) -> None:
    from docker.errors import ImageNotFound

    reference, force = str(arguments["reference"]), bool(arguments.get("force", False))

    def remove() -> None:
        # With one name of an image the engine may drop others, of which a digest is one.
        with contextlib.suppress(ImageNotFound):
            client.api.remove_image(reference, force=force)

    _do(f"cannot remove image {reference}", remove)


CALLS: Mapping[str, Call] = {
    "pull": _pull,
    "tag": _tag,
    "create": _create,
    "start": _start,
    "stop": _stop,
    "remove": _remove,
    "rename": _rename,
    "login": _check_login,
    "resolve": _resolve,
    "images_in_use": _images_in_use,
    "remove_image": _remove_image,
}


def _which(arguments: Arguments) -> tuple[str, str]:
    """A container's name, and what the engine is told to mean it."""
    name = str(arguments["name"])
    return name, str(arguments.get("id") or name)


def _login(arguments: Arguments) -> RegistryLogin | None:
    auth = arguments.get("auth")
    if not auth:
        return None
    password = auth["password"]
    return RegistryLogin(
        str(auth["username"]), password if isinstance(password, Secret) else Secret(password)
    )


def _do(doing: str, ask: Callable[[], Any], *, hide: Secret | None = None) -> Any:
    import requests
    from docker.errors import DockerException

    try:
        return ask()
    except (DockerException, requests.RequestException) as error:
        raise engine_error(error, doing, hide=(hide.reveal(),) if hide else ()) from None
