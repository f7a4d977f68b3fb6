"""The slides: a line of the meeting each, with the claim, the drawing and the verdict that the results have for it."""

import re
import subprocess
from pathlib import Path

import browser
import pytest
from committed import CLAIM, folder, results

from experiments.meeting.page import load
from experiments.meeting.slides import answer
from lit_hidden.cli import main
from lit_hidden.run import Run

RESULTS = Path(__file__).parents[2] / "experiments" / "results"
DEEPER = "the deeper the net, the better its subnetwork"  # meeting.csv asks for this one
CLAIMS = {  # by experiment and preset: kinds and verdicts; no line of the meeting names the last one
    "fig1/quick": [("check", "supported"), ("primary", "contradicted"), ("secondary", "supported")],
    "fig3/short": [("primary", "supported"), (DEEPER, "undecided")],
    "fig3/quick": [(DEEPER, "supported")],
    "dale/quick": [],
    "mine/quick": [("secondary", "undecided")],
}
PRESS = """
  const said = [], say = () => said.push(parseInt(view.document.getElementById("place").textContent));
  for (const key of ["ArrowRight", " ", "ArrowDown", "PageDown", "ArrowLeft", "ArrowUp", "PageUp", "Home", "End", "n"])
    say(view.dispatchEvent(new view.KeyboardEvent("keydown", { key })));
  for (const [from, to] of [[100, 300], [100, 300], [300, 100], [100, 120]]) {
    const at = clientX => [new view.Touch({ identifier: 0, target: view.document.body, clientX, clientY: 9 })];
    view.dispatchEvent(new view.TouchEvent("touchstart", { touches: at(from) }));
    say(view.dispatchEvent(new view.TouchEvent("touchend", { changedTouches: at(to) })));
  }
  return [...said, view.document.body.className];"""


def test_a_slide_has_the_first_primary_claim_at_the_largest_preset_that_decides_it(tmp_path):
    for place, found in CLAIMS.items():
        kinds = {DEEPER: "primary"}
        claims = [
            CLAIM | {"sentence": kind, "kind": kinds.get(kind, kind), "verdict": verdict} for kind, verdict in found
        ]
        folder(tmp_path, *place.split("/"), results([Run(data="digits")]), claims)
    for out in (tmp_path / "a.html", tmp_path / "new" / "b.html"):
        main(["slides", "--results", str(tmp_path), "--out", str(out)])
    assert out.read_text() == (tmp_path / "a.html").read_text()
    _, *shown, last = re.findall(r'<section class="slide.*?</section>', out.read_text(), re.S)
    claimed = re.compile(r'<h2>(.*?)</h2>.*?class="verdict (\w+)".*?\((\w+), (\w+).*?drawing of (\w+)', re.S)
    asked = {entry.name: line.question for line in reversed(load(tmp_path)) for entry in line.entries}
    known = {"fig1": "contradicted", "fig3": "supported", "mine": "undecided"}
    asked["mine"] = "Mine: what mine shows"
    assert [claimed.search(one).groups() for one in shown] == [(asked[n], v, n, "quick", n) for n, v in known.items()]
    notes = [line for line in load(tmp_path) if line.part == "The discussion notes"]
    assert re.findall("<dt>(.*?)</dt>", last) == [line.question for line in notes]
    assert last.count("no results yet") == len(notes) - 1, "all but that of figure 3"


def test_each_claim_that_the_meeting_names_is_in_the_results_and_shown_where_most_is_known_of_it():
    for line in load(RESULTS):
        found = [(claim, folder) for entry in line.entries for folder in entry.folders for claim in folder.claims]
        assert not line.claim or any(claim.sentence.startswith(line.claim) for claim, _ in found), line.question
        for shown in (answer(entry, line.claim) for entry in line.entries):
            others = [claim for claim, _ in found if claim.sentence == shown.claim.sentence]
            if shown.claim.verdict == "undecided":
                assert {claim.verdict for claim in others} == {"undecided"}
                assert shown.claim.low is not None or all(claim.low is None for claim in others), line.question


@pytest.mark.slow
@browser.needed
def test_keys_and_swipes_move_n_shows_notes_all_is_legible_and_a_slide_is_a_printed_page(tmp_path):
    page, printed = tmp_path / "slides.html", tmp_path / "slides.pdf"
    main(["slides", "--out", str(page)])
    n = page.read_text().count("<section")
    whole = page.read_text().replace('"one-by-one"', '"all"').replace('class="deck"', 'class="deck with-notes"')
    for one in browser.look(whole, tmp_path, [(380, "light"), (380, "dark"), (1300, "light"), (1300, "dark")], PRESS):
        assert one["wrong"] == one["requests"] == one["faint"] == []
        assert (one["over"] <= 0, one["blank"]) == (True, 0)
        assert one["script"] == [2, 3, 4, 5, 4, 3, 2, 1, n, n, n - 1, n - 2, n - 1, n - 1, "deck all"]
    command = [browser.CHROMIUM, *browser.FLAGS[:-1], f"--print-to-pdf={printed}", str(page)]
    subprocess.run(command, capture_output=True, check=True)
    assert max(map(int, re.findall(rb"/Count (\d+)", printed.read_bytes()))) == n
