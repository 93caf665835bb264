"""Where users reach the service, by the inventory."""

from __future__ import annotations

from pathlib import Path

import pytest

from fleet.inventory import load
from fleet.provision.golden import service_url


@pytest.mark.parametrize(
    ("variables", "url"),
    [
        ("{}", "http://10.0.0.1"),
        ("{lb_port: 8080}", "http://10.0.0.1:8080"),
        ("{lb_address: 10.0.0.100/24}", "http://10.0.0.100"),
        ("{lb_address: 10.0.0.100, lb_port: 8080}", "http://10.0.0.100:8080"),
        ("{lb_address: 'fd00::5/64'}", "http://[fd00::5]"),
        (
            "{lb_address: 10.0.0.100, fleet_url: 'https://translate.example.com/'}",
            "https://translate.example.com",
        ),
    ],
)
def test_the_shared_address_stands_for_all_balancers(tmp_path: Path, variables: str, url: str) -> None:
    hosts = "{lb-01: {ansible_host: 10.0.0.1}, lb-02: {ansible_host: 10.0.0.2}}"
    text = f"all:\n  children:\n    balancer:\n      hosts: {hosts}\n      vars: {variables}\n"
    (tmp_path / "hosts.yml").write_text(text)
    assert service_url(load(tmp_path / "hosts.yml")) == url
