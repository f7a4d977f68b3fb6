"""The page: every folder is shown whole, nothing is loaded from elsewhere, errors name the file and the remedy."""

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
from lit_hidden.page import build, load, match, report
from lit_hidden.report.published import POINTS, Published
from lit_hidden.report.tables import cells, read
from lit_hidden.run import Run, vary

ROOT = Path(__file__).parent.parent
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
made: dict[str, Callable[..., Any]] = runpy.run_path(str(Path(__file__).parent / "committed.py"))
CLAIM: dict[str, Any] = dict(made["CLAIM"])  # type: ignore[call-overload]
UNBOUNDED = CLAIM | {"sentence": "another", "verdict": "undecided", "low": None, "high": None, "why": "too few seeds"}
EXACT = CLAIM | {"sentence": "no weight changes", "verdict": "contradicted", "kind": "check", "every": True,
                 "margin": -2, "unit": "runs"}  # fmt: skip
MIXED = CLAIM | {"kind": "secondary", "failed": {"conv8-k10": [1, 3], "conv6-k10": [2, 5]}}
QUICK = vary([Run(data="digits", width=0.125, epochs=4)], net=["conv2", "conv4"], density=[0.1, 0.5], seed=range(3))
SHORT = [Run(width=0.25, epochs=5, train_images=10_000, density=d, seed=s) for d in (0.3, 0.5) for s in range(3)]
PAPER = vary([Run(density=0.5), Run(), Run(optimizer="adam")], seed=range(5))
ZHOU = [Run(density=d, method="supermask", net="conv6", seed=s) for d in (0.5, 0.7) for s in range(3)]
PLACES = ["fig3-paper", "fig3-short", "fig3-quick", "fig8-paper", "fig8-paper-imagenet100", "fig10-quick",
          "table2-quick", "theorem-quick"]  # fmt: skip
CALIBRATION = """claim,noise,seeds,coverage,false_support,false_contradiction,power,power_paired,well_posed
"4 differences, one arm skewed",skewed,3,0.9,0.061,0.01,0.5,0.25,False
1 difference,normal,5,0.95,0.0246,0.025,0.9,0.875,True
"1 difference, 10% fail",normal,3,,0.01,0.02,0.5,,False
"""


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


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results that no test changes."""
    base = tmp_path_factory.mktemp("page") / "results"
    grids = {"fig3-quick": QUICK, "fig10-quick": QUICK, "fig3-paper": PAPER, "fig3-short": SHORT}
    for place in reversed(PLACES):
        claims = [CLAIM, UNBOUNDED, EXACT] if place == "fig3-quick" else [CLAIM]
        name, _, preset = place.partition("-")
        more = {"train_accuracy": 91.25} if place == "fig3-paper" else {}
        made["folder"](base, name, preset, made["results"](grids.get(place, QUICK[:1]), **more), claims)
    for file in ("README.md", "calibration/README.md", "gpu/bench.json", "bench/bench.svg", "fig4/short/runs.tar.gz"):
        (base / file).parent.mkdir(parents=True, exist_ok=True)
        (base / file).touch()  # these are no experiment's results, or not yet
    return base


@pytest.fixture
def results(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "results"))


@pytest.fixture(scope="module")
def html(whole: Path) -> str:
    return build(load(whole))


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def article(page: str, name: str) -> str:
    return Page(re.findall(rf'<article id="{name}">.*?</article>', page, re.DOTALL)[0]).text


# --- what is in it ------------------------------------------------------------------------------------------


def test_figures_come_first_then_tables_and_the_papers_preset_before_the_others(page: Page) -> None:
    assert [a["id"] for t, a in page.tags if t == "article"] == PLACES, "and nothing that is no experiment's"
    assert [a["href"] for t, a in page.tags if t == "a" and a["href"] != "#contents"] == [f"#{n}" for n in PLACES]
    ids = page.all("id")
    assert len(ids) == len(set(ids))
    assert {link[1:] for link in page.all("href") if link.startswith("#")} | set(page.all("aria-labelledby")) <= set(
        ids
    )


def test_the_contents_count_verdicts_and_shared_runs_once(page: Page) -> None:
    assert "Fig3: what fig3 shows paper cifar10 15 1 – – –" in page.text
    assert "Fig3 quick digits 12 1 – 1 0 of 1 hold" in page.text, "a check that fails is no contradicted finding"
    assert (
        "5 experiments, 9 claims judged: 8 supported, 0 contradicted, 1 undecided; 0 of 1 check hold; "
        "at most 0.3 would be supported by chance if none were true. 33 runs, 50 min of training; the newest"
    ) in page.text
    assert len({run.hash for run in [*QUICK, *SHORT, *PAPER]}) == 33


def test_the_claims_that_chance_may_support_are_those_judged_by_intervals(tmp_path: Path) -> None:
    claims = [CLAIM | {"kind": kind} for kind in ("primary", "secondary", "exploratory", "check")] * 10
    made["folder"](tmp_path, "fig3", "quick", made["results"](QUICK), claims + [EXACT | {"kind": "primary"}] * 7)
    text = Page(build(load(tmp_path))).text
    assert "37 claims judged: 30 supported, 7 contradicted, 0 undecided; 10 of 10 checks hold; at most 0.9" in text
    assert "30 claims here are judged by intervals" in text
    assert "at most 0.03 times 30, or 0.9, would be supported on average." in text


@pytest.mark.parametrize(
    ("place", "texts"),
    [
        (
            "fig3-quick",
            [
                "a claim primary ✓ supported 1.50 points 0.50 to 2.50 the 95% interval lies above 0 3",
                "another primary ? undecided 1.50 points none too few seeds 3",
                "no weight changes check, exact ✗ contradicted −2 runs 0.50 to 2.50",
                "net kept accuracy (%) from – to seeds time per run",
                "conv2 10% 72.50 72.00 – 73.00 3 2 min conv2 50%",
                "In all of them: data digits, width 0.125, method edge_popup, distribution signed_constant, epochs 4.",
                "No number that others report is of these nets, data and methods.",
            ],
        ),
        ("theorem-quick", ["accuracy (%) from – to seeds time per run", "72.00 – 1 2 min"]),
        (
            "fig3-short",
            [
                "Not like for like. Ours were cut (width x0.25; 5 of 100 epochs; 10000 training images).",
                "ours, cut (%)",
                "conv4 edge_popup signed_constant 50% 80.50 80.00 – 81.00 3 86.07 85.80, its best the",
            ],
        ),
        (
            "fig3-paper",
            [
                "91.25",
                "In brackets: ours minus theirs",
                "conv4 dense adam – 89.00 88.00 – 90.00 5 86.66 (+2.34)",
                "conv4 edge_popup signed_constant 50% 81.00 80.00 – 82.00 5 86.07 (−5.07) 85.80, its best (−4.80)",
                "numbers typed into a third party's plotting script",
                "command make reproduce-fig3 PRESET=paper commit 0123456789ab device CPU, 1 thread(s) versions "
                "lit_hidden 0.1.0, python 3.11.7, torch 2.15.0, lightning 2.6.6 seeds 0, 1, 2, 3, 4 "
                "finished 2026-11-22 training took 22 min in all, for 15 runs",
            ],
        ),
    ],
)
def test_an_article_shows_claims_numbers_and_where_they_are_from(html: str, place: str, texts: list[str]) -> None:
    said = article(html, place).replace("third party, authors' code", "the")
    assert [text for text in texts if text not in said] == []
    assert ("Not like for like" in said) == (place == "fig3-short")
    assert ("In brackets" in said) == (place == "fig3-paper")


FAILING = {QUICK[0].cell: {"failed": 1, "seeds": 3, "low": 0.0084, "high": 0.906}}
IMAGENET = vary([Run(net="resnet50", data="imagenet")], seed=range(3), density=[None, 0.3])
WHEN = {"claims_commit": "0123456789ab", "first_run": "2026-11-22T10:00:00+00:00"}


def nine(run: Run) -> float:
    return 9.0 if run.density == 0.1 and run.seed == 1 else 80.0 + run.seed


@pytest.mark.parametrize(
    ("runs", "more", "texts", "not_said"),
    [
        (
            QUICK,
            {"claims": [MIXED]},
            ["lies above 0; conv8-k10: 1 of 3 seeds fail; conv6-k10: 2 of 5 seeds fail 3"],
            [],
        ),
        (QUICK, {"claims": [UNBOUNDED | {"margin": None}]}, ["another primary ? undecided none none too few"], []),
        (
            QUICK,
            {"accuracy": nine, "failures": FAILING},
            [
                "net kept accuracy (%) from – to seeds fail to train time per run",
                "conv2 10% 81.00 80.00 – 82.00 2 1 of 3 (1% – 91%) 2 min",
                "conv2 50% 81.00 80.00 – 82.00 3 0 of 3 2 min",
            ],
            [],
        ),
        (
            QUICK,
            WHEN | {"claims_changed": "2026-11-20T10:00:00+00:00", "absent": ["conv6-k50 (12ab)"]},
            [
                "Claims last changed in 0123456789ab (2026-11-20), before the first run",
                "No run is done of 1 cell conv6-k50 (12ab)",
            ],
            [],
        ),
        (
            QUICK,
            WHEN | {"claims_changed": "2026-11-26T10:00:00+00:00"},
            ["Claims changed after the first run (2026-11-26 > 2026-11-22), in 01"],
            [],
        ),
        (ZHOU, {}, ["50% 80.50 80.00 – 81.00 3 76.50, its best", "no augmentation, other weights"], ["(+", "In br"]),
        (
            IMAGENET,
            {},
            [
                "resnet50 edge_popup signed_constant 30% 76.50 76.00 – 77.00 3 68.60 (+7.90)",
                "resnet50 dense sgd – 88.50 88.00 – 89.00 3 76.13",
                "trained by its own recipe",
                "3 25,556,032 2 min",
                "3 7,650,902 2 min",
            ],
            ["Not like for like", "76.13 ("],
        ),
        (
            [replace(run, epochs=30) for run in IMAGENET],
            {},
            ["Not like for like. Ours were cut (30 of 100 epochs).", "76.50 76.00 – 77.00 3 68.60"],
            ["68.60 ("],
        ),
        *(
            (
                [replace(run, image_size=None, **part) for run in IMAGENET],
                {},
                ["No number that others report is of these nets, data and methods.", told],
                ["68.60"],
            )
            for part, told in (
                ({"classes": "first-10"}, "classes first-10"),
                ({"images_per_class": 9}, "images per class 9"),
                ({"data": "tiny-imagenet-100"}, "pixels 64"),
            )
        ),
    ],
)
def test_what_an_article_says_of_runs_and_verdicts(
    tmp_path: Path, runs: list[Run], more: dict[str, Any], texts: list[str], not_said: list[str]
) -> None:
    accuracy = {"accuracy": more["accuracy"]} if "accuracy" in more else {}
    told = {name: value for name, value in more.items() if name != "accuracy"}
    made["folder"](tmp_path, "fig3", "quick", made["results"](runs, **accuracy), **told)
    page = build(load(tmp_path))
    said = article(page, "fig3-quick")
    assert [text for text in texts if text not in said] == []
    assert [text for text in not_said if text in said] == []
    assert ('<p class="note">Claims' in page) == ("2026-11-26" in str(more))


def test_the_best_epoch_is_shown_beside_the_last(tmp_path: Path) -> None:
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


def test_how_often_verdicts_are_wrong_is_shown_with_the_well_posed_cases_first(results: Path, page: Page) -> None:
    assert "How often verdicts are wrong" not in page.text
    (results / "calibration" / "calibration.csv").write_text(CALIBRATION)
    report(results, results.parent / "report.html")
    page = Page((results.parent / "report.html").read_text())
    section = page.text.partition("How often verdicts are wrong Grids")[2].partition("Preset")[0]
    well_posed, outside = section.partition(" Outside ")[::2]
    assert "1 difference normal 5 95.0 2.5 2.5 90.0 87.5" in well_posed
    assert "4 differences, one arm skewed skewed 3 90.0 6.1 1.0 50.0 25.0" in outside
    assert "1 difference, 10% fail normal 3 – 1.0 2.0 50.0 –" in outside
    assert "one arm skewed" not in well_posed
    assert (
        [a["href"] for t, a in page.tags if t == "a"].count("#calibration") == page.all("id").count("calibration") == 1
    )


@pytest.mark.parametrize(
    ("margin", "written"),
    [(0.0, "0"), (-0.4815, "−0.48"), (64.7712, "64.77"), (3716.67, "3717"), (0.0123, "0.012"), (-1e-5, "−1e−05")],
)
def test_margins_are_as_short_as_they_can_be(tmp_path: Path, margin: float, written: str) -> None:
    made["folder"](tmp_path, "fig3", "quick", made["results"](QUICK[:1]), [CLAIM | {"margin": margin}])
    assert f"supported {written} points 0.50 to" in article(build(load(tmp_path)), "fig3-quick")


def test_several_commits_and_days_are_listed_with_their_runs(results: Path) -> None:
    path = results / "fig10" / "quick" / "results.csv"
    lines = path.read_text().splitlines()
    lines[1] = lines[1].replace("0123456789ab", "ba9876543210-dirty").replace("2026-11-22", "2026-11-20")
    lines[2] = lines[2].replace("0123456789ab", "").replace(",90.0,", ",7200.0,")
    path.write_text("\n".join(lines))
    text = article(build(load(results)), "fig10-quick")
    assert "commit 0123456789ab (10 runs); ba9876543210-dirty (1 run) (dirty: " in text
    assert "finished 2026-11-20 to 2026-11-22 training took 2 h 16 min in all" in text


def test_a_published_number_belongs_to_the_run_that_is_least_cut(tmp_path: Path) -> None:
    runs = [Run(density=0.5, width=w, epochs=e) for w, e in ((0.5, 100), (1, 5), (1, 100), (2, 100), (1, 50))]
    runs += [Run(density=0.5, scaled=True), Run(density=0.5, lr=0.2), Run(density=0.5, distribution="kaiming_normal")]
    runs += [Run(density=d) for d in (0.1, 0.7)]
    found = made["results"](runs, lambda run: 95.0 if run.scaled else 80 - abs((run.density or 0) - 0.5))
    some = cells(read(made["folder"](tmp_path, "fig3", "quick", found) / "results.csv"))
    point = Published("third party", "conv4", "edge_popup", 86.07, "signed_constant", 0.5)
    best = next(p for p in POINTS if p.source == "quoted" and p.net == "conv4")  # the best of several densities
    ours, best_of_ours = match(point, some), match(best, some)
    assert ours is not None
    assert best_of_ours is not None
    assert ours.run == Run(density=0.5)
    assert (best_of_ours.run.width, best_of_ours.run.epochs, best_of_ours.run.density) == (1, 100, 0.5)
    for change in ({"density": 0.3}, {"data": "imagenet"}, {"distribution": None, "method": "dense", "density": None}):
        assert match(replace(point, **change), some) is None


# --- one page that stands alone -----------------------------------------------------------------------------


def test_the_page_loads_nothing(page: Page) -> None:
    for name, attributes in page.tags:
        assert name not in ("script", "iframe", "object", "embed", "base", "form", "video", "audio")
        assert not any(attribute.startswith("on") for attribute in attributes)
        assert str(attributes.get("src", "data:image/")).startswith("data:image/")
        assert re.match(r"#|data:,", attributes.get("href") or "#")
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in page.all("content")


def test_drawings_are_whole_and_described(page: Page, results: Path) -> None:
    images = [attributes for name, attributes in page.tags if name == "img"]
    assert len(images) == len(PLACES)
    for image in images:
        kind, _, data = str(image["src"]).partition(";base64,")
        assert kind == "data:image/svg+xml"
        assert base64.b64decode(data).decode() == made["SVG"]
    assert str(images[0]["alt"]).startswith("The drawing of fig3: Fig3: what fig3 shows. data digits; nothing cut.")
    (results / "fig10" / "quick" / "figure.svg").unlink()
    shutil.copy(ROOT / "experiments/results/fig1/quick/figure.png", results / "fig10" / "quick")
    assert "data:image/png;base64,iVBOR" in build(load(results))


def test_foreign_text_is_escaped_and_braces_are_left_alone(tmp_path: Path) -> None:
    nasty = '<script>alert(1)</script> & "{{contents}}" \\1 \''
    claim = CLAIM | {"sentence": nasty, "unit": nasty, "why": nasty}
    made["folder"](tmp_path, "nasty", "quick", made["results"](QUICK[:1]), [claim], nasty)
    page = build(load(tmp_path))
    assert "<script" not in page
    assert Page(page).text.count(nasty) == 5  # a claim, its unit, its reason, the title and the contents


def test_equal_results_are_equal_bytes(whole: Path, results: Path, tmp_path: Path) -> None:
    report(whole, tmp_path / "a.html")
    report(results, tmp_path / "b.html")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_the_committed_results_make_a_page_without_a_framework(python: Callable[..., str], tmp_path: Path) -> None:
    code = (
        f"import sys\nfrom lit_hidden.page import report\nprint(report(out='{tmp_path}/there/report.html'))\n"
        "print(sorted({'torch', 'lightning', 'matplotlib', 'scipy', 'wandb', 'rich'} & sys.modules.keys()))"
    )
    told, frameworks = python(code).splitlines()
    assert re.match(rf"{tmp_path}/there/report.html: \d+ experiments, \d+ claims judged: .*\(\d+\.\d MB\)$", told)
    assert frameworks == "[]"
    page = Page((tmp_path / "there" / "report.html").read_text())
    assert "Figure 1: a random network hides a subnetwork that is as good as a trained network" in page.text


@pytest.mark.skipif(BROWSER is None, reason="no chromium to open the page with")
def test_a_browser_opens_the_page_without_an_error_or_a_request(html: str, tmp_path: Path) -> None:
    # The page forbids itself to load anything, so a request is an error in the console; this test smuggles one in.
    smuggled = "http://example.com/smuggled.png"
    page = tmp_path / "report.html"
    page.write_text(html.replace("<h1>", f'<img src="{smuggled}" alt=""><h1>'))
    command = [
        str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--dump-dom",
        "--enable-logging=stderr", "--v=0", "--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=4000",
        f"--user-data-dir={tmp_path / 'browser'}", f"file://{page}",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    (line,) = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert smuggled in line
    shown = Page(done.stdout.partition("<body>")[2].rpartition("</body>")[0])
    assert "✗ contradicted" in shown.text
    assert len([name for name, _ in shown.tags if name == "img"]) == 1 + len(PLACES)


# --- errors -------------------------------------------------------------------------------------------------


def changed(**change: Any) -> Callable[[bytes], bytes]:
    return lambda data: json.dumps(json.loads(data) | change).encode()


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("results.csv", None, "results.csv is missing"),
        ("results.csv", lambda data: b"run,accuracy", "results.csv is damaged: it lacks run, seconds"),
        ("verdicts.json", None, "No such file or directory: .*verdicts.json"),
        ("verdicts.json", lambda data: data[:30], "JSONDecodeError"),
        ("verdicts.json", lambda data: b"[]", "TypeError"),
        ("verdicts.json", lambda data: b'{"experiment": "fig3"}', "KeyError: 'preset'"),
        ("verdicts.json", changed(preset="paper"), "verdicts.json is of fig3/paper"),
        ("verdicts.json", changed(claims=[CLAIM | {"verdict": "maybe"}]), "unknown verdict or kind: .*maybe"),
        ("verdicts.json", changed(claims=[CLAIM | {"kind": "guess"}]), "unknown verdict or kind: .*guess"),
        ("verdicts.json", changed(claims=[{}]), "missing .* 'sentence'"),
        ("verdicts.json", changed(claims_commit="ab", claims_changed="once", first_run="then"), "isoformat"),
        ("figure.svg", None, "No such file or directory: .*figure.png"),
        ("figure.svg", lambda data: data[:-5], "figure.svg is cut short"),
        ("figure.png", lambda data: data[:-20], "figure.png is cut short"),
        ("calibration.csv", lambda data: b"", "calibration.csv is damaged: it lacks claim"),
        ("calibration.csv", lambda data: data.replace(b"power,", b"might,"), "damaged: it lacks power"),
        ("report.html", None, "report.html cannot be written: .*; choose another with --out$"),
        ("no results", None, "no results in .*/none; make reproduce-fig2 OUT=.*/none writes some$"),
    ],
)
def test_missing_and_damaged_files_are_one_line_that_names_the_remedy(
    results: Path, name: str, damage: Callable[[bytes], bytes] | None, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (results / "calibration" / "calibration.csv").write_text(CALIBRATION)
    shutil.copy(ROOT / "experiments/results/fig1/quick/figure.png", results / "fig10" / "quick")
    (results / "fig10" / "quick" / "figure.svg").unlink()
    folder = {"calibration.csv": "calibration", "figure.png": "fig10/quick"}.get(name, "fig3/quick")
    path = results / folder / name
    where = results / "none" if name == "no results" else results
    out = results / "README.md" / "report.html" if name == "report.html" else results.parent / "report.html"
    if damage is not None:
        path.write_bytes(damage(path.read_bytes()))
    elif path.exists():
        path.unlink()
    with pytest.raises(SystemExit) as end:
        main(["report", "--results", str(where), "--out", str(out)])
    assert end.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(message, line)
    if name not in ("report.html", "no results"):
        make = "calibration" if "calib" in name else rf"reproduce-\w+ PRESET=quick OUT={results}"
        assert re.search(rf"; make {make} writes it again$", line)
