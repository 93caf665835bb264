"""The HAProxy weight a GPU deserves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fleet.model.slot import Gpu


def weight_for(gpu: Gpu, variables: Mapping[str, Any]) -> int:
    """The weight of a GPU's slot, from 1 to 256."""
    return 100
