"""The service in the image: the lab's translation page, with a model's memory and work on a real GPU.

The words still come from a small table. What is real is what fleet looks at: memory held on the GPU from the
start, and a job that keeps the GPU busy and is right only if the GPU computed rightly.
"""

from __future__ import annotations

import functools
import itertools
import os
import sys
import time

sys.path.insert(0, "/app")

import webui
from cuda_work import Weights

began = time.monotonic()
weights = Weights(int(os.environ["REAL_GPU_MIB"]), float(os.environ["REAL_GPU_JOB_SECONDS"]))
print(
    f"{weights.device.uuid} {weights.device.name}: {os.environ['REAL_GPU_MIB']} MiB filled and checked in "
    f"{time.monotonic() - began:.1f} s; a job reads all of it {weights.passes} times",
    flush=True,
)
seeds = itertools.count(1)
looked_up = webui.translate


@functools.wraps(looked_up)
def translate(text: str, target_language: str) -> str:
    """One job: the GPU's work first, which raises where the GPU answers wrongly."""
    weights.work(next(seeds))
    return looked_up(text, target_language)


webui.translate = translate
webui.JOB_SECONDS = 0.0
webui.main()
