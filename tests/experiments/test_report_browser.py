"""The page of the committed results in a browser: nothing is requested, all is legible, the filter and plot work."""

import csv
import json
from pathlib import Path

import browser
import pytest

from experiments.meeting.page import build, load

RESULTS = Path(__file__).parents[2] / "experiments" / "results"
FRAMES = [(width, scheme) for width in (380, 1300) for scheme in ("light", "dark")]
pytestmark = [pytest.mark.slow, browser.needed]

USE = """
  const page = view.document, $ = id => page.getElementById(id), found = {};
  const set = (form, name, value) => {
    form.elements[name].value = value;
    form.elements[name].dispatchEvent(new view.Event("input", { bubbles: true }));
  };
  const rows = [...page.querySelectorAll("#claims-table tbody tr")];
  const shown = () => rows.filter(row => row.getClientRects().length).length;
  found.all = shown();
  set($("filter"), "verdict", "contradicted"); found.contradicted = shown();
  set($("filter"), "preset", "short"); found.short = shown();
  set($("filter"), "words", "no such claim"); found.none = shown();
  found.told = $("shown").textContent;
  $("filter").reset(); await new Promise(done => setTimeout(done, 50)); found.reset = shown();
  const wanted = { experiment: "fig3, short", x: "density", y: "accuracy", color: "net" };
  for (const [name, value] of Object.entries(wanted)) set($("explore"), name, value);
  found.points = page.querySelectorAll("#plot .point, #plot .failed").length;
  found.means = [...page.querySelectorAll("#means tr")].map(row => [...row.cells].map(cell => cell.textContent));
  set($("explore"), "experiment", "lesion, quick");
  found.fields = [...$("explore").elements.x.options].map(option => option.value);
  const player = page.querySelector("iframe").contentWindow;
  found.player = player.document.getElementById("status").textContent;
  found.faint = (await look(player)).faint;
  return found;
"""


def test_the_page_is_legible_and_works_at_both_widths_and_in_both_schemes(tmp_path: Path) -> None:
    page = build(load(RESULTS)).replace('sandbox="allow-scripts"', "").replace('loading="lazy"', "")  # to look inside
    found = browser.look(page, tmp_path, FRAMES, USE)
    for (width, scheme), one in zip(FRAMES, found, strict=True):
        assert one["wrong"] == one["requests"] == one["faint"] == [], (width, scheme)
        assert (one["over"], one["blank"]) == (0, 0), (width, scheme)
        assert one["texts"] > 5000
        assert (one["ground"] == "rgb(255, 255, 255)") == (scheme == "light")
    claims = [(path.parts[-2], claim) for path in RESULTS.glob("*/*/verdicts.json")
              for claim in json.loads(path.read_text())["claims"]]  # fmt: skip
    contradicted = [preset for preset, claim in claims if claim["verdict"] == "contradicted"]
    with (RESULTS / "fig3" / "short" / "results.csv").open(newline="") as file:
        runs = list(csv.DictReader(file))
    for used in (one["script"] for one in found):
        assert used["all"] == used["reset"] == len(claims)
        assert (used["contradicted"], used["short"]) == (len(contradicted), contradicted.count("short"))
        assert used["none"] == 0
        assert used["told"].startswith("0 of ")
        assert used["points"] == len(runs)
        (_, *nets), *lines = used["means"]
        assert nets == sorted({run["net"] for run in runs})
        for density, *means in lines:
            for net, told in zip(nets, means, strict=True):
                same = [float(run["accuracy"]) for run in runs
                        if run["net"] == net and run["density"] == density.replace("none", "")]  # fmt: skip
                assert told == f"{float(f'{sum(same) / len(same):.5g}'):g} ({len(same)})"
        assert {"Lesion.epoch", "Lesion.of", "method", "seed"} <= {*used["fields"]}
        assert used["player"]
        assert used["faint"] == []
