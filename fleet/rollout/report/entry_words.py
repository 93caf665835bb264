"""A rollout's journal in words: one line for each entry, as a person reads it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from fleet.control.spans import in_words
from fleet.rollout.events import Began, Event, Recorded, Sampled
from fleet.rollout.model import Entry, Header, Plan

MOST_NAMES = 4


class Words:
    """Puts entries into words. It hears all events, so that it knows times, waves and jobs in flight."""

    def __init__(self) -> None:
        self._header: Header | None = None
        self._kinds: dict[int, str] = {}
        self._jobs: dict[str, int] = {}
        self._had: dict[str, int] = {}
        self._since: dict[tuple[str, str], float] = {}

    def hear(self, event: Event) -> str:
        """The line for an entry of the journal; empty for other events."""
        if isinstance(event, Began):
            self.began(event.header, event.plan)
        elif isinstance(event, Sampled):
            self._jobs = dict.fromkeys(self._jobs, 0)
            for server in event.servers:
                self._jobs[server.slot] = self._jobs.get(server.slot, 0) + server.jobs
        elif isinstance(event, Recorded):
            return self.of(event.entry)
        return ""

    def began(self, header: Header, plan: Plan | None) -> None:
        """What all entries belong to."""
        self._header = header
        self._kinds.update(enumerate(header.kinds, 1))
        self._kinds.update({wave.number: wave.kind for wave in plan.waves} if plan else {})

    def of(self, entry: Entry) -> str:
        """One entry in words; those before it must have been heard, in order."""
        say = _SAY.get(entry.step)
        text = say(self, entry) if say else " ".join([entry.step, named(entry.slots)]).strip()
        for slot in entry.slots:
            self._since[entry.step, slot] = entry.at
        return f"{self.wave(entry.wave)}: {text}" if entry.wave else text

    def wave(self, number: int) -> str:
        """`wave 1 (canary)`."""
        kind = self._kinds.get(number, "wave")
        return f"wave {number}" if kind == "wave" else f"wave {number} ({kind})"

    def _pulled(self, entry: Entry) -> str:
        after = f" after {in_words(max(0.0, entry.at - self._header.started))}" if self._header else ""
        return f"every host has the image{after}"

    def _draining(self, entry: Entry) -> str:
        for slot in entry.slots:
            self._had[slot] = self._jobs.get(slot, 0)
        jobs = sum(self._had[slot] for slot in entry.slots)
        flight = f"; {counted(jobs, 'job')} in flight" if jobs else ""
        return f"{named(entry.slots)} {_verb(entry, 'takes', 'take')} no new jobs{flight}"

    def _drained(self, entry: Entry) -> str:
        cut = cut_of(entry.detail)
        finished = sum(self._had.get(slot, 0) for slot in entry.slots) - sum(cut.values())
        ends = [f"{counted(finished, 'job')} finished"] if finished > 0 else []
        if cut:
            ends.append(f"{counted(sum(cut.values()), 'job')} cut on {named(cut)}")
        return ", ".join([f"{named(entry.slots)} drained{self._after(entry, 'draining')}", *ends])

    def _soaked(self, entry: Entry) -> str:
        soak = self._header.options.get("soak") if self._header else None
        length = f" for {in_words(float(soak))}" if isinstance(soak, int | float) and soak else ""
        return f"green alone served{length}{self._but(', but for what is left out: ')}"

    def _beside(self, entry: Entry) -> str:
        return f"{named(entry.slots)}: green starts beside blue, which serves on"

    def _moving(self, entry: Entry) -> str:
        container = "the blue container again" if _to_blue(entry) else "the green container"
        return f"{named(entry.slots)} {_verb(entry, 'gets', 'get')} {container}"

    def _ready(self, entry: Entry) -> str:
        container = "blue" if _to_blue(entry) else "green"
        return f"{named(entry.slots)}: {container} is ready{self._after(entry, 'moving')}, every rung passed"

    def _ramped(self, entry: Entry) -> str:
        percent = entry.detail.get("percent")
        share = f"{percent}% of {_verb(entry, 'its', 'their')} weight" if percent is not None else "more jobs"
        return f"{named(entry.slots)} {_verb(entry, 'takes', 'take')} {share}"

    def _accepted(self, entry: Entry) -> str:
        return f"{named(entry.slots)} {_verb(entry, 'is', 'are')} green"

    def _rolling_back(self, entry: Entry) -> str:
        return f"going back to blue: {entry.detail.get('reason') or 'no reason given'}"

    def _restored(self, entry: Entry) -> str:
        return f"{named(entry.slots)} {_verb(entry, 'serves', 'serve')} as before"

    def _stopped(self, entry: Entry) -> str:
        return f"stopped: {entry.detail.get('reason') or 'no reason given'}"

    def _finished(self, entry: Entry) -> str:
        return f"finished: every slot is green{self._but(', but for those left out: ')}"

    def _rolled_back(self, entry: Entry) -> str:
        lost = entry.detail.get("lost")
        names = list(lost) if isinstance(lost, Mapping | list | tuple) else []
        return "rolled back: every slot is blue again" + (f", but {named(names)}" if names else "")

    def _but(self, word: str) -> str:
        """What --limit leaves as it is is no part of what is said."""
        left_out = self._header.left_out if self._header else ()
        return f"{word}{named(left_out)}" if left_out else ""

    def _after(self, entry: Entry, step: str) -> str:
        """` after 2.1 s`: by the entry's own word, else since the step before."""
        seconds = entry.detail.get("seconds")
        if not isinstance(seconds, int | float):
            begun = [self._since[step, slot] for slot in entry.slots if (step, slot) in self._since]
            if not begun:
                return ""
            seconds = entry.at - min(begun)
        return f" after {in_words(max(0.0, float(seconds)))}"


_SAY: Mapping[str, Callable[[Words, Entry], str]] = {
    "pulled": Words._pulled,
    "draining": Words._draining,
    "drained": Words._drained,
    "soaked": Words._soaked,
    "beside": Words._beside,
    "moving": Words._moving,
    "ready": Words._ready,
    "ramped": Words._ramped,
    "accepted": Words._accepted,
    "rolling-back": Words._rolling_back,
    "restored": Words._restored,
    "stopped": Words._stopped,
    "finished": Words._finished,
    "rolled-back": Words._rolled_back,
}


def named(names: Iterable[str], most: int = MOST_NAMES) -> str:
    """`a, b, c and 9 more`."""
    every = list(names)
    if len(every) <= most:
        return ", ".join(every)
    return f"{', '.join(every[: most - 1])} and {len(every) - most + 1} more"


def counted(number: int, what: str) -> str:
    """`1 job`, `3 jobs`."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def short_digest(digest: str) -> str:
    """The first 12 digits after `sha256:`."""
    kind, colon, digits = digest.rpartition(":")
    return f"{kind}{colon}{digits[:12]}"


def cut_of(detail: Mapping[str, Any]) -> dict[str, int]:
    """By slot: how many jobs were ended at the deadline."""
    cut = detail.get("cut")
    return {str(slot): int(jobs) for slot, jobs in cut.items() if jobs} if isinstance(cut, Mapping) else {}


def clean(text: str) -> str:
    """A foreign text without control characters and halves of characters: it may be shown anywhere."""
    whole = text.encode("utf-8", "replace").decode("utf-8")
    return "".join(each for each in whole if each in "\n\t" or (each.isprintable() or each == "\xa0"))


def _verb(entry: Entry, one: str, many: str) -> str:
    return one if len(entry.slots) == 1 else many


def _to_blue(entry: Entry) -> bool:
    return entry.detail.get("to") == "blue"
