# The questions of playbook.yml as one would ask them by hand: no tool can ask a host for less.
dpkg-query -W -f='${db:Status-Abbrev} ${Package}\n' ca-certificates curl iproute2 iptables cron jq less \
    openssl tar xz-utils zstd
cd /etc/fleet-bench || exit 1
stat -c '%a %U:%G %F %n' . /etc/crontab limits.conf sysctl.conf service.env current
sha256sum limits.conf sysctl.conf service.env
readlink current
systemctl show -p Id,LoadState,ActiveState,UnitFileState ssh cron dbus
