"""Many hosts' answers at once: threads that are the first to need a type do not end the process."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# So short turns let threads meet within what msgspec does with a type's first use.
THREADS = """\
import sys, threading
from fleet.docker.answers import parse_containers, parse_engine, parse_images
from fleet.rollout import journal
from fleet.rollout.model import Entry, Header
from tests.unit import gpu_world as world

sys.setswitchinterval(1e-6)
header = Header("1", "upgrade", "app:v2", "sha256:1", "eve", 1.0, 10.0, 20, (("gpu-01-0",),), ())
lines = [journal.encode_header(header, 7), journal.encode_entry(Entry(1, 2.0, "pulled"), 7)]
data = b"".join(line + b"\\n" for line in lines)
answers = world.engine(), world.images(), world.containers(world.inspected(world.ContainerSpec("a:1"), world.slot()))
together = threading.Barrier(8)

def look():
    together.wait()
    assert parse_engine(answers[0]) and parse_images(answers[1]) and parse_containers(answers[2])
    assert journal.decode(data, "here").header == header

threads = [threading.Thread(target=look) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


@pytest.mark.parametrize("attempt", range(4))
def test_the_first_answers_of_many_hosts_at_once_are_all_read(attempt: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", THREADS], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_msgspec_meets_types_in_one_place_alone() -> None:
    found = [
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "fleet").rglob("*.py")
        if re.search(
            r"msgspec\.(convert\(|json\.decode\([^)]*type=|json\.Decoder|yaml|toml|msgpack)", path.read_text()
        )
    ]
    assert found == ["fleet/model/decode.py"]
