"""The scripts of `model_weights`, and the list of checksums.

A file waits in a folder beside its place, named after its checksum: `HEX.part` while it comes, `HEX` once it
is right. So what an interrupted run brought is found again, whatever the file is called by then.
"""

from __future__ import annotations

import re

RECORD = ".fleet-weights"
SHARE = ".fleet-coming"
LOCK = ".fleet-weights.lock"

_LINE = re.compile(r"([0-9a-fA-F]{64})(?: [ *]|\t)(.+)")


def parse_sums(text: str) -> dict[str, str]:
    """Checksums by name, from what `sha256sum` prints. Raises ValueError, with the line, for the rest."""
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line.rstrip())
        if not match:
            raise ValueError(f"line {number} is no checksum with a name: {line[:80]!r}")
        name = match[2].removeprefix("./")
        parts = name.split("/")
        if any(part in ("", ".", "..") for part in parts) or parts[0] in (RECORD, SHARE, LOCK):
            raise ValueError(f"line {number}: {name!r} is no relative name")
        if not name.isprintable():
            raise ValueError(f"line {number}: {name!r} has characters that no file of a model has")
        if found.setdefault(name, match[1].lower()) != match[1].lower():
            raise ValueError(f"line {number}: {name!r} has two checksums")
    if not found:
        raise ValueError("it names no file")
    return found


_BEGIN = f"""\
umask 022
dest=$1 name=$2 sum=$3
mkdir -p "$dest" && exec 9>"$dest/{LOCK}" || exit 1
# On a folder that hosts share, one brings the files while the others wait.
flock -w 80000 9 || {{ echo 'another run brings files there' >&2; exit 75; }}
mkdir -p "$dest/{SHARE}" && cd "$dest/{SHARE}" || exit 1
[ -e "$sum" ] && exit 0
hash() {{ found=$(sha256sum "$1") && found=${{found%% *}} && found=${{found#\\\\}}; }}
# A file that is there and was never checked, or was copied there by hand, may be right.
if [ -f "$dest/$name" ] && [ ! -e "$sum.part" ]; then
  hash "$dest/$name" && [ "$found" = "$sum" ] && exit 0
fi
"""
_END = """\
hash "$sum.part" || exit 1
if [ "$found" != "$sum" ]; then
  rm -f "$sum.part"
  printf '%s has the checksum\\n%s, and should have\\n%s\\n' "$from" "$found" "$sum" >&2
  echo 'nothing was changed; the list of checksums or the source is wrong' >&2
  exit 65
fi
mv "$sum.part" "$sum"
"""

CURL = f"""\
{_BEGIN}
from=$4 limit=
[ "$5" = 0 ] || limit="--limit-rate $5"
config=$(cat)
get() {{
  status=$(printf '%s\\n' "$config" |
    curl -q -sS -f -L -g $limit -C - --connect-timeout 30 --speed-limit 100 --speed-time 60 \\
      -K - -o "$sum.part" -w '%{{http_code}}' "$from")
}}
tries=0 had=0
until get; do
  code=$?
  case $status in 40[0134]) exit $code ;; esac
  # There is nothing to go on with: either all is there, or the server cannot begin in the middle.
  if [ $code = 33 ] || [ "$status" = 416 ]; then
    [ -s "$sum.part" ] || exit $code
    hash "$sum.part" && [ "$found" = "$sum" ] && break
    rm -f "$sum.part"
  fi
  # Over a bad line it may break many times: only what brings nothing counts.
  have=$(stat -c %s "$sum.part" 2>/dev/null || echo 0)
  [ "$have" -le "$had" ] || tries=0
  [ "$have" -gt "$had" ] || sleep $(( tries * 2 ))
  tries=$(( tries + 1 )) had=$have
  [ $tries -lt 6 ] || exit $code
done
{_END}"""

CHECK = f"""\
{_BEGIN}
from=$4
[ -f "$from" ] || {{ echo "$from is not there" >&2; exit 66; }}
cp --reflink=auto -- "$from" "$sum.part" || {{ rm -f "$sum.part"; exit 1; }}
{_END}"""

# Only here are files put in place, when each of them is there and right. A container that has an old one open
# keeps it until it starts anew.
KEEP = f"""\
umask 022
cd "$1" || exit 1
shift
exec 9>{LOCK}
flock -w 600 9 || {{ echo 'another run brings files there' >&2; exit 75; }}
mkdir -p {SHARE} && touch {RECORD} || exit 1
while [ $# -gt 0 ]; do
  sum=$1 name=$2
  shift 2
  if [ -e "{SHARE}/$sum" ]; then
    case $name in */*) mkdir -p -- "${{name%/*}}" || exit 1 ;; esac
    # Two names may have one content.
    wanted=no
    later=$sum
    for each; do [ "$each" = "$later" ] && wanted=yes; done
    if [ $wanted = yes ]; then
      cp --reflink=auto -- "{SHARE}/$sum" "{SHARE}/$sum.copy" || exit 1
      mv -f -- "{SHARE}/$sum.copy" "$name" || exit 1
    else
      mv -f -- "{SHARE}/$sum" "$name" || exit 1
    fi
  fi
  [ -f "$name" ] || {{ echo "$name is not there" >&2; exit 66; }}
  chmod 0644 -- "$name"
  stat=$(find "./$name" -maxdepth 0 -printf '%s %T@') || exit 1
  while read -r other size time known; do
    [ "$known" = "$name" ] || printf '%s %s %s %s\\n' "$other" "$size" "$time" "$known"
  done <{RECORD} >{SHARE}/record
  printf '%s %s %s\\n' "$sum" "$stat" "$name" >>{SHARE}/record
  mv -f {SHARE}/record {RECORD}
done
rm -rf {SHARE}
"""
