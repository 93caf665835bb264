"""OpenPGP keys of package repositories: fetched on the host, and taken only with the right fingerprint."""

from __future__ import annotations

import re

from fleet.model.steps import Run

_FINGERPRINT = re.compile(r"[0-9A-F]{40}")


def fingerprint(text: str) -> str:
    """A version 4 fingerprint without spaces, in capitals. Raises ValueError for anything else."""
    bare = "".join(text.split()).upper()
    if not _FINGERPRINT.fullmatch(bare):
        raise ValueError(f"not an OpenPGP fingerprint of 40 hexadecimal digits: {text!r}")
    return bare


def is_armored(content: bytes) -> bool:
    """True for a key in ASCII armor, which apt wants in a file named `.asc`."""
    return b"-----BEGIN PGP PUBLIC KEY BLOCK-----" in content[:4096]


def fetch_key(url: str, wanted: str, path: str) -> Run:
    """The step that downloads a key with curl and puts it at `path` where its fingerprint is `wanted`."""
    argv = ("sh", "-c", _FETCH, "key", url, wanted, path)
    return Run(argv, timeout=120.0, title=f"fetch {url}")


# A minimal host has no gpg. The fingerprint of a version 4 key is the SHA-1 of 0x99, the packet's length and
# the packet; awk walks the file's packets, and more than one primary key is refused: apt would trust all.
_FETCH = r"""
set -e
url=$1 wanted=$2 path=$3
command -v curl >/dev/null || { echo "curl is not installed: it is needed to fetch $url" >&2; exit 1; }
t=$(mktemp -d); trap 'rm -rf "$t"' EXIT
curl -fsSL --proto '=https' --proto-redir '=https' --retry 3 --max-time 60 --max-filesize 1000000 \
  -o "$t/key" -- "$url" >&2
if grep -q -e '-----BEGIN PGP PUBLIC KEY BLOCK-----' "$t/key"; then
  sed -e 's/\r$//' -e '1,/^$/d' -e '/^[=-]/,$d' "$t/key" | base64 -d >"$t/bin"
else
  cp "$t/key" "$t/bin"
fi
where=$(od -An -v -tu1 "$t/bin" | awk '
  { for (i = 1; i <= NF; i++) b[n++] = $i }
  END {
    p = 0
    while (p < n) {
      tag = b[p]
      if (tag < 128) exit
      if (tag >= 192) {
        kind = tag - 192; l = b[p + 1]
        if (l < 192) { size = l; head = 2 }
        else if (l < 224) { size = (l - 192) * 256 + b[p + 2] + 192; head = 3 }
        else if (l == 255) { size = ((b[p+2] * 256 + b[p+3]) * 256 + b[p+4]) * 256 + b[p+5]; head = 6 }
        else exit
      } else {
        kind = int((tag - 128) / 4); form = tag % 4
        if (form == 0) { size = b[p + 1]; head = 2 }
        else if (form == 1) { size = b[p + 1] * 256 + b[p + 2]; head = 3 }
        else if (form == 2) { size = ((b[p+1] * 256 + b[p+2]) * 256 + b[p+3]) * 256 + b[p+4]; head = 5 }
        else exit
      }
      if (kind == 6) { keys++; if (keys == 1) print p + head, size, b[p + head] }
      p += head + size
    }
    if (p == n) print "keys", keys
  }')
set -- $where
[ $# -eq 5 ] && [ "$3" = 4 ] && [ "$4" = keys ] && [ "$5" = 1 ] ||
  { echo "$url did not answer with exactly one OpenPGP public key" >&2; exit 1; }
found=$({ printf "\\231\\$(printf %o $(($2 / 256)))\\$(printf %o $(($2 % 256)))"
  tail -c "+$(($1 + 1))" "$t/bin" | head -c "$2"; } | sha1sum | tr a-f A-F)
found=${found%% *}
[ "$found" = "$wanted" ] || { echo "the key of $url is $found, not $wanted: not trusted" >&2; exit 1; }
install -D -m 0644 "$t/key" "$path.new"
mv -f "$path.new" "$path"
"""
