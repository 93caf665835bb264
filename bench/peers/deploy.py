"""The twelve operations of playbook.yml, said to pyinfra."""

from __future__ import annotations

from io import StringIO

from pyinfra import host
from pyinfra.operations import apt, files, systemd

FOLDER = "/etc/fleet-bench"

apt.packages(name="Network tools", packages=["ca-certificates", "curl", "iproute2", "iptables"])
apt.packages(name="Operators' tools", packages=["cron", "jq", "less"])
apt.packages(name="Archive tools", packages=["openssl", "tar", "xz-utils", "zstd"])
files.directory(name="A folder for settings", path=FOLDER, user="root", group="root", mode="755")
files.file(name="The crontab is root's", path="/etc/crontab", user="root", group="root", mode="600")
files.put(name="A file", src="files/limits.conf", dest=f"{FOLDER}/limits.conf", mode="644")
files.put(name="A text", src=StringIO("vm.swappiness = 10\n"), dest=f"{FOLDER}/sysctl.conf", mode="644")
files.template(
    name="A template",
    src="templates/service.env.j2",
    dest=f"{FOLDER}/service.env",
    user="root",
    group="root",
    mode="640",
    inventory_hostname=host.name,
    workers=8,
    languages=["de", "en", "fr"],
)
files.link(name="A link", path=f"{FOLDER}/current", target="service.env")
systemd.service(name="sshd", service="ssh", running=True, enabled=True)
systemd.service(name="cron", service="cron", running=True, enabled=True)
systemd.service(name="D-Bus", service="dbus", running=True, enabled=True)
