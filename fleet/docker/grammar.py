"""The grammar of image references, with a message for each way to get one wrong."""

from __future__ import annotations

import re

_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_HOST = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]+\])"
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_PATH = re.compile(rf"{_PART}(?:/{_PART})*")
_REGISTRY = re.compile(rf"{_HOST}(?::[0-9]{{1,5}})?")


def check_reference(reference: str) -> None:
    """Raise ValueError, saying what is wrong, unless this is an image reference."""
    if not reference:
        raise ValueError("the image's name is empty")
    name, at, digest = reference.partition("@")
    if at:
        check_digest(digest)
    if "://" in name:
        raise ValueError(f"{reference!r}: leave out {name.partition('://')[0]}://")
    head, slash, rest = name.partition("/")
    # Docker's rule: the first part is a registry if it cannot be a folder.
    if slash and ("." in head or ":" in head or head == "localhost" or head != head.lower()):
        if not _REGISTRY.fullmatch(head):
            raise ValueError(f"{reference!r}: {head!r} is not a registry (host or host:port)")
    else:
        rest = name
    path, colon, tag = rest.rpartition(":") if ":" in rest else (rest, "", "")
    if colon and not _TAG.fullmatch(tag):
        raise ValueError(f"{reference!r}: {tag!r} is not a tag")
    if path != path.lower():
        raise ValueError(f"{reference!r}: an image's name is written in small letters")
    if not _PATH.fullmatch(path):
        raise ValueError(f"{reference!r}: {path!r} is not an image's name")


def check_digest(digest: str) -> None:
    """Raise ValueError unless this is an image digest."""
    if not _DIGEST.fullmatch(digest):
        raise ValueError(f"{digest!r} is not a digest: sha256: and 64 hexadecimal digits")
