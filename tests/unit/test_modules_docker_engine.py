"""docker_engine's plan: what is installed, merged, reloaded, restarted, and in which order."""

import hashlib
import json

import pytest

from fleet.errors import TaskError
from fleet.model.facts import Answer
from fleet.model.steps import Run, Upload
from fleet.modules import _apt, _docker_apply, _docker_config
from fleet.modules._docker_apply import LOADED
from fleet.modules._systemd import SYSTEMCTL
from fleet.modules.docker_engine import _PACKAGES, FINGERPRINT
from fleet.modules.registry import load
from tests.unit.modules_world import (
    ABSENT,
    DEBIAN_13,
    NO_UNIT,
    RUNNING_UNIT,
    UBUNTU_24,
    context,
    file_answer,
    plan,
    steps,
    typed,
)

STARTED = 1795391293.737551  # RUNNING_UNIT's start as a file's time
PATH = "/etc/docker/daemon.json"
DPKG = _apt.packages_probe(_PACKAGES, virtual=False).key
NOT_INSTALLED = "un \tdocker-ce\t\t\tnot-installed\n"
DEBIAN_ENGINE = (
    "ii \tdocker-cli\tamd64\t26.1.5+dfsg1-9+deb13u1\tinstalled\n"
    "ii \tdocker.io\tamd64\t26.1.5+dfsg1-9+deb13u1\tinstalled\n"
)
DOCKER_ENGINE = (
    "ii \tdocker-ce\tamd64\t5:28.1.1-1~debian.13~trixie\tinstalled\n"
    "ii \tdocker-ce-cli\tamd64\t5:28.1.1-1~debian.13~trixie\tinstalled\n"
    "ii \tcontainerd.io\tamd64\t1.7.27-1\tinstalled\n"
)
DEFAULT = {
    "features": {"cdi": True},
    "live-restore": True,
    "log-driver": "json-file",
    "log-opts": {"max-size": "50m", "max-file": "3"},
}
SILENT = Answer(7, b"")
BARE = {
    "os": DEBIAN_13,
    "docker.engine": SILENT,
    DPKG: NOT_INSTALLED,
    "unit:docker.service": NO_UNIT,
    f"file.content:{PATH}": ABSENT,
    f"file.content:{LOADED}": ABSENT,
    "file.content:/etc/apt/sources.list.d/docker.sources": ABSENT,
    "file.content:/etc/apt/keyrings/docker.asc": ABSENT,
    "file.content:/etc/apt/keyrings/docker.gpg": ABSENT,
}


def body(path, value):
    text = json.dumps(value).encode()
    return text + f"\nfleet 200 {len(text)} http://d{path}\n".encode()


def engine(version="26.1.5+dfsg1", cdi=True, live=True):
    info = {
        "CDISpecDirs": ["/etc/cdi"] if cdi else [],
        "LiveRestoreEnabled": live,
        "SystemTime": "2026-01-01T00:00:00Z",
    }
    out = body("/version", {"Version": version, "ApiVersion": "1.45", "Arch": "amd64"}) + body("/info", info)
    return Answer(0, out)


def unit(**changed):
    lines = [line.partition("=") for line in RUNNING_UNIT.splitlines()]
    return "".join(f"{key}={changed.get(key, value)}\n" for key, _, value in lines)


def host(config=DEFAULT, *, mtime=STARTED - 60, **changed):
    content = config if isinstance(config, bytes) else json.dumps(config).encode()
    return {
        **BARE,
        "docker.engine": engine(),
        DPKG: DEBIAN_ENGINE,
        "unit:docker.service": RUNNING_UNIT,
        f"file.content:{PATH}": file_answer(content, mtime=mtime),
        **changed,
    }


def docker(args, answers, **ctx):
    return plan("docker_engine", args, answers, **ctx)


def config_of(changes):
    (upload,) = [step for step in steps(changes) if isinstance(step, Upload) and "daemon.json" in step.path]
    return json.loads(upload.content)


def restart(live="yes", force="no"):
    argv = ("sh", "-c", _docker_apply._RESTART, "restart", live, force)
    return Run(argv, timeout=300.0, title="restart Docker")


def install(*names):
    arguments = ("--no-install-recommends", "--", *names)
    argv = ("sh", "-c", _apt.APT, "apt", "86400", "install", *arguments)
    title = " ".join(("apt-get", "install", *arguments))
    return Run(argv, timeout=1800.0, env=_apt.ENVIRONMENT, title=title)


START = Run(
    ("sh", "-c", SYSTEMCTL, "systemctl", "start", "docker.service"), timeout=300.0, title="start Docker"
)


def test_a_new_engine_starts_once_with_its_configuration():
    changes = docker({}, BARE)
    assert [change.summary for change in changes] == [
        f"create {PATH}",
        "install docker.io, docker-cli",
        "start Docker and enable it at boot",
    ]
    assert steps(changes) == [
        Upload(PATH, _docker_config.render(DEFAULT), "0644", "root", "root"),
        install("docker.io", "docker-cli"),
        Run(("dockerd", "--validate", "--config-file", PATH)),
        Run(("systemctl", "enable", "docker.service")),
        START,
    ]


def test_the_client_is_its_own_package_only_where_it_is():
    assert install("docker.io") in steps(docker({}, {**BARE, "os": UBUNTU_24}))
    bookworm = DEBIAN_13.replace('VERSION_ID="13"', 'VERSION_ID="12"')
    assert install("docker.io") in steps(docker({"min_version": "20.10"}, {**BARE, "os": bookworm}))
    with pytest.raises(TaskError, match=r"its docker\.io is older"):
        docker({}, {**BARE, "os": bookworm})
    testing = DEBIAN_13.replace('VERSION_ID="13"\n', "")
    assert install("docker.io", "docker-cli") in steps(docker({}, {**BARE, "os": testing}))


def test_dockers_own_repository():
    args = {"source": "docker", "version": "5:28.*", "hold": True}
    changes = docker(args, {**BARE, "os": UBUNTU_24})
    assert [change.summary for change in changes] == [
        "add the package repository docker",
        f"create {PATH}",
        "install docker-ce 5:28.*, docker-ce-cli 5:28.*, containerd.io",
        "hold docker-ce, docker-ce-cli, containerd.io",
        "start Docker and enable it at boot",
    ]
    fetch, _, _, source, *_ = steps(changes)
    assert fetch.argv[4:] == (
        "https://download.docker.com/linux/ubuntu/gpg",
        FINGERPRINT,
        "/etc/apt/fleet/docker.asc",
    )
    assert source.content.decode().splitlines()[1:] == [
        "Types: deb",
        "URIs: https://download.docker.com/linux/ubuntu",
        "Suites: noble",
        "Components: stable",
        "Signed-By: /etc/apt/keyrings/docker.asc",
    ]


def test_other_systems_are_told_what_to_do():
    rocky = 'ID="rocky"\nVERSION_ID="9.5"\nPRETTY_NAME="Rocky Linux 9.5"\n'
    with pytest.raises(TaskError, match=r"does not install Docker on Rocky Linux 9\.5"):
        docker({}, {**BARE, "os": rocky})


def test_a_right_engine_is_left_alone():
    assert docker({}, host()) == []
    assert docker({"config": {"features": {"cdi": True}}}, host(json.dumps(DEFAULT, indent=9).encode())) == []


def test_any_installed_engine_is_kept():
    assert docker({}, host(**{DPKG: DOCKER_ENGINE, "docker.engine": engine("28.1.1")})) == []
    assert docker({"source": "docker"}, host()) == []
    assert docker({}, host(**{DPKG: NOT_INSTALLED})) == []
    with pytest.raises(TaskError, match="came from elsewhere"):
        docker({"version": "27.*"}, host(**{DPKG: NOT_INSTALLED}))


def test_a_missing_client_is_added():
    only_engine = DEBIAN_ENGINE.splitlines(keepends=True)[1]
    assert steps(docker({}, host(**{DPKG: only_engine}))) == [install("docker-cli")]


@pytest.mark.parametrize(
    ("seen", "version"),
    [
        ({"docker.engine": engine("24.0.7")}, "24.0.7"),
        ({"docker.engine": SILENT, DPKG: DEBIAN_ENGINE.replace("26.1.5", "20.10.24")}, "20.10.24"),
        ({"docker.engine": SILENT, DPKG: DOCKER_ENGINE.replace("28.1.1", "24.0.9")}, "5:24.0.9"),
    ],
)
def test_an_old_engine_is_refused(seen, version):
    with pytest.raises(TaskError) as caught:
        docker({}, host(**seen))
    assert version in caught.value.message
    assert "CDI needs 25" in caught.value.remedy
    docker({"min_version": "20"}, host(**seen))


# The file.


def test_keys_that_nobody_named_stay():
    found = {"bip": "172.29.0.1/24", "features": {"buildkit": False}, "runtimes": {"nvidia": {"path": "x"}}}
    changes = docker({"config": {"runtimes": {"other": {"path": "y"}}, "dns": ["10.0.0.2"]}}, host(found))
    assert config_of(changes) == {
        "bip": "172.29.0.1/24",
        "features": {"buildkit": False, "cdi": True},
        "runtimes": {"nvidia": {"path": "x"}, "other": {"path": "y"}},
        "dns": ["10.0.0.2"],
        "live-restore": True,
        "log-driver": "json-file",
        "log-opts": {"max-size": "50m", "max-file": "3"},
    }
    assert '+  "dns": [' in changes[0].diff


@pytest.mark.parametrize(
    ("found", "wanted", "expected"),
    [
        ({"live-restore": False}, {}, {"live-restore": False}),
        ({"features": {"cdi": False}}, {}, {"features": {"cdi": False}}),
        ({"log-driver": "journald"}, {}, {"log-driver": "journald"}),
        ({}, {"log-driver": "local"}, {"log-driver": "local"}),
        ({"log-opts": {"max-size": "1g"}}, {}, {"log-opts": {"max-size": "1g"}}),
        ({"log-driver": "syslog", "bip": "x"}, {"bip": None, "log-driver": "none"}, {"log-driver": "none"}),
        ({"live-restore": True}, {"live-restore": None}, {}),
        ({"features": "odd"}, {"features": {"a": True}}, {"features": {"a": True, "cdi": True}}),
    ],
)
def test_defaults_never_overrule(found, wanted, expected):
    merged = _docker_config.merged(found, wanted)
    logging = {key: merged.get(key) for key in ("log-driver", "log-opts") if key in merged}
    assert logging == {k: v for k, v in expected.items() if k in _docker_config.LOGGING} or (
        logging == dict(_docker_config.LOGGING)
        and not set(_docker_config.LOGGING) & (set(found) | set(wanted))
    )
    for key, value in expected.items():
        assert merged[key] == value
    for key, value in wanted.items():
        if value is None:
            assert key not in merged


def test_merging_twice_changes_nothing():
    once = _docker_config.merged({"a": {"b": 1}}, {"a": {"c": None, "d": 2}, "e": [1]})
    assert _docker_config.same(once, _docker_config.merged(once, {"a": {"c": None, "d": 2}, "e": [1]}))


@pytest.mark.parametrize(
    ("content", "message", "line"),
    [
        (b'{\n "a": [1,2\n}\n', "line 3, column 1", "}"),
        (b'{"a": 1,}', "line 1", '{"a": 1,}'),
        (b"[]", "not a JSON object", "[]"),
    ],
)
def test_an_invalid_file_is_not_touched(content, message, line):
    with pytest.raises(TaskError) as caught:
        docker({}, host(content))
    assert message in caught.value.message
    assert caught.value.message.startswith(PATH)
    assert caught.value.output == line


def test_an_empty_file_and_a_byte_order_mark_are_fine():
    assert config_of(docker({}, host(b" \n"))) == DEFAULT
    assert docker({}, host(b"\xef\xbb\xbf" + json.dumps(DEFAULT).encode())) == []


# Reload or restart.


def test_the_new_file_is_checked_before_it_takes_the_place():
    changes = docker({"config": {"debug": True}}, host())
    upload, check, reload = steps(changes)
    assert upload.path == f"{PATH}.fleet-new"
    assert check.argv[6:] == ("dockerd", "--validate", "--config-file", f"{PATH}.fleet-new")
    assert reload == _docker_apply.reload_engine(_docker_config.render({**DEFAULT, "debug": True}))
    assert [change.summary for change in changes] == [f"change {PATH}", "reload Docker"]


@pytest.mark.parametrize("key", sorted(_docker_config.RELOADABLE - {"live-restore", "debug"}))
def test_keys_that_a_running_engine_takes_up(key):
    assert docker({"config": {key: 1}}, host())[-1].summary == "reload Docker"


@pytest.mark.parametrize(
    "config", [{"bip": "1"}, {"features": {"x": True}}, {"log-driver": "local"}, {"bip": "1", "debug": True}]
)
def test_other_keys_need_a_restart(config):
    assert steps(docker({"config": config}, host()))[-1] == restart()


def test_a_reload_is_remembered_for_this_start_and_content_only():
    content = json.dumps(DEFAULT).encode()
    digest = hashlib.sha256(content).hexdigest()
    mark = f"file.content:{LOADED}"
    later = host(mtime=STARTED + 5)
    assert (
        docker({}, {**later, mark: file_answer(f"bdc0feffc6b847bbaaca3087d5aa2967 {digest}\n".encode())})
        == []
    )
    for other in (f"00 {digest}\n", f"bdc0feffc6b847bbaaca3087d5aa2967 {digest[::-1]}\n"):
        (change,) = docker({}, {**later, mark: file_answer(other.encode())})
        assert change.summary == f"restart Docker: {PATH} changed after it started"
        assert change.steps == (restart(),)


def test_a_file_changed_by_others_needs_a_restart_even_where_a_reload_would_do():
    changes = docker({"config": {"debug": True}}, host(mtime=STARTED + 5))
    assert steps(changes)[-1] == restart()


@pytest.mark.parametrize(
    ("seen", "reason"),
    [(engine(live=False), "it runs without live-restore"), (engine(cdi=False), "it runs without CDI")],
)
def test_an_engine_that_runs_otherwise_than_its_file_is_restarted(seen, reason):
    (change,) = docker({}, host(**{"docker.engine": seen}))
    assert change.summary == f"restart Docker: {reason}"


def test_what_is_switched_off_on_purpose_is_not_missed():
    off = {**DEFAULT, "live-restore": False, "features": {"cdi": False}}
    assert docker({}, host(off, **{"docker.engine": engine(cdi=False, live=False)})) == []


def test_without_live_restore_containers_are_looked_for_before_anything_is_touched():
    off = {**DEFAULT, "live-restore": False}
    first, *_, last = steps(docker({"config": {"bip": "1"}}, host(off)))
    assert first == _docker_apply.refuse_to_stop_containers()
    assert last == restart(live="no")
    first, *_, last = steps(docker({"config": {"bip": "1"}, "stop_containers": True}, host(off)))
    assert isinstance(first, Upload)
    assert last == restart(live="no", force="yes")


def test_a_stopped_engine_is_started_and_a_disabled_one_enabled():
    stopped = unit(ActiveState="inactive", SubState="dead", UnitFileState="disabled")
    assert steps(docker({}, host(**{"unit:docker.service": stopped, "docker.engine": SILENT}))) == [
        Run(("systemctl", "enable", "docker.service")),
        START,
    ]
    (change,) = docker({}, host(**{"unit:docker.service": unit(UnitFileState="disabled")}))
    assert change.steps == (Run(("systemctl", "enable", "docker.service")),)


# Certificates, and what is asked.


def test_certificates_of_registries(tmp_path):
    (tmp_path / "ca.crt").write_bytes(b"CERT")
    args = {"registry_ca": {"registry.example:5000": "ca.crt"}}
    key = "file.content:/etc/docker/certs.d/registry.example:5000/ca.crt"
    (change,) = docker(args, {**host(), key: ABSENT}, search=(tmp_path,))
    assert change.steps == (Upload(key.partition(":")[2], b"CERT", "0644", "root", "root"),)
    assert docker(args, {**host(), key: file_answer(b"CERT")}, search=(tmp_path,)) == []
    probes = load("docker_engine").probes(typed("docker_engine", args), context())
    assert key in [probe.key for probe in probes]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"min_version": "new"}, "not a version"),
        ({"version": "a b"}, "not a package version"),
        ({"repository": "http://x"}, "must start with https"),
        ({"registry_ca": {"../x": "y"}}, "not HOST or HOST:PORT"),
        ({"source": "snap"}, "Invalid enum value"),
    ],
)
def test_wrong_arguments(args, message):
    with pytest.raises(ValueError, match=message):
        typed("docker_engine", args)
