"""The stand-ins for nvidia-smi and nvidia-ctk, run as they run on a lab host."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from fleet.data import data_dir
from fleet.gpu.probe import GPU_PROBE, parse_gpus
from fleet.lab.gpus import describe
from fleet.model.facts import Answer

STANDINS = data_dir("lab") / "registry" / "standins"


@dataclass
class Machine:
    """A folder that stands for a lab host: nodes, the description of its cards, the programs."""

    root: Path

    @property
    def description(self) -> Path:
        return self.root / "gpus.json"

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PATH": f"{self.root / 'bin'}:{os.environ['PATH']}",
            "FLEET_LAB_GPUS": str(self.description),
            "FLEET_LAB_DEVICES": str(self.root / "dev"),
            "FLEET_LAB_DRIVER": str(self.root / "driver"),
        }

    def change(self, index: int, **values: object) -> None:
        described: dict[str, Any] = json.loads(self.description.read_text())
        described["gpus"][index] |= values
        self.description.write_text(json.dumps(described))

    def run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            argv, env=self.environment, capture_output=True, text=True, timeout=10, check=False
        )

    def query(self, fields: str, *more: str, form: str = "csv,noheader,nounits") -> list[str]:
        done = self.run("nvidia-smi", f"--query-gpu={fields}", f"--format={form}", *more)
        assert done.returncode == 0, done.stdout
        return done.stdout.splitlines()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    for folder in ("bin", "dev"):
        (tmp_path / folder).mkdir()
    for name in ("nvidia-smi", "nvidia-ctk"):
        program = tmp_path / "bin" / name
        program.write_text((STANDINS / name).read_text().replace("@VERSION@", "580.95.05"))
        program.chmod(0o755)
    for index in (0, 1):
        (tmp_path / "dev" / f"nvidia{index}").touch()
    (tmp_path / "gpus.json").write_text(describe("gpu-01", 2))
    return Machine(tmp_path)


@pytest.fixture
def worker(machine: Machine) -> Iterator[subprocess.Popen[bytes]]:
    """A process that holds memory, as the webui does."""
    process = subprocess.Popen(
        ["sleep", "30"], env={**machine.environment, "FLEET_LAB_GPU_HELD": "8192"}, stdin=subprocess.DEVNULL
    )
    yield process
    process.kill()
    process.wait()


def test_fleet_reads_it_as_it_reads_the_real_one(machine: Machine) -> None:
    done = machine.run("sh", "-c", GPU_PROBE.script)
    gpus = parse_gpus(Answer(done.returncode, done.stdout.encode()))
    assert gpus is not None
    assert [(gpu.index, gpu.name, gpu.memory_total, gpu.memory_used) for gpu in gpus] == [
        (0, "Tesla T4", 15360, 3),
        (1, "Tesla T4", 15360, 3),
    ]
    assert gpus[0].driver_version == "580.95.05"
    assert gpus[0].uuid != gpus[1].uuid


def test_headers_and_units(machine: Machine) -> None:
    assert machine.query("index,memory.total,power.draw,utilization.gpu", form="csv") == [
        "index, memory.total [MiB], power.draw [W], utilization.gpu [%]",
        "0, 15360 MiB, 9.50 W, 0 %",
        "1, 15360 MiB, 9.50 W, 0 %",
    ]


def test_a_change_of_the_file_shows_at_once(machine: Machine) -> None:
    machine.change(1, temperature=91, name="NVIDIA L4, rev. 2", power_draw=None, mig_mode="Enabled")
    assert machine.query("temperature.gpu,name,power.draw,mig.mode.current", "-i", "1") == [
        "91, NVIDIA L4, rev. 2, [N/A], Enabled"
    ]


def test_only_the_cards_whose_nodes_are_there_are_seen(machine: Machine) -> None:
    uuid = machine.query("uuid")[1]
    (machine.root / "dev" / "nvidia0").unlink()
    assert machine.query("index,uuid") == [f"0, {uuid}"]
    assert machine.run("nvidia-smi", "-L").stdout == f"GPU 0: Tesla T4 (UUID: {uuid})\n"
    (machine.root / "dev" / "nvidia1").unlink()
    done = machine.run("nvidia-smi", "-L")
    assert (done.returncode, done.stdout) == (6, "No devices were found\n")


def test_what_a_process_holds_shows_on_its_card(machine: Machine, worker: subprocess.Popen[bytes]) -> None:
    (machine.root / "dev" / "nvidia0").rename(machine.root / "dev" / "hidden")
    assert _soon(lambda: machine.query("memory.used")) == ["8195"]
    done = machine.run("nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader")
    assert done.stdout == f"{worker.pid}, 8192 MiB\n"


def _soon(read: Any) -> Any:
    """What is read once the new process has its own environment, or after a second."""
    deadline = time.monotonic() + 1
    while (found := read()) == ["3"] and time.monotonic() < deadline:
        time.sleep(0.01)
    return found


def test_broken_cards_and_drivers(machine: Machine) -> None:
    machine.change(0, lost=True)
    done = machine.run("nvidia-smi")
    assert done.returncode == 15
    assert "GPU is lost" in done.stdout
    described = json.loads(machine.description.read_text())
    described["fault"] = "Failed to initialize NVML: Driver/library version mismatch"
    machine.description.write_text(json.dumps(described))
    done = machine.run("nvidia-smi", "-L")
    assert (done.returncode, done.stdout.strip()) == (18, described["fault"])


@pytest.mark.parametrize(
    ("argv", "code", "says"),
    [
        (["--query-gpu=index"], 1, '"--format=" switch'),
        (["--query-gpu=nonsense", "--format=csv"], 2, 'Field "nonsense" is not a valid field'),
        (["--nonsense"], 1, "Invalid combination"),
    ],
)
def test_wrong_use_is_refused(machine: Machine, argv: list[str], code: int, says: str) -> None:
    done = machine.run("nvidia-smi", *argv)
    assert done.returncode == code
    assert done.stdout.startswith(says)


def test_the_specification_names_each_card_by_index_and_uuid(machine: Machine, tmp_path: Path) -> None:
    target = tmp_path / "cdi" / "nvidia.yaml"
    assert machine.run("nvidia-ctk", "cdi", "generate", f"--output={target}").returncode == 0
    specification = yaml.safe_load(target.read_text())
    devices = {
        device["name"]: [node["path"] for node in device["containerEdits"]["deviceNodes"]]
        for device in specification["devices"]
    }
    first, second = machine.query("uuid")
    assert devices == {
        "0": ["/dev/nvidia0"],
        first: ["/dev/nvidia0"],
        "1": ["/dev/nvidia1"],
        second: ["/dev/nvidia1"],
        "all": ["/dev/nvidia0", "/dev/nvidia1"],
    }
    assert specification["kind"] == "nvidia.com/gpu"


def test_no_specification_without_a_driver(machine: Machine, tmp_path: Path) -> None:
    target = tmp_path / "nvidia.yaml"
    machine.change(0, lost=True)
    assert machine.run("nvidia-ctk", "cdi", "generate", f"--output={target}").returncode == 1
    assert not target.exists()


@pytest.mark.parametrize(
    "before", [None, "{}", '{"log-driver": "json-file"}\n', '{\n  "features": {"a": true}\n}']
)
def test_the_engines_configuration_keeps_what_it_had(
    machine: Machine, tmp_path: Path, before: str | None
) -> None:
    config = tmp_path / "daemon.json"
    if before:
        config.write_text(before)
    for _ in range(2):
        done = machine.run("nvidia-ctk", "runtime", "configure", "--runtime=docker", f"--config={config}")
        assert done.returncode == 0, done.stderr
    wanted = {"nvidia": {"args": [], "path": "nvidia-container-runtime"}}
    assert json.loads(config.read_text()) == {**json.loads(before or "{}"), "runtimes": wanted}
