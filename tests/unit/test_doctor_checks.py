"""Each check of `fleet doctor` on what real hosts say: what it finds, and the remedy it names."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fleet.doctor.balancers import REACH_PROBE
from fleet.doctor.checks import ALL
from fleet.doctor.connection import refused
from fleet.doctor.containers import CDI_PROBE, ENGINE_UNIT_PROBE, TOOLKIT_PROBE
from fleet.doctor.disk import DISK_PROBE
from fleet.doctor.examine import Look, report
from fleet.doctor.firewall import RULES_PROBE
from fleet.doctor.health import HEALTH_PROBE, XID_PROBE, xids
from fleet.doctor.inside import INSIDE_PROBE
from fleet.doctor.packages import PACKAGES_PROBE
from fleet.doctor.patient import Patient
from fleet.doctor.service import AGENT_PROBE, PORTS_PROBE
from fleet.doctor.system import SYSTEM_PROBE
from fleet.errors import StepError, UnreachableError
from fleet.gpu.firewall import LOADED_PROBE
from fleet.gpu.pci import PCI_PROBE
from fleet.gpu.probe import GPU_PROBE, GPU_PROCESSES_PROBE
from fleet.model.facts import Answer
from fleet.modules._driver_seen import DRIVER_PROBE
from fleet.modules._os import OS_PROBE
from fleet.modules._reboot import REBOOT_PROBE, Begun, state_text
from tests.unit import doctor_world as world
from tests.unit import gpu_world
from tests.unit.doctor_world import (
    GPU,
    HEALTHY,
    LB,
    NOW,
    REGISTRY_KEY,
    RUNNING,
    VARS,
    gpu_facts,
    patient,
    text,
)

CHECKS = {check.id: check for check in ALL}


def told(id_, changed=None, *found, host=GPU):
    """What a check says is wrong: (what, detail, remedy) of each trouble."""
    verdict = CHECKS[id_].judge(patient(changed, *found, host=host))
    return [(each.what, each.detail, each.remedy) for each in verdict.troubles]


def one(id_, changed=None, *found, host=GPU):
    (trouble,) = told(id_, changed, *found, host=host)
    return " | ".join(trouble)


def with_driver(**changes):
    """The driver's probe with other lines; None leaves a line out."""
    lines = dict(line.partition(" ")[::2] for line in HEALTHY[DRIVER_PROBE.key].text.splitlines())
    lines |= changes
    return {DRIVER_PROBE.key: text("".join(f"{k} {v}\n" for k, v in lines.items() if v is not None))}


def smi(words, rc):
    return {GPU_PROBE.key: Answer(rc, words.encode())}


def test_a_healthy_fleet_gives_no_warning_and_leaves_nothing_unlooked_at():
    gpu, lb = gpu_facts(), world.lb_facts()
    seen = {"gpu-01": Look(gpu, NOW, NOW + 1), "lb-01": Look(lb, NOW, NOW + 1)}
    lb_host = replace(LB)
    found = report([GPU, lb_host], ALL, {"gpu-01": GPU, "lb-01": lb_host}, seen)
    assert [(each.check.id, each.trouble.what) for each in found.findings] == []
    assert [(r.check.id, r.verdict.skipped) for r in found.results if r.verdict.skipped] == [
        ("balancers/agents", "it asks no agents")
    ]
    assert {result.check.id for result in found.results} == set(CHECKS)


# -- connection ---------------------------------------------------------------------------------------------


def test_a_host_without_ssh_is_told_with_its_own_remedy():
    error = UnreachableError("gpu-01: 10.0.0.1:22 refused the connection", remedy="start sshd there")
    (result,) = refused("gpu-01", error)
    assert (result.check.id, result.verdict.troubles[0].remedy) == ("connection/ssh", "start sshd there")


def test_sudo_that_refuses_is_not_the_fault_of_ssh():
    error = StepError(
        "gpu-01: ops on 10.0.0.1 may not use sudo", output="not in sudoers", remedy="add ops to sudoers"
    )
    ssh, sudo = refused("gpu-01", error)
    assert not ssh.verdict.troubles
    assert (sudo.check.id, sudo.verdict.troubles[0].what) == ("connection/sudo", "sudo is not allowed")


# -- system -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("release", "supported"),
    [
        ('ID=debian\nVERSION_ID="12"', True),
        ("ID=debian\nVERSION_CODENAME=forky", True),
        ('ID=debian\nVERSION_ID="11"', False),
        ('ID=ubuntu\nVERSION_ID="24.04"', True),
        ('ID=ubuntu\nVERSION_ID="20.04"', False),
        ('ID="rocky"\nVERSION_ID="9.4"', True),
        ('ID="rhel"\nVERSION_ID="8.10"', False),
        ("ID=alpine\nVERSION_ID=3.21.0", False),
    ],
)
def test_the_supported_systems(release, supported):
    assert bool(told("system/os", {OS_PROBE.key: text(release + "\n")})) is not supported


def test_an_architecture_without_packages():
    assert "armv7l" in one("system/os", {SYSTEM_PROBE.key: text("machine=armv7l\n")})


@pytest.mark.parametrize(
    ("now", "words"),
    [(NOW - 4, None), (NOW + 5.5, None), (NOW - 61, "61 s behind"), (NOW + 7300 + 1, "2 h 01 min ahead of")],
)
def test_a_clock_is_off_only_by_what_the_exchange_cannot_explain(now, words):
    changed = {SYSTEM_PROBE.key: text(f"now={now}\n")}
    if words is None:
        assert told("system/clock", changed) == []
    else:
        assert words in one("system/clock", changed)
        assert "timedatectl set-ntp true" in one("system/clock", changed)


def test_each_reason_for_a_reboot_is_told():
    driver = "boot 1\nfleet\nreason the driver 580.95.05 is not loaded\nreason nouveau is\n"
    changed = {REBOOT_PROBE.key: text(driver)}
    assert "nouveau is" in one("system/reboot", changed)
    assert "fleet reboot {host}" in one("system/reboot", changed)
    changed = {REBOOT_PROBE.key: text("boot 1\nsystem\npackage linux-image-6.12.48+deb13-amd64\n")}
    assert "linux-image-6.12.48" in one("system/reboot", changed)
    begun = state_text(Begun("1", ("gpu-01-0",), by="fleet reboot gpu by op"))
    changed = {REBOOT_PROBE.key: text(driver + f"state {begun}")}
    said = one("system/reboot", changed)
    assert "was begun and has not ended | begun by fleet reboot gpu by op" in said
    assert told("system/reboot", {REBOOT_PROBE.key: text("boot 1\n")}) == []


def df(free, inodes="16777216 16191321"):
    return {DISK_PROBE.key: text(f"root=/var/lib/docker\ndisk=264212084 {free}\ninodes={inodes}\n")}


GONE = {"docker.images": gpu_world.framed({"/images/json": []})}
MANIFEST = (
    '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",'
    '"config":{"digest":"sha256:' + "b" * 64 + '","size":1000},'
    '"layers":[{"digest":"sha256:' + "c" * 64 + '","size":9000000000}]}'
)


def test_room_for_the_image_is_its_packed_and_unpacked_size_and_a_tenth():
    packed = {
        REGISTRY_KEY: Answer(
            0, b"registry=0\nregistry_code=200\nimage_code=200\n\nmanifest\n" + MANIFEST.encode()
        )
    }
    said = one("system/disk", {**df(29_000_000), **GONE, **packed})
    assert "29.7 GB are free in /var/lib/docker, it needs 29.7 GB (9.0 GB packed, by its registry" in said
    assert told("system/disk", {**df(29_100_000), **GONE, **packed}) == []
    # Where a seed of its site serves it, it is loaded from an archive: packed twice.
    site = replace(GPU, vars={**VARS, "site": "here"})
    seed, far = (
        replace(GPU, name=name, vars={"site": where, "image_seed": True})
        for name, where in (("gpu-08", "here"), ("gpu-09", "there"))
    )
    check = CHECKS["system/disk"]
    sick = patient({**df(29_100_000), **GONE, **packed}, host=site)
    (trouble,) = check.judge(replace(sick, hosts={each.name: each for each in (site, seed)})).troubles
    assert "it needs 39.6 GB (9.0 GB packed, by its registry; for a while twice; 2 times" in trouble.detail
    assert not check.judge(replace(sick, hosts={each.name: each for each in (site, far)})).troubles


def test_an_image_of_unknown_size_is_guessed_and_the_guess_is_stated():
    said = one("system/disk", {**df(1_000_000), **GONE, REGISTRY_KEY: None})
    assert "4.0 GB packed, a guess: set image_size in the inventory" in said
    told_size = replace(GPU, vars={**GPU.vars, "image_size": "200MiB"})
    assert told("system/disk", {**df(1_000_000), **GONE, REGISTRY_KEY: None}, host=told_size) == []


def test_a_host_that_has_the_image_needs_no_room_for_it_but_some_for_what_is_written():
    assert told("system/disk", df(2_000_000)) == []
    assert "the disk is nearly full | 1 MB are free in /var/lib/docker" in one("system/disk", df(1000))


def test_inodes_run_out_and_some_file_systems_do_not_count_them():
    assert "1200 of 16777216 are free" in one("system/inodes", df(80784308, "16777216 1200"))
    assert told("system/inodes", df(80784308, "0 0")) == []
    assert told("system/inodes", df(80784308, "0 -")) == []


@pytest.mark.parametrize(
    ("said", "what", "remedy"),
    [
        (
            "dns=no\nregistry=6\nregistry_code=000\nregistry_said=curl: (6) Could not resolve host: registry.example",
            "the name registry.example is not known there (DNS)",
            "mend DNS",
        ),
        (
            "registry=7\nregistry_code=000\nregistry_said=curl: (7) Failed to connect to registry.example port 5000",
            "cannot be reached",
            "firewall",
        ),
        (
            "registry=28\nregistry_code=000\nregistry_said=curl: (28) Connection timed out after 5001 milliseconds",
            "does not answer there in time",
            "firewall",
        ),
        (
            "registry=60\nregistry_code=000\nregistry_said=curl: (60) SSL certificate problem: unable to get local "
            "issuer certificate",
            "is not trusted there (TLS)",
            "registry_ca",
        ),
        (
            "registry=0\nregistry_code=401\nchallenge=Basic realm\nimage=0\nimage_code=401",
            "wants a login",
            "registry_username",
        ),
        (
            "registry=0\nregistry_code=401\nchallenge=Bearer realm\ntoken=0\ntoken_code=403",
            "wants a login",
            "",
        ),
        (
            "registry=0\nregistry_code=200\nimage=0\nimage_code=404",
            "has no hunyuan-mt-webui:v1",
            "check `image`",
        ),
        (
            "registry=0\nregistry_code=502\nimage=0\nimage_code=502",
            "does not answer as a registry",
            "curl -i",
        ),
        ("registry=0\nregistry_code=200\nimage=0\nimage_code=429", "limits how often", "login"),
        ("registry=0\nregistry_code=429\nimage=0\nimage_code=429", "limits how often", "mirror"),
        (
            "registry=0\nregistry_code=401\nimage=0\nimage_code=503",
            "answer as a registry | HTTP 503",
            "curl -i",
        ),
        (
            "registry=0\nregistry_code=401\nchallenge=Bearer realm=https://auth.example/token\ntoken=28\n"
            "token_code=000\ntoken_said=curl: (28) Failed to connect to auth.example port 443",
            "cannot be asked for the image there | Failed to connect to auth.example",
            "firewall",
        ),
        (
            "registry=0\nregistry_code=401\nchallenge=Bearer realm=http://auth.example\ntoken=1",
            "does not answer as a registry | it asks for Bearer realm=http://auth.example",
            "curl -i",
        ),
    ],
)
def test_what_keeps_a_host_from_its_registry(said, what, remedy):
    found = one("system/registry", {REGISTRY_KEY: text(said + "\n")})
    assert what in found
    assert remedy in found


def test_a_login_that_is_refused_is_told_apart_from_one_that_lacks(monkeypatch):
    named = replace(
        GPU, vars={**GPU.vars, "registry_username": "fleet", "registry_password_env": "DOCTOR_TEST"}
    )
    refused_ = {
        REGISTRY_KEY: text("registry=0\nregistry_code=401\nchallenge=Basic\nimage=0\nimage_code=401\n")
    }
    monkeypatch.setenv("DOCTOR_TEST", "secret-word")
    said = one("system/registry", refused_, host=named)
    assert "refuses the login" in said
    assert "secret-word" not in said
    monkeypatch.delenv("DOCTOR_TEST")
    assert "the login for registry.example:5000 is missing here" in one(
        "system/registry", refused_, host=named
    )


UNATTENDED = 'unattended\nAPT::Periodic::Unattended-Upgrade "1";\nUnattended-Upgrade::Package-Blacklist "";\n'


def test_unattended_upgrades_of_the_driver():
    packages = HEALTHY[PACKAGES_PROBE.key].text
    assert "nothing is left out" in one("system/updates", {PACKAGES_PROBE.key: text(packages + UNATTENDED)})
    some = UNATTENDED + 'Unattended-Upgrade::Package-Blacklist:: "nvidia-";\n'
    assert "left out are: nvidia-" in one("system/updates", {PACKAGES_PROBE.key: text(packages + some)})
    both = some + 'Unattended-Upgrade::Package-Blacklist:: "libnvidia-";\n'
    assert told("system/updates", {PACKAGES_PROBE.key: text(packages + both)}) == []
    modules = "package ii linux-modules-nvidia-580-server-open-generic 6.8.0-86.87\n"
    assert told("system/updates", {PACKAGES_PROBE.key: text(packages + modules + both)}) == []
    off = UNATTENDED.replace('"1"', '"0"')
    assert told("system/updates", {PACKAGES_PROBE.key: text(packages + off)}) == []


def test_packages_that_are_not_held_are_named_and_can_be_held():
    loose = text(
        "package ii nvidia-driver-cuda 580.95.05-1\npackage rc nvidia-utils-535 535.1\n"
        "package ii libnvidia-container1 1.18.0-1\npackage ii nvidia-container-toolkit 1.18.0-1\n"
    )
    (trouble,) = CHECKS["system/holds"].judge(patient({PACKAGES_PROBE.key: loose})).troubles
    assert trouble.detail == "nvidia-driver-cuda, nvidia-container-toolkit"
    assert "apt-mark hold nvidia-driver-cuda nvidia-container-toolkit" in trouble.remedy
    assert trouble.fix is not None
    assert trouble.fix.steps[0].argv == (
        "apt-mark",
        "hold",
        "--",
        "nvidia-driver-cuda",
        "nvidia-container-toolkit",
    )


def test_a_driver_that_is_held_by_one_of_its_packages_is_held():
    ubuntu = text(
        "package hi nvidia-headless-580-server-open 580.95.05-0ubuntu1\n"
        "package ii nvidia-headless-no-dkms-580-server-open 580.95.05-0ubuntu1\n"
        "package hi nvidia-container-toolkit 1.18.0-1\n"
    )
    assert told("system/holds", {PACKAGES_PROBE.key: ubuntu}) == []


def test_nvidias_own_pinning_package_holds_the_driver_as_well():
    pinned = text(
        "package ii nvidia-driver-cuda 580.95.05-1\npackage hi nvidia-container-toolkit 1.18.0-1\npinned\n"
    )
    assert told("system/holds", {PACKAGES_PROBE.key: pinned}) == []


# -- driver -------------------------------------------------------------------------------------------------


def test_a_card_in_mig_mode_and_one_that_the_driver_does_not_list():
    mig = {GPU_PROBE.key: text(gpu_world.gpu_line(0, mig="Enabled") + gpu_world.gpu_line(1))}
    assert "nvidia-smi -i 0 -mig 0" in one("driver/gpus", mig)
    assert "1 of 2" in one("driver/gpus", {GPU_PROBE.key: text(gpu_world.gpu_line(0))})
    assert "finds no GPU" in one("driver/gpus", smi("No devices were found\n", 6))


def test_no_card_on_the_bus_is_told_before_any_driver_is():
    changed = {PCI_PROBE.key: text(""), **smi("sh: nvidia-smi: not found\n", 127)}
    assert "no NVIDIA GPU is on its PCI bus" in one("driver/gpus", changed)


def test_a_card_that_is_too_small_for_the_image():
    small = {GPU_PROBE.key: text(gpu_world.gpu_line(0, total="8192") + gpu_world.gpu_line(1, total="[N/A]"))}
    assert "8.0 GiB of 12.0 GiB" in one("driver/memory", small)


MISMATCH = "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 580.105\n"
SILENT = (
    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest "
    "NVIDIA driver is installed and running.\n"
)


@pytest.mark.parametrize(
    ("changed", "what", "remedy"),
    [
        (smi("sh: 1: nvidia-smi: not found\n", 127), "is not installed", "fleet provision"),
        ({**smi(MISMATCH, 18), **with_driver(library="580.105.08")},
         "module 580.95.05, library 580.105.08", "fleet reboot {host}"),
        ({**smi(SILENT, 9), **with_driver(loaded=None, module=None)},
         "the running kernel has no driver module | 6.12.43", "dkms autoinstall"),
        ({**smi(SILENT, 9), **with_driver(loaded=None)}, "the driver's module is not loaded", "modprobe nvidia"),
        (smi("Unable to determine the device handle for GPU0: 00000000:3B:00.0: GPU is lost.\n", 15),
         "a GPU has fallen off the bus", "--gpu-reset"),
        (smi("Failed to initialize NVML: Unknown Error\n", 255), "does not answer", "dmesg"),
        (with_driver(module="580.105.08"), "580.95.05 runs, 580.105.08 is on disk", "fleet reboot {host}"),
        (with_driver(module=None, signer=None), "has no driver module on disk", "linux-headers"),
        (with_driver(library="575.57.08"), "module 580.95.05, library 575.57.08", "fleet reboot"),
        (with_driver(next="6.12.48+deb13-amd64"), "the kernel that the next restart brings",
         "dkms autoinstall -k 6.12.48+deb13-amd64"),
    ],
)  # fmt: skip
def test_how_driver_module_and_library_can_disagree(changed, what, remedy):
    found = one("driver/versions", changed)
    assert what in found
    assert remedy in found


def test_a_kernel_to_come_that_has_the_module_is_well():
    assert told("driver/versions", with_driver(next="6.12.48+deb13-amd64", next_module="580.95.05")) == []


def test_nouveau():
    assert "blacklist nouveau" in one("driver/nouveau", with_driver(nouveau="loaded"))


def test_secure_boot_stands_in_the_way_only_of_a_module_that_dkms_builds_with_an_unknown_key():
    waiting = {"secureboot": "on", "loaded": None}
    assert "mokutil --import" in one("driver/secure-boot", with_driver(**waiting))
    assert told("driver/secure-boot", with_driver(secureboot="on")) == []
    assert told("driver/secure-boot", with_driver(**waiting, enrolled="yes")) == []
    signed = {**waiting, "signer": "Canonical Ltd. Kernel Module Signing", "dkms": None}
    assert told("driver/secure-boot", with_driver(**signed)) == []
    bare = {**waiting, "module": None, "signer": None, "dkms": None}
    assert "Secure Boot" in one("driver/secure-boot", with_driver(**bare))
    prebuilt = replace(GPU, vars={**GPU.vars, "nvidia_driver": {"modules": "prebuilt"}})
    assert told("driver/secure-boot", with_driver(**bare), host=prebuilt) == []


def cards(*values):
    return {HEALTH_PROBE.key: text(world.HEALTH_FIELDS + "\n" + world.health(0, *values) + world.health(1))}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (("Enabled", "3", "38", "Not Active", "No", "No", "No", "None"), "uncorrected memory errors | 3"),
        (("Enabled", "0", "38", "Active", "No", "No", "No", "None"), "too hot | 38 °C, slowed down"),
        (("Enabled", "0", "38", "Not Active", "Yes", "No", "No", "None"), "have the card replaced"),
        (
            ("Enabled", "0", "38", "Not Active", "No", "Yes", "No", "None"),
            "repairs its memory at the next reset",
        ),
        (
            ("Enabled", "0", "38", "Not Active", "No", "No", "Yes", "None"),
            "repairs its memory at the next reset",
        ),
        (("Enabled", "0", "38", "Not Active", "No", "No", "No", "Reset"), "asks for a GPU's reset | Reset"),
    ],
)
def test_what_the_driver_counts_against_a_card(values, words):
    assert words in one("driver/health", cards(*values))


def test_values_that_a_card_does_not_report_are_no_trouble():
    assert told("driver/health", cards("[N/A]", "[N/A]", "[N/A]", *["[Not Supported]"] * 5)) == []
    fewer = {HEALTH_PROBE.key: text(f"uuid,persistence_mode\n{gpu_world.uuid(0)}, Enabled\n")}
    assert told("driver/health", fewer) == []


def test_persistence_mode_off_can_be_mended():
    changed = cards("Disabled", "0", "38", "Not Active", "No", "No", "No", "None")
    assert "1 of 2 GPUs" in one("driver/persistence", changed)
    (trouble,) = CHECKS["driver/persistence"].judge(patient(changed)).troubles
    assert trouble.fix is not None


XID = "1772366300.1 gpu-01 kernel: NVRM: Xid (PCI:0000:3b:00): {0}, pid='<unknown>', name=<unknown>, {1}\n"


def test_an_xid_that_needs_a_reset_is_found_until_it_is_accepted():
    log = XID.format(48, "Double Bit ECC Error") + XID.format(13, "Graphics Exception")
    assert "Xid 48: double-bit ECC error" in one("driver/health", {XID_PROBE.key: text(log)})
    assert told("driver/health", {XID_PROBE.key: text("accepted gpu-01-0 1772366301 0\n" + log)}) == []
    assert "GPU lost" in one(
        "driver/health", {XID_PROBE.key: text(XID.format(79, "GPU has fallen off the bus."))}
    )


def test_a_driver_loaded_anew_has_reset_its_cards():
    log = (
        XID.format(95, "Uncontained")
        + "1772366301.0 gpu-01 kernel: NVRM: loading NVIDIA UNIX Open Kernel Module\n"
    )
    assert xids(log) == {}


def test_xid_154_says_itself_what_is_to_be_done():
    reset = XID.format(154, "GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)")
    assert "gpu reset required" in one("driver/health", {XID_PROBE.key: text(reset)})
    done = reset + XID.format(154, "GPU recovery action changed from 0x1 (GPU Reset Required) to 0x0 (None)")
    assert told("driver/health", {XID_PROBE.key: text(done)}) == []


# -- containers ---------------------------------------------------------------------------------------------


def test_an_engine_that_is_old_or_without_cdi_or_silent():
    assert "24.0.7" in one("containers/engine", {"docker.engine": gpu_world.engine("24.0.7")})
    assert "features.cdi" in one("containers/engine", {"docker.engine": gpu_world.engine(cdi=False)})
    dead = "LoadState=loaded\nActiveState=failed\nsaid=failed to start daemon: invalid character '}'\n"
    changed = {"docker.engine": Answer(7), ENGINE_UNIT_PROBE.key: text(dead)}
    assert "invalid character" in one("containers/engine", changed)
    (trouble,) = CHECKS["containers/engine"].judge(patient(changed)).troubles
    assert trouble.fix is not None
    hung = {"docker.engine": Answer(28)}
    (trouble,) = CHECKS["containers/engine"].judge(patient(hung)).troubles
    assert (trouble.what, trouble.fix) == ("the Docker Engine runs and does not answer", None)
    for said in ("LoadState=not-found\n", "LoadState=loaded\nActiveState=inactive\nprogram=absent\n"):
        changed[ENGINE_UNIT_PROBE.key] = text(said)
        assert "Docker is not installed" in one("containers/engine", changed)
    off = HEALTHY[ENGINE_UNIT_PROBE.key].text.replace("enabled", "disabled")
    assert "systemctl enable docker" in one("containers/engine", {ENGINE_UNIT_PROBE.key: text(off)})


@pytest.mark.parametrize(
    ("state", "whats"),
    [
        ("disabled", ["the Docker Engine does not run", "Docker does not start at boot"]),
        ("masked", ["Docker is masked: nothing can start it"]),
        ("masked-runtime", ["Docker is masked: nothing can start it"]),
    ],
)
def test_an_engine_that_is_down_and_would_not_come_up_either_is_told_at_once(state, whats):
    unit = {ENGINE_UNIT_PROBE.key: text(f"LoadState=loaded\nActiveState=inactive\nUnitFileState={state}\n")}
    troubles = CHECKS["containers/engine"].judge(patient({"docker.engine": Answer(7), **unit})).troubles
    assert [each.what for each in troubles] == whats
    assert all((each.fix is None) == ("masked" in state) for each in troubles)


def test_live_restore_off():
    assert "live-restore" in one("containers/live-restore", {"docker.engine": gpu_world.engine()})


def test_the_toolkit_is_missing():
    assert "is not installed" in one("containers/toolkit", {TOOLKIT_PROBE.key: Answer(127)})


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (world.cdi(uuids=(0,)), f"it does not name {gpu_world.uuid(1)}"),
        (world.cdi(uuids=(0, 1, 7)), f"it names {gpu_world.uuid(7)}, not in this host"),
        (world.cdi(mounts="575.57.08"), "it is for driver 575.57.08, 580.95.05 runs"),
        (world.cdi("gone=/usr/lib/x86_64-linux-gnu/libcuda.so.575.57.08", "gone=/run/nvidia-persistenced/socket"),
         "libcuda.so.575.57.08 and 1 more, which it mounts, is not there"),
        (world.cdi("moved=/dev/nvidia-uvm"), "/dev/nvidia-uvm has another number than it says"),
        (text(f"file=/etc/cdi/nvidia.yaml\nmade=500\nuuid={gpu_world.uuid(0)}\nuuid={gpu_world.uuid(1)}\n"
              "driver=1000 580.95.05\n"), "it is older than the driver"),
    ],
)  # fmt: skip
def test_a_cdi_file_that_does_not_fit(answer, words):
    assert words in one("containers/cdi", {CDI_PROBE.key: answer})


def test_a_cdi_file_is_made_anew_by_whoever_made_the_one_that_counts():
    (refreshed,) = CHECKS["containers/cdi"].judge(patient({CDI_PROBE.key: world.cdi(uuids=(0,))})).troubles
    assert "systemctl restart nvidia-cdi-refresh" in refreshed.remedy
    (absent,) = (
        CHECKS["containers/cdi"].judge(patient({CDI_PROBE.key: text("driver=1000 580.95.05\n")})).troubles
    )
    assert "nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml" in absent.remedy
    assert absent.fix is not None


# -- service ------------------------------------------------------------------------------------------------


def test_a_port_that_somebody_else_has():
    line = 'LISTEN 0 5 0.0.0.0:7861 0.0.0.0:* users:(("python3",pid=4711,fd=3))\n'
    stopped = gpu_world.inspected(world.SPEC, gpu_world.slot(1), state="exited")
    changed = {PORTS_PROBE.key: text(line)}
    assert "7861 by python3 (process 4711)" in one("service/ports", changed, RUNNING[0], stopped)
    nginx = 'LISTEN 0 5 0.0.0.0:7859 0.0.0.0:* users:(("nginx",pid=12,fd=3))\n'
    assert "7859 by nginx" in one("service/ports", {PORTS_PROBE.key: text(nginx)})


def test_a_port_of_a_foreign_container_names_the_container():
    other = gpu_world.foreign("jupyter", image="jupyter:1", PortBindings={"8888/tcp": [{"HostPort": "7861"}]})
    line = 'LISTEN 0 5 0.0.0.0:7861 0.0.0.0:* users:(("docker-proxy",pid=4711,fd=3))\n'
    changed = {PORTS_PROBE.key: text(line)}
    assert "the container jupyter (jupyter:1)" in one("service/ports", changed, RUNNING[0], other)


def test_a_card_without_a_container_and_one_with_two():
    stopped = gpu_world.inspected(world.SPEC, gpu_world.slot(1), state="exited", exit_code=3)
    assert "fleet-gpu-01-1 is exited, exit code 3" in one("service/slots", None, RUNNING[0], stopped)
    kept = {**stopped, "Id": "f" * 64, "Name": "/fleet-gpu-01-1.b17aec1b"}
    assert "fleet-gpu-01-1 is exited, exit code 3" in one("service/slots", None, RUNNING[0], stopped, kept)
    second = gpu_world.inspected(world.SPEC, gpu_world.slot(1), name="copy")
    assert "copy, fleet-gpu-01-1" in one("service/slots", None, *RUNNING, second)


def test_a_replacement_that_has_not_ended_is_told_and_the_log_is_that_of_the_one_to_come():
    old = gpu_world.inspected(world.SPEC, gpu_world.slot(1), state="exited", exit_code=137)
    loading = gpu_world.inspected(world.SPEC, gpu_world.slot(1), name="fleet-gpu-01-1.next")
    told = one("service/slots", None, RUNNING[0], old, loading)
    assert "was to be replaced, and that has not ended" in told
    assert "fleet provision" in told
    crashing = {**loading, "State": {**loading["State"], "Status": "restarting"}}
    told = one("service/slots", None, RUNNING[0], old, crashing)
    assert "docker logs fleet-gpu-01-1.next" in told
    assert "fleet-gpu-01-1.next is restarting" in told
    refused = {REACH_PROBE.key: text("reach gpu-01-1 10.0.0.1 7861 1 Connection refused\n")}
    seen = gpu_facts({"docker.containers": gpu_world.containers(RUNNING[0], old, loading)})
    balancer = Patient(
        world.LB, world.lb_facts(refused), {"gpu-01": world.GPU, "lb-01": world.LB}, {"gpu-01": seen}
    )
    (trouble,) = CHECKS["balancers/reach"].judge(balancer).troubles
    assert "docker logs fleet-gpu-01-1.next" in trouble.remedy


def app(index, pid, container="", name="python3"):
    return f"{gpu_world.uuid(index)}, {pid}, 8192, {name}\t 0::/system.slice/docker-{container}.scope\n"


def test_the_drivers_processes_tell_who_is_on_which_card():
    mine = app(0, 11, RUNNING[0]["Id"]) + app(1, 12, RUNNING[1]["Id"])
    assert told("service/slots", {GPU_PROCESSES_PROBE.key: text(mine)}) == []
    wrong = text(app(1, 11, RUNNING[0]["Id"]))
    assert "fleet-gpu-01-0: python3 (process 11, 8192 MiB)" in one(
        "service/slots", {GPU_PROCESSES_PROBE.key: wrong}
    )
    alien = text(app(0, 77, name="/usr/bin/xmrig"))
    assert "/usr/bin/xmrig (process 77" in one("service/slots", {GPU_PROCESSES_PROBE.key: alien})
    shared = text(app(0, 78, name="nvidia-cuda-mps-server"))
    assert told("service/slots", {GPU_PROCESSES_PROBE.key: shared}) == []


def test_an_agent_that_is_absent_stopped_or_silent():
    assert "is not installed" in one("service/agent", {AGENT_PROBE.key: text("absent\n")})
    assert "failed" in one("service/agent", {AGENT_PROBE.key: text("ActiveState=failed\n")})
    silent = (
        "ActiveState=active\nActiveEnterTimestampMonotonic=5000000\nuptime={0}\nsaid=gpu-01-0  no answer\n"
    )
    assert "does not answer" in one("service/agent", {AGENT_PROBE.key: text(silent.format("90.1"))})
    assert told("service/agent", {AGENT_PROBE.key: text(silent.format("9.1"))}) == []


CLOSED = replace(GPU, vars={**VARS, "slot_firewall": True})
RULES, LISTED = "a" * 64, "b" * 64


def firewall(loaded, state="enabled"):
    changed = {
        LOADED_PROBE.key: text(loaded),
        RULES_PROBE.key: text(f"rules={RULES}\nUnitFileState={state}\n"),
    }
    return [" | ".join(each) for each in told("service/firewall", changed, host=CLOSED)]


def test_closed_ports_that_are_open_or_open_to_others_or_will_be_are_told():
    loaded = f"nft\n{LISTED}  -\nmark\n{RULES}  -\n{LISTED}  -\n"
    assert firewall(loaded) == []
    for nothing in ("none\n", "nft\n"):
        (trouble,) = firewall(nothing)
        assert "everybody" in trouble
    (trouble,) = firewall(loaded.replace(LISTED, "c" * 64, 1))
    assert "others changed" in trouble
    (trouble,) = firewall(loaded.replace(RULES, "c" * 64, 1))
    assert "older rules" in trouble
    (trouble,) = firewall(f"nft\n{LISTED}  -\nmark\n")
    assert "others changed" in trouble
    (trouble,) = firewall(loaded, "disabled")
    assert "is disabled" in trouble
    assert "after the next boot" in trouble


def test_ports_that_nobody_asked_to_close_are_no_trouble():
    assert told("service/firewall", {}) == []
    check = CHECKS["service/firewall"]
    assert list(check.probes(GPU)) == []
    assert {probe.key for probe in check.probes(CLOSED)} == {LOADED_PROBE.key, RULES_PROBE.key}


LOST = "Failed to initialize NVML: Unknown Error"


def test_a_container_that_lost_its_card_while_the_host_still_has_it():
    changed = {INSIDE_PROBE.key: world.inside((0, 0, gpu_world.uuid(0)), (1, 255, LOST))}
    said = one("service/inside", changed)
    assert LOST in said
    assert "docker restart fleet-gpu-01-1" in said
    assert "daemon-reload" in said
    # Where the driver fails outside as well, its own check tells why.
    assert told("service/inside", {**changed, **smi(MISMATCH, 18)}) == []


def test_a_container_that_sees_another_card_or_more_than_its_own():
    both = f"{gpu_world.uuid(0)}\n{gpu_world.uuid(1)}"
    changed = {INSIDE_PROBE.key: world.inside((0, 0, both), (1, 0, gpu_world.uuid(1)))}
    assert "a container sees GPUs that are not its own" in one("service/inside", changed)
    changed = {INSIDE_PROBE.key: world.inside((0, 0, gpu_world.uuid(0)), (1, 0, gpu_world.uuid(0)))}
    assert f"it sees {gpu_world.uuid(0)}, not {gpu_world.uuid(1)}" in one("service/inside", changed)


def test_a_container_without_nvidia_smi_cannot_be_looked_into():
    missing = 'OCI runtime exec failed: exec: "nvidia-smi": executable file not found in $PATH: unknown'
    changed = {INSIDE_PROBE.key: world.inside((0, 127, missing), (1, 0, gpu_world.uuid(1)))}
    assert "nvidia-smi is not in a container" in one("service/inside", changed)
