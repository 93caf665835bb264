"""Golden pairs put straight to a slot: what is asked there, and what is to be said of the answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from fleet.docker.readiness import Call, Profile, Reply
from fleet.inventory import Inventory
from fleet.provision.golden import Pair, pairs_of, read_pairs

__all__ = ["Pair", "Score", "calls", "listed", "pairs_for", "read_pairs", "score"]


@dataclass(frozen=True)
class Score:
    """What came of all pairs: `seconds` together.

    `wrong` says which answer is wrong, `missing` which did not come; both are empty where all is well.
    """

    seconds: float
    wrong: str = ""
    missing: str = ""


def pairs_for(inventory: Inventory, profile: Profile) -> tuple[Pair, ...]:
    """What is asked of a service of this kind: the default sentence is for Gradio's alone."""
    pairs = pairs_of(inventory)
    return () if profile == "http" or (profile == "openai" and pairs == (Pair(),)) else pairs


def calls(pairs: Sequence[Pair], profile: Profile, patience: float, models: bytes = b"") -> tuple[Call, ...]:
    """The translations to ask of a service of this kind, none of them for longer than `patience` seconds.

    A plain HTTP service has no such call. For OpenAI's kind `models` is the body of
    /v1/models: the first model there is asked.
    """
    if profile == "http":
        return ()
    model = (listed(models) or ("",))[0] if profile == "openai" else ""
    return tuple(Call(pair.inputs, pair.api, min(pair.deadline, max(patience, 0.1)), model) for pair in pairs)


def score(pairs: Sequence[Pair], replies: Sequence[Reply]) -> Score:
    """Compare the replies with the pairs, in the same order; a reply that is not there is missing."""
    wrong = missing = ""
    for number, pair in enumerate(pairs):
        reply = replies[number] if number < len(replies) else Reply(0.0, trouble="it was not asked")
        if reply.text is None:
            after = f" (after {reply.seconds:.1f} s)" if reply.seconds else ""
            said = f"{pair.text!r}: {reply.trouble}{after}"
            wrong, missing = (wrong or said, missing) if reply.final else (wrong, missing or said)
        elif fault := pair.fault(reply.text):
            wrong = wrong or f"{pair.text!r} gave {reply.text!r}, which {fault}"
    return Score(sum(reply.seconds for reply in replies), wrong, missing)


def listed(models: bytes) -> tuple[str, ...]:
    """The names in the body of /v1/models; none where it lists none."""
    try:
        items = json.loads(models)["data"]
        return tuple(str(item["id"]) for item in items)
    except (ValueError, LookupError, TypeError):
        return ()
