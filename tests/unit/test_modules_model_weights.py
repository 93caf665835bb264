"""The module model_weights: plans from what a folder holds, and real downloads over loopback by sh and curl."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fleet.engine.look import look
from fleet.errors import InputError, Place, StepError
from fleet.model.host import Host
from fleet.model.secret import Secret
from fleet.modules._weights import LOCK, RECORD, SHARE, parse_sums
from fleet.modules.base import Context
from fleet.modules.model_weights import ModelWeights, ModelWeightsArgs
from tests.local import LocalRemote, LocalRunner

FILES = {"config.json": b"{}", "model-00001.safetensors": b"w" * 200_000, "sub dir/tokenizer.model": b"tok"}


def sums(files: dict[str, bytes]) -> str:
    return "".join(f"{hashlib.sha256(body).hexdigest()}  {name}\n" for name, body in files.items())


def write(folder: Path, files: dict[str, bytes]) -> None:
    for name, body in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(body)


class Server:
    def __init__(self, folder: Path) -> None:
        self.sent = 0
        self.asked: list[str] = []
        self.cut = 0
        self.token = ""
        self.ranges = True
        server = self

        class Handler(SimpleHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None: ...

            def do_GET(self) -> None:
                server.asked.append(self.path)
                path = Path(self.translate_path(self.path))
                if not path.is_file():
                    self.send_error(404)
                    return
                body, start = path.read_bytes(), 0
                if server.ranges and (asked := self.headers.get("Range")):
                    start = int(asked.removeprefix("bytes=").partition("-")[0])
                    if start >= len(body):
                        self.send_error(416)
                        return
                rest = body[start:]
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(rest)))
                if start:
                    self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
                self.end_headers()
                part = rest[: server.cut] if server.cut else rest
                server.sent += len(part)
                self.wfile.write(part)
                self.close_connection = len(part) < len(rest)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/m/"
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    write(tmp_path / "www" / "m", FILES)
    one = Server(tmp_path / "www")
    yield one
    one.stop()


@pytest.fixture
def wish(tmp_path: Path) -> dict[str, Any]:
    """The arguments but for where the files come from."""
    (tmp_path / "SUMS").write_text(sums(FILES))
    return {"dest": str(tmp_path / "models" / "hy"), "sums": str(tmp_path / "SUMS")}


def plan(args: dict[str, Any]) -> list[Any]:
    module, typed = ModelWeights(), msgspec.convert(args, ModelWeightsArgs)
    ctx = Context(host=Host("gpu-01"), place=Place("play.yml", 7))
    facts = look(LocalRemote("gpu-01"), module.probes(typed, ctx), timeout=30)
    return list(module.plan(typed, facts, ctx))


def run(args: dict[str, Any]) -> int:
    """Plan and do it; how many changes there were."""
    changes = plan(args)
    runner = LocalRunner(LocalRemote("gpu-01"))
    for change in changes:
        for step in change.steps:
            runner.execute(step, print)
    return len(changes)


def there(dest: str) -> dict[str, bytes]:
    folder = Path(dest)
    found = (path for path in folder.rglob("*") if path.is_file()) if folder.exists() else ()
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in found if path.name not in (RECORD, LOCK)
    }


def test_files_come_once_and_a_second_run_changes_and_reads_nothing(server, wish):
    args = {**wish, "url": server.url}
    assert run(args) == 1
    assert there(wish["dest"]) == FILES
    assert server.sent == sum(map(len, FILES.values()))
    assert all(path.stat().st_mode & 0o777 == 0o644 for path in Path(wish["dest"]).rglob("*.json"))
    asked = len(server.asked)
    assert plan(args) == []
    assert len(server.asked) == asked


def test_files_of_a_mounted_share_are_copied(server, wish, tmp_path):
    args = {**wish, "path": str(tmp_path / "www" / "m")}
    assert run(args) == 1
    assert there(wish["dest"]) == FILES
    assert plan(args) == []


def test_what_is_there_and_right_is_only_read(server, wish):
    write(Path(wish["dest"]), {**FILES, "own.txt": b"mine"})
    args = {**wish, "url": server.url}
    assert run(args) == 1
    assert server.asked == []
    assert plan(args) == []
    assert there(wish["dest"]) == {**FILES, "own.txt": b"mine"}


def test_a_changed_file_alone_is_put_right(server, wish):
    args = {**wish, "url": server.url}
    run(args)
    server.asked.clear()
    (Path(wish["dest"]) / "config.json").write_bytes(b"[]")
    [change] = plan(args)
    assert "have config.json in" in change.summary
    assert "not checked -> sha256" in change.diff
    run(args)
    assert server.asked == ["/m/config.json"]
    assert there(wish["dest"]) == FILES
    assert plan(args) == []


def test_another_list_of_checksums_brings_another_model_and_shows_both(server, wish, tmp_path):
    args = {**wish, "url": server.url}
    run(args)
    newer = {**FILES, "config.json": b'{"v": 2}'}
    write(tmp_path / "www" / "m", newer)
    (tmp_path / "SUMS").write_text(sums(newer))
    [change] = plan(args)
    assert f"sha256 {hashlib.sha256(b'{}').hexdigest()[:12]} -> sha256" in change.diff
    run(args)
    assert there(wish["dest"]) == newer


def test_an_interrupted_download_goes_on_where_it_was(server, wish, monkeypatch):
    server.cut = 90_000
    args = {**wish, "url": server.url}
    run(args)
    assert there(wish["dest"]) == FILES
    assert server.sent == sum(map(len, FILES.values()))


def test_what_a_killed_run_left_is_used(server, wish):
    name = "model-00001.safetensors"
    share = Path(wish["dest"]) / SHARE
    share.mkdir(parents=True)
    (share / f"{hashlib.sha256(FILES[name]).hexdigest()}.part").write_bytes(FILES[name][:150_000])
    run({**wish, "url": server.url})
    assert there(wish["dest"]) == FILES
    assert server.sent == sum(map(len, FILES.values())) - 150_000


def test_a_run_that_was_killed_just_before_the_end_fetches_nothing_again(server, wish):
    name = "model-00001.safetensors"
    share = Path(wish["dest"]) / SHARE
    share.mkdir(parents=True)
    (share / f"{hashlib.sha256(FILES[name]).hexdigest()}.part").write_bytes(FILES[name])
    run({**wish, "url": server.url})
    assert there(wish["dest"]) == FILES
    assert server.sent == sum(map(len, FILES.values())) - len(FILES[name])


def test_a_wrong_checksum_is_told_and_nothing_is_changed(server, wish, tmp_path):
    write(Path(wish["dest"]), {"config.json": b"old"})
    write(tmp_path / "www" / "m", {"model-00001.safetensors": b"v" * 200_000})
    with pytest.raises(StepError) as caught:
        run({**wish, "url": server.url})
    for words in (
        "model-00001.safetensors has the checksum",
        hashlib.sha256(b"v" * 200_000).hexdigest(),
        hashlib.sha256(FILES["model-00001.safetensors"]).hexdigest(),
        "nothing was changed",
    ):
        assert words in caught.value.output
    visible = {name: body for name, body in there(wish["dest"]).items() if not name.startswith(SHARE)}
    assert visible == {"config.json": b"old"}


def test_a_file_that_is_not_there_is_named(server, wish, tmp_path):
    (tmp_path / "www" / "m" / "config.json").unlink()
    with pytest.raises(StepError) as caught:
        run({**wish, "url": server.url})
    assert "404" in caught.value.output
    with pytest.raises(StepError) as caught:
        run({**wish, "path": str(tmp_path / "www" / "m")})
    assert "config.json is not there" in caught.value.output


def test_two_names_of_one_content_are_two_files(server, wish, tmp_path):
    both = {"a.bin": b"same", "b/b.bin": b"same"}
    write(tmp_path / "www" / "m", both)
    (tmp_path / "SUMS").write_text(sums(both))
    args = {**wish, "url": server.url}
    run(args)
    assert there(wish["dest"]) == both
    assert plan(args) == []


def test_a_copy_of_other_times_is_checked_again(server, wish):
    args = {**wish, "url": server.url}
    run(args)
    os.utime(Path(wish["dest"]) / "config.json", (1, 1))
    assert len(plan(args)) == 1
    server.asked.clear()
    run(args)
    assert server.asked == []
    assert plan(args) == []


def test_hosts_that_share_a_folder_bring_the_files_once(server, wish):
    args = {**wish, "url": server.url}
    [one], [two] = plan(args), plan(args)
    runner = LocalRunner(LocalRemote("gpu-01"))
    # Both began before either had ended: their steps take turns.
    for steps in zip(one.steps, two.steps, strict=True):
        for step in steps:
            runner.execute(step, print)
    assert there(wish["dest"]) == FILES
    assert server.sent == sum(map(len, FILES.values()))
    assert plan(args) == []


def test_a_token_goes_by_standard_input_and_never_shows(wish, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_abc")
    [change] = plan({**wish, "url": "https://models.example/x", "token_env": "HF_TOKEN"})
    step = change.steps[0]
    assert step.stdin == Secret('header = "Authorization: Bearer hf_abc"\n')
    assert "hf_abc" not in repr(change)
    assert step.argv[-2:] == ("https://models.example/x/config.json", "0")
    for wrong in ("", 'a"b', "a\nurl = x"):
        monkeypatch.setenv("HF_TOKEN", wrong)
        with pytest.raises(InputError, match="HF_TOKEN"):
            plan({**wish, "url": "https://models.example/x", "token_env": "HF_TOKEN"})


def test_a_limit_of_rate_and_odd_names_reach_curl(wish):
    [change] = plan({**wish, "url": "https://models.example/x", "limit_rate": "20M"})
    assert change.steps[2].argv[-2:] == ("https://models.example/x/sub%20dir/tokenizer.model", "20M")
    assert change.summary == f"have 3 of 3 files in {wish['dest']}, checked"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("hello", "line 1 is no checksum"),
        (f"{'0' * 64}  ../etc/passwd", "no relative name"),
        (f"{'0' * 64}  /etc/passwd", "no relative name"),
        (f"{'0' * 64}  {RECORD}", "no relative name"),
        (f"{'0' * 64}  a\n{'1' * 64}  a", "two checksums"),
        ("# nothing\n", "names no file"),
    ],
)
def test_a_list_of_checksums_that_is_none_is_refused(wish, text, words, tmp_path):
    (tmp_path / "SUMS").write_text(text)
    with pytest.raises(InputError, match=words):
        plan({**wish, "url": "https://models.example/x"})


def test_the_list_may_be_in_either_form_of_sha256sum():
    assert parse_sums(f"{'A' * 64} *./a b.bin\n\n{'0' * 64}  c/d\n") == {"a b.bin": "a" * 64, "c/d": "0" * 64}


@pytest.mark.parametrize(
    "wrong",
    [
        {"dest": "/models", "url": "https://x/"},
        {"url": "https://x/", "path": "/mnt/x"},
        {},
        {"url": "ftp://x/"},
        {"url": "http://x/", "token_env": "T"},
        {"url": "https://x/", "limit_rate": "fast"},
    ],
)
def test_arguments_that_cannot_be_meant_are_refused(wrong):
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"dest": "/srv/models/x", "sums": "s", **wrong}, ModelWeightsArgs)
