"""Settings of all tests."""

from __future__ import annotations

from hypothesis import settings

# A busy machine is no mistake of the code: how long things take is measured in bench/, never here.
settings.register_profile("fleet", deadline=None)
settings.load_profile("fleet")
