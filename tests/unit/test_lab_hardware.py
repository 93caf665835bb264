"""The lab's stand-ins for hardware: the kernel module's file, and the PCI bus made of the description of the cards."""

from __future__ import annotations

import json
import struct
import subprocess

from fleet.data import data_dir
from fleet.gpu.architecture import Generation
from fleet.gpu.pci import PCI_PROBE, parse_pci
from fleet.lab.gpus import describe
from fleet.model.facts import Answer

LAB = data_dir("lab")


def test_the_modules_file_has_what_modinfo_reads(tmp_path):
    text = (LAB / "registry" / "packages.sh").read_text()
    functions = text[text.index("# le VALUE BYTES") : text.index("for upstream in 570")]
    subprocess.run(["sh", "-ec", f"{functions}\nmodule nvidia.ko 580.95.05"], cwd=tmp_path, check=True)
    content = (tmp_path / "nvidia.ko").read_bytes()
    assert content[:5] == b"\x7fELF\x02"
    (table,) = struct.unpack_from("<Q", content, 40)
    size, count, names = struct.unpack_from("<HHH", content, 58)
    sections = [struct.unpack_from("<IIQQQQ", content, table + size * n) for n in range(count)]
    assert len(content) == table + size * count
    strings = content[sections[names][4] :]
    found = {
        strings[name:].split(b"\0")[0]: content[at : at + length]
        for name, _, _, _, at, length in sections[1:]
    }
    assert found[b".modinfo"].split(b"\0")[:3] == [
        b"version=580.95.05",
        b"license=Dual MIT/GPL",
        b"name=nvidia",
    ]


def bus(tmp_path, text):
    """What PCI_PROBE says of a bus that gpus.sh made of this description, in a folder instead of sysfs."""
    (tmp_path / "gpus.json").write_text(text)
    folder = tmp_path / "pci"
    folder.mkdir(exist_ok=True)
    script = (LAB / "host" / "gpus.sh").read_text()
    for path, here in (
        ("/etc/fleet-lab/gpus.json", "gpus.json"),
        ("/sys/bus/pci/devices", "pci"),
        ("/lib/modules", "modules"),
        ("/proc/driver", "driver"),
    ):
        script = script.replace(path, str(tmp_path / here))
    # Folders of the test need no file system of their own; nor is there dkms.
    script = script.replace("mount -t tmpfs", ": mount").replace("command -v dkms", "false")
    subprocess.run(["sh", "-c", script], check=True, capture_output=True)
    probe = PCI_PROBE.script.replace("/sys/bus/pci/devices", str(folder))
    return parse_pci(Answer(0, subprocess.run(["sh", "-c", probe], check=True, capture_output=True).stdout))


def test_each_card_of_the_description_is_on_the_bus(tmp_path):
    seen = bus(tmp_path, describe("gpu-01", 2))
    assert [(gpu.address, gpu.generation) for gpu in seen.gpus] == [
        ("0000:3b:00.0", Generation.TURING),
        ("0000:3c:00.0", Generation.TURING),
    ]
    assert seen.switches == 0


def test_a_card_of_another_kind_and_nvswitches_on_one_line(tmp_path):
    described = json.loads(describe("gpu-01", 1))
    described["gpus"][0]["pci_device"] = "2330"
    seen = bus(tmp_path, json.dumps({**described, "nvswitches": 4}))
    assert [gpu.generation for gpu in seen.gpus] == [Generation.HOPPER]
    assert seen.switches == 4


def test_a_card_that_is_taken_out_is_gone(tmp_path):
    assert len(bus(tmp_path, describe("gpu-01", 2)).gpus) == 2
    assert len(bus(tmp_path, describe("gpu-01", 1)).gpus) == 1
