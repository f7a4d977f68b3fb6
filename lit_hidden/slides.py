"""The talk: one HTML file of slides made from committed results, in the order of the meeting; no torch, no network.

A slide is a line of the meeting: its question, a claim, the drawing, the verdict. The discussion questions come last,
each with its answer so far. Equal results give equal bytes.
"""

from pathlib import Path
from typing import NamedTuple

from lit_hidden import meeting
from lit_hidden.engine.store import write_atomically
from lit_hidden.judge import Verdict
from lit_hidden.meeting import Entry, Folder
from lit_hidden.page import environment
from lit_hidden.run import PRESETS


class Answer(NamedTuple):
    """The claim that stands for an experiment, and the preset at which it was judged."""

    entry: Entry
    folder: Folder
    claim: Verdict


def slides(results: str | Path = "experiments/results", out: str | Path = "slides.html") -> str:
    """Write the slides and return a line that sums them up; ResultsError if results are missing or damaged."""
    entries, lines, out = meeting.load(Path(results)), meeting.lines(), Path(out)
    answers = {entry.name: answer(entry) for entry in entries if any(folder.claims for folder in entry.folders)}
    agenda = [(part, line, [answers[name] for name in names if name in answers]) for part, line, names in lines]
    agenda += [(one.entry.part, one.entry.title, [one]) for one in answers.values()]  # those that no line names
    shown, told = list[tuple[str, str, Answer, list[Answer], int]](), set[str]()
    for part, line, found in agenda:
        if new := [one for one in found if one.entry.name not in told]:
            first = max(new, key=lambda one: PRESETS.index(one.folder.preset.partition("-")[0]))  # of equals the first
            shown.append((part, line, first, [one for one in new if one is not first], len(shown) + 2))
            told |= {one.entry.name for one in new}
    questions = [(line, found) for part, line, found in agenda[: len(lines)] if part == lines[-1][0]]
    page = environment().get_template("slides.html").render(
        slides=shown, questions=questions, answers=[*answers.values()], not_said=meeting.NOT_SAID
    )  # fmt: skip
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, page)
    return f"{out}: {page.count('<section')} slides ({len(page.encode()) / 1e6:.1f} MB)"


def answer(entry: Entry) -> Answer:
    """Take an experiment's first primary claim at the largest preset that decides it; if none does, at the largest."""
    found = [Answer(entry, folder, claim) for folder in entry.folders for claim in folder.claims]
    first = min(found, key=lambda one: one.claim.kind != "primary").claim.sentence
    same = [one for one in found if one.claim.sentence == first]
    return next((one for one in same if one.claim.verdict != "undecided"), same[0])
