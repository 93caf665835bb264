"""The steps that bring an nginx configuration into use, or leave everything as it was."""

from __future__ import annotations

from fleet.balancer.nginx import MAIN_FILE, SITE_FILE, Settings, config_hash, main_text
from fleet.balancer.nginx_probe import ASK, DEFAULT_SITE
from fleet.model.steps import Run, Step, Upload

UNIT = "nginx.service"
NEW = ".new"
TIMEOUT = 90.0


def deploy(text: str, settings: Settings) -> tuple[Step, ...]:
    """Put a configuration into use.

    nginx on the host must accept it, beside the other sites there, before it takes the old one's place, and
    must be seen running it afterwards; else the old one comes back.
    """
    arguments = (config_hash(text) or "", str(settings.port), str(settings.status_port))
    return (
        Upload(SITE_FILE + NEW, text.encode()),
        Upload(MAIN_FILE + NEW, main_text(settings).encode()),
        Run(("sh", "-c", _CHECK, "check", *arguments), title="nginx -t (check the new configuration)"),
        Run(
            ("sh", "-c", _DEPLOY, "deploy", *arguments), timeout=TIMEOUT, title="switch nginx's configuration"
        ),
    )


def start(text: str, settings: Settings) -> tuple[Step, ...]:
    """Have nginx run the configuration that is on the host: start it, or reload it where it runs."""
    arguments = (config_hash(text) or "", str(settings.port), str(settings.status_port))
    return (Run(("sh", "-c", _START, "start", *arguments), timeout=TIMEOUT, title="start or reload nginx"),)


def enable() -> tuple[Step, ...]:
    """Start nginx at boot."""
    return (Run(("systemctl", "enable", UNIT)),)


def disable_default_site() -> tuple[Step, ...]:
    """Take the distribution's welcome page off; its file in sites-available stays."""
    return (Run(("rm", "-f", "--", DEFAULT_SITE)),)


# In a copy of the whole configuration, so that what another site has already is found, and nothing is
# touched that nginx might read meanwhile. Absolute paths of includes lead into the copy, too.
_CHECK = f"""\
set -u
wanted=$1 port=$2 status=$3
copy=$(mktemp -d) || exit 1
trap 'rm -rf "$copy"' EXIT
cp -a /etc/nginx/. "$copy" || exit 1
for file in {SITE_FILE} {MAIN_FILE}; do
  mv -f "$copy${{file#/etc/nginx}}{NEW}" "$copy${{file#/etc/nginx}}" || exit 1
done
sed -i "s,/etc/nginx/,$copy/,g" "$copy/nginx.conf" || exit 1
fail() {{ rm -f {SITE_FILE}{NEW} {MAIN_FILE}{NEW}; exit 1; }}
nginx -T -c "$copy/nginx.conf" > "$copy/all" 2> "$copy/said" || {{
  sed "s,$copy/,/etc/nginx/,g" "$copy/said" >&2
  ! grep -q "duplicate default server" "$copy/said" ||
    echo "another site is port $port's default: take \\`default_server\\` off it, or choose another port" >&2
  fail
}}
for line in "# fleet-config: $wanted" "worker_shutdown_timeout"; do
  grep -q "^$line" "$copy/all" || {{
    echo "/etc/nginx/nginx.conf must include /etc/nginx/modules-enabled/*.conf at its beginning" >&2
    echo "and /etc/nginx/conf.d/*.conf in its block http, as the distribution's does" >&2
    fail
  }}
done
for number in "$port" "$status"; do
  taken=$(ss -Hltnp "sport = :$number" 2>/dev/null | grep -v '"nginx"')
  [ -z "$taken" ] || {{
    printf 'port %s is taken by another program:\\n%s\\n' "$number" "$taken" >&2
    case $taken in *haproxy*)
      echo "to go from HAProxy to nginx, give up HAProxy there: \\`systemctl disable --now haproxy\\`" >&2 ;;
    esac
    fail
  }}
done
exit 0
"""

# A reload has happened when the configuration meant answers; `nginx -s reload` itself tells nothing of ports.
_COMMON = f"""\
set -u
wanted=$1 port=$2 status=$3
answers() {{ timeout 3 bash 2>/dev/null -c '{ASK}' ask "$status" | tail -n 1; }}
apply() {{
  if systemctl is-active -q {UNIT}; then systemctl reload {UNIT} || return 1
  else systemctl reset-failed -q {UNIT}; systemctl start {UNIT} || return 1; fi
  tries=0
  until [ "$(answers)" = "$wanted" ]; do
    case $(systemctl show -p SubState --value {UNIT}) in failed | dead | auto-restart*) return 1 ;; esac
    tries=$((tries + 1)); [ $tries -lt 75 ] || return 1
    sleep 0.2
  done
}}
log=/var/log/nginx/error.log since=$(date +%s)
lines=0
[ ! -e $log ] || lines=$(wc -l < $log)
tell() {{
  echo "nginx is not seen running the configuration; its journal and error log since then:"
  journalctl -u {UNIT} --since "@$since" -n 15 --no-pager -o cat
  tail -n +$((lines + 1)) $log | tail -n 15
}}
"""

_START = (
    _COMMON
    + """\
apply || { tell >&2; exit 1; }
"""
)

_DEPLOY = (
    _COMMON
    + f"""\
site={SITE_FILE} main={MAIN_FILE}
before=no
[ ! -e "$site" ] || before=yes
for file in "$site" "$main"; do
  rm -f "$file.old"
  [ ! -e "$file" ] || cp -p "$file" "$file.old" || exit 1
  mv -f "$file{NEW}" "$file" || exit 1
done
apply && {{ rm -f "$site.old" "$main.old"; exit 0; }}
tell >&2
mv -f "$site" "$site.failed"
rm -f "$main"
for file in "$site" "$main"; do [ ! -e "$file.old" ] || mv -f "$file.old" "$file"; done
! systemctl is-active -q {UNIT} || systemctl reload {UNIT}
if [ $before = yes ]; then
  wanted=$(sed -n 's/^# fleet-config: //p' "$site")
  status=$(sed -n 's/^ *listen 127\\.0\\.0\\.1:\\([0-9]*\\);$/\\1/p' "$site" | tail -n 1)
  apply && echo "the configuration before is back in use; the new one is kept in $site.failed" >&2
fi
exit 1
"""
)
