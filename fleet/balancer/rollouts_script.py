r"""What a balancer does with its folder of rollouts: who may write, and what has been done.

Every script takes the folder as its first argument. Values that people wrote come on standard input, and only
as JSON in ASCII without a line break, so that nothing in them means anything to a shell. A lease begins with
what the scripts read of it: `{"fence":1,"holder":"c0ffee","expires":1764055230,"since":1764055200,`.

Who gives or takes back a lease has the lock alone; whoever writes under a lease shares it. So no write is
under way while the fence changes, and one that takes long holds up neither the holder's renewals nor its
journal.
"""

from __future__ import annotations

HELD = 73
"""Another holder has the lease."""
BUSY = 74
"""The lock was not to be had."""
FENCED_OUT = 75
"""The number is not the one given last."""
GAP = 76
"""The journal lacks lines before those to be appended."""
CONFLICT = 77
"""The journal has other lines in that place."""
LATE = 78
"""A number at least as high was given meanwhile."""

_LOCK = f"""\
lock() {{
  exec 9>>"$root/lock"
  flock "$1" -w "$2" 9 || {{ echo "$root is locked by another command for $2 s" >&2; exit {BUSY}; }}
}}
given() {{
  fence=0
  [ ! -e "$root/fence" ] || read -r fence < "$root/fence" || fence=
  case $fence in
    '' | *[!0-9]*) echo "$root/fence does not hold a number" >&2; exit 1 ;;
  esac
}}
refuse() {{
  printf 'the lease has passed to another: %s was the number of this one, %s is given: %s\\n' \\
    "$mine" "$fence" "$(cat "$root/lease" 2>/dev/null || echo 'nobody holds it now')" >&2
  exit {FENCED_OUT}
}}
fenced() {{
  [ -d "$root" ] || {{ fence=0; refuse; }}
  lock -s 20
  given
  [ "$fence" = "$mine" ] || refuse
}}
"""

_WRITE = """\
set -u
export LC_ALL=C
umask 077
put() {
  cat > "$1.$$" && sync "$1.$$" && mv -fT "$1.$$" "$1" && sync "${1%/*}" && return
  rm -f "$1.$$"
  exit 1
}
"""

# A lease that is no lease is as good as none: the fence keeps what it does not.
_LEASE = """\
lease() {
  holder= expires=0 since=0
  [ -s "$root/lease" ] || return 0
  set -- $(sed -n -E \\
    '1s/^[{]"fence":[0-9]+,"holder":"([0-9a-f]+)","expires":([0-9]+),"since":([0-9]+),.*/\\1 \\2 \\3/p' \\
    "$root/lease")
  [ $# -ne 3 ] || { holder=$1 expires=$2 since=$3; }
}
hold() {
  printf '{"fence":%s,"holder":"%s","expires":%s,"since":%s,%s\\n' \\
    "$mine" "$me" "$(($(date +%s) + ttl + 1))" "$since" "${about#?}" | put "$root/lease"
}
"""

FENCED = f"""\
root=$1 mine=$2
shift 2
{_LOCK}fenced
exec "$@"
"""

LOOK = f"""\
root=$1
{_LOCK}[ ! -f "$root/lock" ] || lock -s 20
given
echo "now $(date +%s)"
echo "fence $fence"
[ ! -s "$root/lease" ] || {{ printf 'lease '; cat "$root/lease"; }}
"""

# 70 s: a write of the holder before may be under way, and reloading HAProxy takes its time.
TAKE = f"""\
root=$1 mine=$2 me=$3 ttl=$4 over=$5
{_WRITE}{_LOCK}{_LEASE}IFS= read -r about || {{ echo 'the lease did not arrive whole' >&2; exit 1; }}
mkdir -p "$root" && chmod 700 "$root" || exit 1
lock -x 70
given
lease
[ "$holder" != "$over" ] || expires=0
if [ -n "$holder" ] && [ "$holder" != "$me" ] && [ "$(date +%s)" -lt "$expires" ]; then
  cat "$root/lease"
  exit {HELD}
fi
if [ "$fence" -ge "$mine" ] && {{ [ "$fence" != "$mine" ] || [ "$holder" != "$me" ]; }}; then
  echo "$fence"
  exit {LATE}
fi
since=$(date +%s)
echo "$mine" | put "$root/fence" || exit 1
hold
"""

RENEW = f"""\
root=$1 mine=$2 me=$3 ttl=$4
{_WRITE}{_LOCK}{_LEASE}IFS= read -r about || {{ echo 'the lease did not arrive whole' >&2; exit 1; }}
fenced
lease
[ "$holder" = "$me" ] || refuse
hold
"""

RELEASE = f"""\
root=$1 mine=$2 me=$3
{_WRITE}{_LOCK}{_LEASE}[ -d "$root" ] || exit 0
lock -x 20
given
lease
[ "$fence" = "$mine" ] && [ "$holder" = "$me" ] || exit 0
rm -f "$root/lease" && sync "$root"
"""

# What was written before a power cut may end within a line; that line was never acknowledged, and goes.
_JOURNAL = f"""\
root=$1 mine=$2 id=$3 first=$4 count=$5
folder=$root/$id
{_WRITE}{_LOCK}fenced
[ "$first" -eq 0 ] || [ -s "$folder/journal" ] || exit {GAP}
mkdir -p "$folder" || exit 1
exec 8>>"$folder/lock"
flock -w 20 8 || {{ echo "$folder/journal is locked" >&2; exit {BUSY}; }}
new=$folder/new.$$
trap 'rm -f "$new"' EXIT
trap 'exit 1' HUP INT TERM
cat > "$new" || exit 1
[ "$(wc -l < "$new")" -eq "$count" ] || {{ echo 'the lines did not arrive whole' >&2; exit 1; }}
"""

APPEND = f"""\
{_JOURNAL}journal=$folder/journal
: >> "$journal" || exit 1
if [ -s "$journal" ] && [ "$(tail -c 1 "$journal" | wc -l)" -eq 0 ]; then
  truncate -s "-$(tail -n 1 "$journal" | wc -c)" "$journal" || exit 1
fi
have=$(wc -l < "$journal")
[ "$have" -ge "$first" ] || exit {GAP}
same=$((have - first))
[ "$same" -le "$count" ] || same=$count
trap 'rm -f "$new" "$new.a" "$new.b"' EXIT
head -n "$same" "$new" > "$new.a" || exit 1
tail -n "+$((first + 1))" "$journal" | head -n "$same" > "$new.b" || exit 1
cmp -s "$new.a" "$new.b" || exit {CONFLICT}
size=$(stat -c %s "$journal")
if [ "$same" -lt "$count" ]; then
  tail -n "+$((same + 1))" "$new" >> "$journal" || {{ truncate -s "$size" "$journal"; exit 1; }}
fi
sync "$journal" || exit 1
[ "$have" -ne 0 ] || sync "$folder" "$root"
"""

REPLACE = f"""\
{_JOURNAL}[ ! -s "$folder/journal" ] || cp -f "$folder/journal" "$folder/journal.replaced" || exit 1
put "$folder/journal" < "$new"
sync "$root"
"""

HEADS = f"""\
root=$1
export LC_ALL=C
{_LOCK}[ ! -f "$root/lock" ] || lock -s 20
given
echo "fence $fence"
for journal in "$root"/*/journal; do
  [ -s "$journal" ] || continue
  lines=$(wc -l < "$journal")
  [ "$lines" -gt 0 ] || continue
  folder=${{journal%/journal}}
  [ -s "$folder/result" ] && result=yes || result=no
  echo "rollout ${{folder##*/}} $lines $result"
  head -n "$lines" "$journal" | awk '
    NR == 1 {{ print "header " $0; next }}
    /^[{{]"number":[0-9]+,"fence":[0-9]+,"step":"(rolling-back|stopped)"/ {{ why = $0 }}
    {{ last = $0 }}
    END {{ if (why != "") print "why " why; if (last != "") print "last " last }}'
done
"""

READ = f"""\
root=$1 file=$2
{_LOCK}[ ! -f "$root/lock" ] || lock -s 20
[ ! -e "$root/$file" ] || cat "$root/$file"
"""

FINISH = f"""\
root=$1 mine=$2 id=$3 size=$4 keep=$5
{_WRITE}{_LOCK}fenced
mkdir -p "$root/$id" || exit 1
new=$root/$id/result.new
trap 'rm -f "$new"' EXIT
cat > "$new" || exit 1
[ "$(wc -c < "$new")" -eq "$size" ] || {{ echo 'the result did not arrive whole' >&2; exit 1; }}
sync "$new" && mv -fT "$new" "$root/$id/result" && sync "$root/$id" || exit 1
for folder in "$root"/*/; do
  [ ! -d "$folder" ] || basename "$folder"
done | sort -r | tail -n "+$((keep + 1))" | while IFS= read -r old; do
  [ "$old" = "$id" ] || rm -rf "${{root:?}}/$old"
done
"""
