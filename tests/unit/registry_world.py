"""An image registry on loopback that counts what it sends, and can break, lie and ask for logins."""

from __future__ import annotations

import base64
import hashlib
import json
import ssl
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

OCI = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
NAME = "team/app"
_PIECE = 64 * 1024


def digest(body: bytes) -> str:
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


class Registry:
    """The registry's content and its whims.

    `auth` is none, basic or bearer. `cut` ends each answer after so many bytes, `pause` (seconds) follows each
    piece; `sent` are the bytes of each blob that went out; `lies` are blobs whose bytes are not those of their
    digest.
    """

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, tuple[str, bytes]] = {}
        self.auth = "none"
        self.cut = 0
        self.pause = 0.0
        self.lies: set[str] = set()
        self.sent: Counter[str] = Counter()
        self.asked: list[str] = []
        self.tokens = 0
        self.token_uses = 1000
        self.ranges = True
        self.port = 0

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def image(self) -> str:
        return f"{self.host}/{NAME}:v1"

    def blob(self, body: bytes) -> dict[str, Any]:
        self.blobs[digest(body)] = body
        return {"digest": digest(body), "size": len(body), "mediaType": "application/octet-stream"}

    def add(self, layers: list[bytes], tag: str = "v1", *, index: bool = False) -> tuple[str, str]:
        """An image with these layers; the digest its tag means, and its manifest's."""
        config = {
            "architecture": "amd64",
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [digest(b"raw" + each) for each in layers]},
        }
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": OCI,
                "config": self.blob(json.dumps(config).encode()),
                "layers": [self.blob(each) for each in layers],
            }
        ).encode()
        own = digest(manifest)
        self.manifests[own] = self.manifests[tag] = (OCI, manifest)
        if not index:
            return own, own
        listed = [
            {"digest": own, "size": len(manifest), "platform": {"os": "linux", "architecture": "amd64"}},
            {"digest": own, "size": 9, "platform": {"os": "unknown", "architecture": "unknown"}},
        ]
        top = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": listed}).encode()
        self.manifests[digest(top)] = self.manifests[tag] = (INDEX, top)
        return digest(top), own


@contextmanager
def serving(registry: Registry, tls: tuple[str, str] | None = None) -> Iterator[Registry]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None: ...

        def do_GET(self) -> None:
            registry.asked.append(self.path)
            if self.path.startswith("/token"):
                self._token()
            elif not self._allowed():
                self._refuse()
            elif self.path == "/v2/":
                self._answer(200, b"{}")
            else:
                self._content()

        def _token(self) -> None:
            if self.headers.get("Authorization") != login():
                return self._answer(401, b'{"errors":[{"code":"UNAUTHORIZED","message":"no"}]}')
            registry.tokens += 1
            return self._answer(200, json.dumps({"token": f"t{registry.tokens}"}).encode())

        def _allowed(self) -> bool:
            given = self.headers.get("Authorization", "")
            if registry.auth == "basic":
                return given == login()
            if registry.auth == "bearer" and given == f"Bearer t{registry.tokens}":
                registry.token_uses -= 1
                if registry.token_uses == 0:
                    registry.tokens += 1  # the token is worth nothing from now on
                    registry.token_uses = 1000
                return True
            return registry.auth == "none"

        def _refuse(self) -> None:
            kind = 'Basic realm="r"'
            if registry.auth == "bearer":
                kind = f'Bearer realm="http://{registry.host}/token",service="reg"'
            self._answer(401, b'{"errors":[{"code":"UNAUTHORIZED","message":"who?"}]}', challenge=kind)

        def _content(self) -> None:
            _, kind, what = self.path.rsplit("/", 2)
            if kind == "manifests" and what in registry.manifests:
                return self._answer(200, registry.manifests[what][1], kind=registry.manifests[what][0])
            if kind != "blobs" or what not in registry.blobs:
                return self._answer(404, b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"unknown"}]}')
            body = registry.blobs[what]
            if what in registry.lies:
                body = bytes(len(body))
            start = 0
            if (asked := self.headers.get("Range")) and registry.ranges:
                start = int(asked.removeprefix("bytes=").partition("-")[0])
            rest = body[start:]
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(rest)))
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            self.end_headers()
            part = rest[: registry.cut] if registry.cut else rest
            registry.sent[what] += len(part)
            for at in range(0, len(part), _PIECE):
                self.wfile.write(part[at : at + _PIECE])
                time.sleep(registry.pause)
            self.close_connection = len(part) < len(rest)
            return None

        def _answer(self, status: int, body: bytes, *, challenge: str = "", kind: str = "") -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Type", kind or "application/json")
            if challenge:
                self.send_header("WWW-Authenticate", challenge)
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*tls)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    registry.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield registry
    finally:
        server.shutdown()
        server.server_close()


def login() -> str:
    return "Basic " + base64.b64encode(b"fleet:pass word").decode()
