"""Weights by GPU name, and what the inventory says of them."""

from __future__ import annotations

import pytest

from fleet.errors import InputError
from fleet.gpu.weights import DEFAULT_WEIGHT, table_weight, weight_for
from fleet.model.slot import Gpu


def gpu(name: str) -> Gpu:
    return Gpu(0, "GPU-0", name)


@pytest.mark.parametrize(
    ("name", "weight"),
    [
        ("Tesla T4", 10),
        ("Tesla V100-SXM2-16GB", 28),
        ("Tesla V100S-PCIE-32GB", 35),
        ("NVIDIA A10", 19),
        ("NVIDIA A100 80GB PCIe", 60),
        ("NVIDIA A100-SXM4-80GB", 64),
        ("NVIDIA L4", 9),
        ("NVIDIA L40S", 27),
        ("NVIDIA H100 PCIe", 62),
        ("NVIDIA H100 80GB HBM3", 105),
        ("NVIDIA H200", 150),
        ("NVIDIA GeForce RTX 4090", 32),
        ("NVIDIA RTX 6000 Ada Generation", 30),
        ("A card nobody has heard of", DEFAULT_WEIGHT),
    ],
)
def test_a_cards_weight_follows_its_name(name, weight):
    assert table_weight(name) == weight
    assert weight_for(gpu(name), {}) == weight


def test_the_inventory_overrules_the_table_and_the_host_its_groups():
    weights = {"v100": "30", "T4": 12}
    assert weight_for(gpu("Tesla V100-SXM2-16GB"), {"weights": weights}) == 30
    assert weight_for(gpu("Tesla T4"), {"weights": weights, "weight": 99}) == 99
    assert weight_for(gpu("NVIDIA L4"), {"weights": weights}) == 9


@pytest.mark.parametrize(
    "bad", [{"weight": 0}, {"weight": 257}, {"weight": "much"}, {"weight": True}, {"weights": [1]}]
)
def test_what_is_no_weight_is_refused(bad):
    with pytest.raises(InputError) as refused:
        weight_for(gpu("Tesla T4"), bad)
    assert refused.value.remedy
