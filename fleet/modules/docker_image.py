"""The module `docker_image`: an image is on the host, the same bytes on every host."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from fleet.docker.answers import Image, parse_images
from fleet.docker.grammar import check_digest, check_reference
from fleet.docker.probe import IMAGES_PROBE
from fleet.docker.references import familiar, find_image, repository, tag
from fleet.docker.sites import seeds_of, site_of
from fleet.errors import InputError
from fleet.model.facts import Facts, Probe
from fleet.model.secret import Secret
from fleet.model.steps import Change, EngineCall, Operation
from fleet.modules.base import Args, Context

OPERATION = "fetch"
"""What brings an image to a host by its site's seed: see `fleet.images.site`."""


class DockerImageArgs(Args, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Arguments of `docker_image`. An empty text counts as not given."""

    name: str
    digest: str = ""
    username: str = ""
    password_env: str = ""
    password_file: str = ""

    def __post_init__(self) -> None:
        check_reference(self.name)
        if self.digest:
            check_digest(self.digest)
            if "@" in self.name and not self.name.endswith(f"@{self.digest}"):
                raise ValueError("`name` and `digest` name two different digests")
        if self.password_env and self.password_file:
            raise ValueError("give only one of `password_env` and `password_file`")
        if bool(self.username) != bool(self.password_env or self.password_file):
            raise ValueError("a login needs `username` and one of `password_env` and `password_file`")


class DockerImage:
    """Have an image on the host, by one digest on the whole fleet.

    An image that is there under this name is left alone, even where the registry has moved the tag since:
    what runs is changed by naming another tag or a digest. Where it is missing, and another host of the
    inventory has it, exactly that host's digest is pulled; otherwise the registry is asked once per run what
    the tag means, and every host pulls that. An image loaded from a file (`docker load`) counts as there.
    The login is used for the pull alone and stored nowhere. Where the inventory names a host of the site that
    fetches images for the others (`image_seed`), they get it from that one: docs/images.md.

    Arguments:
        name: the image, `[registry[:port]/]name[:tag]`, or with `@sha256:...` at the end.
        digest: pull, and insist on, exactly these bytes.
        username: account at the registry.
        password_env: name of the environment variable, on the controller, that holds its password.
        password_file: file on the controller that holds its password.

    Example:
        - name: The service's image
          docker_image:
            name: registry.example:5000/hunyuan-mt-webui:v1
            username: fleet
            password_env: REGISTRY_PASSWORD
    """

    name: ClassVar[str] = "docker_image"
    args: ClassVar[type[Args]] = DockerImageArgs
    needs_fleet: ClassVar[bool] = True

    def probes(self, args: DockerImageArgs, ctx: Context) -> Sequence[Probe]:
        """Ask which images the host has."""
        return (IMAGES_PROBE,)

    def plan(self, args: DockerImageArgs, facts: Facts, ctx: Context) -> Sequence[Change]:
        """A pull where the image is missing; deferred while there is no engine."""
        images = parse_images(facts[IMAGES_PROBE.key])
        wanted = args.digest or args.name.partition("@")[2]
        if images is not None and _has(images, args.name, wanted):
            return ()
        login = login_of(args, ctx)  # a missing password is better found before anything is changed
        if images is None:
            return (Change(f"pull {args.name}"),)
        digest = wanted or _digest_elsewhere(args.name, ctx)
        arguments: dict[str, Any] = {"reference": args.name}
        if digest:
            arguments["digest"] = digest
        if login:
            arguments["auth"] = login
        at = f" at {digest[:19]}" if digest else ""
        call = EngineCall("pull", arguments)
        seed = seeds_of(ctx.hosts.values()).get(site_of(ctx.host))
        if seed is None:
            return (Change(f"pull {args.name}{at}", steps=(call,)),)
        giver = "" if seed == ctx.host.name else f" from {seed}"
        return (
            Change(f"pull {args.name}{at}{giver}", steps=(Operation(OPERATION, arguments, otherwise=call),)),
        )


def _has(images: Sequence[Image], name: str, digest: str) -> bool:
    if not digest:
        return find_image(images, name) is not None
    exact = f"{repository(name)}@{digest}"
    label = tag(name)
    return any(
        exact in image.digests and (not label or familiar(name.partition("@")[0]) in image.tags)
        for image in images
    )


def _digest_elsewhere(name: str, ctx: Context) -> str:
    """The digest most other hosts have the tag at; empty where none has it."""
    found: Counter[str] = Counter()
    for host, facts in ctx.fleet.items():
        answer = facts.get(IMAGES_PROBE.key)
        if host == ctx.host.name or answer is None:
            continue
        image = find_image(parse_images(answer) or (), name)
        known = (text.partition("@") for text in image.digests) if image else ()
        found.update({digest for repo, _, digest in known if repo == repository(name)})
    return max(sorted(found), key=found.__getitem__, default="")


def login_of(args: DockerImageArgs, ctx: Context) -> dict[str, Any] | None:
    """The pull's login (`username`, `password` as Secret), None without one; InputError where it lacks."""
    if not args.username:
        return None
    if args.password_env:
        value = os.environ.get(args.password_env, "")
        where, remedy = f"environment variable {args.password_env}", f"export {args.password_env}=..."
    else:
        path = _find(args.password_file, ctx)
        where, remedy = f"password file {path}", "write the registry's password into it, mode 0600"
        try:
            value = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot read {where}: {error}", place=ctx.place, remedy=remedy) from error
    if not value:
        raise InputError(
            f"{where}, which is to hold the registry's password, is empty or not set",
            place=ctx.place,
            remedy=remedy,
        )
    return {"username": args.username, "password": Secret(value)}


def _find(name: str, ctx: Context) -> Path:
    path = Path(name).expanduser()
    candidates = [path] if path.is_absolute() else [*(folder / path for folder in ctx.search), path]
    return next((each for each in candidates if each.is_file()), candidates[-1])
