"""Simulated GPUs: what /etc/fleet-lab/gpus.json of a lab host says of them."""

from __future__ import annotations

import hashlib
import json
import uuid

GPUS_FILE = "/etc/fleet-lab/gpus.json"
"""Where a host's GPUs are described. A test changes the file, and `nvidia-smi` tells the new truth."""


def describe(host: str, count: int) -> str:
    """The JSON of a host's GPUs: idle T4 cards, whose UUIDs are the same in each lab."""
    gpus = [
        {
            "index": index,
            "name": "Tesla T4",
            "uuid": _uuid(host, index),
            "memory_total": 15360,
            "memory_used": 3,
            "utilization": 0,
            "temperature": 38 + index,
            "power_draw": 9.5,
            "power_limit": 70.0,
            "pci_bus_id": f"00000000:{0x3B + index:02X}:00.0",
            "ecc_errors": 0,
            "mig_mode": "[N/A]",
            "lost": False,
        }
        for index in range(count)
    ]
    return json.dumps({"gpus": gpus}, indent=2) + "\n"


def _uuid(host: str, index: int) -> str:
    seed = hashlib.sha256(f"{host} {index}".encode()).digest()
    return f"GPU-{uuid.UUID(bytes=seed[:16], version=4)}"
