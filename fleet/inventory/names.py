"""Which known name was meant by an unknown one."""

from __future__ import annotations

from collections.abc import Iterable


def suggest(word: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known name nearest to `word`, for an error that is raised anyway; None where none is near."""
    from difflib import get_close_matches  # only errors pay for it

    by_folded = {_folded(name): name for name in known}
    folded = _folded(word)
    if folded in by_folded:
        return by_folded[folded]
    close = get_close_matches(folded, list(by_folded), n=1, cutoff=cutoff)
    return by_folded[close[0]] if close else None


def misspelt(word: str, known: Iterable[str]) -> str | None:
    """The known name that `word` surely was meant to be, for a word that may be the user's own.

    Stricter than `suggest`: the same letters written otherwise (`slotPortBase`), or one or two slips.
    """
    if len(word) < 5:
        return None
    folded = _folded(word)
    allowed = 1 if len(word) < 8 else 2
    for name in known:
        if folded == _folded(name):
            return name
        if word[0] == name[0] and abs(len(word) - len(name)) <= allowed and distance(word, name) <= allowed:
            return name
    return None


def distance(a: str, b: str) -> int:
    """How many letters must be put in, taken out, changed or swapped with their neighbour."""
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        older, before, row = before, row, [i]
        for j, y in enumerate(b, 1):
            best = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (x != y))
            if i > 1 and j > 1 and x == b[j - 2] and a[i - 2] == y:
                best = min(best, older[j - 2] + 1)
            row.append(best)
    return row[-1]


def _folded(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")
