"""The HAProxy weight a GPU deserves: its share of new jobs against the others'.

A translation runs one job at a time and makes its tokens one after another, and for each token the card
reads the whole bf16 (on older cards fp16) model from its memory once. So the rate follows memory
bandwidth. The table holds the bandwidths of NVIDIA's data sheets in GB/s ("GPU memory bandwidth"; the
smallest where variants of one name differ and the name does not tell them apart), and 32 GB/s are one
point of weight. It is a start: `weight` and `weights` in the inventory overrule it with what was measured.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from fleet.errors import InputError
from fleet.model.slot import Gpu

MAX_WEIGHT = 256
DEFAULT_WEIGHT = 24

_POINT = 32
# Matched as whole words, in this order: the narrower name stands before the wider.
_BANDWIDTH = {
    "GB300": 8000,
    "GB200": 8000,
    "B300": 8000,
    "B200": 8000,
    "GH200": 4000,
    "H200": 4800,
    "H100 NVL": 3900,
    "H100 PCIe": 2000,
    "H100": 3350,
    "H20": 4000,
    "A100 80GB PCIe": 1935,
    "A100 SXM4 80GB": 2039,
    "A100": 1555,
    "A800": 1935,
    "A40": 696,
    "A30": 933,
    "A16": 200,
    "A10G": 600,
    "A10": 600,
    "A2": 200,
    "L40S": 864,
    "L40": 864,
    "L20": 864,
    "L4": 300,
    "L2": 300,
    "T4": 320,
    "V100S": 1134,
    "V100": 900,
    "P100": 732,
    "P40": 346,
    "P4": 192,
    "RTX PRO 6000": 1597,
    "RTX 6000 Ada": 960,
    "RTX 5000 Ada": 576,
    "RTX 4500 Ada": 432,
    "RTX 4000 Ada": 360,
    "RTX A6000": 768,
    "RTX A5500": 768,
    "RTX A5000": 768,
    "RTX A4500": 640,
    "RTX A4000": 448,
    "Quadro RTX 8000": 672,
    "Quadro RTX 6000": 672,
    "RTX 5090": 1792,
    "RTX 5080": 960,
    "RTX 5070 Ti": 896,
    "RTX 5070": 672,
    "RTX 5060 Ti": 448,
    "RTX 4090": 1008,
    "RTX 4080": 716,
    "RTX 4070": 504,
    "RTX 4060": 272,
    "RTX 3090": 936,
    "RTX 3080": 760,
    "RTX 3070": 448,
    "RTX 3060": 240,
    "RTX 2080 Ti": 616,
}


def weight_for(gpu: Gpu, variables: Mapping[str, Any]) -> int:
    """The weight of a GPU's slot, from 1 to 256.

    The host's variable `weight` wins, then the first entry of `weights` (part of a GPU's name -> weight)
    that the name contains, then the table. A card in neither gets `DEFAULT_WEIGHT`.
    """
    override = weight_override(gpu.name, variables)
    return table_weight(gpu.name) if override is None else override


def weight_override(gpu_name: str, variables: Mapping[str, Any]) -> int | None:
    """What the inventory says of this card's weight; None where it says nothing."""
    if variables.get("weight") is not None:
        return _checked(variables["weight"], "weight")
    weights = variables.get("weights") or {}
    if not isinstance(weights, Mapping):
        raise InputError(
            f"weights is {weights!r}, not a mapping",
            remedy="write weights as a part of the GPU's name and its weight, such as {V100: 28, T4: 10}",
        )
    name = gpu_name.casefold()
    for part, weight in weights.items():
        if str(part).casefold() in name:
            return _checked(weight, f"weights.{part}")
    return None


def table_weight(gpu_name: str) -> int:
    """The weight by the card's name alone."""
    words = _words(gpu_name)
    for model, bandwidth in _BANDWIDTH.items():
        if f" {_words(model).strip()} " in words:
            return max(1, min(MAX_WEIGHT, round(bandwidth / _POINT)))
    return DEFAULT_WEIGHT


def _words(text: str) -> str:
    """Lower case words between single spaces: "Tesla V100-SXM2-16GB" -> " tesla v100 sxm2 16gb "."""
    return f" {' '.join(re.split(r'[^a-z0-9]+', text.casefold())).strip()} "


def _checked(value: Any, key: str) -> int:
    text = str(value).strip()
    if isinstance(value, bool) or not text.isdecimal() or not 1 <= int(text) <= MAX_WEIGHT:
        raise InputError(
            f"{key} is {value!r}, not a weight",
            remedy=f"set {key} to a whole number from 1 to {MAX_WEIGHT}; to stop jobs, drain the slot",
        )
    return int(text)
