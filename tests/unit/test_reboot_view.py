"""What `fleet reboot` shows, and that it goes on where nobody can see it any more."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from fleet.console.reboot import RebootView
from fleet.reboot.model import HostOutcome, Rebooted
from tests.unit.test_rollout_view import Gone


@pytest.mark.parametrize(
    "error", [OSError(5, "Input/output error"), BrokenPipeError()], ids=["lost", "closed"]
)
def test_a_lost_terminal_or_reader_does_not_end_it(error, tmp_path, monkeypatch):
    # rich points the standard output elsewhere when a pipe is closed; not that of the tests.
    monkeypatch.setattr("sys.stdout", (tmp_path / "stdout").open("w"))
    screen = Gone(error, 1)
    view = RebootView(quiet=False, console=Console(file=screen))
    for text in ("draining gpu-01-0", "is told to reboot", "rebooting"):
        view("gpu-01", text)
    assert screen.getvalue() == "gpu-01: draining gpu-01-0\n"


@pytest.mark.parametrize(
    ("interrupted", "why"), [(False, "another host did not end well"), (True, "the run was interrupted")]
)
def test_a_host_that_was_left_alone_says_why(interrupted, why):
    out = io.StringIO()
    hosts = (
        HostOutcome("gpu-01", "interrupted" if interrupted else "failed"),
        HostOutcome("gpu-02", "untouched"),
    )
    RebootView(quiet=False, console=Console(file=out)).result(Rebooted(hosts, interrupted=interrupted))
    assert f"gpu-02: not touched, since {why}" in out.getvalue()
