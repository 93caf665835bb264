"""Fixtures that several areas share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.sshd import Sshd


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """One sshd for a test module."""
    server = Sshd(tmp_path_factory.mktemp("sshd") / "d")
    yield server
    server.stop()


@pytest.fixture
def start_sshd(tmp_path: Path) -> Iterator[Callable[..., Sshd]]:
    """Starts further ones, each as a test wants it."""
    started: list[Sshd] = []

    def start(*options: str, **more: Any) -> Sshd:
        server = Sshd(tmp_path / f"sshd{len(started)}", options, **more)
        started.append(server)
        return server

    yield start
    for server in started:
        server.stop()
