"""The parts of bench/real_gpu that need no GPU: the sums of its jobs, packages, the CDI script, the report."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

BENCH = Path(__file__).resolve().parents[2] / "bench/real_gpu"
sys.path.insert(0, str(BENCH))

from cuda_work import A, B, job_sum, weights_sum  # noqa: E402
from packages import Package, index, make  # noqa: E402
from report import Report  # noqa: E402
from watching import Sample, table  # noqa: E402

SMI = """#!/bin/sh
case "$*" in
    *driver_version*) echo 580.159.04 ;;
    *index,uuid*) printf '0, GPU-aaaa\\n1, GPU-bbbb\\n' ;;
    '-i GPU-aaaa -q') echo '    Minor Number                          : 1' ;;
    '-i GPU-bbbb -q') echo '    Minor Number                          : 0' ;;
    *) exit 1 ;;
esac
"""


@pytest.mark.parametrize("words", [4, 5, 1000, 4096])
def test_the_answer_of_a_job_is_what_adding_every_word_in_every_pass_gives(words: int) -> None:
    weights = [(i * A + B) % 2**32 for i in range(words)]
    seed = random.Random(words).randrange(2**32)
    assert weights_sum(words) == sum(weights) % 2**32
    assert job_sum(words, seed, 3) == sum(w * (seed + p) for p in range(3) for w in weights) % 2**32


def test_one_wrong_word_changes_the_answer_of_a_job() -> None:
    weights = [(i * A + B) % 2**32 for i in range(64)]
    weights[17] ^= 1
    assert sum(weights) % 2**32 != weights_sum(64)


def test_a_package_made_on_the_spot_is_one_for_dpkg_and_is_found_in_the_index(tmp_path: Path) -> None:
    package = Package("real-gpu-cdi", "1", "a script", {"/usr/bin/nvidia-ctk": "#!/bin/sh\necho here\n"})
    made = make(package, tmp_path)
    subprocess.run(["dpkg-deb", "--extract", str(made), str(tmp_path / "root")], check=True)
    program = tmp_path / "root/usr/bin/nvidia-ctk"
    assert subprocess.run([program], capture_output=True, text=True, check=True).stdout == "here\n"
    listed = index(tmp_path).decode()
    assert "Package: real-gpu-cdi\n" in listed
    assert f"Filename: ./{made.name}\nSize: {made.stat().st_size}\n" in listed


def test_the_cdi_script_names_each_gpu_by_index_and_uuid_with_its_own_node(tmp_path: Path) -> None:
    smi = tmp_path / "nvidia-smi"
    smi.write_text(SMI)
    smi.chmod(0o755)
    output = tmp_path / "nvidia.yaml"
    subprocess.run(
        ["sh", str(BENCH / "nvidia-ctk.sh"), "cdi", "generate", f"--output={output}"],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        check=True,
    )
    specification = yaml.safe_load(output.read_text())
    nodes = {
        device["name"]: [node["path"] for node in device["containerEdits"]["deviceNodes"]]
        for device in specification["devices"]
    }
    assert nodes == {
        "0": ["/dev/nvidia1"],
        "GPU-aaaa": ["/dev/nvidia1"],
        "1": ["/dev/nvidia0"],
        "GPU-bbbb": ["/dev/nvidia0"],
    }
    mounts = [mount["containerPath"] for mount in specification["containerEdits"]["mounts"]]
    assert "/usr/bin/nvidia-smi" in mounts


def test_the_report_has_commands_as_shown_and_says_what_failed(tmp_path: Path) -> None:
    report = Report(tmp_path / "report.md")
    done = report.run("seq 3", ["sh", "-c", "seq 3; exit 4"])
    assert (done.text, done.rc) == ("1\n2\n3", 4)
    report.check("one thing holds", True, "it does")
    report.check("another does not", False, "it does not")
    assert not report.end()
    written = report.path.read_text()
    assert "```\n$ seq 3\n1\n2\n3\n```\n\nExit code 4" in written
    assert "| another does not | **no** | it does not |" in written


def test_the_report_leaves_out_the_middle_of_long_output_and_says_so(tmp_path: Path) -> None:
    report = Report(tmp_path / "report.md")
    report.run("seq 500", ["seq", "500"], lines=50)
    written = report.path.read_text().splitlines()
    assert "[450 lines left out]" in written
    assert "500" in written
    assert "100" not in written


def test_the_table_of_samples_has_a_row_for_each_gpu() -> None:
    samples = [
        Sample(moment=float(n), gpu=n % 2, utilization=10.0 * n, memory=100.0 * n, power=70.5, temperature=30)
        for n in range(6)
    ]
    assert table(samples).splitlines()[2:] == [
        "| 0 | 3 | 20 (40) | 0 to 400 | 70 | 30 |",
        "| 1 | 3 | 30 (50) | 100 to 500 | 70 | 30 |",
    ]
