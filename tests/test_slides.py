"""The slides: a line of the meeting each, with the claim, the drawing and the verdict that the results have for it."""

import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest
from committed import CLAIM, folder, results

from lit_hidden.cli import main
from lit_hidden.meeting import lines
from lit_hidden.run import Run

COMMITTED = Path(__file__).parent.parent / "experiments" / "results"
LINES = {name: line for _, line, names in reversed(lines()) for name in names}
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or ""
OPEN = {"verdict": "undecided", "margin": None, "low": None, "high": None}


@pytest.fixture
def there(tmp_path: Path) -> Path:
    claims = {
        "mine/quick": [{"sentence": "mine", "kind": "secondary"}],  # no line of the meeting names it
        "dale/quick": [{"sentence": "signs"}],
        "fig1/quick": [{"sentence": "a check", "kind": "check"}, {"sentence": "there", "verdict": "contradicted"}],
        "fig3/short": [{"sentence": "deep", **OPEN}, {"sentence": "another"}],
        "fig3/quick": [{"sentence": "another"}, {"sentence": "deep"}],
    }
    for place, found in claims.items():
        folder(tmp_path, *place.split("/"), results([Run(data="digits")]), [CLAIM | claim for claim in found])  # type: ignore[misc]
    return tmp_path


def slides(path: Path) -> list[str]:
    found: list[str] = re.findall(r'<section class="slide.*?</section>', path.read_text(), re.S)
    return found


def test_a_slide_has_an_experiments_first_primary_claim_at_the_largest_preset_that_decides_it(there, capsys) -> None:
    main(["slides", "--results", str(there), "--out", str(there / "slides.html")])
    assert capsys.readouterr().out == f"{there}/slides.html: 6 slides (0.0 MB)\n"
    claimed = r'<h2>(.*?)</h2>.*?class="verdict (\w+)".*?</span>\w+</span> (.*?) <.*?\((\w+), (\w+).*?drawing of (\w+)'
    first, *shown, last = slides(there / "slides.html")
    assert [re.search(claimed, unescape(one), re.S).groups() for one in shown] == [
        (LINES["fig1"], "contradicted", "there", "fig1", "quick", "fig1"),
        (LINES["fig3"], "supported", "deep", "fig3", "quick", "fig3"),
        (LINES["dale"], "supported", "signs", "dale", "quick", "dale"),
        ("Mine: what mine shows", "supported", "mine", "mine", "quick", "mine"),
    ]
    assert re.findall(r'href="#(\d)">. (\w+)', first) == [("2", "fig1"), ("3", "fig3"), ("4", "dale"), ("5", "mine")]
    asked = [(line, names) for part, line, names in lines() if part == lines()[-1][0]]
    assert re.findall("<dt>(.*?)</dt>", unescape(last)) == [line for line, _ in asked]
    assert last.count("no results yet") == sum(not {"fig1", "fig3", "dale"} & {*names} for _, names in asked)


def test_equal_results_are_equal_bytes_and_load_nothing(there: Path) -> None:
    for name in ("a.html", "b.html"):
        main(["slides", "--results", str(there), "--out", str(there / "new" / name)])
    text = (there / "new" / "a.html").read_text()
    assert text == (there / "new" / "b.html").read_text()
    assert re.findall(r'(?:src|href)="(?!#|data:,)[^"]*"|url\(|@import', text) == []


PRESS = """<script>
const place = () => document.getElementById("place").textContent.split(" ")[0], said = [];
for (const key of ["ArrowRight", " ", "ArrowDown", "PageDown", "ArrowLeft", "ArrowUp", "PageUp", "Home", "End", "n"]) {
  document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  said.push(place());
}
said.push(document.body.classList.contains("with-notes"));
for (const [from, to] of [[100, 300], [100, 300], [300, 100], [100, 120]]) {
  const at = clientX => [new Touch({ identifier: 0, target: document.body, clientX, clientY: 9 })];
  dispatchEvent(new TouchEvent("touchstart", { touches: at(from) }));
  dispatchEvent(new TouchEvent("touchend", { changedTouches: at(to) }));
  said.push(place());
}
document.body.dataset.said = said;
setInterval(() => {
  const drawn = [...document.images].filter(image => image.naturalWidth > 100).length;
  document.body.dataset.drawn = `${drawn} of ${document.images.length}`;
}, 100);
</script>"""


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="needs Chromium")
def test_the_slides_of_the_committed_results_in_a_browser(tmp_path: Path) -> None:
    main(["slides", "--results", str(COMMITTED), "--out", str(tmp_path / "slides.html")])
    first, *shown, _ = slides(tmp_path / "slides.html")
    names = {path.parent.parent.name for path in COMMITTED.glob("*/*/verdicts.json")}
    assert names == {*re.findall(r'href="#\d+">. (\w+)', first)}
    assert all(one.count("<img") == 1 and "make reproduce-" in one for one in shown)
    text = (tmp_path / "slides.html").read_text().replace("</body>", f"{PRESS}</body>")
    (tmp_path / "pressed.html").write_text(text)
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=30000"]
    pressed = [*command, "--dump-dom", f"file://{tmp_path}/pressed.html"]
    found = subprocess.run(pressed, capture_output=True, text=True, check=True).stdout
    last = len(shown) + 2
    expected = f"2,3,4,5,4,3,2,1,{last},{last},true,{last - 1},{last - 2},{last - 1},{last - 1}"
    assert re.findall(r'data-said="(.*?)"', found) == [expected]
    assert re.findall(r'data-drawn="(.*?)"', found) == [f"{len(shown)} of {len(shown)}"]
    printed = [*command, f"--print-to-pdf={tmp_path}/slides.pdf", f"file://{tmp_path}/slides.html"]
    subprocess.run(printed, capture_output=True, check=True)
    assert max(map(int, re.findall(rb"/Count (\d+)", (tmp_path / "slides.pdf").read_bytes()))) == last
