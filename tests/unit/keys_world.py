"""Balancers that keep keys: real HAProxies on loopback that ask for one, each with its own file and socket."""

from __future__ import annotations

import base64
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from fleet.balancer.keys_script import LOCK_FILE
from fleet.balancer.paths import KEYS_FILE, SOCKET
from fleet.errors import UnreachableError
from fleet.model.host import Host
from fleet.ssh.remote import Remote, Result
from tests.local import LocalRemote
from tests.unit.haproxy_world import ask, free_port, haproxy

_CONFIG = """\
global
  stats socket {folder}/admin.sock mode 600 level admin expose-fd listeners
defaults
  mode http
  timeout client 5s
  timeout server 5s
  timeout connect 5s
frontend gateway
  bind 127.0.0.1:{port}
{rules}
  http-request return status 200 content-type text/plain lf-string "%[var(txn.user)]"
"""
_RULES = """\
  http-request set-var(txn.key) http_auth_bearer
  http-request set-var(txn.key) req.hdr(x-api-key) if !{{ var(txn.key) -m found }}
  http-request set-var(txn.key) http_auth_pass if !{{ var(txn.key) -m found }}
  http-request set-var(txn.user) var(txn.key),sha2(256),hex,lower,map({file})
  http-request deny deny_status 401 unless {{ var(txn.user) -m found }}
"""


class KeysHost:
    """One balancer, whose HAProxy asks for keys until `configure` says otherwise."""

    def __init__(self, folder: Path, name: str, file: str = "fleet-keys.map") -> None:
        folder.mkdir()
        self.folder, self.name, self.port = folder, name, free_port()
        self.file = folder / file
        self.host = Host(name, {}, ("balancer",))
        self.reachable = True
        self.process: subprocess.Popen[bytes] | None = None
        self.configure(gateway=True)

    def configure(self, *, gateway: bool) -> None:
        rules = _RULES.format(file=self.file) if gateway else ""
        text = _CONFIG.format(folder=self.folder, port=self.port, rules=rules)
        (self.folder / "haproxy.cfg").write_text(text)

    def start(self) -> None:
        self.file.touch()
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [haproxy(), "-W", "-f", self.folder / "haproxy.cfg"], stderr=log, stdout=log
            )
        self.until_up()

    def until_up(self) -> None:
        end = time.monotonic() + 8
        while "Version" not in self.ask("show info"):
            assert time.monotonic() < end, (self.folder / "log").read_text()
            time.sleep(0.02)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(timeout=10)
            self.process = None

    def ask(self, command: str) -> str:
        return ask(f"{self.folder}/admin.sock", command)

    def here(self, script: str) -> str:
        """A script meant for a balancer, for this one's folder."""
        for path, mine in ((SOCKET, "admin.sock"), (KEYS_FILE, self.file.name), (LOCK_FILE, "lock")):
            script = script.replace(path, str(self.folder / mine))
        return script.replace("/etc/haproxy", str(self.folder))

    def open(self) -> Remote:
        if not self.reachable:
            raise UnreachableError(f"{self.name}: connection refused", remedy="look at the host's console")
        return _Here(self)

    def get(self, **headers: str) -> tuple[int, str]:
        """A request through the gateway: its status, and whom HAProxy took the user for."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/", headers={key.replace("_", "-"): v for key, v in headers.items()}
        )
        try:
            with urllib.request.urlopen(request, timeout=5) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, ""

    def lets_in(self, key: str) -> bool:
        """Whether the key opens the gateway; the three ways to show it must agree."""
        basic = base64.b64encode(f"anybody:{key}".encode()).decode()
        said = {
            self.get(Authorization=f"Bearer {key}")[0],
            self.get(X_API_Key=key)[0],
            self.get(Authorization=f"Basic {basic}")[0],
        }
        assert said in ({200}, {401}), said
        return said == {200}


class _Here(LocalRemote):
    def __init__(self, balancer: KeysHost) -> None:
        super().__init__(balancer.name)
        self._balancer = balancer

    def script(self, text: str, *, timeout: float) -> Result:
        return super().script(self._balancer.here(text), timeout=timeout)

    def run(
        self,
        argv: tuple[str, ...],
        *,
        stdin: bytes | None = None,
        timeout: float = 120.0,
        env: Mapping[str, str] | None = None,
    ) -> Result:
        here = tuple(self._balancer.here(word) for word in argv)
        return super().run(here, stdin=stdin, timeout=timeout, env=env)
