"""Settings of all tests."""

from __future__ import annotations

import gc
import signal

import pytest
from hypothesis import settings

from tests.soaking import SOAK

# A busy machine is no mistake of the code: how long things take is measured in bench/, never here.
settings.register_profile("fleet", deadline=None, max_examples=100 if SOAK else 30)
settings.load_profile("fleet")

# As in the command itself (fleet/cli): what was collected lives to the end, and walking it again frees nothing.
gc.set_threshold(200_000, 20, 50)

# A shell's background job ignores Ctrl-C, and so would every command that a test starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish(session: pytest.Session) -> None:
    gc.freeze()
