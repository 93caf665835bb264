"""What a person sees of a rollout: its plan, its picture, its lines, its end."""

from __future__ import annotations

import io
import itertools
import threading
from dataclasses import replace

import pytest
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from fleet.console.rollout import RolloutView
from fleet.console.rollout_live import frame
from fleet.console.rollout_plan import show_plan
from fleet.errors import Place
from fleet.rollout.events import Began, Doing, Outcome, Phase, Recorded, Sampled, Soaking, Stopping
from fleet.rollout.model import ContainerNow, Entry, Plan, SlotNow, Snapshot
from fleet.rollout.report.moment import Moment
from fleet.rollout.report.timeline import Timeline
from tests.unit.rollout_story import D1, D2, STARTED, V1, V2, Story, large, small


def pipe(width: int = 100) -> Console:
    return Console(file=io.StringIO(), width=width, highlight=False)


def terminal(width: int = 100, height: int = 30) -> Console:
    return Console(file=io.StringIO(), width=width, height=height, force_terminal=True, highlight=False)


def said(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def container(image: str = V1, digest: str = D1, release: str = "rel-1", **more) -> ContainerNow:
    return ContainerNow("fleet-x", "c0ffee", image, digest, release, **{"running": True, **more})


def snapshot(story: Story, **currents: ContainerNow | None) -> Snapshot:
    slots = tuple(
        SlotNow(
            slot, story.host(slot), 0, "GPU-1", "L4", "10.0.0.1", 7860, 25, True, "rel-2",
            current=currents.get(slot.replace("-", "_"), container()),
        )
        for slot in story.slots
    )  # fmt: skip
    return Snapshot(V2, D2, slots)


def planned(story: Story, plan: Plan | None = None, console: Console | None = None, **currents) -> str:
    console = console or pipe()
    show_plan(plan or story.plan, snapshot(story, **currents), console)
    return said(console)


def lines_of(story: Story, **how) -> list[str]:
    console = pipe(200)
    with RolloutView(Timeline(story.clock), quiet=False, console=console) as view:
        story.play(view, **how)
    return said(console).splitlines()


def ended(story: Story, **how) -> str:
    console, timeline = pipe(200), Timeline(story.clock)
    outcome = story.play(timeline, **how)
    RolloutView(timeline, quiet=False, console=console).result(timeline.report(outcome))
    return said(console)


def moment(story: Story, until: str) -> Moment:
    timeline = Timeline(story.clock)
    story.play(timeline, until=until)
    return now_of(timeline)


def now_of(timeline: Timeline) -> Moment:
    now = timeline.moment()
    assert now is not None
    return now


def picture(story: Story, until: str, width: int, height: int, **how) -> list[Text]:
    return frame(moment(story, until), width, height, **how)


def lonely(slots: int) -> Story:
    """One slot in each wave."""
    return Story(tuple((f"gpu-{number:03}-0",) for number in range(slots)), every=5.0)


def test_a_plan_says_what_is_replaced_wave_by_wave_and_how_long_it_takes():
    shown = planned(small()).splitlines()
    assert shown[0] == f"{V2} (sha256:9e9e9e9e9e9e)"
    assert shown[1] == f"  4 slots from {V1} (sha256:b1b1b1b1b1b1)"
    assert shown[2] == "pulled first, with traffic untouched: gpu-01, gpu-02"
    rows = [line.split() for line in shown[5:9]]
    assert rows[0] == ["wave", "kind", "slots", "how", "ready/floor", "expected"]
    assert rows[1] == ["1", "canary", "gpu-01-0", "swap", "75/50", "of", "100", "44", "s"]
    assert " ".join(rows[3]) == "3 switch gpu-01-1, gpu-02-1 swap, side by side 50/50 of 100 44 s"
    assert shown[-1] == "expected time: about 3 min"


def test_a_plan_without_measurements_says_that_nobody_knows_how_long():
    story = small()
    unknown = tuple(
        replace(wave, steps=tuple(replace(step, seconds=None) for step in wave.steps))
        for wave in story.plan.waves
    )
    shown = planned(story, replace(story.plan, seconds=None, waves=unknown))
    assert "expected time: not known: no rollout was measured yet" in shown
    assert shown.count("not known") == 4


def test_a_plan_with_nothing_to_do_is_one_sentence():
    story = small()
    plan = replace(story.plan, waves=(), unchanged=tuple(story.slots), to_pull=())
    assert planned(story, plan) == f"nothing to do: all 4 slots run {V2} (sha256:9e9e9e9e9e9e)\n"


def test_a_tag_that_moved_is_named_with_both_digests():
    shown = planned(small(), gpu_01_0=container(V2, "sha256:" + "ab" * 32))
    assert "v2 is sha256:9e9e9e9e9e9e now; gpu-01-0 runs v2 at sha256:abababababab" in shown


def test_the_same_bytes_with_other_settings_are_named_as_such():
    shown = planned(small(), gpu_01_0=container(V2, D2), gpu_01_1=container(V2, D2))
    assert "gpu-01-0, gpu-01-1 run these bytes with other settings" in shown
    assert "v2 is" not in shown


def test_a_plan_tells_of_slots_without_a_container_of_unchanged_ones_and_of_downtime():
    story = small()
    plan = replace(story.plan, unchanged=("gpu-09-0",), downtime=True, notes=("gpu-03 cannot be reached",))
    shown = planned(story, plan, gpu_01_0=None)
    assert "  1 slot from nothing: no container is there" in shown
    assert "  1 slot runs it already" in shown
    assert "the service will be down meanwhile" in shown
    assert "note: gpu-03 cannot be reached" in shown


@pytest.mark.parametrize("width", [60, 100, 200])
def test_a_plan_of_200_slots_fits_the_terminal(width):
    console = terminal(width)
    shown = Text.from_ansi(planned(large(200), console=console)).plain
    assert max(cell_len(line) for line in shown.splitlines()) <= width
    assert len(shown.splitlines()) < 24
    assert "gpu-01-1" in shown


def test_a_pipe_gets_one_line_for_each_entry_of_the_journal():
    story = small()
    shown = lines_of(story)
    assert shown[0] == f"upgrade 20261125-081500-3f2a to {V2} (sha256:9e9e9e9e9e9e), begun by anna@ops-1"
    assert len(shown) == 1 + len(story.entries)
    assert "wave 1 (canary): gpu-01-0 drained after 4.1 s" in shown
    assert "wave 2: gpu-02-0 takes 50% of its weight" in shown
    assert "wave 3 (switch): green alone served for 15 s" in shown
    assert shown[-1] == "finished: every slot is green"


def test_a_drain_says_how_many_jobs_finished_and_how_many_were_cut():
    story, console = small(), pipe(200)
    view = RolloutView(Timeline(story.clock), quiet=False, console=console)
    view(Began(story.header, story.plan))
    busy = replace(story.servers["gpu-01-0"].now("gpu-01-0"), jobs=3)
    view(Sampled(STARTED, (busy, replace(busy, slot="gpu-02-0", jobs=5))))
    view(Recorded(Entry(1, STARTED + 1, "draining", ("gpu-01-0",), 1)))
    view(Recorded(Entry(2, STARTED + 3.1, "drained", ("gpu-01-0",), 1)))
    view(Recorded(Entry(3, STARTED + 4, "draining", ("gpu-02-0",), 2)))
    view(Recorded(Entry(4, STARTED + 604, "drained", ("gpu-02-0",), 2, {"cut": {"gpu-02-0": 2}})))
    assert said(console).splitlines()[1:] == [
        "wave 1 (canary): gpu-01-0 takes no new jobs; 3 jobs in flight",
        "wave 1 (canary): gpu-01-0 drained after 2.1 s, 3 jobs finished",
        "wave 2: gpu-02-0 takes no new jobs; 5 jobs in flight",
        "wave 2: gpu-02-0 drained after 10 min, 3 jobs finished, 2 jobs cut on gpu-02-0",
    ]


def test_a_rollback_is_told_with_its_reason():
    shown = lines_of(small(fails="gpu-02-0"))
    assert any(line.startswith("going back to blue: gpu-02-0: the golden translation") for line in shown)
    assert shown[-2] == "gpu-01-0 serves as before"


def test_a_resumed_rollout_does_not_repeat_what_an_earlier_controller_did():
    story = small()
    story.play(until="accepted 1")
    earlier = tuple(story.entries)
    console = pipe(200)
    story.now += 3600
    view = RolloutView(Timeline(story.clock), quiet=False, console=console)
    view(Began(story.header))
    for entry in earlier:
        view(Recorded(entry))
    view(Recorded(Entry(len(earlier) + 1, story.now, "draining", ("gpu-02-0",), 2)))
    assert said(console).splitlines()[1:] == ["wave 2: gpu-02-0 takes no new jobs"]


def test_waves_keep_their_names_where_a_rollout_goes_on():
    story, console = small(), pipe(200)
    header = replace(story.header, kinds=tuple(wave.kind for wave in story.plan.waves))
    timeline = Timeline(story.clock)
    view = RolloutView(timeline, quiet=False, console=console)
    view(Began(header))
    view(Recorded(Entry(1, story.now, "accepted", ("gpu-01-0",), 1)))
    view(Recorded(Entry(2, story.now, "accepted", ("gpu-02-0",), 2)))
    view(Recorded(Entry(3, story.now, "draining", ("gpu-01-1", "gpu-02-1"), 3)))
    assert said(console).splitlines()[1:] == [
        "wave 1 (canary): gpu-01-0 is green",
        "wave 2: gpu-02-0 is green",
        "wave 3 (switch): gpu-01-1, gpu-02-1 take no new jobs",
    ]
    assert [wave.name for wave in now_of(timeline).waves] == ["wave 1 (canary)", "wave 2", "wave 3 (switch)"]
    report = timeline.report(Outcome("stopped", header, (), 1.0))
    assert [wave.kind for wave in report.waves] == ["canary", "wave", "switch"]


def test_with_slots_left_out_nothing_is_said_of_every_slot():
    story, console = small(), pipe(200)
    story.header = replace(story.header, left_out=("gpu-03-0", "gpu-03-1"))
    timeline = Timeline(story.clock)
    view = RolloutView(timeline, quiet=False, console=console)
    outcome = story.play(view)
    view.result(timeline.report(outcome))
    shown = said(console).splitlines()
    assert (
        "wave 3 (switch): green alone served for 15 s, but for what is left out: gpu-03-0, gpu-03-1" in shown
    )
    assert "finished: every slot is green, but for those left out: gpu-03-0, gpu-03-1" in shown
    assert shown[-1].startswith(f"4 of 4 slots run {V2}, 2 slots left out; ")


def test_a_wish_to_stop_is_told_once_however_many_threads_hear_of_it():
    story, console = small(), pipe(200)
    view = RolloutView(Timeline(story.clock), quiet=False, console=console)
    view(Began(story.header, story.plan))
    for _ in range(5):
        view(Stopping("stop"))
    view(Stopping("abort"))
    assert said(console).splitlines()[1:] == [
        "stopping after this step; press Ctrl-C again to go back to blue",
        "going back to blue",
    ]


def test_json_keeps_quiet_where_nobody_looks(capsys):
    story = small()
    timeline = Timeline(story.clock)
    with RolloutView(timeline, quiet=True) as view:
        outcome = story.play(view)
    view.result(timeline.report(outcome), saved="x.html")
    view.inventory(Place("hosts.yml", 3), V1, V2)
    show_plan(story.plan, snapshot(story), quiet=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == ""


def test_the_picture_shows_phases_weights_jobs_rate_and_floor():
    shown = "\n".join(line.plain for line in picture(small(), "moving 2", 100, 24))
    for word in (
        "● gpu-01-0 green     weight  25",
        "◑ gpu-02-0 moving    weight   0",
        "○ gpu-01-1 blue      weight  25",
        "requests/s",
        "0 errors",
        "ready 75 of 100, floor 50",
        "left",
        "wave 3 (switch)",
        "wave 2: gpu-02-0 gets the green container",
    ):
        assert word in shown


def test_the_picture_shows_how_far_each_host_has_pulled():
    story = small()
    timeline = Timeline(story.clock)
    timeline(Began(story.header, story.plan))
    timeline(Doing("gpu-01", "pulling 3.1 of 14.2 GB"))
    timeline(Doing("gpu-02", "pulling 9.8 of 14.2 GB"))
    shown = "\n".join(line.plain for line in frame(now_of(timeline), 80, 24))
    assert "gpu-01: pulling 3.1 of 14.2 GB" in shown
    assert "gpu-02: pulling 9.8 of 14.2 GB" in shown
    timeline(Recorded(Entry(1, story.now, "pulled")))
    assert "pulling" not in "\n".join(line.plain for line in frame(now_of(timeline), 80, 24))


STORIES = {
    "2 slots": (lambda: Story((("gpu-01-0",), ("gpu-02-0",))), "moving 1"),
    "200 slots": (lambda: large(200), "moving 3"),
    "200 waves": (lambda: lonely(200), "draining 57"),
    "back": (lambda: large(64, fails="gpu-04-3"), "restored"),
}


@pytest.mark.parametrize("name", STORIES)
def test_the_picture_fits_every_terminal(name):
    story, until = STORIES[name]
    now = moment(story(), until)
    for width, height in itertools.product((60, 80, 120, 200), (16, 24, 60)):
        lines = frame(now, width, height)
        assert len(lines) <= height
        assert max(line.cell_len for line in lines) <= width
        assert "requests/s" in lines[1].plain


def test_200_slots_are_200_signs_where_there_is_no_room_for_names():
    lines = [line.plain for line in picture(large(200), "moving 3", 60, 30)[4:]]
    assert "○ 99 blue  ◌ 49 drained  ◑ 1 moving  ● 51 green" in lines
    shown = "".join(lines)
    assert [shown.count(sign) for sign in "○◌◑●"] == [99 + 1, 49 + 1, 1 + 1, 51 + 1]


def test_many_waves_are_gathered_into_those_done_and_those_to_come():
    shown = "\n".join(line.plain for line in picture(lonely(200), "draining 57", 60, 24))
    assert "56 waves done" in shown
    assert "wave 57" in shown
    assert "143 waves to come" in shown


def test_a_terminal_without_these_signs_gets_letters():
    lines = picture(small(), "moving 2", 80, 24, ascii_only=True)
    assert all(line.plain.isascii() for line in lines)
    assert any("m gpu-02-0 moving" in line.plain for line in lines)


def test_a_rollback_shows_in_the_picture_and_no_time_left_is_promised():
    lines = picture(small(fails="gpu-02-0"), "restored", 100, 24)
    assert "going back to blue" in lines[0].plain
    assert "left" not in lines[0].plain


def after_the_picture(console: Console) -> list[str]:
    """What a terminal shows below the last line that the picture wiped out."""
    return Text.from_ansi(said(console).rpartition("\x1b[2K")[2]).plain.splitlines()


def test_a_terminal_sees_it_live_and_no_trace_of_the_picture_is_left():
    story, console = small(), terminal(200)
    with RolloutView(Timeline(story.clock), quiet=False, console=console) as view:
        story.play(view, until="moving 2")
        assert view._live is not None
        view._live.refresh()
    assert "gpu-02-0 moving" in Text.from_ansi(said(console)).plain
    assert after_the_picture(console) == [
        f"upgrade 20261125-081500-3f2a to {V2} (sha256:9e9e9e9e9e9e), begun by anna@ops-1",
        "every host has the image after 12 s",
        "wave 1 (canary): gpu-01-0 is green",
    ]


def test_what_the_picture_leaves_is_a_part_of_what_a_pipe_gets_in_the_same_order():
    story, console = small(fails="gpu-02-0"), terminal(200)
    with RolloutView(Timeline(story.clock), quiet=False, console=console) as view:
        story.play(view)
    left, whole = after_the_picture(console), lines_of(small(fails="gpu-02-0"))
    assert [line for line in whole if line in left] == left
    assert any(line.startswith("going back to blue: gpu-02-0") for line in left)
    assert any("2 jobs cut on gpu-02-0" in line for line in left)
    assert "gpu-01-0 serves as before" in left
    assert not any("takes 50%" in line for line in left)


def test_the_soak_is_counted_down():
    story = small()
    timeline = Timeline(story.clock)
    story.play(timeline, until="drained 3")
    timeline(Soaking(90.0))
    story.now += 20
    shown = "\n".join(line.plain for line in frame(now_of(timeline), 80, 24))
    assert "soak: 70 s left; then the last old containers are replaced" in shown
    story.now += 70
    assert "soak: almost over" in "\n".join(line.plain for line in frame(now_of(timeline), 80, 24))
    timeline(Recorded(Entry(99, story.now, "soaked", (), 3)))
    assert "soak:" not in "\n".join(line.plain for line in frame(now_of(timeline), 80, 24))


def test_a_rollout_that_goes_back_from_its_soak_counts_nothing_down():
    story = small()
    timeline = Timeline(story.clock)
    story.play(timeline, until="drained 3")
    timeline(Soaking(90.0))
    timeline(Recorded(Entry(99, story.now, "rolling-back", detail={"reason": "errors"})))
    assert now_of(timeline).soak_left is None


def test_events_from_many_threads_make_whole_lines_while_the_picture_is_drawn():
    for console in (pipe(200), terminal(100)):
        story = large(64)
        view = RolloutView(Timeline(story.clock), quiet=False, console=console)
        with view:
            view(Began(story.header, story.plan))

            def tell(part: int, story: Story = story, view: RolloutView = view) -> None:
                for number in range(part, 200, 4):
                    slot = story.slots[number % 64]
                    view(Phase(slot, "checking"))
                    view(Doing(slot, "waiting"))
                    view(Recorded(Entry(number + 1, story.now, "ready", (slot,), 1, {"seconds": 1})))
                    if view._live is not None:
                        view._live.refresh()

            threads = [threading.Thread(target=tell, args=(part,)) for part in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        if not console.is_terminal:
            lines = said(console).splitlines()[1:]
            assert len(lines) == 200
            assert all(line.endswith("green is ready after 1 s, every rung passed") for line in lines)


def test_the_end_of_a_finished_rollout_is_one_line():
    shown = ended(small())
    assert shown.startswith(f"4 of 4 slots run {V2}; ")
    assert shown.rstrip().endswith("lowest ready weight 50 of 100 (floor 50); jobs cut: none")
    assert len(shown.splitlines()) == 1


def test_the_end_of_a_rollback_names_rung_and_slot_shows_the_log_and_what_serves():
    shown = ended(small(fails="gpu-02-0")).splitlines()
    assert shown[0].startswith("rolled back: gpu-02-0: the golden translation returned '???'")
    assert shown[1] == "gpu-02-0: failed: golden translation"
    assert "  | IndexError: index out of range in self" in shown
    assert f"  try: look at the image: `docker run {V2}`" in shown
    assert f"4 slots run {V1}" in shown
    assert shown[-1].endswith("jobs cut: 2 (gpu-02-0 2)")


def test_the_end_of_a_stopped_rollout_says_how_to_go_on_and_how_to_go_back():
    story = small()
    timeline, console = Timeline(story.clock), pipe(200)
    outcome = replace(story.play(timeline, until="accepted 2"), resume="fleet upgrade -i prod.yml --resume")
    RolloutView(timeline, quiet=False, console=console).result(timeline.report(outcome), saved="r.html")
    shown = said(console).splitlines()
    assert shown[0] == "stopped: an operator stopped it"
    assert f"2 slots run {V2}, 2 slots run {V1}" in shown
    assert "  go on: `fleet upgrade -i prod.yml --resume`" in shown
    assert "  or go back to blue: `fleet upgrade -i prod.yml --abort`" in shown
    assert shown[-1] == "report: r.html"


def test_a_slot_that_is_lost_is_named_and_does_not_count_as_serving():
    story = small(fails="gpu-02-0")
    timeline, console = Timeline(story.clock), pipe(200)
    outcome = replace(story.play(timeline), lost={"gpu-01-0": "no route to host"}, notes=("images remain",))
    RolloutView(timeline, quiet=False, console=console).result(timeline.report(outcome))
    shown = said(console)
    assert "gpu-01-0: could not be brought back: no route to host" in shown
    assert f"3 slots run {V1}, 1 slot runs what is not known" in shown
    assert "note: images remain" in shown


def test_an_upgrade_that_changes_nothing_says_so():
    story, console = small(), pipe(200)
    timeline = Timeline(story.clock)
    header = replace(story.header, waves=(), origins=())
    timeline(Began(header, replace(story.plan, waves=(), unchanged=tuple(story.slots))))
    report = timeline.report(Outcome("unchanged", header, (), 0.4))
    RolloutView(timeline, quiet=False, console=console).result(report)
    assert said(console) == f"nothing to do: all 4 slots run {V2} (sha256:9e9e9e9e9e9e)\n"


def test_an_inventory_that_names_another_image_is_pointed_at_by_file_and_line():
    console = pipe(200)
    RolloutView(Timeline(), quiet=False, console=console).inventory(Place("hosts.yml", 12), V1, V2)
    first, second = said(console).splitlines()
    assert first == f"hosts.yml:12: says image {V1}; the slots run {V2}"
    assert second == f"  try: write {V2} there, or `fleet provision` will refuse to touch these slots"


def test_escapes_in_a_log_never_reach_the_terminal():
    story = small(fails="gpu-02-0", log="\x1b]0;owned\x07\x1b[2Jhello\r\n\ud800", reason="bad \x1b[31mred")
    shown = ended(story)
    assert "\x1b" not in shown
    assert "hello" in shown


class Gone(io.StringIO):
    """A terminal or a pipe that is no longer there."""

    def __init__(self, error: OSError, after: int) -> None:
        super().__init__()
        self.error = error
        self.left = after

    def write(self, text: str) -> int:
        self.left -= 1
        if self.left < 0:
            raise self.error
        return super().write(text)


@pytest.mark.parametrize("live", [True, False], ids=["terminal", "pipe"])
@pytest.mark.parametrize(
    "error", [OSError(5, "Input/output error"), BrokenPipeError()], ids=["lost", "closed"]
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_rollout_goes_on_when_nobody_can_see_it_any_more(live, error, tmp_path, monkeypatch):
    # rich points the standard output elsewhere when a pipe is closed; not that of the tests.
    monkeypatch.setattr("sys.stdout", (tmp_path / "stdout").open("w"))
    story = small()
    console = Console(file=Gone(error, 4), width=100, force_terminal=live, highlight=False)
    timeline = Timeline(story.clock)
    with RolloutView(timeline, quiet=False, console=console) as view:
        outcome = story.play(view)
    view.result(timeline.report(outcome), saved="r.html")
    assert outcome.state == "finished"
    assert len(timeline.report(outcome).lines) == len(story.entries)
