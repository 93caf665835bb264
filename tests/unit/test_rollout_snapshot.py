"""What an upgrade sees of hosts that are not as they should be."""

from __future__ import annotations

from types import SimpleNamespace

from fleet.gpu.container import ContainerSpec
from fleet.gpu.probe import GPU_PROBE
from fleet.model.facts import Answer, Facts
from fleet.rollout.hosts import GpuHost
from fleet.rollout.snapshot import observe
from tests.unit import gpu_world as world


def test_a_host_whose_driver_finds_no_card_is_not_passed_over():
    facts = {**world.facts(), GPU_PROBE.key: Answer(0, b"")}
    host = GpuHost(
        SimpleNamespace(host=world.HOST, spec=lambda engine: ContainerSpec(world.IMAGE), auth=lambda: None),
        lambda name: None,
    )
    host.look = lambda probes=(): Facts(facts)
    snapshot = observe({"gpu-01": host}, {}, world.IMAGE, "sha256:" + "2" * 64).snapshot
    assert snapshot.troubles == {"gpu-01": "the NVIDIA driver finds no GPU"}
