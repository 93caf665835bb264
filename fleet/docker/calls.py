"""The engine operations a plan's steps may name, and how each is done.

| operation | arguments |
|---|---|
| pull | reference, digest (optional), auth (optional: username, password as Secret) |
| tag | source, reference |
| create | name, body (the Engine API's ContainerCreate body) |
| start | name |
| stop | name, timeout (seconds before SIGKILL; default 10) |
| remove | name, force (default false) |
| rename | name, to |
| login | registry, auth (checks a login, stores nothing) |
| resolve | reference, auth (optional); answers the digest that the registry has for it now |
| remove_image | reference, force (default false; true: under all its names) |
"""

from __future__ import annotations

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
    name = str(arguments["name"])
    _do(f"cannot start container {name}", lambda: client.api.start(name))


def _stop(client: DockerClient, arguments: Arguments, progress: Progress, shared: Shared) -> None:
    name, timeout = str(arguments["name"]), int(arguments.get("timeout", 10))
    progress(f"stopping, up to {timeout} s", 0.0, 0.0)
    _do(f"cannot stop container {name}", lambda: client.api.stop(name, timeout=timeout))


def _remove(client: DockerClient, arguments: Arguments, progress: Progress, shared: Shared) -> None:
    name, force = str(arguments["name"]), bool(arguments.get("force", False))
    _do(f"cannot remove container {name}", lambda: client.api.remove_container(name, v=True, force=force))


def _rename(client: DockerClient, arguments: Arguments, progress: Progress, shared: Shared) -> None:
    name, to = str(arguments["name"]), str(arguments["to"])
    _do(f"cannot rename container {name} to {to}", lambda: client.api.rename(name, to))


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


def _remove_image(client: DockerClient, arguments: Arguments, progress: Progress, shared: Shared) -> None:
    reference, force = str(arguments["reference"]), bool(arguments.get("force", False))
    _do(f"cannot remove image {reference}", lambda: client.api.remove_image(reference, force=force))


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
    "remove_image": _remove_image,
}


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
