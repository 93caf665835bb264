"""A rollout's report as one HTML file that needs nothing else: no network, no script, light and dark."""

from __future__ import annotations

import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fleet.control.spans import in_words
from fleet.data import data_dir
from fleet.errors import InputError
from fleet.rollout.report.axes import clock
from fleet.rollout.report.charts import charts, marks
from fleet.rollout.report.data import Report
from fleet.rollout.report.entry_words import clean, named, short_digest
from fleet.rollout.report.gantt import gantt, left_edge
from fleet.rollout.report.verdict import ENDS, facts, serving, verdict

if TYPE_CHECKING:
    from jinja2 import Template

TEMPLATE = "rollout-report.html.j2"


def html_report(report: Report) -> str:
    """The whole file as text. All that comes from hosts, users and logs is escaped."""
    left = left_edge(report)
    return _template().render(
        report=report,
        header=report.header,
        outcome=report.outcome,
        verdict=verdict(report),
        before=_before(report),
        facts=facts(report),
        serving=serving(report),
        end=ENDS.get(report.outcome.state, report.outcome.state),
        tiles=_tiles(report),
        gantt=gantt(report, left),
        charts=charts(report, left),
        marks=marks(report, left),
    )


def write_report(report: Report, path: Path) -> None:
    """Write the file, and its folder where there is none. Raises InputError where that is not possible."""
    text = html_report(report)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"cannot write the report {path}: {error.strerror}", remedy="choose another place with --report"
        ) from error


def _before(report: Report) -> str:
    """The images that ran before, each with its digest."""
    images = {
        f"{slot.before} ({short_digest(slot.before_digest)})": None for slot in report.slots if slot.before
    }
    return named(images)


def _tiles(report: Report) -> list[tuple[str, str, str]]:
    """The figures at the top: name, value, what to know beside it."""
    header = report.header
    took = in_words(report.outcome.seconds)
    tiles = [("time", took, f"planned: {_planned(report)}")]
    low = "not sampled" if report.lowest is None else f"{report.lowest:g}"
    tiles.append(("lowest ready weight", low, f"of {header.total}; floor {header.floor:g}"))
    tiles.append(("requests", f"{report.total('requests'):,.0f}", _by_colour(report, "requests")))
    tiles.append(("errors", f"{report.total('errors'):,.0f}", _by_colour(report, "errors")))
    tiles.append(("jobs cut", str(report.cut) if report.cut else "none", "at drain deadlines"))
    return tiles


def _planned(report: Report) -> str:
    if report.plan is None or report.plan.seconds is None:
        return "not known"
    return in_words(report.plan.seconds)


def _by_colour(report: Report, name: str) -> str:
    return f"{report.total(name, 'blue'):,.0f} blue, {report.total(name, 'green'):,.0f} green"


@cache
def _template() -> Template:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(data_dir("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    environment.filters["clock"] = clock
    environment.filters["short_digest"] = short_digest
    environment.filters["span"] = lambda seconds: "–" if seconds is None else in_words(seconds)
    environment.filters["number"] = lambda value: "–" if value is None else f"{value:g}"
    environment.filters["utc"] = lambda at: time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at))
    return environment.get_template(TEMPLATE)


def _finalize(value: Any) -> Any:
    """Texts without control characters; markup that was escaped already as it is."""
    return clean(value) if type(value) is str else value
