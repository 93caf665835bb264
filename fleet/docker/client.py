"""A Docker SDK client for a host's engine, over the SSH connection that is already open.

Nothing listens on TCP, no second login happens, and sudo works as for any other command.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fleet.errors import StepError
from fleet.ssh.fabric_remote import FabricRemote
from fleet.ssh.remote import Remote

if TYPE_CHECKING:
    from docker import DockerClient

_POOL = 3
_BASE = "http://engine:80"
# Any engine of the last ten years speaks it; only the question for the real version is put in it.
_FIRST_VERSION = "1.24"


def open_engine(remote: Remote, *, timeout: float = 60.0) -> DockerClient:
    """A Docker client for the host behind `remote`, speaking the engine's own API version.

    `timeout` in seconds is for each read, not for streams. Close the client before the connection.
    Raises StepError where no engine answers, UnreachableError where the connection is dead.
    """
    if not isinstance(remote, FabricRemote):
        raise TypeError("the Docker API needs an SSH connection")
    import docker
    import requests

    from fleet.docker.adapter import EngineAdapter
    from fleet.docker.failures import engine_error

    adapter = EngineAdapter(remote, timeout, _POOL)
    asking = docker.APIClient(base_url=_BASE, version=_FIRST_VERSION, timeout=int(timeout))
    asking.trust_env = False
    asking.mount("http://", adapter)
    try:
        version = asking.version(api_version=False)["ApiVersion"]
    except StepError:
        raise
    except (docker.errors.DockerException, requests.RequestException) as error:
        raise engine_error(error, f"{remote.name}: the Docker Engine does not answer") from error
    client = docker.DockerClient(base_url=_BASE, version=version, timeout=int(timeout))
    client.api.trust_env = False
    client.api.mount("http://", adapter)
    return client
