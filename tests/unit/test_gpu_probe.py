import os
import subprocess
from pathlib import Path

import pytest

from fleet.errors import InputError
from fleet.gpu.probe import (
    GPU_PROBE,
    GPU_PROCESSES_PROBE,
    GpuProcess,
    driver_problem,
    parse_gpu_processes,
    parse_gpus,
)
from fleet.gpu.sizes import parse_size, show_mib
from fleet.gpu.slots import slots_of
from fleet.model.facts import Answer, Facts, Probe
from fleet.model.host import Host
from fleet.model.slot import Gpu

UUID = "GPU-3f1c2d4e-0000-1111-2222-333344445555"
T4 = f"0, {UUID}, Tesla T4, 15360, 449, 7, 38, 9.92, 580.95.05, 00000000:3B:00.0, [N/A]\n"
MISMATCH = "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 580.95\n"
NO_MODULE = (
    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. "
    "Make sure that the latest NVIDIA driver is installed and running.\n"
)


def said(text: str, rc: int = 0) -> Answer:
    return Answer(rc, text.encode())


def test_a_card_is_read_in_full():
    assert parse_gpus(said(T4)) == (
        Gpu(0, UUID, "Tesla T4", 15360, 449, 7, 38, 9.92, "580.95.05", "00000000:3B:00.0"),
    )


@pytest.mark.parametrize("word", ["[N/A]", "[Not Supported]", "N/A", "[Unknown Error]", "ERR!", ""])
def test_what_a_card_does_not_tell_is_none(word):
    line = f"0, {UUID}, Tesla K80, 11441, {word}, {word}, {word}, {word}, 470.1, {word}, {word}"
    (gpu,) = parse_gpus(said(line)) or ()
    assert gpu == Gpu(0, UUID, "Tesla K80", 11441, driver_version="470.1")


def test_unified_memory_is_unknown_not_zero():
    line = f"0, {UUID}, NVIDIA GB10, [N/A], [N/A], 0, 41, 4.6, 580.95.05, 0000000F:01:00.0, [N/A]"
    assert (parse_gpus(said(line)) or ())[0].memory_total is None


def test_a_name_may_hold_commas():
    (gpu,) = parse_gpus(said(T4.replace("Tesla T4", "NVIDIA RTX 6000, Ada, 48GB"))) or ()
    assert (gpu.name, gpu.memory_total, gpu.pci_bus_id) == (
        "NVIDIA RTX 6000, Ada, 48GB",
        15360,
        "00000000:3B:00.0",
    )


def test_mig_is_seen():
    line = f"0, {UUID}, NVIDIA A100-SXM4-40GB, 40960, 0, [N/A], 30, 45.1, 580.1, 0:0:0, Enabled"
    (gpu,) = parse_gpus(said(line)) or ()
    assert gpu.mig
    assert gpu.utilization is None


def test_warnings_around_the_table_are_no_cards():
    text = f"WARNING: infoROM is corrupted at gpu 0000:3B:00.0\n{T4}\n"
    assert len(parse_gpus(said(text)) or ()) == 1


@pytest.mark.parametrize("rc", [0, 6])
def test_a_driver_without_cards(rc):
    assert parse_gpus(said("No devices were found\n", rc)) == ()
    assert driver_problem(said("No devices were found\n", rc)) is None


@pytest.mark.parametrize(("text", "rc"), [(MISMATCH, 18), (NO_MODULE, 9)])
def test_a_driver_that_fails_is_no_driver_and_says_why(text, rc):
    assert parse_gpus(said(text, rc)) is None
    assert driver_problem(said(text, rc)) == text.strip()


def test_no_driver():
    assert parse_gpus(said("sh: 2: nvidia-smi: not found\n", 127)) is None
    assert driver_problem(said("sh: 2: nvidia-smi: not found\n", 127)) == "nvidia-smi is not installed"
    assert driver_problem(Answer(9)) == "nvidia-smi ended with exit code 9"


def ask(probe: Probe, smi: str, folder: Path) -> Answer:
    """The probe's answer from a real sh on a machine whose nvidia-smi is the script `smi`."""
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{smi}\n")
    program.chmod(0o755)
    env = {"PATH": f"{folder}:{os.environ['PATH']}"}
    done = subprocess.run(["sh"], input=probe.script.encode(), capture_output=True, env=env)
    return Answer(done.returncode, done.stdout)


def test_the_probe_asks_in_the_order_the_parser_reads(tmp_path):
    smi = f"""case $1 in --query-gpu=index,uuid,name,memory.total,memory.used,utilization.gpu,*)
      printf '%s' '{T4}';; *) exit 2;; esac; [ "$2" = --format=csv,noheader,nounits ]"""
    assert (parse_gpus(ask(GPU_PROBE, smi, tmp_path)) or ())[0].uuid == UUID


def test_the_reason_is_kept_when_it_comes_on_stderr(tmp_path):
    assert (
        driver_problem(ask(GPU_PROBE, f"printf '%s' '{MISMATCH}' >&2; exit 18", tmp_path)) == MISMATCH.strip()
    )


def test_processes_are_asked_for_with_their_containers(tmp_path):
    smi = f"echo '{UUID}, {os.getpid()}, 4012, /usr/bin/python3'; echo '{UUID}, [N/A], [N/A], [Not Found]'"
    answer = ask(GPU_PROCESSES_PROBE, smi, tmp_path)
    own = Path("/proc/self/cgroup").read_text().split()
    (process,) = parse_gpu_processes(answer) or ()
    assert (process.pid, process.memory, process.name) == (os.getpid(), 4012, "/usr/bin/python3")
    assert all(line in answer.text for line in own)


@pytest.mark.parametrize(
    "cgroup",
    [
        "0::/system.slice/docker-{id}.scope",
        "12:memory:/docker/{id} 11:cpu:/docker/{id}",
        "0::/machine.slice/libpod-{id}.scope/container",
    ],
)
def test_a_process_knows_its_container(cgroup):
    id_ = "0123456789abcdef" * 4
    line = f"{UUID}, 77, [N/A], python3, with a comma\t {cgroup.format(id=id_)}\n"
    assert parse_gpu_processes(said(line)) == (GpuProcess(UUID, 77, "python3, with a comma", None, id_),)


def test_no_processes():
    assert parse_gpu_processes(said("\t\n")) == ()
    assert parse_gpu_processes(said("nvidia-smi: not found", 127)) is None


def test_slots_follow_the_index_and_the_port_base():
    two = T4 + T4.replace("0, ", "1, ", 1).replace(UUID, "GPU-b").replace("Tesla T4", "Tesla V100-SXM2-16GB")
    lines = two.splitlines(keepends=True)
    host = Host("gpu-01", {"fleet_address": "10.0.0.1", "slot_port_base": "8000"})
    slots = slots_of(host, Facts({"gpu": said("".join(reversed(lines)))})) or ()
    assert [(s.name, s.uuid, s.address, s.port) for s in slots] == [
        ("gpu-01-0", UUID, "10.0.0.1", 8000),
        ("gpu-01-1", "GPU-b", "10.0.0.1", 8001),
    ]
    assert slots[1].weight > slots[0].weight


def test_slots_are_unknown_without_a_driver():
    assert slots_of(Host("a"), Facts()) is None
    assert slots_of(Host("a"), Facts({"gpu": Answer(127)})) is None
    assert slots_of(Host("a"), Facts({"gpu": said("No devices were found", 6)})) == ()


@pytest.mark.parametrize("value", ["eighty", 0, 65536, True, None, 78.6, -1])
def test_a_port_base_that_is_no_port_is_refused(value):
    with pytest.raises(InputError, match="slot_port_base"):
        slots_of(Host("a", {"slot_port_base": value}), Facts({"gpu": said(T4)}))


def test_ports_must_not_run_out():
    two = T4 + T4.replace("0, GPU-3", "1, GPU-4", 1)
    with pytest.raises(InputError, match="65536"):
        slots_of(Host("a", {"slot_port_base": 65535}), Facts({"gpu": said(two)}))


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("12GiB", 12 * 2**30),
        ("12g", 12 * 2**30),
        ("12 GB", 12 * 10**9),
        ("1.5GiB", 3 * 2**29),
        ("64m", 2**26),
        ("1048576", 2**20),
        ("100b", 100),
    ],
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "twelve", "12 gigs", "-1g", "1e9", "GiB"])
def test_what_is_no_size(text):
    with pytest.raises(ValueError, match="12GiB"):
        parse_size(text)


def test_sizes_for_people():
    assert (show_mib(15360), show_mib(512)) == ("15.0 GiB", "512 MiB")
