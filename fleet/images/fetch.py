"""Bringing an image's blobs to a host, piece by piece: what was fetched once is never fetched again.

An engine throws away all it has of a pull that is interrupted. Here curl fetches, and goes on in the middle
of a blob; each blob is checked against its digest before it counts.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from fleet.docker.failures import engine_error
from fleet.errors import StepError
from fleet.images.ask import TRUST, config_of
from fleet.images.manifest import Blob
from fleet.images.source import Source
from fleet.model.secret import Secret
from fleet.ssh.remote import Remote

SLICE = 10.0
"""Seconds of one exchange: so little is lost to a connection."""
LOOK = 1.0
"""Seconds between two looks at how far an exchange is, which are exchanges of their own."""
AT_ONCE = 3
"""Blobs fetched side by side, as the engine does; one where there is a limit, which is curl's for each."""
_PATIENCE = 12
"""So many exchanges in a row may bring nothing."""
_PAUSE = 5.0
_CHECKING = 3600.0
"""Seconds that reading a blob of tens of GB may take, to check it."""

# curl's codes that another try may mend: name service, connection, broken transfer, deadline, HTTP status.
_AGAIN = frozenset((5, 6, 7, 16, 18, 22, 28, 35, 52, 55, 56, 92))

_FETCH = f"""\
registry=$1 store=$2 base=$3 seconds=$4 rate=$5 at_once=$6
shift 6
umask 077
mkdir -p "$store/blobs/sha256" "$store/partial" && cd "$store" || exit 91
exec 9>lock
flock -w 60 9 || {{ echo 'another fleet fetches there' >&2; exit 75; }}
{TRUST}
config=$(cat)
ends=$(( $(date +%s) + seconds ))
[ "$rate" = 0 ] || how="$how --limit-rate $rate"
one() {{
  left=$(( ends - $(date +%s) ))
  [ $left -gt 0 ] || return
  part=partial/$1
  have=$(stat -c %s "$part" 2>/dev/null || echo 0)
  [ "$have" -le "$2" ] || {{ rm -f "$part"; have=0; }}
  if [ "$have" -lt "$2" ]; then
    printf '%s\\n' "$config" |
      curl $how -sS -f -L -C - --max-time $left -K - -o "$part" "$base/blobs/sha256:$1" 2>"$d/$1"
    code=$?
    [ $code = 0 ] || printf 'curl %s %s %s\\n' "$1" "$code" "$(sed -n '/^curl:/{{p;q;}}' "$d/$1")"
    have=$(stat -c %s "$part" 2>/dev/null || echo 0)
  fi
  [ "$have" = "$2" ] || {{ [ "$have" -lt "$2" ] || rm -f "$part"; return; }}
  [ -e "$part" ] || : >"$part"
  found=$(sha256sum "$part") || return
  if [ "${{found%% *}}" = "$1" ]; then
    mv "$part" "blobs/sha256/$1"
  else
    rm -f "$part"
    printf 'wrong %s %s\\n' "$1" "${{found%% *}}"
  fi
}}
worker() {{
  number=0
  for each; do
    number=$(( (number + 1) % at_once ))
    hex=${{each%%:*}}
    [ $number = "$me" ] && [ ! -e "blobs/sha256/$hex" ] && one "$hex" "${{each##*:}}"
  done
}}
me=0
while [ $me -lt "$at_once" ]; do
  worker "$@" &
  me=$(( me + 1 ))
done
wait
for each; do
  hex=${{each%%:*}}
  if [ -e "blobs/sha256/$hex" ]; then
    printf 'done %s %s\\n' "$hex" "${{each##*:}}"
  else
    printf 'part %s %s\\n' "$hex" "$(stat -c %s "partial/$hex" 2>/dev/null || echo 0)"
  fi
done
"""

_STORED = """\
cd "$1" 2>/dev/null || exit 0
stat -c '%s %n' blobs/sha256/* partial/* 2>/dev/null
exit 0
"""


@dataclass(frozen=True)
class Slice:
    """What one exchange brought: bytes of each blob by its digits, what is whole, and what went wrong."""

    have: Mapping[str, int]
    whole: frozenset[str]
    wrong: Mapping[str, str]
    errors: tuple[tuple[int, str], ...]


class Fetch:
    """Blobs of one image for one host's store.

    `authorize` gives the Authorization header's value, a new one each time: tokens end. `ca` is the only
    certificate that counts, empty for those the host knows. `rate` in bytes a second, 0 for no limit.
    """

    def __init__(
        self,
        store: str,
        source: Source,
        blobs: Sequence[Blob],
        authorize: Callable[[], Secret | None],
        *,
        ca: str = "",
        rate: int = 0,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._store = store
        self._source = source
        self._blobs = blobs
        self._authorize = authorize
        self._ca = ca
        self._rate = rate
        self._pause = pause
        self._header: Secret | None = None
        self._asked = -1e9

    def run(self, remote: Remote, progress: Callable[[int], None]) -> None:
        """Have every blob in the store, whole and checked. `progress` gets the bytes there so far.

        Raises UnreachableError where the connection is lost (call again, it goes on), StepError where the
        registry gives nothing for a while or gives something else than it should.
        """
        best, idle, mistaken = -1, 0, 0
        while True:
            with self._watched(remote, progress):
                found = self._slice(remote)
            got = sum(found.have.values())
            progress(got)
            if len(found.whole) == len({blob.hex for blob in self._blobs}):
                return
            mistaken += len(found.wrong)
            self._judge(remote.name, found, mistaken)
            idle = 0 if got > best else idle + 1
            best = max(best, got)
            if found.errors and any(code == 22 for code, _ in found.errors):
                self._asked = -1e9
            if idle >= _PATIENCE:
                raise self._failed(remote.name, found.errors)
            if idle:
                self._pause(_PAUSE)

    @contextmanager
    def _watched(self, remote: Remote, progress: Callable[[int], None]) -> Iterator[None]:
        """Meanwhile tell how much is there.

        What goes wrong, the exchange that is watched tells; a wish to stop (raised by `progress`) ends that.
        """
        over = threading.Event()
        sizes = {blob.hex: blob.size for blob in self._blobs}

        def watch() -> None:
            with contextlib.suppress(Exception):
                while not over.wait(LOOK):
                    there = stored(remote, self._store)
                    if not over.is_set():
                        progress(sum(min(size, there.get(hex_, 0)) for hex_, size in sizes.items()))

        threading.Thread(target=watch, daemon=True).start()
        try:
            yield
        finally:
            # Not waited for: on a lost connection its look would last.
            over.set()

    def _slice(self, remote: Remote) -> Slice:
        if time.monotonic() - self._asked > 60:
            self._header, self._asked = self._authorize(), time.monotonic()
        result = remote.run(
            (
                "sh",
                "-c",
                _FETCH,
                "fleet-fetch",
                self._source.registry,
                self._store,
                self._source.base,
                f"{SLICE:.0f}",
                str(self._rate),
                str(1 if self._rate else AT_ONCE),
                *dict.fromkeys(f"{blob.hex}:{blob.size}" for blob in self._blobs),
            ),
            stdin=config_of([], self._header),
            timeout=SLICE + 120 + _CHECKING,
            env={"FLEET_CA": self._ca} if self._ca else None,
        )
        if result.rc != 0:
            said = result.err.decode("utf-8", "replace").strip()
            raise engine_error(
                said or f"the script ended with {result.rc}", f"{remote.name}: cannot fetch the image"
            )
        return parse_slice(result.out)

    def _judge(self, host: str, found: Slice, mistaken: int) -> None:
        for code, said in found.errors:
            if code == 33:
                raise StepError(
                    f"{host}: the registry {self._source.registry} cannot go on in the middle of a layer",
                    output=said,
                    remedy="`fleet image pull --engine` leaves it to the Docker Engine",
                )
            if code not in _AGAIN or any(f" {status}" in said for status in (403, 404)):
                raise self._failed(host, ((code, said),))
        if mistaken > 1:
            name, got = next(iter(found.wrong.items()), ("", ""))
            raise StepError(
                f"{host}: what comes from {self._source.registry} is not what its digest says",
                output=f"asked for sha256:{name}\ngot       sha256:{got}" if name else "",
                remedy="something between them changes what it transfers, or the registry's disk is damaged",
            )

    def _failed(self, host: str, errors: tuple[tuple[int, str], ...]) -> StepError:
        said = errors[-1][1] if errors else "no bytes came"
        return engine_error(
            said, f"{host}: cannot fetch the image from {self._source.registry}; what came so far is kept"
        )


def parse_slice(out: bytes) -> Slice:
    """What the script prints: `done HEX SIZE`, `part HEX SIZE`, `wrong HEX HEX`, `curl HEX CODE TEXT`."""
    have: dict[str, int] = {}
    whole: set[str] = set()
    wrong: dict[str, str] = {}
    errors: list[tuple[int, str]] = []
    for line in out.decode("utf-8", "replace").splitlines():
        word, _, rest = line.partition(" ")
        name, _, value = rest.partition(" ")
        if word in ("done", "part"):
            have[name] = int(value)
            if word == "done":
                whole.add(name)
        elif word == "wrong":
            wrong[name] = value
        elif word == "curl":
            code, _, said = value.partition(" ")
            # The end of a slice in the middle of a blob is how it should be.
            if not (code == "28" and "timed out" in said and "bytes" in said):
                errors.append((int(code), said))
    return Slice(have, frozenset(whole), wrong, tuple(errors))


def stored(remote: Remote, store: str) -> Mapping[str, int]:
    """The bytes of each blob, by its digits, that an earlier run left there."""
    out = remote.run(("sh", "-c", _STORED, "fleet-stored", store), timeout=60).out.decode("utf-8", "replace")
    found: dict[str, int] = {}
    for line in out.splitlines():
        size, _, path = line.partition(" ")
        if size.isdigit():
            found[path.rpartition("/")[2]] = int(size)
    return found
