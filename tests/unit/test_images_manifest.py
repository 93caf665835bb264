"""What registries say, as they say it, read into values."""

from __future__ import annotations

import pytest

from fleet.docker.answers import Engine
from fleet.errors import InputError, TaskError
from fleet.images.layers import check_room, held, parse_layers, shared
from fleet.images.manifest import Index, Manifest, digest_of, parse_diff_ids, parse_manifest
from fleet.images.rate import parse_rate
from fleet.images.source import parse_challenge, source_of
from fleet.model.facts import Answer

# As `curl -H 'Accept: ...' https://registry-1.docker.io/v2/library/hello-world/manifests/latest` has it, shortened.
HUB = b"""{
  "manifests": [
    {"annotations": {"org.opencontainers.image.version": "linux"},
     "digest": "sha256:03b62250a3cb1abd125271d393fc08bf0cc713391eda6b57c02d1ef85efcc25c",
     "mediaType": "application/vnd.oci.image.manifest.v1+json",
     "platform": {"architecture": "amd64", "os": "linux"}, "size": 1035},
    {"annotations": {"vnd.docker.reference.type": "attestation-manifest"},
     "digest": "sha256:0ac1cf1e0cbb1a0b09e3a2fc0b1ea5a9ed4a4d2cb07d5d8d3a0a5b0c3f0f7a11",
     "mediaType": "application/vnd.oci.image.manifest.v1+json",
     "platform": {"architecture": "unknown", "os": "unknown"}, "size": 565},
    {"digest": "sha256:1b41b09e4bfb8a8d7e9b0d1a4d0ffe7a4e2b64d0dbb1ea0a9a2a3d5a3d1c2e10",
     "mediaType": "application/vnd.oci.image.manifest.v1+json",
     "platform": {"architecture": "arm", "os": "linux", "variant": "v5"}, "size": 1035},
    {"digest": "sha256:00abdbfd095cf666ff8523d0ac0c5776c617a50907b0c32db3225847b622ec5a",
     "mediaType": "application/vnd.oci.image.manifest.v1+json",
     "platform": {"architecture": "arm64", "os": "linux", "variant": "v8"}, "size": 1039}
  ],
  "mediaType": "application/vnd.oci.image.index.v1+json",
  "schemaVersion": 2
}"""
# As Debian's docker-registry has it of what Docker 26.1 pushed.
SCHEMA_2 = b"""{
   "schemaVersion": 2,
   "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
   "config": {
      "mediaType": "application/vnd.docker.container.image.v1+json",
      "size": 3214,
      "digest": "sha256:6f1bd9e8d1dbb66b52ac8e3f8ea44cf4a0a5d7d1e7c3d1c4dd9e3a9fe1f55b10"
   },
   "layers": [
      {
         "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip",
         "size": 58310247,
         "digest": "sha256:1f0c1e4d02a1b53aa1a4ee3ab15e8c5b9b31b2d5f0b3aab4a4e7c0cf0a0cf2e1"
      },
      {
         "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip",
         "size": 32,
         "digest": "sha256:a3ed95caeb02ffe68cdd9fd84406680ae93d633cb16422d00e8a7c22955b46d4"
      },
      {
         "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip",
         "size": 32,
         "digest": "sha256:a3ed95caeb02ffe68cdd9fd84406680ae93d633cb16422d00e8a7c22955b46d4"
      }
   ]
}"""


def test_an_index_has_a_manifest_for_each_platform_and_attestations_are_none():
    index = parse_manifest(HUB, "here")
    assert isinstance(index, Index)
    assert index.digest == digest_of(HUB)
    assert [name for name, _ in index.manifests] == ["amd64", "arm/v5", "arm64/v8"]
    assert (index.of("amd64") or "").startswith("sha256:03b6")
    assert (index.of("arm64") or "").startswith("sha256:00ab")
    assert index.of("riscv64") is None


def test_a_manifest_has_its_size_known_and_a_layer_that_occurs_twice_counts_once():
    manifest = parse_manifest(SCHEMA_2, "here", digest_of(SCHEMA_2))
    assert isinstance(manifest, Manifest)
    assert len(manifest.layers) == 3
    assert len(manifest.blobs) == 3
    assert manifest.size == 3214 + 58310247 + 32
    assert manifest.body == SCHEMA_2


def test_bytes_with_another_digest_are_refused():
    with pytest.raises(TaskError, match="another digest") as caught:
        parse_manifest(SCHEMA_2, "gpu-01: team/app", "sha256:" + "0" * 64)
    assert digest_of(SCHEMA_2) in caught.value.output


@pytest.mark.parametrize(
    "body",
    [
        b"<html>proxy</html>",
        b'{"schemaVersion": 1, "fsLayers": []}',
        b'{"config": {"digest": "sha256:../../etc", "size": 1}, "layers": []}',
        b'{"config": {"digest": "sha256:%s", "size": -1}, "layers": []}' % (b"0" * 64),
    ],
)
def test_what_is_no_manifest_is_refused_with_a_way_out(body):
    with pytest.raises(TaskError, match="cannot be read") as caught:
        parse_manifest(body, "here")
    assert "--engine" in caught.value.remedy


def test_the_unpacked_layers_are_in_the_configuration():
    assert parse_diff_ids(b'{"os":"linux","rootfs":{"type":"layers","diff_ids":["sha256:a"]}}', "x") == (
        "sha256:a",
    )
    with pytest.raises(TaskError, match="configuration"):
        parse_diff_ids(b"{}", "x")


@pytest.mark.parametrize(
    ("reference", "base", "what"),
    [
        ("registry.example:5000/team/app:v1", "https://registry.example:5000/v2/team/app", "v1"),
        ("app", "https://registry-1.docker.io/v2/library/app", "latest"),
        ("docker.io/vllm/vllm:v2", "https://registry-1.docker.io/v2/vllm/vllm", "v2"),
        ("ghcr.io/a/b@sha256:" + "1" * 64, "https://ghcr.io/v2/a/b", "sha256:" + "1" * 64),
        ("localhost/app:v1", "http://localhost/v2/app", "v1"),
    ],
)
def test_a_names_registry_is_the_engines(reference, base, what):
    source = source_of(reference)
    assert (source.base, source.what) == (base, what)
    assert source_of(reference, "sha256:" + "2" * 64).what == "sha256:" + "2" * 64


def test_docker_hub_gives_tokens_for_one_repository():
    said = 'Bearer realm="https://auth.docker.io/token",service="registry.docker.io"'
    source = source_of("vllm/vllm")
    url = parse_challenge(said, source).token_url(source.path)
    assert url == (
        "https://auth.docker.io/token?service=registry.docker.io&scope=repository%3Avllm%2Fvllm%3Apull"
    )


@pytest.mark.parametrize("said", ["Negotiate", 'Bearer realm="http://elsewhere/token"', ""])
def test_a_login_is_sent_nowhere_it_should_not_go(said):
    with pytest.raises(TaskError, match="of a kind"):
        parse_challenge(said, source_of("registry.example/app"))


CLASSIC = Engine("26.1.5", "1.45", architecture="amd64", storage_driver="overlay2")


def manifest_of(*sizes: int) -> Manifest:
    from fleet.images.manifest import Blob

    blobs = [Blob(f"sha256:{number:064}", size) for number, size in enumerate(sizes)]
    return Manifest("sha256:" + "f" * 64, "m", b"{}", blobs[0], tuple(blobs[1:]))


def test_only_layers_from_the_lowest_on_are_there_already():
    assert shared([["a", "b", "x"], ["b", "c"]], ["a", "b", "c"]) == 2
    assert shared([["x", "b", "c"]], ["a", "b", "c"]) == 0
    assert shared([], ["a"]) == 0


def test_the_room_needed_is_packed_twice_and_unpacked_and_a_tenth():
    found = held(manifest_of(0, 60, 40), ["a", "b"], [], CLASSIC, free=None, unpacked=300)
    assert (found.present, found.to_fetch) == (0, 100)
    assert found.needed == (100 + 100 + 300) * 11 // 10
    assert not found.estimated


def test_what_is_there_and_what_was_fetched_before_needs_no_room():
    found = held(manifest_of(0, 60, 40), ["a", "b"], [["a", "z"]], CLASSIC, free=1, unpacked=None, stored=10)
    assert (found.present, found.to_fetch, found.estimated) == (1, 40, True)
    assert found.needed == (30 + 40 + 80) * 11 // 10


def test_an_engine_with_containerds_store_gets_every_layer():
    engine = Engine("29.0.0", "1.52", architecture="amd64", storage_driver="overlayfs")
    found = held(manifest_of(0, 60, 40), ["a", "b"], [["a", "b"]], engine, free=None, unpacked=None)
    assert (found.present, found.to_fetch) == (0, 100)


def test_an_image_that_does_not_fit_is_refused_with_all_its_numbers():
    found = held(manifest_of(0, 6 * 10**9), ["a"], [], CLASSIC, free=10**9, unpacked=None)
    with pytest.raises(TaskError, match=r"1\.0 GB are free in /var/lib/docker") as caught:
        check_room("gpu-01", "/var/lib/docker", found)
    for words in ("26.4 GB", "6.0 GB compressed", "12.0 GB unpacked (an estimate", "a tenth more"):
        assert words in str(caught.value)
    check_room("gpu-01", "/", held(manifest_of(0, 6), ["a"], [], CLASSIC, free=None, unpacked=None))


def test_layers_of_local_images_are_read_and_nonsense_between_is_not():
    text = b'{"Id":"sha256:1","RootFS":{"Type":"layers","Layers":["sha256:a","sha256:b"]}}\n{"message":"gone"}\n\n'
    assert parse_layers(Answer(0, text)) == (("sha256:a", "sha256:b"),)
    assert parse_layers(Answer(7)) == ()


def test_rates_are_what_people_write():
    assert [parse_rate(text) for text in ("", "500K", "20M", "1.5G", "20MB/s")] == [
        *(0, 500_000, 20_000_000, 1_500_000_000, 20_000_000)
    ]
    for text in ("fast", "0", "-1M", "12", "1T"):
        with pytest.raises(InputError, match="no rate"):
            parse_rate(text)
