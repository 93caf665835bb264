"""The apt_repository module: package repositories and their keys."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar, Literal

import msgspec

from fleet.model.facts import Facts, Probe
from fleet.model.steps import Change
from fleet.modules._files import find_source, read_source
from fleet.modules._keys import fingerprint, is_armored
from fleet.modules._os import OS_PROBE, system
from fleet.modules._sources import Source, source_changes, source_probes, source_removal
from fleet.modules.base import Args, Context

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_URI = re.compile(r"(https?|file|copy|cdrom|mirror|mirror\+https?)://?\S+")
_WORD = re.compile(r"\S+")


class AptRepositoryArgs(Args, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Arguments of `apt_repository`."""

    name: str
    state: Literal["present", "absent"] = "present"
    uris: str | list[str] = msgspec.field(default_factory=list)
    suites: str | list[str] = msgspec.field(default_factory=list)
    components: str | list[str] = msgspec.field(default_factory=list)
    types: str | list[str] = "deb"
    architectures: str | list[str] = msgspec.field(default_factory=list)
    signed_by: str | None = None
    key_url: str | None = None
    key_fingerprint: str | None = None
    trusted: bool = False

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"`name` becomes a file's name: letters, digits, _ and -, not {self.name!r}")
        if self.state == "absent":
            return
        for what in ("uris", "suites"):
            if not words(getattr(self, what)):
                raise ValueError(f"`{what}` is missing")
        for uri in words(self.uris):
            if not _URI.fullmatch(uri):
                raise ValueError(f"not an address of a repository: {uri!r}")
        for what in ("suites", "components", "types", "architectures"):
            if not all(_WORD.fullmatch(word) for word in words(getattr(self, what))):
                raise ValueError(f"`{what}` contains a word with a space; give a list")
        flat = all(suite.endswith("/") for suite in words(self.suites))
        if flat == bool(words(self.components)):
            raise ValueError("`components` are needed, except where every suite ends with `/`")
        if (self.key_url is None) != (self.key_fingerprint is None):
            raise ValueError("`key_url` and `key_fingerprint` go together")
        if self.key_fingerprint is not None:
            fingerprint(self.key_fingerprint)
        if self.key_url is not None and not self.key_url.startswith("https://"):
            raise ValueError("`key_url` must start with https://")
        if sum(map(bool, (self.signed_by, self.key_url, self.trusted))) > 1:
            raise ValueError("give one of `signed_by`, `key_url` and `trusted`")


class AptRepository:
    """Add a package repository with its key, or remove one.

    The repository's package lists are fetched before it becomes part of the host's configuration, so one
    that cannot be reached, or whose signature does not fit the key, changes nothing. In `uris`, `suites`
    and `components`, `$(ID)`, `$(CODENAME)`, `$(VERSION)` and `$(RELEASE)` stand for the host's
    system (`debian`, `trixie`, `13`, `debian13`; `ubuntu2404`), and `$(ARCH)` for its architecture.

    Arguments:
        name: the file's name in /etc/apt/sources.list.d, without `.sources`.
        state: `present` (default) or `absent`.
        uris: address of the repository, or a list.
        suites: suite, or a list; one that ends with `/` is a folder (a flat repository).
        components: component, or a list; none for a flat repository.
        types: `deb` (default), `deb-src`, or both.
        architectures: list; default the host's.
        signed_by: the repository's key: a file on the controller, or the key itself (ASCII armor).
        key_url: https address of the key; the host fetches it, with curl, once.
        key_fingerprint: fingerprint that the key from `key_url` must have.
        trusted: true takes an unsigned repository; for repositories of your own on a trusted network.

    Example:
        - name: NVIDIA's container toolkit
          apt_repository:
            name: nvidia-container-toolkit
            uris: https://nvidia.github.io/libnvidia-container/stable/deb/$(ARCH)
            suites: /
            signed_by: keys/nvidia-container-toolkit.asc
    """

    name: ClassVar[str] = "apt_repository"
    args: ClassVar[type[Args]] = AptRepositoryArgs

    def probes(self, args: AptRepositoryArgs, ctx: Context) -> Sequence[Probe]:
        """Ask for the source's file, its key and the host's system."""
        return (OS_PROBE, *source_probes(args.name))

    def plan(self, args: AptRepositoryArgs, facts: Facts, ctx: Context) -> Sequence[Change]:
        """One change with all that belongs to the repository."""
        if args.state == "absent":
            return source_removal(args.name, facts, ctx)
        host = system(facts, ctx)
        source = Source(
            name=args.name,
            uris=tuple(map(host.fill, words(args.uris))),
            suites=tuple(map(host.fill, words(args.suites))),
            components=tuple(map(host.fill, words(args.components))),
            types=words(args.types),
            architectures=words(args.architectures),
            key=_key(args, ctx),
            key_url=args.key_url,
            key_fingerprint=fingerprint(args.key_fingerprint) if args.key_fingerprint else "",
            trusted=args.trusted,
        )
        return source_changes(source, facts, ctx)


def words(value: str | list[str]) -> tuple[str, ...]:
    """One word or a list of them, as a tuple."""
    return (value,) if isinstance(value, str) else tuple(value)


def _key(args: AptRepositoryArgs, ctx: Context) -> bytes | None:
    if args.signed_by is None:
        return None
    if is_armored(args.signed_by.encode()):
        return args.signed_by.encode()
    path = find_source(args.signed_by, "files", ctx)
    key = read_source(path, ctx)
    if not is_armored(key) and key[:1] < b"\x80":
        raise ctx.fail(f"{path} is not an OpenPGP key", remedy="export one with `gpg --export --armor KEY`")
    return key
