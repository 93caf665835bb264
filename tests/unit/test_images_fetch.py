"""Fetching from a real registry on loopback with the real sh and curl: whole, interrupted, refused, lied to."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleet.docker.pulling import RegistryLogin
from fleet.errors import StepError, TaskError
from fleet.images import fetch
from fleet.images.ask import HostRegistry, quoted
from fleet.images.fetch import Fetch, parse_slice, stored
from fleet.images.manifest import Blob
from fleet.images.source import source_of
from fleet.model.secret import Secret
from fleet.rollout.stopping import Interrupted
from tests.local import LocalRemote
from tests.unit.registry_world import Registry, digest, serving

LOGIN = RegistryLogin("fleet", Secret("pass word"))
LAYERS = [bytes([number]) * size for number, size in ((1, 300_000), (2, 1000), (3, 40_000))]


@pytest.fixture
def registry() -> Iterator[Registry]:
    with serving(Registry()) as one:
        yield one


def asked(registry: Registry, login: RegistryLogin | None = LOGIN) -> HostRegistry:
    return HostRegistry(LocalRemote("gpu-01"), source_of(registry.image), login)


def brought(registry: Registry, store: Path, remote: LocalRemote | None = None, **more) -> list[int]:
    """Fetch every blob; what the progress was."""
    host = asked(registry)
    blobs = [Blob(name, len(body)) for name, body in registry.blobs.items()]
    seen: list[int] = []
    one = Fetch(str(store), host.source, blobs, host.authorization, pause=lambda _: None, **more)
    one.run(remote or LocalRemote("gpu-01"), seen.append)
    return seen


@pytest.mark.parametrize("auth", ["none", "basic", "bearer"])
def test_a_registry_is_asked_in_the_way_it_wants(registry, auth):
    registry.auth = auth
    top, own = registry.add(LAYERS, index=True)
    host = asked(registry)
    authorization = host.authorization()
    found, manifest = host.manifest("amd64", authorization)
    assert (found, manifest.digest) == (top, own)
    assert manifest.size == sum(map(len, registry.blobs.values()))
    assert host.diff_ids(manifest, authorization) == tuple(digest(b"raw" + each) for each in LAYERS)
    assert str(authorization) in ("None", "***")


def test_a_refused_login_says_so_and_does_not_show_itself(registry):
    registry.auth = "bearer"
    with pytest.raises(StepError, match="refuses access") as caught:
        asked(registry, RegistryLogin("fleet", Secret("wrong horse"))).authorization()
    assert "registry_username" in caught.value.remedy
    assert "wrong horse" not in repr(vars(caught.value))


def test_an_image_that_is_not_there_or_for_another_machine_is_named(registry):
    registry.add(LAYERS, index=True)
    with pytest.raises(StepError, match="answers 404") as caught:
        HostRegistry(LocalRemote("gpu-01"), source_of(f"{registry.host}/team/app:v9"), None).manifest(
            "amd64", None
        )
    assert "tag" in caught.value.remedy
    with pytest.raises(TaskError, match="not for arm64, only for amd64"):
        asked(registry).manifest("arm64", None)


def test_all_blobs_come_once_and_bear_their_digests_names(registry, tmp_path):
    registry.auth = "bearer"
    registry.add(LAYERS)
    seen = brought(registry, tmp_path / "store")
    assert seen[-1] == sum(map(len, registry.blobs.values()))
    assert registry.sent == {name: len(body) for name, body in registry.blobs.items()}
    for name in registry.blobs:
        file = tmp_path / "store" / "blobs" / "sha256" / name.removeprefix("sha256:")
        assert f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}" == name
        assert file.stat().st_mode & 0o077 == 0
    assert not list((tmp_path / "store" / "partial").iterdir())


def test_an_interrupted_fetch_goes_on_in_the_middle_of_a_blob(registry, tmp_path):
    registry.add(LAYERS)
    registry.cut = 100_000
    seen = brought(registry, tmp_path)
    assert seen[0] < seen[-1]
    # No byte went out twice, though the connection broke again and again.
    assert registry.sent == {name: len(body) for name, body in registry.blobs.items()}


def test_what_another_run_left_is_not_fetched_again(registry, tmp_path):
    registry.add(LAYERS)
    big = digest(LAYERS[0])
    (tmp_path / "partial").mkdir()
    (tmp_path / "partial" / big.removeprefix("sha256:")).write_bytes(LAYERS[0][:250_000])
    assert stored(LocalRemote("gpu-01"), str(tmp_path)) == {big.removeprefix("sha256:"): 250_000}
    brought(registry, tmp_path)
    assert registry.sent[big] == 50_000
    registry.sent.clear()
    brought(registry, tmp_path)
    assert not registry.sent


def test_a_token_that_ends_meanwhile_is_renewed(registry, tmp_path):
    registry.auth = "bearer"
    registry.add(LAYERS)
    registry.token_uses = 2
    brought(registry, tmp_path)
    assert registry.tokens >= 3


def test_bytes_that_are_not_what_the_digest_says_never_count(registry, tmp_path):
    registry.add(LAYERS)
    registry.lies = {digest(LAYERS[1])}
    with pytest.raises(StepError, match="not what its digest says") as caught:
        brought(registry, tmp_path)
    assert digest(LAYERS[1]) in caught.value.output
    name = digest(LAYERS[1]).removeprefix("sha256:")
    assert not (tmp_path / "blobs" / "sha256" / name).exists()
    assert not (tmp_path / "partial" / name).exists()


def test_a_blob_that_went_bad_on_the_way_once_is_fetched_again(registry, tmp_path):
    registry.add(LAYERS)
    name = digest(LAYERS[1]).removeprefix("sha256:")
    (tmp_path / "partial").mkdir()
    (tmp_path / "partial" / name).write_bytes(b"x" * 1000)
    brought(registry, tmp_path)
    assert (tmp_path / "blobs" / "sha256" / name).read_bytes() == LAYERS[1]


def test_a_blob_that_is_gone_ends_it_at_once_and_what_came_is_kept(registry, tmp_path):
    registry.add(LAYERS)
    host = asked(registry)
    blobs = [Blob(digest(LAYERS[0]), len(LAYERS[0])), Blob("sha256:" + "0" * 64, 5)]
    with pytest.raises(StepError, match="is kept") as caught:
        Fetch(str(tmp_path), host.source, blobs, host.authorization).run(
            LocalRemote("gpu-01"), lambda _: None
        )
    assert "404" in caught.value.output
    assert stored(LocalRemote("gpu-01"), str(tmp_path))


def test_a_registry_that_cannot_go_on_in_the_middle_is_left_to_the_engine(registry, tmp_path):
    registry.add(LAYERS)
    registry.ranges = False
    registry.cut = 100_000
    with pytest.raises(StepError, match="cannot go on in the middle") as caught:
        brought(registry, tmp_path)
    assert "--engine" in caught.value.remedy


def test_one_that_gives_nothing_for_long_ends_with_what_curl_said(registry, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "_PATIENCE", 2)
    registry.add(LAYERS)
    blobs = [Blob("sha256:" + "0" * 64, 5)]
    source = source_of("127.0.0.1:1/team/app:v1")
    pauses: list[float] = []
    with pytest.raises(StepError, match=r"cannot fetch the image from 127\.0\.0\.1:1") as caught:
        Fetch(str(tmp_path), source, blobs, lambda: None, pause=pauses.append).run(
            LocalRemote("gpu-01"), lambda _: None
        )
    assert "curl: (7)" in caught.value.output
    assert pauses


def test_a_limit_is_one_stream_that_curl_slows_down(registry, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "SLICE", 30.0)
    registry.add([b"1" * 3000])
    seen: list[tuple[str, ...]] = []

    class Watched(LocalRemote):
        def run(self, argv, **more):
            seen.append(argv)
            return super().run(argv, **more)

    brought(registry, tmp_path, Watched("gpu-01"), rate=500_000)
    assert [argv[8:10] for argv in seen] == [("500000", "1")]


def test_how_much_is_there_is_told_meanwhile(registry, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "LOOK", 0.03)
    registry.add([b"1" * 500_000])
    registry.pause = 0.1
    seen = brought(registry, tmp_path)
    assert len({count for count in seen if 1000 < count < seen[-1]}) > 1, seen


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_wish_to_stop_ends_it_and_no_thread_dies_of_it(registry, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "LOOK", 0.03)
    registry.add([b"1" * 200_000])
    registry.pause = 0.1
    host = asked(registry)
    blobs = [Blob(name, len(body)) for name, body in registry.blobs.items()]

    def progress(done: int) -> None:
        raise Interrupted

    with pytest.raises(Interrupted):
        Fetch(str(tmp_path), host.source, blobs, host.authorization).run(LocalRemote("gpu-01"), progress)


def test_neither_login_nor_token_is_ever_on_a_command_line(registry, tmp_path):
    registry.auth = "basic"
    registry.add(LAYERS)
    seen: list[str] = []

    class Watched(LocalRemote):
        def run(self, argv, **more):
            seen.extend(argv)
            return super().run(argv, **more)

    brought(registry, tmp_path, Watched("gpu-01"))
    assert seen
    assert not [word for word in seen if "pass word" in word or "Basic " in word]
    assert b"pass" not in b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_the_end_of_a_slice_is_no_error_and_a_lost_connection_is_one():
    found = parse_slice(
        b"curl aa 28 curl: (28) Operation timed out after 10001 milliseconds with 5 out of 9 bytes received\n"
        b"curl bb 28 curl: (28) Connection timed out after 30001 milliseconds\n"
        b"curl cc 56 curl: (56) Recv failure: Connection reset by peer\n"
        b"done dd 7\npart aa 5\n"
    )
    assert [code for code, _ in found.errors] == [28, 56]
    assert (found.have, found.whole) == ({"dd": 7, "aa": 5}, {"dd"})


def test_nothing_breaks_out_of_curls_configuration():
    assert quoted('a"b\\c') == '"a\\"b\\\\c"'
    with pytest.raises(ValueError, match="control"):
        quoted("a\nurl = file:///etc/shadow")
