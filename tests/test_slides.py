"""The slides: a line of the meeting each, with the claim, the drawing and the verdict that the results have for it."""

import re
import shutil
import subprocess
from html import unescape

import pytest
from committed import CLAIM, folder, results

from lit_hidden.cli import main
from lit_hidden.meeting import lines
from lit_hidden.run import Run

SLIDE = re.compile(r'<section class="slide.*?</section>', re.S)
CLAIMS = {  # by experiment and preset: kinds and verdicts; no line of the meeting names the last one
    "fig1/quick": [("check", "supported"), ("primary", "contradicted"), ("secondary", "supported")],
    "fig3/short": [("primary", "undecided")],
    "fig3/quick": [("primary", "supported")],
    "mine/quick": [("secondary", "undecided")],
}
PRESS = """<script>
const said = [], say = () => said.push(document.getElementById("place").textContent.split(" ")[0]);
for (const key of ["ArrowRight", " ", "ArrowDown", "PageDown", "ArrowLeft", "ArrowUp", "PageUp", "Home", "End", "n"])
  say(document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true })));
for (const [from, to] of [[100, 300], [100, 300], [300, 100], [100, 120]]) {
  const at = clientX => [new Touch({ identifier: 0, target: document.body, clientX, clientY: 9 })];
  dispatchEvent(new TouchEvent("touchstart", { touches: at(from) }));
  say(dispatchEvent(new TouchEvent("touchend", { changedTouches: at(to) })));
}
setInterval(() => document.body.dataset.said =
  [...said, document.body.className, [...document.images].filter(image => image.naturalWidth > 100).length], 100);
</script></body>"""


def test_a_slide_has_the_first_primary_claim_at_the_largest_preset_that_decides_it(tmp_path):
    for place, found in CLAIMS.items():
        claims = [CLAIM | {"sentence": kind, "kind": kind, "verdict": verdict} for kind, verdict in found]
        folder(tmp_path, *place.split("/"), results([Run(data="digits")]), claims)
    for out in (tmp_path / "a.html", tmp_path / "new" / "b.html"):
        main(["slides", "--results", str(tmp_path), "--out", str(out)])
    text = out.read_text()
    assert text == (tmp_path / "a.html").read_text()
    assert re.findall(r'(?:src|href)="(?!#|data:,)[^"]*"|url\(|@import', text) == []
    _, *shown, last = SLIDE.findall(unescape(text))
    claimed = re.compile(r'<h2>(.*?)</h2>.*?class="verdict (\w+)".*?\((\w+), (\w+).*?drawing of (\w+)', re.S)
    asked = {name: line for _, line, names in reversed(lines()) for name in names} | {"mine": "Mine: what mine shows"}
    expected = [("fig1", "contradicted"), ("fig3", "supported"), ("mine", "undecided")]
    assert [claimed.search(one).groups() for one in shown] == [(asked[n], v, n, "quick", n) for n, v in expected]
    notes = {line: "fig3" in names for part, line, names in lines() if part == "The discussion notes"}
    assert re.findall("<dt>(.*?)</dt>", last) == list(notes)
    assert last.count("no results yet") == list(notes.values()).count(False)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("chromium"), reason="needs Chromium")
def test_keys_and_swipes_move_n_shows_notes_and_a_slide_is_a_printed_page(tmp_path):
    page, pressed, printed = (tmp_path / name for name in ("slides.html", "pressed.html", "slides.pdf"))
    main(["slides", "--out", str(page)])
    pressed.write_text(page.read_text().replace("</body>", PRESS))
    command = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=30000"]
    found = subprocess.run([*command, "--dump-dom", str(pressed)], capture_output=True, text=True, check=True).stdout
    n = page.read_text().count("<section")
    moved = f"2,3,4,5,4,3,2,1,{n},{n},{n - 1},{n - 2},{n - 1},{n - 1},deck one-by-one with-notes,{n - 2}"
    assert re.findall('data-said="(.*?)"', found) == [moved], "and each but the first and the last has its drawing"
    subprocess.run([*command, f"--print-to-pdf={printed}", str(page)], capture_output=True, check=True)
    assert max(map(int, re.findall(rb"/Count (\d+)", printed.read_bytes()))) == n
