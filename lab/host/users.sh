#!/bin/sh
# What a rented machine has when it is handed over: an admin user, sshd, and little else.
set -e

useradd --create-home --uid 1000 --shell /bin/bash fleet
useradd --create-home --uid 1001 --shell /bin/bash asks
useradd --create-home --uid 1002 --shell /bin/bash nosudo
printf 'fleet ALL=(ALL:ALL) NOPASSWD: ALL\n' >/etc/sudoers.d/fleet
printf 'asks ALL=(ALL:ALL) ALL\n' >/etc/sudoers.d/asks
chmod 0440 /etc/sudoers.d/fleet /etc/sudoers.d/asks

# Host keys and the machine's id belong to a host, never to an image.
rm -f /etc/ssh/ssh_host_*
: >/etc/machine-id
rm -f /var/lib/dbus/machine-id

install -m 0644 /usr/lib/fleet-lab/sshd.conf /etc/ssh/sshd_config.d/50-fleet-lab.conf
install -m 0644 /usr/lib/fleet-lab/fleet-lab-host.service /etc/systemd/system/fleet-lab-host.service
chmod 0755 /usr/lib/fleet-lab/boot.sh /usr/lib/fleet-lab/gpus.sh
systemctl enable fleet-lab-host.service

# The lab starts and stops hosts by the dozen; timers that fetch package lists would only race with it.
systemctl mask apt-daily.timer apt-daily-upgrade.timer systemd-firstboot.service
systemctl set-default multi-user.target
