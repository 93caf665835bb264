"""apt_repository's plan, and its check of fetched keys with real keys over real TLS."""

import http.server
import shutil
import ssl
import subprocess
import threading

import pytest
import trustme

from fleet.errors import TaskError
from fleet.model.steps import Run, Upload
from fleet.modules import _apt, _keys, _sources
from tests.unit.modules_world import ABSENT, DEBIAN_13, UBUNTU_24, file_answer, plan, steps, typed

ARMORED = b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nabc\n-----END PGP PUBLIC KEY BLOCK-----\n"
SOURCE = "file.content:/etc/apt/sources.list.d/tools.sources"
ASC, GPG = "file.content:/etc/apt/keyrings/tools.asc", "file.content:/etc/apt/keyrings/tools.gpg"
NOTHING = {"os": DEBIAN_13, SOURCE: ABSENT, ASC: ABSENT, GPG: ABSENT}
ARGS = {
    "name": "tools",
    "uris": "https://example.test/$(ID)/$(ARCH)",
    "suites": ["$(CODENAME)", "$(CODENAME)-updates"],
    "components": "main",
    "signed_by": ARMORED.decode(),
}
TEXT = """\
# Managed by fleet: changes here are undone by the next run.
Types: deb
URIs: https://example.test/debian/$(ARCH)
Suites: trixie trixie-updates
Components: main
Signed-By: /etc/apt/keyrings/tools.asc
"""


def attempt(*moves):
    argv = ("sh", "-c", _sources._TRY, "sources", _apt.APT, "/etc/apt/fleet/tools.sources", *moves)
    return Run(argv, timeout=1800.0, env=_apt.ENVIRONMENT, title="fetch the package lists of tools")


def test_a_new_repository_is_tried_before_it_is_used():
    (change,) = plan("apt_repository", ARGS, NOTHING)
    assert change.summary == "add the package repository tools"
    assert change.steps == (
        Upload("/etc/apt/fleet/tools.asc", ARMORED),
        Upload("/etc/apt/fleet/tools.sources", TEXT.replace("keyrings", "fleet").encode()),
        attempt("/etc/apt/fleet/tools.asc", "/etc/apt/keyrings/tools.asc"),
        Upload("/etc/apt/sources.list.d/tools.sources", TEXT.encode()),
    )


def test_a_repository_that_is_there_is_left_alone():
    there = {**NOTHING, SOURCE: file_answer(TEXT.encode()), ASC: file_answer(ARMORED)}
    assert plan("apt_repository", ARGS, there) == []
    (change,) = plan("apt_repository", {**ARGS, "components": ["main", "extra"]}, there)
    new = TEXT.replace("main", "main extra").encode()
    assert change.summary == "change the package repository tools"
    assert change.steps == (
        Upload("/etc/apt/fleet/tools.sources", new),
        attempt(),
        Upload("/etc/apt/sources.list.d/tools.sources", new),
    )


@pytest.mark.parametrize("key", [file_answer(b"other"), file_answer(ARMORED, mode="600")])
def test_a_wrong_or_unreadable_key_is_mended(key):
    there = {**NOTHING, SOURCE: file_answer(TEXT.encode()), ASC: key}
    changed = steps(plan("apt_repository", ARGS, there))
    assert changed[0] == Upload("/etc/apt/fleet/tools.asc", ARMORED)
    assert changed[-1] == attempt("/etc/apt/fleet/tools.asc", "/etc/apt/keyrings/tools.asc")


def test_a_flat_repository_for_ubuntu_with_a_binary_key(tmp_path):
    (tmp_path / "key").write_bytes(b"\x99\x01\x02")
    args = {"name": "tools", "uris": "http://10.0.0.5/$(RELEASE)", "suites": "/", "signed_by": "key"}
    changed = steps(plan("apt_repository", args, {**NOTHING, "os": UBUNTU_24}, search=(tmp_path,)))
    assert changed[0] == Upload("/etc/apt/fleet/tools.gpg", b"\x99\x01\x02")
    assert changed[-1].content.decode().splitlines()[1:] == [
        "Types: deb",
        "URIs: http://10.0.0.5/ubuntu2404",
        "Suites: /",
        "Signed-By: /etc/apt/keyrings/tools.gpg",
    ]


def test_a_key_to_fetch_is_fetched_once():
    fingerprint = "AAAA BBBB CCCC DDDD EEEE  FFFF 0000 1111 2222 3333"
    args = {**ARGS, "signed_by": None, "key_url": "https://example.test/key", "key_fingerprint": fingerprint}
    changed = steps(plan("apt_repository", args, NOTHING))
    assert changed[0] == _keys.fetch_key(
        "https://example.test/key", "AAAABBBBCCCCDDDDEEEEFFFF0000111122223333", "/etc/apt/fleet/tools.asc"
    )
    assert attempt("/etc/apt/fleet/tools.asc", "/etc/apt/keyrings/tools.asc") in changed
    assert (
        plan("apt_repository", args, {**NOTHING, SOURCE: file_answer(TEXT.encode()), ASC: file_answer(b"k")})
        == []
    )


@pytest.mark.parametrize(
    ("other", "line"),
    [
        ("vendor.list", "deb [signed-by=/usr/share/keyrings/vendor.gpg] https://example.test/x/ /"),
        ("vendor.list", "# deb [signed-by=/usr/share/keyrings/vendor.gpg] https://example.test/x/ /"),
        ("tools.list.save", "deb [signed-by=/usr/share/keyrings/vendor.gpg] https://example.test/x/ /"),
    ],
)
def test_one_that_another_file_has_with_another_key_is_refused_before_apt_reads_both(tmp_path, other, line):
    parts, stage, key = tmp_path / "parts", tmp_path / "stage", tmp_path / "keyrings" / "tools.asc"
    for folder in (parts, stage):
        folder.mkdir()
    (parts / other).write_text(f"{line}\n")
    tried = stage / "tools.sources"
    tried.write_text(f"Types: deb\nURIs: https://example.test/x\nSuites: /\nSigned-By: {stage}/tools.asc\n")
    (stage / "tools.asc").write_bytes(ARMORED)
    script = _sources._TRY.replace("/etc/apt/sources.list.d", str(parts))
    argv = ["sh", "-c", script, "sources", "echo fetched", str(tried), f"{stage}/tools.asc", str(key)]
    done = subprocess.run(argv, capture_output=True, text=True)
    if other == "vendor.list" and not line.startswith("#"):
        assert (done.returncode, done.stdout, key.exists()) == (100, "", False)
        assert "Conflicting values set for option Signed-By" in done.stderr
        assert "reason: this host has that repository already, with another key" in done.stderr
    else:
        assert (done.returncode, done.stdout, key.exists()) == (0, "fetched\n", True), done.stderr
    assert not stage.exists()


def test_removal_takes_everything_away():
    gone = {"name": "tools", "state": "absent"}
    assert plan("apt_repository", gone, NOTHING) == []
    there = {**NOTHING, SOURCE: file_answer(b"x"), GPG: file_answer(b"k")}
    remove, update = steps(plan("apt_repository", gone, there))
    paths = ("/etc/apt/sources.list.d/tools.sources", "/etc/apt/keyrings/tools.gpg")
    assert remove == Run(("rm", "-f", "--", *paths))
    assert update.argv[4:] == ("never", "update")


def test_what_is_not_a_key_is_refused(tmp_path):
    (tmp_path / "key").write_text("<html>")
    with pytest.raises(TaskError, match="not an OpenPGP key"):
        plan("apt_repository", {**ARGS, "signed_by": "key"}, NOTHING, search=(tmp_path,))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"name": "a/b"}, "becomes a file's name"),
        ({"name": "a", "uris": "https://x/"}, "`suites` is missing"),
        ({"uris": "example.test"}, "not an address"),
        ({"components": []}, "`components` are needed"),
        ({"suites": "./"}, "`components` are needed"),
        ({"suites": "a b"}, "contains a word with a space"),
        ({"key_url": "https://x"}, "go together"),
        ({"signed_by": None, "key_url": "http://x", "key_fingerprint": "a" * 40}, "must start with https"),
        ({"signed_by": None, "key_url": "https://x", "key_fingerprint": "abc"}, "not an OpenPGP fingerprint"),
        ({"trusted": True}, "give one of"),
    ],
)
def test_wrong_arguments(args, message):
    base = {} if "suites" not in args and "name" in args else ARGS
    with pytest.raises(ValueError, match=message):
        typed("apt_repository", {**base, **args})


# Real keys, from a real server.


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """A server of keys: its address, the CA that signed it, and the keys' fingerprints."""
    if not shutil.which("gpg"):
        pytest.skip("gpg makes the keys")
    folder = tmp_path_factory.mktemp("keys")
    home = tmp_path_factory.mktemp("g")
    gpg = ["gpg", "--homedir", str(home), "--batch", "--quiet", "--passphrase", ""]
    fingerprints = {}
    for name, algorithm in (("one", "rsa2048"), ("two", "ed25519")):
        subprocess.run([*gpg, "--quick-generate-key", name, algorithm, "sign", "never"], check=True)
        listed = subprocess.run([*gpg, "--list-keys", "--with-colons", name], check=True, capture_output=True)
        rows = [line.split(":") for line in listed.stdout.decode().splitlines()]
        fingerprints[name] = next(row[9] for row in rows if row[0] == "fpr")
        for option, suffix in (("--armor", "asc"), ("--no-armor", "gpg")):
            with open(folder / f"{name}.{suffix}", "wb") as file:
                subprocess.run([*gpg, option, "--export", name], check=True, stdout=file)
    subprocess.run([*gpg, "--quick-add-key", fingerprints["one"], "rsa2048", "sign", "never"], check=True)
    with open(folder / "subkey.asc", "wb") as file:
        subprocess.run([*gpg, "--armor", "--export", "one"], check=True, stdout=file)
    with open(folder / "both.asc", "wb") as file:
        subprocess.run([*gpg, "--armor", "--export"], check=True, stdout=file)
    (folder / "page.html").write_text("<html>sign in</html>")
    (folder / "cut.gpg").write_bytes((folder / "one.gpg").read_bytes()[:100])
    subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=True)

    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(folder))

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f"https://127.0.0.1:{server.server_port}", str(folder / "ca.pem"), fingerprints
    server.shutdown()
    server.server_close()


def fetch(keys, file, fingerprint, path, trust=True):
    address, authority, _ = keys
    step = _keys.fetch_key(f"{address}/{file}", fingerprint, str(path))
    env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **({"CURL_CA_BUNDLE": authority} if trust else {})}
    return subprocess.run(step.argv, env=env, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("file", "name"),
    [("one.asc", "one"), ("one.gpg", "one"), ("two.asc", "two"), ("two.gpg", "two"), ("subkey.asc", "one")],
)
def test_the_right_key_is_taken(keys, tmp_path, file, name):
    path = tmp_path / "deep" / "key.asc"
    done = fetch(keys, file, keys[2][name], path)
    assert (done.returncode, done.stderr) == (0, "")
    assert path.stat().st_size > 100
    assert [entry.name for entry in path.parent.iterdir()] == ["key.asc"]


@pytest.mark.parametrize(
    ("file", "name", "message"),
    [
        ("one.asc", "two", "not trusted"),
        ("both.asc", "one", "exactly one OpenPGP public key"),
        ("page.html", "one", "exactly one OpenPGP public key"),
        ("cut.gpg", "one", "exactly one OpenPGP public key"),
        ("nothing", "one", "404"),
    ],
)
def test_any_other_is_refused(keys, tmp_path, file, name, message):
    done = fetch(keys, file, keys[2][name], tmp_path / "key.asc")
    assert done.returncode != 0
    assert message in done.stderr
    assert not (tmp_path / "key.asc").exists()


def test_a_server_that_is_not_certified_is_refused(keys, tmp_path):
    done = fetch(keys, "one.asc", keys[2]["one"], tmp_path / "key.asc", trust=False)
    assert done.returncode != 0
    assert not (tmp_path / "key.asc").exists()
