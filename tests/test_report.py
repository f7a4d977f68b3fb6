"""The page: each folder whole, nothing loaded from elsewhere, errors that name the file and what mends it."""

import base64
import json
import re
import runpy
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from lit_hidden.cli import main
from lit_hidden.page import Html, _number, build, calibration, load, match, report, tag
from lit_hidden.report.published import POINTS, Published
from lit_hidden.report.tables import ResultsError, cells, read
from lit_hidden.run import Run, vary

ROOT = Path(__file__).parent.parent
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
made: dict[str, Callable[..., Any]] = runpy.run_path(str(Path(__file__).parent / "committed.py"))
CLAIM: dict[str, Any] = dict(made["CLAIM"])  # type: ignore[call-overload]
UNBOUNDED = CLAIM | {
    "sentence": "another",
    "verdict": "undecided",
    "low": None,
    "high": None,
    "why": "too few seeds: 1",
}
EXACT = CLAIM | {
    "sentence": "no weight changes",
    "verdict": "contradicted",
    "every": True,
    "margin": -2,
    "unit": "runs",
}
QUICK = vary([Run(data="digits", width=0.125, epochs=4)], net=["conv2", "conv4"], density=[0.1, 0.5], seed=range(3))
SHORT = [Run(width=0.25, epochs=5, train_images=10_000, density=d, seed=s) for d in (0.3, 0.5) for s in range(3)]
PAPER = vary([Run(density=0.5), Run(), Run(optimizer="adam")], seed=range(5))


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        assert self.open == []
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "title"} & set(self.open):
            self.text += f"{data} "

    def all(self, attribute: str) -> list[str]:
        return [attributes[attribute] or "" for _, attributes in self.tags if attribute in attributes]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    base = tmp_path / "results"
    made["folder"](base, "fig10", "quick", made["results"](QUICK))
    made["folder"](base, "fig3", "quick", made["results"](QUICK), [CLAIM, UNBOUNDED, EXACT])
    made["folder"](base, "fig3", "paper", made["results"](PAPER, train_accuracy=91.25))
    made["folder"](base, "fig3", "short", made["results"](SHORT))
    made["folder"](base, "theorem", "quick", made["results"](QUICK[:1]))
    made["folder"](base, "table2", "quick", made["results"](QUICK[:1]))
    (base / "README.md").write_text("no results, and no harm")
    for file in ("calibration/README.md", "gpu/bench.json", "bench/bench.svg"):  # no experiment's either
        (base / file).parent.mkdir()
        (base / file).touch()
    (base / "fig4" / "quick").mkdir(parents=True)  # a reproduction that has not ended
    (base / "fig4" / "short").mkdir()
    (base / "fig4" / "short" / "runs.tar.gz").touch()  # one that goes on elsewhere
    return base


@pytest.fixture
def page(results: Path) -> Page:
    return Page(build(load(results)))


def article(page: str, name: str) -> str:
    return Page(re.findall(rf'<article id="{name}">.*?</article>', page, re.DOTALL)[0]).text


# --- what is in it ------------------------------------------------------------------------------------------


def test_figures_come_first_then_tables_then_the_rest_and_the_papers_preset_before_the_cut_ones(page: Page) -> None:
    order = ["fig3-paper", "fig3-short", "fig3-quick", "fig10-quick", "table2-quick", "theorem-quick"]
    assert [a["id"] for t, a in page.tags if t == "article"] == order, "and no folder that is no experiment's"
    links = [a["href"] for t, a in page.tags if t == "a" and a["href"] != "#contents"]
    assert links == [f"#{name}" for name in order]
    ids = page.all("id")
    assert len(ids) == len(set(ids))
    assert {link[1:] for link in page.all("href") if link.startswith("#")} <= set(ids)
    assert set(page.all("aria-labelledby")) <= set(ids)


def test_the_contents_count_verdicts(page: Page) -> None:
    assert "fig3 shows paper cifar10 15 1 – –" in page.text.replace("Fig3: what ", "")
    assert "fig3 shows paper cifar10 15 1 – – –" in page.text.replace("Fig3: what ", "")
    assert "Fig3 quick digits 12 1 – 1 0 of 1 hold" in page.text, (
        "a check that fails is no finding that is contradicted"
    )
    assert (
        "4 experiments, 7 claims judged: 6 supported, 0 contradicted, 1 undecided; 0 of 1 check hold; "
        "at most 0.2 would be supported by chance if none were true. 33 runs"
    ) in page.text


def test_false_supports_are_of_the_claims_judged_by_intervals_alone(tmp_path: Path) -> None:
    claims = [CLAIM | {"kind": kind} for kind in ("primary", "secondary", "exploratory", "check")] * 10
    claims += [EXACT | {"kind": "primary"}] * 7
    made["folder"](tmp_path, "fig3", "quick", made["results"](QUICK), claims)
    text = Page(build(load(tmp_path))).text
    assert (
        "37 claims judged: 30 supported, 7 contradicted, 0 undecided; 10 of 10 checks hold; at most 0.9 would" in text
    )
    assert "30 claims here are judged by intervals" in text
    assert "at most 0.03 times 30, or 0.9, would be supported on average." in text


def test_kinds_are_named_and_cells_in_which_some_seeds_fail(tmp_path: Path) -> None:
    mixed = CLAIM | {"kind": "secondary", "failed": {"conv8-k10": [1, 3], "conv6-k10": [2, 5]}}
    made["folder"](tmp_path, "fig3", "quick", made["results"](QUICK), [mixed, EXACT | {"kind": "check"}])
    text = article(build(load(tmp_path)), "fig3-quick")
    told = "lies above 0; conv8-k10: 1 of 3 seeds fail; conv6-k10: 2 of 5 seeds fail 3"
    assert f"a claim secondary ✓ supported 1.50 points 0.50 to 2.50 the 95% interval {told}" in text
    assert "no weight changes check, exact ✗ contradicted" in text


@pytest.mark.parametrize(
    ("changed", "line", "marked"),
    [
        ("2026-11-20T10:00:00+00:00", "Claims last changed in 0123456789ab (2026-11-20), before the first run", False),
        ("2026-11-26T10:00:00+00:00", "Claims changed after the first run (2026-11-26 > 2026-11-22), in 01", True),
    ],
)
def test_claims_changed_after_the_first_run_are_marked(tmp_path: Path, changed: str, line: str, marked: bool) -> None:
    known = {"claims_commit": "0123456789ab", "claims_changed": changed, "first_run": "2026-11-22T10:00:00+00:00"}
    made["folder"](tmp_path, "fig3", "quick", made["results"](QUICK), absent=["conv6-k50 (12ab)"], **known)
    page = build(load(tmp_path))
    assert line in article(page, "fig3-quick")
    assert (f'<p class="note">{line[:20]}' in page) == marked
    assert "No run is done of 1 cell conv6-k50 (12ab)" in article(page, "fig3-quick")


def test_seeds_that_fail_are_counted_with_their_interval_and_left_out_of_means(tmp_path: Path) -> None:
    def accuracy(run: Run) -> float:
        return 9.0 if run.density == 0.1 and run.seed == 1 else 80.0 + run.seed

    rates = {QUICK[0].cell: {"failed": 1, "seeds": 3, "low": 0.0084, "high": 0.906}}
    made["folder"](tmp_path, "fig3", "quick", made["results"](QUICK, accuracy), failures=rates)
    text = article(build(load(tmp_path)), "fig3-quick")
    assert "net kept accuracy (%) from – to seeds fail to train time per run" in text
    assert "conv2 10% 81.00 80.00 – 82.00 2 1 of 3 (1% – 91%) 2 min" in text
    assert "conv2 50% 81.00 80.00 – 82.00 3 0 of 3 2 min" in text
    assert "Means over the seeds that train. In all of them:" in text


def test_the_best_epoch_stands_beside_the_last_and_says_what_it_was_chosen_on(tmp_path: Path) -> None:
    found = made["results"](QUICK)
    for i, (run, result, _) in enumerate(found.rows):
        folder = tmp_path / "runs" / run.hash
        folder.mkdir(parents=True)
        (folder / "metrics.csv").write_text(f"epoch,test_top1\n0,99.0\n1,97.0\n2,{result['accuracy']}\n")
        found._rows[i] = (run, result, folder)
    made["folder"](tmp_path / "results", "fig3", "quick", found)
    text = article(build(load(tmp_path / "results")), "fig3-quick")
    assert "accuracy (%) from – to seeds best epoch (chosen on the test set) time per run" in text
    assert "conv2 10% 72.50 72.00 – 73.00 3 97.00 2 min" in text


CALIBRATION = """claim,noise,seeds,coverage,false_support,false_contradiction,power,power_paired,well_posed
"4 differences, one arm skewed",skewed,3,0.9,0.061,0.01,0.5,0.25,False
1 difference,normal,5,0.95,0.0246,0.025,0.9,0.875,True
"1 difference, 10% fail",normal,3,,0.01,0.02,0.5,,False
"""


def test_how_often_verdicts_are_wrong_is_shown_with_what_the_method_is_made_for_first(results: Path) -> None:
    assert "How often verdicts are wrong" not in Page(build(load(results))).text
    (results / "calibration" / "calibration.csv").write_text(CALIBRATION)
    report(results, results.parent / "report.html")
    page = Page((results.parent / "report.html").read_text())
    section = page.text.partition("How often verdicts are wrong Grids")[2].partition("Preset")[0]
    well_posed, outside = section.partition(" Outside ")[::2]
    assert "1 difference normal 5 95.0 2.5 2.5 90.0 87.5" in well_posed
    assert "4 differences, one arm skewed skewed 3 90.0 6.1 1.0 50.0 25.0" in outside
    assert "1 difference, 10% fail normal 3 – 1.0 2.0 50.0 –" in outside
    assert "one arm skewed" not in well_posed
    assert [a["href"] for t, a in page.tags if t == "a"].count("#calibration") == 1
    assert "calibration" in page.all("id")
    assert "calibration" not in [folder.name for folder in load(results)]


@pytest.mark.parametrize("text", ["", CALIBRATION.replace("false_support", "lies"), CALIBRATION.partition("\n")[0]])
def test_a_damaged_calibration_is_named(results: Path, text: str) -> None:
    path = results / "calibration" / "calibration.csv"
    path.write_text(text)
    with pytest.raises(ResultsError) as error:
        calibration(results)
    assert str(error.value).startswith(f"{path} is damaged: it lacks ")
    assert str(error.value).endswith("; make calibration writes it again")


def test_a_run_that_several_experiments_share_is_counted_once(page: Page) -> None:
    runs = len({run.hash for run in [*QUICK, *SHORT, *PAPER]})
    assert runs == 33
    assert f"{runs} runs, 50 min of training; the newest is of 2026-11-22." in page.text


def test_verdicts_are_words_with_margin_interval_and_seeds(results: Path) -> None:
    text = article(build(load(results)), "fig3-quick")
    assert "a claim primary ✓ supported 1.50 points 0.50 to 2.50 the 95% interval lies above 0 3" in text
    assert "another primary ? undecided 1.50 points none too few seeds: 1 3" in text
    assert "no weight changes check, exact ✗ contradicted −2 runs 0.50 to 2.50" in text


def test_a_claim_that_cannot_be_judged_has_no_margin(tmp_path: Path) -> None:
    absent = UNBOUNDED | {"margin": None, "why": "1 cell is absent: conv6-k50"}
    made["folder"](tmp_path, "fig3", "quick", made["results"](QUICK), [absent])
    text = article(build(load(tmp_path)), "fig3-quick")
    assert "another primary ? undecided none none 1 cell is absent: conv6-k50 3" in text


def test_margins_are_written_as_short_as_they_tell_something() -> None:
    values = (0.0, -0.4815, 64.7712, 3716.67, 0.0123, -4.0, -1e-5)
    assert [_number(v) for v in values] == ["0", "−0.48", "64.77", "3717", "0.012", "−4", "−1e−05"]


def test_ours_are_means_over_seeds_with_their_range(results: Path) -> None:
    page = build(load(results))
    text = article(page, "fig3-quick")
    assert "net kept accuracy (%) from – to seeds time per run conv2 10% 72.50 72.00 – 73.00 3 2 min conv2 50%" in text
    assert (
        "In all of them: data digits, width 0.125, method edge_popup, distribution signed_constant, epochs 4." in text
    )
    assert "10% 72.00 – 1" not in text
    assert "kept" not in article(page, "theorem-quick").partition("time per run")[2].partition("Where")[0]
    assert "91.25" in article(page, "fig3-paper")


def test_provenance_says_commit_device_versions_seeds_dates_and_time(results: Path) -> None:
    text = article(build(load(results)), "fig3-paper")
    assert (
        "command make reproduce-fig3 PRESET=paper commit 0123456789ab device CPU, 1 thread(s) versions "
        "lit_hidden 0.1.0, python 3.11.7, torch 2.15.0, lightning 2.6.6 seeds 0, 1, 2, 3, 4 finished 2026-11-22 "
        "training took 22 min in all, for 15 runs"
    ) in text


def test_several_commits_devices_and_days_are_told_with_their_runs(results: Path) -> None:
    path = results / "fig10" / "quick" / "results.csv"
    lines = path.read_text().splitlines()
    lines[1] = lines[1].replace("0123456789ab", "ba9876543210-dirty").replace("2026-11-22", "2026-11-20")
    lines[2] = lines[2].replace("0123456789ab", "").replace(",90.0,", ",7200.0,")
    path.write_text("\n".join(lines))
    text = article(build(load(results)), "fig10-quick")
    assert "commit 0123456789ab (10 runs); ba9876543210-dirty (1 run) (dirty: with changes not committed)" in text
    assert "finished 2026-11-20 to 2026-11-22 training took 2 h 16 min in all" in text


# --- ours beside theirs -------------------------------------------------------------------------------------


def test_a_cut_run_stands_beside_the_published_number_with_a_warning_and_no_difference(results: Path) -> None:
    text = article(build(load(results)), "fig3-short")
    assert "Not like for like. Ours were cut (width x0.25; 5 of 100 epochs; 10000 training images)." in text
    assert "ours, cut (%)" in text
    assert "conv4 edge_popup signed_constant 50% 80.50 80.00 – 81.00 3 86.07 85.80, its best" in text
    assert "−5.57" not in text
    assert "In brackets" not in text


def test_a_run_by_the_papers_protocol_is_held_against_the_published_number(results: Path) -> None:
    text = article(build(load(results)), "fig3-paper")
    assert "Not like for like" not in text
    assert "In brackets: ours minus theirs" in text
    assert "conv4 dense adam – 89.00 88.00 – 90.00 5 86.66 (+2.34)" in text
    assert "conv4 edge_popup signed_constant 50% 81.00 80.00 – 82.00 5 86.07 (−5.07) 85.80, its best (−4.80)" in text
    assert "numbers typed into a third party's plotting script" in text
    assert "read from the Conv8 panel" not in text


def test_digits_have_no_published_number(results: Path) -> None:
    assert "No number that others report is of these nets, data and methods." in article(
        build(load(results)), "fig3-quick"
    )


def imagenet(tmp_path: Path, **cut: Any) -> str:
    runs = [Run(**{"net": "resnet50", "data": "imagenet", "seed": s} | cut) for s in range(3)]
    runs += [replace(run, density=0.3) for run in runs]
    made["folder"](tmp_path, "fig8", "paper", made["results"](runs))
    return article(build(load(tmp_path)), "fig8-paper")


def test_imagenet_by_the_authors_protocol_is_held_against_their_readme_and_torchvision_shown_beside(
    tmp_path: Path,
) -> None:
    text = imagenet(tmp_path)
    assert "Not like for like" not in text
    assert "resnet50 edge_popup signed_constant 30% 76.50 76.00 – 77.00 3 68.60 (+7.90)" in text
    assert "resnet50 dense sgd – 88.50 88.00 – 89.00 3 76.13" in text
    assert "76.13 (" not in text
    assert "trained by its own recipe" in text
    assert "seeds weights kept, or trained time per run" in text
    assert "3 25,556,032 2 min" in text
    assert "3 7,650,902 2 min" in text


def test_imagenet_at_fewer_epochs_stands_beside_the_readme_with_a_warning(tmp_path: Path) -> None:
    text = imagenet(tmp_path, epochs=30)
    assert "Not like for like. Ours were cut (30 of 100 epochs)." in text
    assert "76.50 76.00 – 77.00 3 68.60" in text
    assert "68.60 (" not in text


@pytest.mark.parametrize(
    "part", [{"classes": "first-10"}, {"images_per_class": 9}, {"image_size": 64}, {"data": "tiny-imagenet-100"}]
)
def test_a_part_of_imagenet_stands_beside_no_number_of_others(part: dict[str, Any], tmp_path: Path) -> None:
    text = imagenet(tmp_path, **part)
    assert "No number that others report is of these nets, data and methods." in text
    assert "68.60" not in text
    told = {"classes": "classes first-10", "images_per_class": "images per class 9", "data": "pixels 64"}
    assert told.get(next(iter(part)), "pixels 64") in text


def test_the_imagenet_figures_stand_in_the_papers_order_and_other_data_after_the_papers(tmp_path: Path) -> None:
    places = [("table2", "paper"), ("fig10", "quick"), ("imagenet18", "short"), ("fig8", "short"),
              ("fig8", "paper-imagenet100"), ("fig8", "paper"), ("fig9", "quick")]  # fmt: skip
    for name, preset in places:
        made["folder"](tmp_path, name, preset, made["results"](QUICK[:1]))
    assert [folder.id for folder in load(tmp_path)] == [
        "fig8-paper", "fig8-paper-imagenet100", "fig8-short", "fig9-quick", "fig10-quick", "table2-paper",
        "imagenet18-short",
    ]  # fmt: skip


def found(runs: list[Run], tmp_path: Path) -> list[Any]:
    return cells(read(made["folder"](tmp_path, "fig3", "quick", made["results"](runs)) / "results.csv"))


def test_a_published_number_goes_to_the_run_that_is_least_cut(tmp_path: Path) -> None:
    runs = [Run(density=0.5, width=w, epochs=e) for w, e in ((0.5, 100), (1, 5), (1, 100), (2, 100), (1, 50))]
    runs += [Run(density=0.5, scaled=True), Run(density=0.5, lr=0.2), Run(density=0.5, distribution="kaiming_normal")]
    some = found(runs, tmp_path)
    point = Published("third party", "conv4", "edge_popup", 86.07, "signed_constant", 0.5)
    at = match(point, some)
    assert at is not None
    assert some[at].run == Run(density=0.5)
    assert match(replace(point, density=0.3), some) is None
    assert match(replace(point, data="imagenet"), some) is None
    assert match(replace(point, distribution=None, method="dense", density=None), some) is None


def test_a_number_that_is_the_best_of_several_densities_goes_to_our_best(tmp_path: Path) -> None:
    some = found([Run(density=d, distribution=n) for d in (0.1, 0.5, 0.7) for n in ("kaiming_normal", None)], tmp_path)
    point = next(p for p in POINTS if p.source == "quoted" and p.net == "conv4")
    at = match(point, some)
    assert at is not None
    assert some[at].run.density == 0.5


def test_a_number_of_another_protocol_is_shown_and_not_subtracted(tmp_path: Path) -> None:
    runs = [Run(density=d, method="supermask", net="conv6", seed=s) for d in (0.5, 0.7) for s in range(3)]
    made["folder"](tmp_path, "fig6", "paper", made["results"](runs))
    text = article(build(load(tmp_path)), "fig6-paper")
    assert "conv6 supermask signed_constant 50% 80.50 80.00 – 81.00 3 76.50, its best" in text
    assert "(+" not in text
    assert "In brackets" not in text
    assert "no augmentation, other weights and schedule" in text


# --- one page that stands alone -----------------------------------------------------------------------------


def test_the_page_loads_nothing(page: Page) -> None:
    for name, attributes in page.tags:
        assert name not in ("script", "iframe", "object", "embed", "base", "form", "video", "audio")
        assert not any(attribute.startswith("on") for attribute in attributes)
        assert str(attributes.get("src", "data:image/")).startswith("data:image/")
        assert re.match(r"#|data:,", attributes.get("href") or "#")
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in page.all("content")


def test_drawings_are_whole_and_named_for_those_who_cannot_see_them(results: Path) -> None:
    page = Page(build(load(results)))
    images = [attributes for name, attributes in page.tags if name == "img"]
    assert len(images) == 6
    for image in images:
        kind, _, data = str(image["src"]).partition(";base64,")
        assert kind == "data:image/svg+xml"
        assert base64.b64decode(data).decode() == made["SVG"]
    assert str(images[0]["alt"]).startswith("The drawing of fig3: Fig3: what fig3 shows. data digits; nothing cut.")


def test_without_an_svg_the_png_is_shown(results: Path) -> None:
    (results / "fig10" / "quick" / "figure.svg").unlink()
    shutil.copy(ROOT / "experiments/results/fig1/quick/figure.png", results / "fig10" / "quick")
    assert "data:image/png;base64,iVBOR" in build(load(results))


def test_what_is_not_ours_is_escaped_and_braces_are_left_alone(results: Path) -> None:
    nasty = '<script>alert(1)</script> & "{{contents}}" \\1 \''
    claim = CLAIM | {"sentence": nasty, "unit": nasty, "why": nasty}
    made["folder"](results, "nasty", "quick", made["results"](QUICK), [claim], nasty)
    page = build(load(results))
    assert "<script" not in page
    assert Page(page).text.count(nasty) == 5  # a claim, its unit, its reason, the title and the contents
    assert tag("p", "<b>", Html("<b>x</b>"), title='"<') == '<p title="&quot;&lt;">&lt;b&gt;<b>x</b></p>'


def test_equal_results_are_equal_bytes(results: Path, tmp_path: Path) -> None:
    shutil.copytree(results, tmp_path / "copy")
    report(results, tmp_path / "a.html")
    report(tmp_path / "copy", tmp_path / "b.html")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_the_committed_results_make_a_page(tmp_path: Path) -> None:
    told = report(ROOT / "experiments" / "results", tmp_path / "there" / "report.html")
    assert re.match(rf"{tmp_path}/there/report.html: \d+ experiments, \d+ claims judged: .*\(\d+\.\d MB\)$", told)
    page = Page((tmp_path / "there" / "report.html").read_text())
    assert "Figure 1: a random network hides a subnetwork that is as good as a trained network" in page.text


def test_the_report_waits_for_no_framework(python: Callable[..., str]) -> None:
    code = (
        "import sys\nfrom lit_hidden.page import build, load\nfrom pathlib import Path\n"
        "build(load(Path('experiments/results')))\n"
        "print(sorted({'torch', 'lightning', 'matplotlib', 'scipy', 'wandb', 'rich'} & sys.modules.keys()))"
    )
    assert python(code) == "[]"


@pytest.mark.skipif(BROWSER is None, reason="no chromium to open the page with")
def test_a_browser_opens_the_page_without_an_error_or_a_request(results: Path, tmp_path: Path) -> None:
    # The page forbids itself to load anything, so that a request is an error in the console: as is this one of ours.
    smuggled = "http://example.com/smuggled.png"
    page = tmp_path / "report.html"
    page.write_text(build(load(results)).replace("<h1>", f'<img src="{smuggled}" alt=""><h1>'))
    command = [
        str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--dump-dom",
        "--enable-logging=stderr", "--v=0", "--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=4000",
        f"--user-data-dir={tmp_path / 'browser'}", f"file://{page}",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert len(console) == 1
    assert smuggled in console[0]
    shown = Page(done.stdout.partition("<body>")[2].rpartition("</body>")[0])
    assert "✗ contradicted" in shown.text
    assert len([name for name, _ in shown.tags if name == "img"]) == 1 + 6


# --- errors -------------------------------------------------------------------------------------------------


def test_without_results_it_says_how_to_get_some(tmp_path: Path) -> None:
    with pytest.raises(ResultsError) as error:
        load(tmp_path / "none")
    assert str(error.value) == f"no results in {tmp_path}/none; make reproduce-fig2 OUT={tmp_path}/none writes some"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("results.csv", None, "results.csv is missing"),
        ("results.csv", "run,accuracy", "results.csv is damaged: it is no table of runs"),
        ("verdicts.json", None, "verdicts.json is missing"),
        ("verdicts.json", '{"experiment": "fig3", ', "verdicts.json is damaged: JSONDecodeError: "),
        ("verdicts.json", "[]", "verdicts.json is damaged: TypeError: "),
        ("verdicts.json", '{"experiment": "fig3"}', "verdicts.json is damaged: KeyError: 'preset'"),
        ("figure.svg", None, "figure.svg is missing, and so is figure.png"),
        ("figure.svg", "<svg><rect", "figure.svg is damaged: unclosed token"),
    ],
)
def test_a_missing_or_damaged_file_is_named_with_the_command_that_mends_it(
    results: Path, name: str, text: str | None, message: str
) -> None:
    path = results / "fig3" / "quick" / name
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(ResultsError) as error:
        load(results)
    assert str(error.value).startswith(f"{path.parent}/{message}")
    assert str(error.value).endswith(f"; make reproduce-fig3 PRESET=quick OUT={results} writes it again")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"preset": "paper"}, "verdicts.json is of fig3/paper, not of fig3/quick"),
        ({"title": 3}, "verdicts.json is damaged: TypeError: a text is none"),
        ({"claims": [CLAIM | {"verdict": "maybe"}]}, "verdicts.json is damaged: TypeError: no verdict: "),
        ({"claims": [CLAIM | {"margin": "1"}]}, "verdicts.json is damaged: TypeError: no verdict: "),
        ({"claims": [CLAIM | {"kind": "guess"}]}, "verdicts.json is damaged: TypeError: no verdict: "),
        ({"claims": [CLAIM | {"failed": 3}]}, "verdicts.json is damaged: TypeError: no verdict: "),
        ({"failures": {"conv2": {"low": "0", "high": 1}}}, "verdicts.json is damaged: TypeError: no failure rates: "),
        (
            {"claims_commit": "ab", "claims_changed": "once", "first_run": "then"},
            "verdicts.json is damaged: ValueError: Invalid isoformat",
        ),
        ({"claims": [{}]}, "verdicts.json is damaged: KeyError: 'sentence'"),
    ],
)
def test_verdicts_that_are_none_are_refused(results: Path, change: dict[str, Any], message: str) -> None:
    path = results / "fig3" / "quick" / "verdicts.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ResultsError, match=message):
        load(results)


def test_a_png_cut_short_is_named(results: Path) -> None:
    folder = results / "fig3" / "quick"
    (folder / "figure.svg").unlink()
    whole = (ROOT / "experiments/results/fig1/quick/figure.png").read_bytes()
    (folder / "figure.png").write_bytes(whole[:-20])
    with pytest.raises(ResultsError, match=r"figure\.png is damaged: it is no whole PNG; make reproduce-fig3"):
        load(results)


def test_a_page_that_cannot_be_written_is_one_line(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as end:
        main(["report", "--results", str(results), "--out", str(tmp_path / "file" / "report.html")])
    assert end.value.code == 1
    said = r"lit-hidden: \S+/file/report\.html cannot be written: .*; choose another with --out\n"
    assert re.fullmatch(said, capsys.readouterr().err)


def test_the_command_says_what_it_wrote(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["report", "--results", str(results), "--out", str(tmp_path / "report.html")])
    told = capsys.readouterr().out
    assert told.startswith(f"{tmp_path}/report.html: 4 experiments, 7 claims judged: ")
