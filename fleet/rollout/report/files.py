"""Where a rollout's report lies on the machine that ran it, unless --report says otherwise."""

from __future__ import annotations

from pathlib import Path


def page_file(rollout: str) -> Path:
    """The report for people, by the rollout's id."""
    from platformdirs import user_state_path

    return user_state_path("fleet") / "reports" / f"{rollout}.html"


def data_file(page: Path) -> Path:
    """The same report for programs, beside the page."""
    return page.with_suffix(".json")


def found_page(rollout: str) -> Path | None:
    """The report's page where it is on this machine; None where it is not, or cannot be looked for."""
    path = page_file(rollout)
    try:
        return path if path.is_file() else None
    except OSError:
        return None
