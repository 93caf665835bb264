"""The mark a configuration bears: its text's own hash, by which a running program tells which it uses."""

from __future__ import annotations

import hashlib


def marked(text: str, blank: str) -> str:
    """The text with its mark in each place of `blank`: the first 16 digits of its SHA-256 before that."""
    return text.replace(blank, _digest(text))


def is_edited(text: str, mark: str | None, blank: str) -> bool:
    """True where a text bears this mark and is no more the one that was marked."""
    return mark is not None and _digest(text.replace(mark, blank)) != mark


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
