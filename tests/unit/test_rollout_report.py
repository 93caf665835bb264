"""What is kept of a rollout: its figures, its document, and the page that shows it."""

from __future__ import annotations

import itertools
import json
import random
import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from fleet.errors import InputError
from fleet.rollout.events import Began, Outcome, Phase, Recorded, Sampled
from fleet.rollout.model import Entry
from fleet.rollout.report.axes import Scale, clock, time_ticks, value_scale
from fleet.rollout.report.charts import RIGHT, charts, marks
from fleet.rollout.report.data import Report, Span
from fleet.rollout.report.gantt import gantt, left_edge
from fleet.rollout.report.page import html_report, write_report
from fleet.rollout.report.samples import Pair, Samples, mean_between
from fleet.rollout.report.timeline import Timeline
from fleet.rollout.world import ServerNow
from tests.unit.rollout_story import STARTED, V1, V2, WINDOW, Server, Story, large, small

HOSTILE = "</pre></svg><script>alert(1)</script>\"'><img src=x onerror=alert(1)>&{{ 7*7 }}\x00\x1b[31m\ud800"


def told(story: Story, **how) -> Report:
    timeline = Timeline(story.clock)
    return timeline.report(story.play(timeline, **how))


def server(slot: str = "a", **more) -> ServerNow:
    plain = {"weight": 25, "takes_jobs": True, "up": True, "held": False}
    return ServerNow(more.pop("balancer", "lb-01"), slot, **{**plain, **more})


class Page(HTMLParser):
    """The tags of a page with their attributes; what closes and what is text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


# --- figures ---------------------------------------------------------------------------------------------


def test_the_mean_of_new_requests_comes_back_out_of_haproxys_fading_mean():
    source = random.Random(3)
    counted = Server(25)
    for _ in range(2000):
        counted.request(2.0)
    before = counted.now("a")
    times = [source.uniform(0.5, 1.5) for _ in range(300)]
    for time in times:
        counted.request(time)
    assert mean_between(before, counted.now("a")) == pytest.approx(sum(times) / len(times), abs=0.03)


def test_the_mean_of_a_young_process_is_that_of_its_few_requests():
    counted = Server(25)
    for time in (1.0, 2.0, 3.0):
        counted.request(time)
    first = counted.now("a")
    counted.request(6.0)
    assert mean_between(replace(first, requests=0, mean=0.0), first) == pytest.approx(2.0, abs=0.01)
    assert mean_between(first, counted.now("a")) == pytest.approx(6.0, abs=0.05)


def test_rows_hold_what_each_colour_did_in_each_second():
    samples = Samples()
    colour = {"a": "blue", "b": "green"}.__getitem__
    samples.add(0.2, [server("a", requests=100), server("b", requests=50, jobs=1)], colour)
    samples.add(1.2, [server("a", requests=104, jobs=2), server("b", requests=57, errors=3)], colour)
    first, second = samples.rows
    assert first.requests == Pair(0, 0)
    assert second.at == 1.0
    assert second.requests == Pair(4, 7)
    assert second.errors == Pair(0, 3)
    assert second.jobs == Pair(2, 0)
    assert second.weight == Pair(25, 25)


def test_the_ready_weight_is_the_least_of_any_balancer_and_of_any_moment():
    samples = Samples()
    up = [server("a"), server("b"), server("a", balancer="lb-02"), server("b", balancer="lb-02", up=False)]
    samples.add(0.1, up, lambda _: "blue")
    samples.add(0.6, [each if each.up else replace(each, up=True) for each in up], lambda _: "blue")
    assert [row.ready for row in samples.rows] == [25]
    assert samples.rows[0].weight == Pair(50, 0)
    assert samples.lowest == 25


def test_a_balancer_that_starts_anew_counts_from_nothing():
    samples = Samples()
    samples.add(0, [server(requests=900, errors=9, process=1)], lambda _: "blue")
    samples.add(1, [server(requests=4, errors=1, process=2)], lambda _: "blue")
    samples.add(2, [server(requests=2, process=2)], lambda _: "blue")
    assert [row.requests.blue for row in samples.rows] == [0, 4, 2]
    assert [row.errors.blue for row in samples.rows] == [0, 1, 0]


def test_a_long_night_keeps_its_sums_and_its_lowest_moment_in_fewer_rows():
    samples = Samples(most=100)
    for second in range(1000):
        weight = 5 if second == 517 else 25
        samples.add(second, [server(requests=3 * second, weight=weight)], lambda _: "blue")
    assert len(samples.rows) <= 100
    assert samples.every == 16
    assert sum(row.requests.blue for row in samples.rows) == 3 * 999
    assert min(row.ready for row in samples.rows) == samples.lowest == 5
    assert all(row.at % 16 == 0 for row in samples.rows)


def test_a_slots_traffic_is_greens_from_when_its_green_container_is_ready():
    report = told(small())
    at = next(line.at for line in report.lines if line.entry.step == "ready")
    assert sum(row.requests.green for row in report.rows if row.at < at - 1) == 0
    assert report.total("requests", "green") > 100
    assert report.rows[-1].weight == Pair(0, 100)


# --- the story -------------------------------------------------------------------------------------------


def test_every_slot_has_its_phases_without_gaps_to_the_end():
    report = told(small())
    for slot in report.slots:
        phases = [span.phase for span in slot.spans]
        assert phases == ["blue", "draining", "drained", "moving", "checking", "ramping", "green"]
        assert slot.spans[0].start == 0
        assert all(a.end == b.start for a, b in itertools.pairwise(slot.spans))
        assert slot.colour == "green"
    assert max(slot.spans[-1].end for slot in report.slots) == report.length
    assert report.slots[3].strategy == "side-by-side"


def test_after_a_rollback_every_slot_is_blue_and_what_was_done_is_told():
    report = told(small(fails="gpu-02-0"))
    failed = next(slot for slot in report.slots if slot.name == "gpu-02-0")
    phases = [span.phase for span in failed.spans]
    assert phases == [
        "blue",
        "draining",
        "drained",
        "moving",
        "checking",
        "failed",
        "draining",
        "restoring",
        "blue",
    ]
    assert {slot.colour for slot in report.slots} == {"blue"}
    assert report.green == 0
    assert report.cut == 2


def test_waves_are_compared_with_their_plan():
    first, second, last = told(small()).waves
    assert (first.lowest, second.lowest) == (75, 75)
    assert (first.number, first.kind, first.planned_seconds, first.planned_lowest) == (1, "canary", 44, 75)
    assert first.seconds == pytest.approx(44, abs=8)
    assert last.kind == "switch"
    assert last.lowest == 50


def test_a_wave_that_failed_lasted_until_it_went_back():
    report = told(small(fails="gpu-02-0"))
    back = next(line.at for line in report.lines if line.entry.step == "rolling-back")
    assert [wave.end == back for wave in report.waves] == [False, True, False]
    assert report.waves[2].seconds is None


def test_what_an_earlier_controller_did_is_told_from_the_journal():
    story = small()
    story.play(until="accepted 1")
    earlier = tuple(story.entries)
    story.now += 600
    timeline = Timeline(story.clock)
    timeline(Began(story.header))
    for entry in earlier:
        timeline(Recorded(entry))
    timeline(Sampled(story.now, (server("gpu-01-0", requests=10),)))
    story.now += 1
    timeline(Sampled(story.now, (server("gpu-01-0", requests=14),)))
    report = timeline.report(Outcome("stopped", story.header, earlier, 1.0))
    canary = report.slots[0]
    assert [span.phase for span in canary.spans] == [
        "blue",
        "draining",
        "drained",
        "moving",
        "ramping",
        "green",
    ]
    assert report.total("requests", "green") == 4
    assert len(report.lines) == len(earlier)


def test_entries_of_the_outcome_that_nobody_heard_are_in_the_report():
    story = small()
    outcome = story.play()
    report = Timeline(story.clock).report(outcome)
    assert len(report.lines) == len(story.entries)
    assert report.rows == ()
    assert report.slots[0].phase == "green"
    assert "no samples were taken" in html_report(report)


def test_phases_of_slots_that_the_header_does_not_know_are_kept():
    story = small()
    timeline = Timeline(story.clock)
    timeline(Began(story.header, replace(story.plan, unchanged=("gpu-09-0",))))
    story.now += 2
    timeline(Phase("gpu-09-0", "lost"))
    report = timeline.report(Outcome("stopped", story.header, (), 2.0))
    assert report.slots[-1].name == "gpu-09-0"
    assert report.slots[-1].wave == 0
    assert report.slots[-1].spans == (Span("green", 0, 2), Span("lost", 2, 2))


def test_the_document_is_plain_values_and_complete():
    document = json.loads(json.dumps(told(small(fails="gpu-02-0")).as_json()))
    assert list(document) == [
        "id", "kind", "image", "digest", "by", "started", "state", "seconds", "length", "reason", "rung",
        "failed_slot", "log", "remedy", "resume", "notes", "cut", "lost", "total_weight", "floor", "lowest_ready",
        "options", "plan", "waves", "slots", "entries", "samples",
    ]  # fmt: skip
    assert document["state"] == "rolled-back"
    assert document["failed_slot"] == "gpu-02-0"
    assert document["plan"]["waves"][2]["moves"][1] == {
        "slot": "gpu-02-1",
        "strategy": "side-by-side",
        "why": "",
    }
    assert document["slots"][0]["before"]["image"] == V1
    assert document["entries"][0]["step"] == "pulled"
    row = document["samples"]["rows"][20]
    assert set(row) == {"at", "ready", "weight", "jobs", "requests", "errors", "mean"}
    assert row["requests"].keys() == {"blue", "green"}


def test_the_document_holds_no_mean_where_there_was_no_request():
    assert told(small()).as_json()["samples"]["rows"][0]["mean"]["green"] is None


# --- coordinates -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (5.4, "0:05"), (59.6, "1:00"), (750, "12:30"), (3750, "1:02:30")]
)
def test_moments_are_written_as_on_a_watch(seconds, text):
    assert clock(seconds) == text


@pytest.mark.parametrize("most", [0.001, 3, 59, 61, 754, 7200, 40_000, 3_000_000])
def test_times_beside_an_axis_are_few_round_and_apart(most):
    ticks = time_ticks(Scale(most, 100, RIGHT))
    assert 1 <= len(ticks) <= 11
    assert all(b.at - a.at > 60 for a, b in itertools.pairwise(ticks))
    assert len({tick.label for tick in ticks}) == len(ticks)


@pytest.mark.parametrize("most", [0, 0.003, 0.9, 1, 7, 9.99, 100, 101, 5000, 123456])
@pytest.mark.parametrize("whole", [True, False])
def test_values_beside_an_axis_reach_over_the_highest(most, whole):
    scale, ticks = value_scale(most, 150, 10, whole=whole)
    assert scale.most >= most
    assert 2 <= len(ticks) <= 6
    assert (ticks[0].at, ticks[-1].at) == (150, 10)
    if whole:
        assert all(float(tick.label).is_integer() for tick in ticks)


@pytest.mark.parametrize(
    "story", [small(), small(fails="gpu-02-0"), large(), large(fails="gpu-04-3"), large(200)]
)
def test_all_shapes_lie_within_their_plots(story):
    report = told(story)
    left = left_edge(report)
    for chart in charts(report, left):
        numbers = [
            [float(each) for each in pair.split(",")]
            for shape in chart.shapes
            for pair in re.findall(r"[\d.]+,[\d.]+", shape.path)
        ]
        assert all(left <= x <= RIGHT + 1.5 and chart.top <= y <= chart.bottom for x, y in numbers)
    picture = gantt(report, left)
    rows = picture.rows
    assert len(rows) == len(story.slots)
    assert all(b.y - a.y >= picture.bar for a, b in itertools.pairwise(rows))
    assert all(left <= bar.x and bar.x + bar.width <= RIGHT + 1.6 for row in rows for bar in row.bars)


def test_traffic_is_per_second_even_where_samples_come_seldom():
    story = small()
    timeline = Timeline(story.clock)
    timeline(Began(story.header, story.plan))
    for number in range(20):
        timeline(Sampled(STARTED + 3 * number, (server("gpu-01-0", requests=30 * number),)))
    traffic = charts(timeline.report(Outcome("stopped", story.header, (), 60.0)), 100.0)[0]
    assert traffic.y[-1].label == "10"
    heights = {pair.split(",")[1] for pair in re.findall(r"[\d.]+,[\d.]+", traffic.shapes[0].path)}
    assert heights == {str(traffic.bottom), str(traffic.top)}
    assert traffic.shapes[0].path.count("M") == 1


def test_a_gap_in_the_samples_is_a_gap_in_the_picture():
    story = small()
    timeline = Timeline(story.clock)
    timeline(Began(story.header, story.plan))
    for second in (0, 1, 2, 60, 61, 62):
        timeline(Sampled(STARTED + second, (server("gpu-01-0", requests=5 * second),)))
    ready = charts(timeline.report(Outcome("stopped", story.header, (), 60.0)), 100.0)[1]
    assert [shape.path.count("M") for shape in ready.shapes] == [2, 2, 2]


def test_labels_of_moments_never_cover_each_other():
    story = small()
    timeline = Timeline(story.clock)
    timeline(Began(story.header, story.plan))
    for number in range(40):
        timeline(Recorded(Entry(number + 1, STARTED + number, "soaked" if number % 2 else "rolling-back")))
    report = timeline.report(Outcome("stopped", story.header, (), 40.0))
    left = left_edge(report)
    found = marks(report, left)
    assert len(found) == 40
    for level in (0, 1):
        shown = [mark for mark in found if mark.level == level]
        assert shown
        for a, b in itertools.pairwise(shown):
            assert min(b.at, RIGHT - len(b.label) * 6.2 - 10) >= a.at + len(a.label) * 6.2


# --- the page --------------------------------------------------------------------------------------------


def test_the_page_shows_what_happened():
    text = Page(html_report(told(small()))).text
    for words in (
        f"4 of 4 slots run {V2}",
        "lowest ready weight 50 of 100 (floor 50)",
        "Slots over time",
        "Traffic",
        "requests per second",
        "Ready weight",
        "floor 50",
        "Mean time of a request",
        "no errors",
        "Plan and what came of it",
        "Wave 1, canary",
        "wave 2: gpu-02-0 is green",
        "gpu-01-1: draining, ",
    ):
        assert words in text
    assert "What failed" not in text


def test_the_page_of_a_rollback_shows_rung_slot_log_and_errors():
    text = Page(html_report(told(small(fails="gpu-02-0")))).text
    for words in (
        "rolled back: gpu-02-0",
        "What failed",
        "golden translation",
        "IndexError: index out of range",
    ):
        assert words in text
    assert f"At the end: 4 slots run {V1}." in text
    assert "going back to blue" in text
    assert "no errors" not in text


@pytest.mark.parametrize("story", [small(), large(fails="gpu-04-3")])
def test_the_page_needs_nothing_from_elsewhere(story):
    page = Page(html_report(told(story)))
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "img", "iframe", "object", "embed", "base", "form", "a")
        assert not {"src", "href", "xlink:href", "style"} & attributes.keys()
        assert not any(name.startswith("on") for name in attributes)
    assert "url(" not in html_report(told(story))
    assert "@import" not in html_report(told(story))


def test_hostile_names_and_logs_are_text_and_nothing_else():
    slots = (f"a{HOSTILE}-0", f"b{HOSTILE}-0")
    story = Story(
        ((slots[0],), (slots[1],)), fails=slots[1], image=HOSTILE, log=HOSTILE, reason=HOSTILE, rate=3
    )  # fmt: skip
    timeline = Timeline(story.clock)
    outcome = story.play(timeline)
    header = replace(story.header, by=HOSTILE, id=HOSTILE, digest=HOSTILE, options={HOSTILE: HOSTILE})
    outcome = replace(
        outcome,
        header=header,
        rung=HOSTILE,
        remedy=HOSTILE,
        resume=HOSTILE,
        notes=(HOSTILE,),
        lost={HOSTILE: HOSTILE},
    )
    text = html_report(timeline.report(outcome))
    page = Page(text)
    plain = {tag for tag, _ in Page(html_report(told(small(fails="gpu-02-0")))).tags}
    assert {tag for tag, _ in page.tags} <= plain
    assert "<script" not in text
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert "{{ 7*7 }}" in page.text
    assert not set(text) & {"\x00", "\x1b", "\ud800"}
    assert json.dumps(timeline.report(outcome).as_json())


@pytest.mark.parametrize("story", [small(), small(fails="gpu-02-0"), large(64)])
def test_every_picture_is_well_formed(story):
    pictures = re.findall(r"<svg.*?</svg>", html_report(told(story)), re.DOTALL)
    assert len(pictures) == 5
    for picture in pictures:
        root = ElementTree.fromstring(picture)
        assert root.attrib["viewBox"].startswith("0 0 1100")
        assert root.attrib["aria-label"]


def test_a_page_of_64_slots_names_each_of_them():
    story = large(64)
    text = Page(html_report(told(story))).text
    assert all(slot in text for slot in story.slots)


def test_a_page_of_a_rollout_that_changed_nothing_is_made_too():
    story = small()
    header = replace(story.header, waves=(), origins=())
    timeline = Timeline(story.clock)
    timeline(Began(header, replace(story.plan, waves=(), unchanged=tuple(story.slots))))
    text = Page(html_report(timeline.report(Outcome("unchanged", header, (), 0.2)))).text
    assert f"nothing to do: all 4 slots run {V2}" in text


def test_a_report_is_written_into_a_folder_that_is_made_for_it(tmp_path):
    report = told(small())
    write_report(report, tmp_path / "reports" / "one.html")
    assert (tmp_path / "reports" / "one.html").read_text(encoding="utf-8") == html_report(report)


def test_a_report_that_cannot_be_written_says_where(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write the report .*one\.html"):
        write_report(told(small()), tmp_path / "file" / "one.html")


def test_the_story_counts_as_haproxy_does():
    counted = Server(25)
    for _ in range(5 * WINDOW):
        counted.request(0.8)
    assert counted.now("a").mean == pytest.approx(0.8, abs=0.01)
