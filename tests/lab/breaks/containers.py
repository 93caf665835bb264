"""Breaks of engine, toolkit and CDI file."""

from __future__ import annotations

from tests.lab.breaks.model import Break, Round

_FILES = "/run/cdi/nvidia.yaml /etc/cdi/nvidia.yaml"
STOP = "systemctl stop docker.socket docker"
STALE = f"for f in {_FILES}; do [ ! -e $f ] || {{ keep $f; sed -i 's/GPU-[0-9a-f]\\{{8\\}}/GPU-00000000/' $f; }}; done"
WELL = f"for f in {_FILES}; do restore $f; done"
AWAY = f"for f in {_FILES}; do [ ! -e $f ] || away $f; done"
BACK = f"for f in {_FILES}; do back $f; done"
# systemd keeps the socket's path: what is put in its place lies there until it is put back.
_OLD = r"""
mv /run/docker.sock /run/docker.sock.away
cat >/run/old.pl <<'END'
use Socket; socket S, AF_UNIX, SOCK_STREAM, 0; bind S, sockaddr_un('/run/docker.sock') or die $!; listen S, 9;
my %body = ('/version' => '{"Version":"20.10.24+dfsg1","ApiVersion":"1.41","Arch":"amd64"}',
            '/info' => '{"LiveRestoreEnabled":true,"SystemTime":"2026-01-01T00:00:00Z"}');
while (accept C, S) {
    my $line = <C>; while (<C>) { last if /^\r?$/ }
    my ($path) = $line =~ /^GET (\S+)/; my $said = $body{$path} // '[]';
    print C "HTTP/1.1 200 OK\r\nContent-Length: " . length($said) . "\r\nConnection: close\r\n\r\n$said"; close C;
}
END
systemd-run -q --collect --unit old-docker perl /run/old.pl
for i in 1 2 3 4 5 6 7 8 9 10; do [ -S /run/docker.sock ] && break; sleep 0.1; done
"""
_NEW = "systemctl stop old-docker || true; [ ! -S /run/docker.sock.away ] || mv /run/docker.sock.away /run/docker.sock"

FILES = Round(
    "files",
    (
        Break("containers/cdi", "the CDI file is out of date", "gpu-01", STALE, WELL, "on gpu-01"),
        Break("containers/cdi", "no CDI file names the GPUs", "gpu-02", AWAY, BACK, "nvidia-ctk cdi generate"),
        Break("containers/toolkit", "toolkit is not installed", "gpu-02", "away /usr/bin/nvidia-ctk",
              "back /usr/bin/nvidia-ctk", "fleet provision --limit gpu-02"),
        Break("containers/engine", "Docker does not start at boot", "gpu-02", "systemctl disable docker",
              "systemctl enable docker", "systemctl enable docker"),
        Break("containers/live-restore", "live-restore is off", "gpu-01",
              "daemon 's/\"live-restore\": true/\"live-restore\": false/'; systemctl reload docker; sleep 0.3",
              "restore /etc/docker/daemon.json; systemctl reload docker; sleep 0.3", "fleet provision --limit gpu-01"),
    ),
)  # fmt: skip

DOWN = Round(
    "down",
    (
        Break("containers/engine", "the Docker Engine does not run", "gpu-01", STOP,
              "systemctl start docker.socket docker", "systemctl start docker"),
        Break("containers/engine", "too old for CDI", "gpu-02", _OLD, _NEW, "docker_source: docker",
              stand_in="a program that answers as Docker 20.10 does; the engine itself goes on"),
    ),
)  # fmt: skip

MASKED = Round(
    "masked",
    (
        Break("containers/engine", "Docker is masked", "gpu-01",
              f"{STOP}; systemctl mask --runtime docker", "systemctl unmask --runtime docker; systemctl start docker.socket docker",
              "systemctl unmask docker"),
        Break("containers/engine", "the Docker Engine does not run", "gpu-02", STOP,
              "systemctl start docker.socket docker", "systemctl start docker"),
        Break("containers/engine", "Docker does not start at boot", "gpu-02", "systemctl disable docker",
              "systemctl enable docker", "systemctl enable docker"),
    ),
)  # fmt: skip

GONE = Round(
    "gone",
    (
        Break("containers/engine", "Docker is not installed", "gpu-01",
              f"{STOP}; away /usr/sbin/dockerd", "back /usr/sbin/dockerd; systemctl start docker.socket docker",
              "fleet provision --limit gpu-01", stand_in="the program is taken away, not the package"),
        Break("containers/engine", "takes no CDI devices", "gpu-02",
              "daemon 's/\"cdi\": true/\"cdi\": false/'; systemctl restart docker",
              "restore /etc/docker/daemon.json; systemctl restart docker", "features"),
    ),
)  # fmt: skip

HUNG = Round(
    "hung engine",  # curl waits half a minute for it
    (
        Break("containers/engine", "runs and does not answer", "gpu-01", "kill -STOP $(systemctl show -p MainPID --value docker)",
              "kill -CONT $(systemctl show -p MainPID --value docker)", "journalctl -u docker"),
    ),
    long=True,
)  # fmt: skip

ROUNDS = (FILES, DOWN, MASKED, GONE, HUNG)
