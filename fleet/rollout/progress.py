"""What a rollout has done so far, as its journal tells."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from fleet.rollout.model import Entry


@dataclass
class Progress:
    """What a journal's entries come to.

    `beside` are slots where green may stand beside blue; `touched` are slots that were taken out of traffic
    and are not back to blue; `moved` those of them whose container was exchanged, or may have been; `blue`
    tells which run of blue's container served before, and may serve again unchecked; `ready` tells, by slot,
    which run of which container passed every rung; `admitted` take traffic on green, `accepted` are green for
    good. `rolling_back` is the reason, `aborted` whether an operator asked for it. `cut` counts jobs that
    were ended at a deadline, `lost` are slots that came back to neither colour.
    """

    beside: set[str] = field(default_factory=set)
    touched: set[str] = field(default_factory=set)
    moved: set[str] = field(default_factory=set)
    accepted: set[str] = field(default_factory=set)
    admitted: set[str] = field(default_factory=set)
    ready: dict[str, str] = field(default_factory=dict)
    blue: dict[str, str] = field(default_factory=dict)
    pulled: bool = False
    soaked: bool = False
    rolling_back: str = ""
    aborted: bool = False
    ended: str = ""
    cut: dict[str, int] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)

    def follow(self, entry: Entry) -> None:
        """Take one more entry into account."""
        self.entries.append(entry)
        slots = set(entry.slots)
        match entry.step:
            case "pulled":
                self.pulled = True
            case "beside":
                self.beside |= slots
            case "draining" | "moving":
                self._out(entry, slots)
            case "drained":
                for slot, jobs in entry.detail.get("cut", {}).items():
                    self.cut[slot] = self.cut.get(slot, 0) + int(jobs)
            case "soaked":
                self.soaked = True
            case "ready":
                self.ready.update(dict.fromkeys(slots, str(entry.detail.get("container", ""))))
            case "ramped":
                self.admitted |= slots
            case "accepted":
                self.accepted |= slots
            case "rolling-back":
                self.rolling_back = str(entry.detail.get("reason", "")) or "rolled back"
                self.aborted = self.aborted or bool(entry.detail.get("abort"))
            case "stopped" if entry.detail.get("partial"):
                self.rolling_back = ""
            case "restored":
                self.beside -= slots
                self.touched -= slots
                self.moved -= slots
                self.accepted -= slots
                self.admitted -= slots
                for slot in slots:
                    self.blue.pop(slot, None)
            case "finished" | "rolled-back":
                self.ended = entry.step

    def _out(self, entry: Entry, slots: set[str]) -> None:
        for slot, run in entry.detail.get("runs", {}).items():
            if slot not in self.touched:
                self.blue[slot] = str(run)
        self.touched |= slots
        self.admitted -= slots
        self.accepted -= slots
        if entry.step == "moving":
            self.moved |= slots
            for slot in slots:
                self.ready.pop(slot, None)


def progress_of(entries: Iterable[Entry]) -> Progress:
    """The progress that a whole journal tells."""
    progress = Progress()
    for entry in entries:
        progress.follow(entry)
    return progress
