"""The module `model_weights`: a model's files are on the host, each with the checksum it should have."""

from __future__ import annotations

import os
import posixpath
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote, urlsplit

from fleet.errors import InputError
from fleet.model.facts import Answer, Facts, Probe
from fleet.model.secret import Secret
from fleet.model.steps import Change, Run, Step
from fleet.modules._files import check_path
from fleet.modules._weights import CHECK, CURL, KEEP, RECORD, SHARE, parse_sums
from fleet.modules.base import Args, Context

_RATE = re.compile(r"\d+(?:\.\d+)?[kKmMgG]?")
_LONGEST = 24 * 3600.0
"""Seconds one file may take: 100 GB over a line of 10 Mbit/s."""


class ModelWeightsArgs(Args, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Arguments of `model_weights`. An empty text counts as not given."""

    dest: str
    sums: str
    url: str = ""
    path: str = ""
    token_env: str = ""
    limit_rate: str = ""

    def __post_init__(self) -> None:
        check_path(self.dest)
        if len(self.dest.strip("/").split("/")) < 2:
            raise ValueError(f"`dest` is {self.dest}, a folder of the system")
        if bool(self.url) == bool(self.path):
            raise ValueError("give one of `url` and `path`: where the files come from")
        if self.url and urlsplit(self.url).scheme not in ("http", "https"):
            raise ValueError(f"`url` is {self.url!r}, not an http or https address")
        if self.path:
            check_path(self.path)
        if self.token_env and not self.url.startswith("https://"):
            raise ValueError("`token_env` needs an https `url`")
        if self.limit_rate and not _RATE.fullmatch(self.limit_rate):
            raise ValueError(f"`limit_rate` is {self.limit_rate!r}; it is bytes a second, such as 20M")


class ModelWeights:
    """Have a model's files on the host, each with the checksum that a SHA256SUMS file gives it.

    Files that are missing or differ are fetched by the host into a folder beside the others, where an
    interrupted download goes on the next time; all are checked, and only when all are right do they take
    their places, each by a rename. A wrong checksum changes nothing. What was checked once is known again by
    its size and time, so a further run reads no file. Files that the list does not name are left alone.
    Containers get the folder by `slot_volumes` or the inventory's `model_weights`, read-only.

    Arguments:
        dest: folder on the host, such as /srv/models/hunyuan-mt.
        sums: file on the controller in the form of `sha256sum`, a checksum and a relative name a line.
        url: address below which the files are; the names are added to it.
        path: folder on the host where the files are, such as a mounted share, instead of `url`.
        token_env: environment variable, on the controller, with a token for `url` (`Authorization: Bearer`).
        limit_rate: bytes a second that the host fetches at most, such as 20M. Default: no limit.

    Example:
        - name: The model
          model_weights:
            dest: /srv/models/hunyuan-mt
            sums: files/hunyuan-mt.sha256
            url: https://models.example.com/hunyuan-mt/
            limit_rate: 20M
    """

    name: ClassVar[str] = "model_weights"
    args: ClassVar[type[Args]] = ModelWeightsArgs

    def probes(self, args: ModelWeightsArgs, ctx: Context) -> Sequence[Probe]:
        """Ask for the files' sizes and times, and for what was checked before."""
        return (weights_probe(args.dest),)

    def plan(self, args: ModelWeightsArgs, facts: Facts, ctx: Context) -> Sequence[Change]:
        """One change for all files that are not known to be right."""
        sums = _sums(args, ctx)
        found = parse_weights(facts[weights_probe(args.dest).key])
        due = {name: sum for name, sum in sums.items() if not found.is_right(name, sum)}
        if not due:
            return ()
        lines = "".join(
            f"{posixpath.join(args.dest, name)}: {found.words(name)} -> sha256 {sum[:12]}\n"
            for name, sum in due.items()
        )
        header = _header(args)
        steps: list[Step] = [_fetch(args, name, sum, header) for name, sum in due.items()]
        steps.append(_keep(args.dest, due))
        what = next(iter(due)) if len(due) == 1 else f"{len(due)} of {len(sums)} files"
        return (Change(f"have {what} in {args.dest}, checked", lines, tuple(steps)),)


def weights_probe(dest: str) -> Probe:
    """The question for the files in a folder."""
    folder = shlex.quote(dest)
    script = f"""\
[ -d {folder} ] || exit 0
cd {folder} || exit 1
find . -path ./{SHARE} -prune -o -type f -printf '%s %T@ %P\\n'
printf '\\n'
cat {RECORD} 2>/dev/null
exit 0
"""
    return Probe(f"model_weights:{dest}", script)


class Found:
    """The files in a folder: size and time of each as they are, and as they were when they were checked."""

    def __init__(self, files: Mapping[str, str], checked: Mapping[str, tuple[str, str]]) -> None:
        self._files = files
        self._checked = checked

    def is_right(self, name: str, sum: str) -> bool:
        """True where the file has this checksum, as far as its size and time tell."""
        known = self._checked.get(name)
        return known is not None and known == (sum, self._files.get(name))

    def words(self, name: str) -> str:
        """What the file is now, for people."""
        if name not in self._files:
            return "absent"
        known = self._checked.get(name)
        same = known is not None and known[1] == self._files[name]
        return f"sha256 {known[0][:12]}" if known and same else "not checked"


def parse_weights(answer: Answer) -> Found:
    """The files; none where there is no such folder."""
    files, _, record = answer.text.partition("\n\n")
    seen = (line.split(" ", 2) for line in files.splitlines())
    checked = (line.split(" ", 3) for line in record.splitlines())
    return Found(
        {parts[2]: f"{parts[0]} {parts[1]}" for parts in seen if len(parts) == 3},
        {parts[3]: (parts[0], f"{parts[1]} {parts[2]}") for parts in checked if len(parts) == 4},
    )


def _sums(args: ModelWeightsArgs, ctx: Context) -> Mapping[str, str]:
    path = _find(args.sums, ctx)
    try:
        return parse_sums(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"cannot read the checksums {path}: {error}",
            place=ctx.place,
            remedy="make it with `sha256sum FILES > SHA256SUMS` where the files are known to be right",
        ) from error
    except ValueError as error:
        raise InputError(
            f"{path}: {error}", place=ctx.place, remedy="each line is a checksum and a relative name"
        ) from error


def _header(args: ModelWeightsArgs) -> str:
    """What curl reads on standard input; checked before anything is changed."""
    if not args.token_env:
        return ""
    token = os.environ.get(args.token_env, "")
    if not re.fullmatch(r"[\x21\x23-\x5b\x5d-\x7e]+", token):
        raise InputError(
            f"environment variable {args.token_env}, which is to hold the token for {args.url}, is not set "
            "or holds characters that no token has",
            remedy=f"export {args.token_env}=...",
        )
    return f'header = "Authorization: Bearer {token}"\n'


def _fetch(args: ModelWeightsArgs, name: str, sum: str, header: str) -> Run:
    argv: tuple[str, ...]
    if args.url:
        url = f"{args.url.rstrip('/')}/{quote(name)}"
        argv = ("sh", "-c", CURL, "model-weights", args.dest, name, sum, url, args.limit_rate or "0")
    else:
        argv = ("sh", "-c", CHECK, "model-weights", args.dest, name, sum, posixpath.join(args.path, name))
    return Run(
        argv, stdin=Secret(header) if header else b"", timeout=_LONGEST, title=f"bring {name} to {args.dest}"
    )


def _keep(dest: str, due: Mapping[str, str]) -> Run:
    names = (word for name, sum in due.items() for word in (sum, name))
    title = f"put the files into {dest}"
    return Run(("sh", "-c", KEEP, "model-weights", dest, *names), timeout=3600, title=title)


def _find(name: str, ctx: Context) -> Path:
    path = Path(name).expanduser()
    candidates = [path] if path.is_absolute() else [*(folder / path for folder in ctx.search), path]
    return next((each for each in candidates if each.is_file()), candidates[-1])
