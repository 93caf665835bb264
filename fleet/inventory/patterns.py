"""Ansible's host patterns.

A pattern is one or more terms between commas (or colons, where no IPv6 address is meant). A term is `all`,
a host, a group, a glob over both, `~` and a regular expression, or `@` and a file with a term per line. A
group or glob may end in `[0]`, `[-1]`, `[0:2]` (the last is included) or `[1:]`. Terms are united; then
those after `&` keep only hosts in them, then those after `!` take theirs out, wherever they stand.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path

from fleet.errors import InputError, Place
from fleet.inventory.names import suggest
from fleet.inventory.ranges import is_address, split_port
from fleet.inventory.tree import ALL

_PART = re.compile(r"(?:[^\s:\[\]]|\[[^\]]*\])+")
_SUBSCRIPT = re.compile(r"(.+)\[(?:(-?[0-9]+)|([0-9]+)[:-]([0-9]*))\]")
_GLOB = re.compile(r"[*?\[]")


def select(
    pattern: str,
    hosts: Collection[str],
    groups: Mapping[str, tuple[str, ...]],
    *,
    place: Place | None = None,
    at_least_one: bool = False,
) -> tuple[str, ...]:
    """The names of the hosts that a pattern means. Raises InputError, at `place`."""
    try:
        names = _Selection(hosts, groups).evaluate(list(_with_files(split(pattern))))
        if at_least_one and not names:
            raise InputError(f"no host is left of {pattern!r}", remedy=_SEE)
        return names
    except InputError as error:
        error.place = error.place or place
        raise


def split(pattern: str) -> list[str]:
    """The terms of a pattern. A comma anywhere makes commas the only separators."""
    if "," in pattern:
        parts = pattern.split(",")
    elif is_address(split_port(pattern)[0]):
        parts = [pattern]
    else:
        parts = _PART.findall(pattern)
    return [part.strip() for part in parts if part.strip()]


def _with_files(terms: Iterable[str]) -> Iterator[str]:
    for term in terms:
        if not term.startswith("@"):
            yield term
            continue
        path = Path(term[1:])
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not UTF-8 text"
            raise InputError(
                f"cannot read the hosts in {path}: {reason}", remedy="name a file with a host per line"
            ) from error
        lines = (line.strip() for line in text.splitlines())
        yield from (line for line in lines if line and not line.startswith("#"))


class _Selection:
    def __init__(self, hosts: Collection[str], groups: Mapping[str, tuple[str, ...]]) -> None:
        self._hosts = hosts
        self._groups = groups

    def evaluate(self, terms: list[str]) -> tuple[str, ...]:
        """Unions first, then `&`, then `!`; without a union, from all hosts."""
        united = [term for term in terms if term[0] not in "&!"] or [ALL]
        names: dict[str, None] = {}
        for term in united:
            names.update(dict.fromkeys(self._term(term, must_fit=True)))
        for sign in "&!":
            for term in terms:
                if term[0] == sign:
                    those = set(self._term(term[1:].strip(), must_fit=False))
                    names = {name: None for name in names if (name in those) == (sign == "&")}
        return tuple(names)

    def _term(self, term: str, must_fit: bool) -> list[str]:
        if term in self._hosts:
            return [term]
        match = None if term.startswith("~") else _SUBSCRIPT.fullmatch(term)
        if match is None:
            return self._matches(term, term, must_fit)
        names = self._matches(match[1], term, must_fit)
        if not names:
            return names
        if match[2]:
            return [_item(names, int(match[2]), term)]
        first, last = int(match[3]), int(match[4]) if match[4] else len(names) - 1
        if match[4] and last == 0:  # Ansible takes `[n:0]` for `[n]`
            return [_item(names, first, term)]
        return names[first : last + 1]

    def _matches(self, expression: str, term: str, must_fit: bool) -> list[str]:
        """Hosts of every group that fits, then hosts that fit, each once.

        Hosts are not looked at where a plain word names a group.
        """
        fits = _matcher(expression)
        groups = [name for name in self._groups if fits(name)]
        names = dict.fromkeys(host for group in groups for host in self._groups[group])
        flexible = expression.startswith("~") or _GLOB.search(expression) is not None
        if not groups or flexible or "." in expression:
            found = [name for name in self._hosts if fits(name)]
            names.update(dict.fromkeys(found))
            if not groups and not found and (must_fit or not flexible):
                raise self._unknown(expression, term, flexible)
        return list(names)

    def _unknown(self, expression: str, term: str, flexible: bool) -> InputError:
        if flexible:
            return InputError(f"{expression!r} fits no host and no group", remedy=_SEE)
        if term != expression:  # `gpu-0[1-2]` asks for hosts 1 to 2 of `gpu-0`, which is rarely meant
            return InputError(
                f"no host or group is named {expression!r}",
                remedy=f"{term[len(expression) :]} counts among its hosts;"
                f" for characters of a name write ~{expression}{term[len(expression) :]}",
            )
        meant = suggest(expression, [*self._groups, *self._hosts])
        return InputError(
            f"no host or group is named {expression!r}",
            remedy=f"did you mean {meant!r}? {_SEE}" if meant else _SEE,
        )


_SEE = "`fleet inventory` lists hosts and groups"


def _matcher(expression: str) -> Callable[[str], object]:
    """A function that tells whether a name fits."""
    if not expression.startswith("~") and not _GLOB.search(expression):
        return expression.__eq__
    if expression.startswith("~"):
        source = expression[1:]
    else:
        from fnmatch import translate

        source = translate(expression)
    try:
        return re.compile(source).match
    except re.error as error:
        raise InputError(
            f"{expression!r} is no regular expression: {error}", remedy="mend it after the `~`"
        ) from error


def _item(names: list[str], index: int, term: str) -> str:
    try:
        return names[index]
    except IndexError:
        raise InputError(
            f"{term!r}: there are only {len(names)} hosts", remedy="count from 0, or from the end with -1"
        ) from None
