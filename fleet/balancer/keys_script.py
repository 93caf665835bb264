"""What a balancer does with its file of API keys: read it, change it, and tell the running HAProxy."""

from __future__ import annotations

from fleet.balancer.paths import KEYS_FILE, SOCKET

LOCK_FILE = "/run/fleet-keys.lock"

HEADER = "# API keys, kept by `fleet key`; lines of another form are removed by its next change."
END = "#end"
"""The last line of what is sent: a connection that breaks looks like the end of it."""

# An empty map is an empty answer: only what HAProxy says of itself beside it tells it from no answer.
REPORT = f"""\
report() {{
  if [ -f {KEYS_FILE} ]; then
    echo "file $(stat -c %a {KEYS_FILE})"
    awk '{{ print "f " $0 }}' {KEYS_FILE} || return 1
  else
    echo "file absent"
  fi
  hear
  if [ -z "$pid" ]; then echo "map down"
  elif [ -n "$off" ]; then echo "map off"
  else echo "map on"; printf '%s\n' "$answer" | sed -n 's/^0x[0-9a-f]* /m /p'; fi
}}
hear() {{
  answer=
  [ ! -S {SOCKET} ] || answer=$(echo "show info; show map {KEYS_FILE}" | ask)
  pid=$(printf '%s\n' "$answer" | sed -n 's/^Pid: //p')
  off=$(printf '%s\n' "$answer" | grep '^Unknown map')
}}
ask() {{ socat -t 5 -T 5 - UNIX-CONNECT:{SOCKET} 2>/dev/null; }}
"""

# The same rules as `fleet.balancer.keys.merge`: every key once, the lesser text wins, revoked for ever.
_MERGE = """\
function key(h, n, i, c) {
  return length(h) == 64 && h !~ /[^0-9a-f]/ && length(n) <= 64 && n !~ /[^A-Za-z0-9_.-]/ \\
    && length(i) == 8 && i !~ /[^0-9a-f]/ && date(c)
}
function date(t) {
  return t ~ /^[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]T[0-9][0-9]:[0-9][0-9]:[0-9][0-9]Z$/
}
function take(h, what, when) {
  if (!(h in known) || what < known[h]) known[h] = what
  if (when != "" && (!(h in dead) || when < dead[h])) dead[h] = when
}
$1 == "#revoked" { if (NF == 6 && key($2, $3, $4, $5) && date($6)) take($2, $3 " " $4 " " $5, $6 ""); next }
NF == 4 && key($1, $2, $3, $4) { take($1, $2 " " $3 " " $4, "") }
END {
  for (h in known)
    if (h in dead) print "#revoked " h " " known[h] " " dead[h]
    else print h " " known[h]
}
"""

# Keys that HAProxy has twice, with another name, or that are not wanted go; what is missing then comes. They
# go by address: what is no key could be anything, and of equal ones HAProxy 3.4 takes only one away by name.
_DIFFERENCE = """\
FNR == 1 { file++ }
file == 1 { if (substr($1, 1, 1) != "#") wanted[$1] = $2 " " $3 " " $4; next }
length($2) != 64 || $2 ~ /[^0-9a-f]/ { print "#" $1 > gone; next }
{
  if (($2 in running) || !($2 in wanted) || NF != 5 || wanted[$2] != $3 " " $4 " " $5) bad[$2] = 1
  running[$2] = 1
  rows[$2] = rows[$2] "#" $1 "\\n"
}
END {
  for (k in bad) printf "%s", rows[k] > gone
  for (k in wanted) if (!(k in running) || (k in bad)) print k, wanted[k] > missing
}
"""

SYNC = f"""\
set -u
export LC_ALL=C
umask 077
{REPORT}
if [ ! -d {KEYS_FILE.rpartition("/")[0]} ]; then
  echo 'HAProxy is not installed here' >&2; exit 1
fi
exec 9>{LOCK_FILE} || exit 1
flock -w 20 9 || {{ echo 'another change of API keys has gone on for 20 s' >&2; exit 1; }}
work=$(mktemp -d -p /run fleet.XXXXXX 2>/dev/null || mktemp -d) || exit 1
temporary=
trap 'rm -rf "$work" $temporary' EXIT
trap 'exit 1' HUP INT TERM
cat > "$work/wanted"
[ "$(tail -n 1 "$work/wanted")" = '{END}' ] || {{ echo 'the keys did not arrive whole' >&2; exit 1; }}
: > "$work/old"
if [ -e {KEYS_FILE} ]; then cat {KEYS_FILE} > "$work/old" || exit 1; fi
awk '{_MERGE}' "$work/old" "$work/wanted" > "$work/lines" || exit 1
{{
  echo '{HEADER}'
  grep -v '^#' "$work/lines" | sort -k 4,4 -k 2,2 -k 3,3 -k 1,1
  grep '^#' "$work/lines" | sort -k 5,5 -k 3,3 -k 4,4 -k 2,2
}} > "$work/new"

write() {{
  temporary=$(mktemp {KEYS_FILE}.XXXXXX) || return 1
  cat "$work/new" > "$temporary" && sync "$temporary" && mv -fT "$temporary" {KEYS_FILE} || return 1
  temporary=
}}
written=yes
if [ "$(stat -c %a {KEYS_FILE} 2>/dev/null)" != 600 ] || ! cmp -s "$work/old" "$work/new"; then
  write || {{ written=; echo '{KEYS_FILE} could not be written' >&2; }}
fi

# What HAProxy runs is brought to what the file says. A file that could not be written still takes keys away.
difference() {{
  hear
  [ -n "$pid" ] && [ -z "$off" ] || return 1
  printf '%s\\n' "$answer" | sed -n '/^0x[0-9a-f]* ./p' > "$work/running"
  : > "$work/gone"; : > "$work/missing"
  awk -v gone="$work/gone" -v missing="$work/missing" '{_DIFFERENCE}' "$work/new" "$work/running" || return 1
  [ -n "$written" ] || : > "$work/missing"
}}
bring() {{
  tries=0
  while difference; do
    [ -s "$work/gone" ] || [ -s "$work/missing" ] || return 0
    tries=$((tries + 1))
    [ $tries -le 3 ] || {{ echo 'HAProxy does not take the keys' >&2; return 1; }}
    rm -rf "$work/part".*
    split -l 40 "$work/gone" "$work/part.1"
    split -l 40 "$work/missing" "$work/part.2"
    for part in "$work/part."*; do
      case $part in
        */part.1*) sed 's|^|del map {KEYS_FILE} |' "$part" | paste -s -d ';' - | ask ;;
        */part.2*) {{ echo 'add map {KEYS_FILE} <<'; cat "$part"; echo; }} | ask ;;
      esac > /dev/null
    done
  done
}}
# A process that is just starting read the file before it was written and answers only later, while the one
# before it may still answer: it is told, too.
settled() {{
  case $(systemctl is-active haproxy.service 2>/dev/null) in
    activating | deactivating | reloading | refreshing) return 1 ;;
  esac
  youngest=$(youngest)
  [ -z "$youngest" ] || [ "$youngest" = "$pid" ]
}}
youngest() {{
  main=$(systemctl show -p MainPID --value haproxy.service 2>/dev/null)
  [ "${{main:-0}}" != 0 ] || return 0
  sed -n 's/^\\([0-9]*\\) (haproxy) [^Z] /\\1 /p' /proc/[0-9]*/stat 2>/dev/null |
    awk -v main="$main" '$2 == main && $20 >= start {{ start = $20; pid = $1 }} END {{ if (pid) print pid }}'
}}
deadline=$(($(date +%s) + 40))
while :; do
  bring; result=$?
  ! settled || break
  if [ "$(date +%s)" -ge $deadline ]; then
    echo 'the HAProxy that was started last has not answered for 40 s' >&2; result=1; break
  fi
  sleep 0.2
done
report
[ -n "$written" ] && exit $result
exit 1
"""
