"""The archive that an engine is given: its files, and that it arrives whole."""

from __future__ import annotations

import io
import json
import socketserver
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from fleet.errors import StepError
from fleet.images import load
from fleet.images.manifest import Blob, Manifest, digest_of
from tests.local import LocalRemote

CONFIG, LOWER, UPPER = b'{"config": 1}', b"lower" * 1000, b"upper" * 100


def blob(body: bytes) -> Blob:
    return Blob(digest_of(body), len(body))


BODY = b'{"schemaVersion": 2}'
MANIFEST = Manifest(digest_of(BODY), "application/x", BODY, blob(CONFIG), (blob(LOWER), blob(UPPER)))


def test_the_archive_is_what_docker_save_writes_and_an_oci_layout():
    files = load.layout(MANIFEST)
    [item] = json.loads(files["manifest.json"])
    assert item["Config"] == f"blobs/sha256/{blob(CONFIG).hex}"
    assert item["Layers"] == [f"blobs/sha256/{blob(each).hex}" for each in (LOWER, UPPER)]
    assert item["RepoTags"] is None
    [top] = json.loads(files["index.json"])["manifests"]
    assert top == {"mediaType": "application/x", "digest": MANIFEST.digest, "size": len(BODY)}
    assert files[f"blobs/sha256/{MANIFEST.digest.removeprefix('sha256:')}"] == BODY


def test_where_layers_are_left_out_only_the_engines_own_form_is_there():
    assert list(load.layout(MANIFEST, 1)) == ["manifest.json"]


class Engine:
    def __init__(self, path: Path) -> None:
        self.got = b""
        self.says = b'{"stream":"Loaded image ID: sha256:0\\n"}\n'
        self.status = 200
        engine = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None: ...

            def address_string(self) -> str:
                return "socket"

            def do_POST(self) -> None:
                engine.path = self.path
                while size := int(self.rfile.readline(), 16):
                    engine.got += self.rfile.read(size)
                    self.rfile.readline()
                self.send_response(engine.status)
                self.end_headers()
                self.wfile.write(engine.says)

        self.server = socketserver.ThreadingUnixStreamServer(str(path), Handler)
        self.server.daemon_threads = True
        threading.Thread(
            target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()


@pytest.fixture
def engine(tmp_path: Path, monkeypatch) -> Iterator[Engine]:
    path = tmp_path / "docker.sock"
    one = Engine(path)
    monkeypatch.setattr(load, "_LOAD", load._LOAD.replace(load.SOCKET, str(path)))
    yield one
    one.server.shutdown()
    one.server.server_close()


class Remote(LocalRemote):
    def upload(self, path: str, content: bytes, **_: str) -> None:
        super().upload(path, content, mode="0600", owner="", group="")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    folder = tmp_path / "store" / "blobs" / "sha256"
    folder.mkdir(parents=True)
    for body in (CONFIG, LOWER, UPPER):
        (folder / blob(body).hex).write_bytes(body)
    return tmp_path / "store"


def test_the_engine_gets_the_archive_whole(engine, store):
    load.load(Remote("gpu-01"), str(store), MANIFEST, MANIFEST.blobs, 0)
    with tarfile.open(fileobj=io.BytesIO(engine.got)) as tar:
        got = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    assert got[f"blobs/sha256/{blob(LOWER).hex}"] == LOWER
    assert got[f"blobs/sha256/{blob(UPPER).hex}"] == UPPER
    assert set(got) == {
        *load.layout(MANIFEST),
        *(f"blobs/sha256/{blob(b).hex}" for b in (CONFIG, LOWER, UPPER)),
    }
    assert engine.path == "/images/load?quiet=1"


def test_layers_that_the_engine_has_are_not_sent(engine, store):
    load.load(Remote("gpu-01"), str(store), MANIFEST, (blob(CONFIG), blob(UPPER)), 1)
    with tarfile.open(fileobj=io.BytesIO(engine.got)) as tar:
        assert set(tar.getnames()) == {
            "manifest.json",
            *(f"blobs/sha256/{blob(body).hex}" for body in (CONFIG, UPPER)),
        }


def test_what_the_engine_complains_about_in_its_stream_is_an_error(engine, store):
    engine.says = b'{"errorDetail":{"message":"write /x: no space left on device"},"error":"write"}\n'
    with pytest.raises(StepError, match="cannot load the image") as caught:
        load.load(Remote("gpu-01"), str(store), MANIFEST, MANIFEST.blobs, 0)
    assert "no space left" in caught.value.output
    assert "free disk space" in caught.value.remedy


def test_an_archive_that_is_not_whole_is_an_error_though_the_engine_is_content(engine, store):
    (store / "blobs" / "sha256" / blob(UPPER).hex).unlink()
    with pytest.raises(StepError, match="cannot load"):
        load.load(Remote("gpu-01"), str(store), MANIFEST, MANIFEST.blobs, 0)


def test_forgetting_removes_one_image_and_keeps_what_another_pull_left(store):
    (store / "partial").mkdir()
    other = store / "partial" / ("0" * 64)
    other.write_bytes(b"x")
    load.forget(LocalRemote("gpu-01"), str(store), MANIFEST)
    assert [path for path in store.rglob("*") if path.is_file()] == [other]
    other.unlink()
    load.forget(LocalRemote("gpu-01"), str(store), MANIFEST)
    assert not store.exists()


def test_what_was_touched_lately_is_nobodys_leftover(store):
    import os

    assert load.abandoned(LocalRemote("gpu-01"), str(store)) == 0
    for path in (store, *store.rglob("*")):
        os.utime(path, (1, 1))
    assert load.abandoned(LocalRemote("gpu-01"), str(store)) >= 4096
    assert load.abandoned(LocalRemote("gpu-01"), str(store / "none")) == 0
