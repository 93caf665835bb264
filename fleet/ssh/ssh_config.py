"""What ~/.ssh/config says of a host.

Paramiko's parser is quick but skips `Include` and does not know every `Match`. Where a file needs either,
`ssh -G` answers instead: OpenSSH itself is then the judge.
"""

from __future__ import annotations

import glob
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fleet.errors import InputError

if TYPE_CHECKING:
    from paramiko import SSHConfig

Options = Mapping[str, Sequence[str]]
"""Option names in lower case; every value is a sequence, since some options may be repeated."""

_INCLUDE = re.compile(r"^\s*include(?:\s+|\s*=\s*)(.+?)\s*$", re.IGNORECASE | re.MULTILINE)
_SIMPLE_MATCH = {"all", "canonical", "final", "exec", "host", "originalhost", "user", "localuser"}
_MATCH = re.compile(r"^\s*match\s+(.+?)\s*$", re.IGNORECASE | re.MULTILINE)
_LISTS = {"identityfile", "certificatefile"}


class SshConfig:
    """The parsed files; `lookup` may be called from any thread."""

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        paths = (file,) if file else (Path("~/.ssh/config").expanduser(), Path("/etc/ssh/ssh_config"))
        texts = [(path, text) for path in paths if (text := _read(path, required=file is not None))]
        self._ask_openssh = any(_needs_openssh(path, text) for path, text in texts)
        self._parsed: SSHConfig | None = None
        if not self._ask_openssh and any(_directives(text) for _, text in texts):
            self._parsed = _parse(texts)

    def lookup(self, alias: str, *, user: str | None = None, port: int | None = None) -> Options:
        """The options for a host as it is named on ssh's command line."""
        if self._ask_openssh:
            return _ssh_g(alias, self._file, user, port)
        if self._parsed is None:
            return {}
        try:
            found = self._parsed.lookup(alias)
        except Exception as error:  # canonicalization and `Match exec` can fail in many ways
            raise InputError(f"ssh_config: cannot be applied to {alias}: {error}") from error
        return {
            name: tuple(value) if isinstance(value, list) else (str(value),) for name, value in found.items()
        }


def _read(path: Path, *, required: bool) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        if required:
            raise InputError(f"cannot read ssh_config {path}: {error.strerror}") from error
        return ""


def _directives(text: str) -> bool:
    """True where the text says anything; Debian's file, all comments and sending locales, does not."""
    quiet = re.compile(r"\s*(#.*|host\s+\*|sendenv\b.*|hashknownhosts\b.*|gssapi\w+\b.*|include\b.*)?$", re.I)
    return any(not quiet.fullmatch(line) for line in text.splitlines())


def _needs_openssh(path: Path, text: str) -> bool:
    if any(not _simple(words[1]) for words in _MATCH.finditer(text)):
        return True
    base = Path("/etc/ssh") if path.is_relative_to("/etc/ssh") else Path("~/.ssh").expanduser()
    patterns = [pattern for words in _INCLUDE.finditer(text) for pattern in words[1].split()]
    return any(glob.glob(str(base / Path(pattern.strip('"')).expanduser())) for pattern in patterns)


def _simple(criteria: str) -> bool:
    first = criteria.split()[0].lower().lstrip("!").partition("=")[0]
    return first in _SIMPLE_MATCH


def _parse(texts: list[tuple[Path, str]]) -> SSHConfig:
    from fleet.ssh import stack

    stack.load()
    from io import StringIO

    from paramiko import ConfigParseError, SSHConfig

    parsed = SSHConfig()
    for path, text in texts:
        try:
            parsed.parse(StringIO(text))
        except ConfigParseError as error:
            raise InputError(
                f"{path}: {error}", remedy="`ssh -G HOST` shows what OpenSSH makes of it"
            ) from error
    return parsed


def _ssh_g(alias: str, file: Path | None, user: str | None, port: int | None) -> Options:
    argv = ["ssh", "-G", "-T"]
    argv += ["-F", str(file)] if file else []
    argv += ["-l", user] if user else []
    argv += ["-p", str(port)] if port else []
    try:
        done = subprocess.run([*argv, "--", alias], capture_output=True, text=True, timeout=30, check=False)
    except FileNotFoundError as error:
        raise InputError(
            "your ssh_config uses Include or Match, which needs OpenSSH's `ssh` to be read",
            remedy="install the OpenSSH client, or name a plain file with --ssh-config",
        ) from error
    except subprocess.TimeoutExpired as error:
        raise InputError(f"`ssh -G {alias}` did not answer in 30 seconds") from error
    if done.returncode != 0:
        raise InputError(f"ssh_config is not valid for {alias}", output=done.stderr.strip())
    found: dict[str, tuple[str, ...]] = {}
    for line in done.stdout.splitlines():
        name, _, value = line.partition(" ")
        if value and (name in _LISTS or name not in found):
            found[name] = (*found.get(name, ()), value)
    return found
