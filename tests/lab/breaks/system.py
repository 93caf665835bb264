"""Breaks of connection and system: SSH, sudo, release, clock, disk, packages, registry."""

from __future__ import annotations

from tests.lab.breaks.model import Break, Round

_HOSTS = "keep /etc/hosts; echo '{0} registry-01' >>/etc/hosts"
_SMALL = (
    "mkdir -p /srv/small; mount -t tmpfs -o size=8m,nr_inodes=200 small /srv/small; "
    "i=0; while [ $i -lt 198 ]; do i=$((i + 1)); : >/srv/small/$i; done; "
    "dd if=/dev/zero of=/srv/small/1 bs=1M 2>/dev/null || true; "
    'daemon \'1a "data-root": "/srv/small",\''
)
_LARGE = "restore /etc/docker/daemon.json; umount /srv/small; rmdir /srv/small"
_FULL = "a full file system of 8 MB that daemon.json names; the machine's own is not filled"
_DATE = (
    'printf \'#!/bin/sh\\ncase $1 in +now=*) exec /bin/date -d "{0}" "$@" ;; esac\\nexec /bin/date "$@"\\n\''
    " >/usr/local/bin/date; chmod 755 /usr/local/bin/date"
)
_CLOCK = "a `date` that is off; the hosts of a lab share the machine's clock"
_RELEASE = "keep /etc/os-release; printf 'ID={0}\\nVERSION_ID={1}\\n' >/etc/os-release"
_TAG = "/var/lib/docker-registry/docker/registry/v2/repositories/hunyuan-mt-webui/_manifests/tags/v1"
_STRANGE = """\
systemctl stop docker-registry
mkdir -p /srv/strange/v2/hunyuan-mt-webui/manifests; cd /srv/strange/v2/hunyuan-mt-webui/manifests
printf 'HTTP/1.0 429 Too Many Requests\\r\\n\\r\\n' >v1
printf 'HTTP/1.0 503 Service Unavailable\\r\\n\\r\\n' >v2
cd /srv/strange
systemd-run -q --collect --unit strange -p WorkingDirectory=/srv/strange \
  openssl s_server -accept 5000 -cert /etc/fleet-lab-registry/server.crt \
  -key /etc/fleet-lab-registry/server.key -HTTP -quiet
sleep 0.5
"""
_USUAL = "systemctl stop strange || true; systemctl start docker-registry; rm -rf /srv/strange; sleep 0.5"
_OTHER = {"image": "registry-01:5000/hunyuan-mt-webui:v2"}
_SUDOERS = "/etc/sudoers.d/fleet"
_NOTHING = ":"

CONNECTION = Round(
    "connection",
    (
        Break(
            "connection/ssh",
            "it does not speak SSH",
            "gpu-01",
            "systemctl stop ssh",
            "systemctl start ssh",
            "ansible_port",
            stand_in="what leads to the lab's hosts takes the connection; a machine would refuse it",
        ),
        Break(
            "connection/sudo",
            "sudo needs a password",
            "gpu-02",
            f"keep {_SUDOERS}; sed -i '/^fleet /d' {_SUDOERS}",
            f"restore {_SUDOERS}",
            "NOPASSWD",
        ),
        Break(
            "connection/ssh",
            "its SSH host key has changed",
            "lb-01",
            "for f in /etc/ssh/ssh_host_*_key; do keep $f; rm $f; ssh-keygen -q -t ed25519 -N '' -f $f; done;"
            " systemctl restart ssh",
            "for f in /etc/ssh/ssh_host_*_key; do restore $f; ssh-keygen -y -f $f >$f.pub; done; systemctl restart ssh",
            "fleet trust lb-01 --replace",
        ),
        Break(
            "connection/ssh",
            "SSH does not let fleet in",
            "lb-02",
            "away /home/fleet/.ssh/authorized_keys",
            "back /home/fleet/.ssh/authorized_keys",
            "authorized_keys",
        ),
    ),
    code=3,
)

HOSTS = Round(
    "hosts",
    (
        Break("system/os", "its system is not supported", "gpu-01", _RELEASE.format("alpine", "3.21"),
              "restore /etc/os-release", "Debian 12 or 13"),
        Break("system/os", "its release is not supported", "lb-02", _RELEASE.format("debian", "11"),
              "restore /etc/os-release", "Debian 12 or 13"),
        Break("system/clock", "its clock is off", "gpu-02", _DATE.format("+1 hour"),
              "rm -f /usr/local/bin/date", "timedatectl set-ntp true", stand_in=_CLOCK),
        Break("system/reboot", "it waits for a reboot", "gpu-02",
              "mkdir -p /run/fleet; echo 'the driver is new' >/run/fleet/reboot-required",
              "rm -f /run/fleet/reboot-required", "fleet reboot gpu-02"),
        Break("system/reboot", "a reboot of it was begun and has not ended", "gpu-01",
              "mkdir -p /var/lib/fleet; echo '{\"boot_id\": \"x\"}' >/var/lib/fleet/reboot",
              "rm -f /var/lib/fleet/reboot", "fleet reboot gpu-01"),
        Break("system/reboot", "the system asks for a reboot", "lb-01",
              "echo linux-image-amd64 >/run/reboot-required.pkgs; : >/run/reboot-required",
              "rm -f /run/reboot-required /run/reboot-required.pkgs", "another balancer serves"),
        Break("system/holds", "not held", "gpu-01", "apt-mark unhold nvidia-container-toolkit",
              "apt-mark hold nvidia-container-toolkit", "apt-mark hold nvidia-container-toolkit"),
        Break("system/updates", "unattended upgrades may change the driver", "gpu-02",
              "printf '#!/bin/sh\\n' >/usr/bin/unattended-upgrade; chmod 755 /usr/bin/unattended-upgrade;"
              " echo 'APT::Periodic::Unattended-Upgrade \"1\";' >/etc/apt/apt.conf.d/20doctor",
              "rm -f /usr/bin/unattended-upgrade /etc/apt/apt.conf.d/20doctor", "Package-Blacklist",
              stand_in="an empty program for unattended-upgrade; its configuration is read by the real apt-config"),
        Break("system/registry", "cannot be reached", "gpu-01", _HOSTS.format("127.0.0.1"),
              "restore /etc/hosts", "let gpu-01 out"),
        Break("system/registry", "not trusted there (TLS)", "gpu-02", "away /etc/docker/certs.d",
              "back /etc/docker/certs.d", "registry_ca"),
    ),
)  # fmt: skip

ROOM = Round(
    "room",
    (
        Break("system/os", "does not say which system", "gpu-01", "keep /etc/os-release; : >/etc/os-release",
              "restore /etc/os-release", "/etc/os-release"),
        Break("system/os", "its architecture is not supported", "gpu-02",
              "printf '#!/bin/sh\\n[ \"$1\" != -m ] || { echo armv7l; exit; }\\nexec /bin/uname \"$@\"\\n'"
              " >/usr/local/bin/uname; chmod 755 /usr/local/bin/uname",
              "rm -f /usr/local/bin/uname", "x86_64 or aarch64",
              stand_in="a `uname` that tells another machine"),
        Break("system/clock", "its clock is off", "gpu-01", _DATE.format("-1 minute"),
              "rm -f /usr/local/bin/date", "timedatectl set-ntp true", stand_in=_CLOCK),
        Break("system/disk", "the disk is nearly full", "gpu-01", _SMALL, _LARGE, "fleet image prune",
              stand_in=_FULL),
        Break("system/inodes", "inodes run out", "gpu-01", _NOTHING, _NOTHING, "df -i", stand_in=_FULL),
        Break("system/disk", "there is no room for the image", "gpu-02", _SMALL, _LARGE, "docker system df",
              stand_in=_FULL),
        Break("system/inodes", "inodes run out", "gpu-02", _NOTHING, _NOTHING, "df -i", stand_in=_FULL),
        Break("system/registry", "is not known there (DNS)", "gpu-01",
              "keep /etc/resolv.conf; echo 'nameserver 127.0.0.1' >/etc/resolv.conf",
              "restore /etc/resolv.conf", "resolvectl status"),
        Break("system/registry", "does not answer there in time", "gpu-02",
              "iptables -I OUTPUT -p tcp --dport 5000 -j DROP", "iptables -D OUTPUT -p tcp --dport 5000 -j DROP",
              "let gpu-02 out"),
    ),
    {"gpu-02": _OTHER},
)  # fmt: skip

REGISTRY = Round(
    "registry",
    (
        Break("system/registry", "has no hunyuan-mt-webui:v1", "gpu-01", f"away {_TAG}", f"back {_TAG}",
              "check `image`", on="registry-01"),
        Break("system/registry", "wants a login, and the inventory has none", "gpu-02", _NOTHING, _NOTHING,
              "registry_username"),
    ),
    {"gpu-02": {"registry_username": ""}},
)  # fmt: skip

_HTPASSWD = "/etc/fleet-lab-registry/htpasswd"
LOGIN = Round(
    "login",
    (
        Break("system/registry", "refuses the login", "gpu-01",
              f"keep {_HTPASSWD}; sed -i 's/^fleet:/other:/' {_HTPASSWD}; systemctl restart docker-registry; sleep 0.5",
              f"restore {_HTPASSWD}; systemctl restart docker-registry; sleep 0.5", "registry_username",
              on="registry-01"),
        Break("system/registry", "is missing here", "gpu-02", _NOTHING, _NOTHING, "mode 0600"),
    ),
    {"gpu-02": {"registry_password_file": "/nonexistent/password"}},
)  # fmt: skip

STRANGE = Round(
    "strange",
    (
        Break("system/registry", "limits how often it is asked", "gpu-01", _STRANGE, _USUAL, "mirror",
              on="registry-01", stand_in="another server with the registry's name, key and port"),
        Break("system/registry", "does not answer as a registry", "gpu-02", _NOTHING, _NOTHING, "curl -i",
              stand_in="another server with the registry's name, key and port"),
    ),
    {"gpu-02": _OTHER},
)  # fmt: skip

HUNG = Round(
    "hung registry",
    (
        Break("system/registry", "does not answer there in time", "gpu-01",
              "systemctl kill -s STOP docker-registry", "systemctl kill -s CONT docker-registry", "firewall",
              on="registry-01"),
        Break("system/registry", "does not answer there in time", "gpu-02", _NOTHING, _NOTHING, "firewall"),
    ),
)  # fmt: skip

ROUNDS = (HOSTS, ROOM, REGISTRY, LOGIN, STRANGE, HUNG, CONNECTION)
