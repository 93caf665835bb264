"""HTTP to a Docker Engine through processes on its host, for the Docker SDK's requests session."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlparse

import requests.adapters
import urllib3
from docker.transport.basehttpadapter import BaseHTTPAdapter
from urllib3.connection import HTTPConnection

from fleet.errors import StepError
from fleet.ssh.fabric_remote import FabricRemote
from fleet.ssh.streams import Stream

# The engine's own client bridges its socket, wherever it is configured to be. It is a package of its own
# on newer Debians, hence the others.
DIAL = (
    "sh",
    "-c",
    "if command -v docker >/dev/null; then exec docker system dial-stdio; fi; "
    "s=/run/docker.sock; "
    "if command -v socat >/dev/null; then exec socat - UNIX-CONNECT:$s; fi; "
    "if command -v nc >/dev/null; then exec nc -U $s; fi; "
    "echo 'no docker, socat or nc on this host' >&2; exit 127",
)


class EngineConnection(HTTPConnection):
    """One HTTP connection: a process on the host."""

    def __init__(self, remote: FabricRemote, timeout: float) -> None:
        super().__init__("engine", timeout=timeout)
        self._remote = remote
        self._stream: Stream | None = None

    def connect(self) -> None:
        """Start the process. Raises what `FabricRemote.stream` raises."""
        self._stream = self._remote.stream(DIAL)
        self._stream.settimeout(self.timeout)
        self.sock = self._stream

    @property
    def is_connected(self) -> bool:
        """True while the process can still answer; urllib3 replaces one that cannot."""
        return self._stream is not None and self.sock is not None and not self._stream.ended

    def getresponse(self) -> Any:
        """The response; the host's own words where the bridge failed instead of answering."""
        try:
            return super().getresponse()
        except (ConnectionError, urllib3.exceptions.ProtocolError) as error:
            self._explain(error)
            raise

    def send(self, data: Any) -> None:
        """Send a part of the request; a bridge that ended already is told as in `getresponse`."""
        try:
            super().send(data)
        except OSError as error:
            self._explain(error)
            raise

    def _explain(self, error: Exception) -> None:
        """Raise StepError with what the bridge said, where it said something."""
        said = self._stream.last_words() if self._stream is not None else ""
        if said:
            raise StepError(
                f"{self._remote.name}: the Docker Engine cannot be reached",
                output=said,
                remedy="check `systemctl status docker` there, and that the Docker client is installed",
            ) from error


class EnginePool(urllib3.HTTPConnectionPool):
    """Few connections: each is a session, of which sshd allows ten (MaxSessions)."""

    def __init__(self, remote: FabricRemote, timeout: float, size: int) -> None:
        super().__init__("engine", timeout=timeout, maxsize=size, block=True)
        self._remote = remote

    def _new_conn(self) -> Any:
        return EngineConnection(self._remote, float(self.timeout.read_timeout or 60))


class EngineAdapter(BaseHTTPAdapter):
    """Mounted on a Docker client's session, it sends every request over the host's SSH connection."""

    def __init__(self, remote: FabricRemote, timeout: float, size: int) -> None:
        self._pool = EnginePool(remote, timeout, size)
        super().__init__()

    def get_connection(self, url: Any, proxies: Any = None) -> EnginePool:
        """The one pool there is."""
        return self._pool

    def request_url(self, request: requests.PreparedRequest, proxies: Any) -> str:
        """The path alone: a proxy of the operator's environment is not for this."""
        parts = urlparse(request.url or "")
        return str(request.path_url or parts.path)

    def close(self) -> None:
        """Close every connection."""
        self._pool.close()
        super().close()
