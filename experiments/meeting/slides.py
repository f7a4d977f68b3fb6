"""The talk: one HTML file of slides made from committed results, in the order of the meeting; no torch, no network.

A slide is a line of the meeting: its question, a claim, the drawing, the verdict. The discussion questions come last,
each with its answer so far. Equal results give equal bytes.
"""

from pathlib import Path
from typing import NamedTuple

from experiments.meeting.page import Entry, Folder, build, load
from lit_hidden.engine.store import write_atomically
from lit_hidden.judge import Verdict
from lit_hidden.run import PRESETS


class Answer(NamedTuple):
    """The claim that stands for an experiment, and the preset at which it was judged."""

    entry: Entry
    folder: Folder
    claim: Verdict


def slides(results: str | Path = "experiments/results", out: str | Path = "slides.html") -> str:
    """Write the slides and return a line that sums them up; ResultsError if results are missing or damaged."""
    lines, out = load(Path(results)), Path(out)
    answers, shown = dict[str, Answer](), list[tuple[str, str, Answer, list[Answer], int]]()
    for part, question, entries, claim in lines:
        judged = [entry for entry in entries if any(folder.claims for folder in entry.folders)]
        new = [answer(entry, claim) for entry in judged if entry.name not in answers]
        answers |= {one.entry.name: one for one in new}
        if new:
            first = max(new, key=lambda one: PRESETS.index(one.folder.preset.partition("-")[0]))  # of equals the first
            shown.append((part, question, first, [one for one in new if one is not first], len(shown) + 2))
    page = build(lines, "slides.html", slides=shown, answers=answers, agenda=lines, answer=answer)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, page)
    return f"{out}: {page.count('<section')} slides ({len(page.encode()) / 1e6:.1f} MB)"


def answer(entry: Entry, begin: str) -> Answer:
    """Take the claim that begins so, or the first primary one, at the largest preset that tells most of it."""
    found = [Answer(entry, folder, claim) for folder in entry.folders for claim in folder.claims]
    begins = [one for one in found if begin and one.claim.sentence.startswith(begin)]
    first = min(begins or found, key=lambda one: one.claim.kind != "primary").claim.sentence
    same = [one for one in found if one.claim.sentence == first]
    return max(same, key=lambda one: (one.claim.verdict != "undecided", one.claim.low is not None))
