"""The page: every folder is shown whole, nothing is loaded from elsewhere, errors name the file and the remedy."""

import base64
import csv
import gzip
import json
import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import committed
import pytest
from committed import SVG, folder

from experiments._published import POINTS, Published
from experiments.meeting.page import build, load, match, report, texts
from lit_hidden.cli import main
from lit_hidden.code import spec
from lit_hidden.report.tables import ResultsError, cells, read
from lit_hidden.run import Run, vary

ROOT = Path(__file__).parents[2]
COMMITTED = ROOT / "experiments" / "results"
CLAIM: dict[str, Any] = dict(committed.CLAIM)  # type: ignore[call-overload]
NASTY = '<script>alert(1)</script> & "{{contents}}" \\1 \''
UNBOUNDED = CLAIM | {"sentence": "another", "verdict": "undecided", "margin": None, "low": None, "high": None}
EXACT = CLAIM | {"sentence": "no weight changes", "verdict": "contradicted", "kind": "check", "every": True,
                 "margin": -2, "unit": "runs"}  # fmt: skip
QUICK = vary([Run(data="digits", width=0.125, epochs=4)], net=["conv2", "conv4"], density=[0.1, 0.5], seed=range(3))
SHORT = [Run(width=0.25, epochs=5, train_images=10_000, density=d, seed=s) for d in (0.3, 0.5) for s in range(3)]
PAPER = vary([Run(density=0.5), Run(), Run(optimizer="adam")], seed=range(5))
ZHOU = [Run(density=d, method="supermask", net="conv6", seed=s) for d in (0.5, 0.7) for s in range(3)]
IMAGENET = vary([Run(net="resnet50", data="imagenet")], seed=range(3), density=[None, 0.3])
PLACES = ["fig3-paper", "fig3-short", "fig3-quick", "fig10-quick", "theorem-quick"]
OPEN = ["fig3-paper", "fig10-quick", "theorem-quick"]  # the largest that decides a claim


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
        if tag not in ("meta", "link", "img", "br", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "title", "script"} & set(self.open):
            self.text += f"{data} "

    def all(self, attribute: str) -> list[str]:
        return [attributes[attribute] or "" for _, attributes in self.tags if attribute in attributes]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results that no test changes."""
    base = tmp_path_factory.mktemp("page") / "results"
    grids = {"fig3-quick": QUICK, "fig10-quick": QUICK, "fig3-paper": PAPER, "fig3-short": SHORT}
    for place in reversed(PLACES):
        claims = [CLAIM, UNBOUNDED, EXACT, EXACT | {"kind": "primary"}] if place == "fig3-quick" else [CLAIM]
        name, _, preset = place.partition("-")
        more = {"train_accuracy": 91.25} if place == "fig3-paper" else {}
        folder(base, name, preset, committed.results(grids.get(place, QUICK[:1]), **more), claims)
    for file in ("README.md", "calibration/README.md", "gpu/bench.json", "bench/bench.svg", "fig4/short/runs.tar.gz"):
        (base / file).parent.mkdir(parents=True, exist_ok=True)
        (base / file).touch()  # these are no experiment's results, or not yet
    return base


@pytest.fixture(scope="module")
def html(whole: Path) -> str:
    report(whole, whole.parent / "report.html")
    return (whole.parent / "report.html").read_text()


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def article(page: str, name: str) -> str:
    """The text of one preset."""
    return Page(re.findall(rf'<details class="preset" id="{name}".*?<!-- {name} -->', page, re.DOTALL)[0]).text


def test_every_experiment_is_shown_in_the_order_of_the_meeting_the_papers_preset_first(page: Page) -> None:
    assert [a["id"] for t, a in page.tags if a.get("class") == "preset"] == PLACES, (
        "and nothing that is no experiment's"
    )
    assert [a["id"] for t, a in page.tags if a.get("class") == "preset" and "open" in a] == OPEN
    links = [a["href"] for t, a in page.tags if t == "a" and str(a["href"]).rpartition("-")[0]]
    assert {href for href in links if "part" not in str(href)} == {f"#{name}" for name in PLACES}
    ids = page.all("id")
    assert len(ids) == len(set(ids))
    targets = {link[1:] for link in page.all("href") if link.startswith("#")}
    assert targets | set(page.all("aria-labelledby")) <= set(ids)


def test_the_meeting_has_three_parts_and_every_experiment_a_line() -> None:
    with (ROOT / "experiments" / "meeting" / "meeting.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert list(dict.fromkeys(line["part"] for line in lines)) == [
        "The paper",
        "The reading list",
        "The discussion notes",
    ]
    experiments = {path.stem for path in (ROOT / "experiments").glob("[!_]*.py")}
    assert experiments <= {name for line in lines for name in line["experiments"].split()}


@pytest.mark.parametrize("name", [path.stem for path in (ROOT / "docs").glob("*.md")])
def test_an_experiments_texts_are_those_of_its_page(name: str) -> None:
    about, not_said = texts(name)
    written = (ROOT / "docs" / f"{name}.md").read_text()
    if "What it does not say" in written:
        assert not_said
    assert all(paragraph in written for paragraph in [*about.split("\n\n"), not_said])
    assert not re.search(r"!\[|<!--|^# ", about + not_said, re.M)


def test_an_experiment_without_a_page_has_its_docstring() -> None:
    about, not_said = texts("fig3")
    assert about.startswith("The paper's figure has a panel per net")
    assert about.endswith("NVIDIA H200.") or "Cost: " in about.rpartition("\n\n")[2]
    assert (not_said, texts("nothing")) == ("", ("", ""))


def test_verdicts_are_counted_and_shared_runs_are_counted_once(page: Page) -> None:
    assert "Is deeper better? fig3 paper CPU 15 – 1 – – – 0.0" in page.text
    assert "fig3 quick CPU 12 – 1 1 1 0 of 1 hold 0.0" in page.text, "a failing check contradicts nothing"
    assert (
        "3 experiments. 7 verdicts on claims, each preset's counted: 5 supported, 1 contradicted, "
        "1 undecided. 0 of 1 checks hold. 33 runs, 49.5 min"
    ) in page.text
    assert "5 claims have a margin with a 95% interval" in page.text, "neither exact nor unbounded"
    assert "about 2.5% of them, or 0.1, would be supported by luck; 5 are" in page.text
    assert len({run.hash for run in [*QUICK, *SHORT, *PAPER]}) == 33


def test_every_claim_is_a_row_of_one_table_that_says_what_it_is_filtered_by(page: Page) -> None:
    rows = [
        [a[f"data-{name}"] for name in ("experiment", "preset", "verdict")] for _, a in page.tags if "data-kind" in a
    ]
    assert [f"{experiment}-{preset}" for experiment, preset, _ in rows] == sorted(
        [*PLACES, *3 * PLACES[2:3]], key=PLACES.index
    )
    assert [verdict for *_, verdict in rows[2:6]] == ["supported", "undecided", "contradicted", "contradicted"]


def test_the_explorer_has_the_fields_and_numbers_that_differ(tmp_path: Path) -> None:
    lesions = [Run(density=0.5, data="digits", seed=s, callbacks=[spec("lesion.Lesion", epoch=e)] if e else [])
               for e in (None, 3, 10) for s in range(2)]  # fmt: skip
    path = folder(
        tmp_path, "lesion", "quick", committed.results(lesions, revived=lambda run: 0.123456789 * (1 + run.seed))
    )
    (data,) = re.findall(r'<script type="application/json" id="explored">(.*?)</script>', build(load(tmp_path)), re.S)
    told = json.loads(data)
    ((name, columns),) = told["runs"].items()
    assert name == "lesion, quick"
    rows = read(path / "results.csv")
    assert columns["accuracy"] == [row["accuracy"] for row in rows]
    assert columns["revived"] == [float(f"{row['revived']:.5g}") for row in rows]
    assert columns["seed"] == [row["seed"] for row in rows]
    assert columns["Lesion.epoch"] == [None, None, 3, 3, 10, 10]
    assert columns["Lesion.of"] == [None, None, *4 * ["units"]], "a default"
    assert {*columns} & {*told["fields"]} == {"callbacks", "seed", "weight_seed", "score_seed", "data_seed"}, (
        "the others are the same"
    )
    assert not {"run", "commit", "seconds"} & {*columns}


@pytest.mark.parametrize(
    ("place", "texts"),
    [
        (
            "fig3-quick",
            [
                "a claim primary ✓ supported 1.5 points 0.5 to 2.5 the 95% interval lies above 0 3",
                "another primary ? undecided none none the 95%",
                "no weight changes check, exact ✗ contradicted -2 runs 0.5 to 2.5",
                "net density accuracy (%) from – to seeds fail to train seconds per run",
                "conv2 0.1 72.50 72.00 – 73.00 3 – 90 conv2 0.5",
                "In all of them: data digits, width 0.125, method edge_popup, distribution signed_constant, epochs 4.",
                "No number that others report is of these nets, data and methods.",
            ],
        ),
        ("theorem-quick", ["accuracy (%) from – to seeds fail to train seconds per run", "72.00 – 1 – 90"]),
        (
            "fig3-short",
            [
                "Not like for like. Ours were cut (width x0.25; 10000 training images; 5 of 100 epochs).",
                "conv4 edge_popup signed_constant 0.5 80.50 80.00 – 81.00 3 86.07 85.80, its best third party",
            ],
        ),
        (
            "fig3-paper",
            [
                "91.25",
                "conv4 dense adam – 89.00 88.00 – 90.00 5 86.66 (+2.34)",
                "conv4 edge_popup signed_constant 0.5 81.00 80.00 – 82.00 5 86.07 (-5.07) 85.80, its best (-4.80)",
                "numbers typed into a third party's plotting script",
                "make reproduce-fig3 PRESET=paper Where the numbers are from commit 0123456789ab "
                "device CPU, 1 thread(s) lit_hidden 0.1.0 "
                "python 3.11.7 torch 2.15.0 lightning 2.6.6 finished 2026-11-22 seeds 0, 1, 2, 3, 4 "
                "training took 22.5 min",
            ],
        ),
    ],
)
def test_an_article_shows_claims_numbers_and_where_they_are_from(html: str, place: str, texts: list[str]) -> None:
    said = article(html, place)
    assert [text for text in texts if text not in said] == []
    assert ("Not like for like" in said) == (place == "fig3-short")


FAILING = {QUICK[0].cell: {"failed": 1, "seeds": 3, "low": 0.0084, "high": 0.906}}
MIXED = CLAIM | {"kind": "secondary", "failed": {"conv8-k10": [1, 3], "conv6-k10": [2, 5]}}
WHEN = {"claims_commit": "0123456789ab", "first_run": "2026-11-22T10:00:00+00:00"}


def lost(run: Run) -> float:
    return 9.0 if run.density == 0.1 and run.seed == 1 else 80.0 + run.seed


@pytest.mark.parametrize(
    ("runs", "more", "texts", "not_said"),
    [
        (QUICK, {"claims": [MIXED]}, ["above 0; conv8-k10: 1 of 3 seeds fail; conv6-k10: 2 of 5 seeds fail 3"], []),
        (
            QUICK,
            {"accuracy": lost, "failures": FAILING},
            ["conv2 0.1 81.00 80.00 – 82.00 2 1 of 3 (1% – 91%) 90", "conv2 0.5 81.00 80.00 – 82.00 3"],
            [],
        ),
        (
            QUICK,
            WHEN | {"claims_changed": "2026-11-26T10:00:00+00:00", "absent": ["conv6-k50 (12ab)"]},
            ["(2026-11-26), after the first run", "no run is done: 1 conv6-k50 (12ab)"],
            [],
        ),
        (ZHOU, {}, ["0.5 80.50 80.00 – 81.00 3 76.50, its best", "no augmentation, other weights"], ["(+"]),
        (
            IMAGENET,
            {"parameters": 7_650_902},
            [
                "resnet50 edge_popup signed_constant 0.3 76.50 76.00 – 77.00 3 68.60 (+7.90)",
                "resnet50 dense sgd – 88.50 88.00 – 89.00 3 76.13",
                "trained by its own recipe",
                "3 – 7,650,902 90",
            ],
            ["Not like for like", "76.13 ("],
        ),
    ],
)
def test_what_an_article_says_of_runs_and_verdicts(
    tmp_path: Path, runs: list[Run], more: dict[str, Any], texts: list[str], not_said: list[str]
) -> None:
    of_runs = {name: more[name] for name in ("accuracy", "parameters") if name in more}
    told = {name: value for name, value in more.items() if name not in of_runs}
    path = folder(tmp_path, "fig3", "quick", committed.results(runs, **of_runs), **told)
    page = build(load(path.parents[1]))
    said = article(page, "fig3-quick")
    assert [text for text in texts if text not in said] == []
    assert [text for text in not_said if text in said] == []
    assert ('<p class="note">Claims' in page) == ("2026-11-26" in str(more))


def test_several_commits_are_listed_with_their_runs(tmp_path: Path) -> None:
    path = folder(tmp_path, "fig10", "quick", committed.results(QUICK)) / "results.csv"
    path.write_text(path.read_text().replace("0123456789ab", "ba9876543210-dirty", 1))
    assert "commit 0123456789ab (11); ba9876543210-dirty (1)" in article(build(load(tmp_path)), "fig10-quick")


def test_a_published_number_belongs_to_the_run_that_is_least_cut(tmp_path: Path) -> None:
    runs = [Run(density=0.5, width=w, epochs=e) for w, e in ((0.5, 100), (1, 5), (1, 100), (2, 100), (0.5, 50))]
    runs += [Run(density=0.5, scaled=True), Run(density=0.5, lr=0.2), Run(density=0.1), Run(density=0.7)]
    runs += [Run(density=0.7, distribution="kaiming_normal")]
    found = committed.results(runs, lambda run: {0.5: 80.0}.get(run.density, 70.0) + (10 if run.scaled else 0))
    some = cells(read(folder(tmp_path, "fig3", "quick", found) / "results.csv"))
    point = Published("third party", "conv4", "edge_popup", 86.07, "signed_constant", 0.5)
    best = next(p for p in POINTS if p.source == "quoted" and p.net == "conv4")  # the best of several densities
    for one in (point, best):
        ours = match(one, some)
        assert ours is not None
        assert ours.run == Run(density=0.5)
    for change in ({"density": 0.3}, {"data": "imagenet"}, {"distribution": None, "method": "dense", "density": None}):
        assert match(replace(point, **change), some) is None


def test_the_page_loads_nothing_and_its_drawings_are_whole(page: Page) -> None:
    for name, attributes in page.tags:
        assert "src" not in attributes
        assert name not in ("object", "embed", "base", "video", "audio")
        assert not any(attribute.startswith("on") for attribute in attributes)
        assert re.match(r"#|data:,", attributes.get("href") or "#")
    policy = "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    assert policy in page.all("content")
    images = [attributes for name, attributes in page.tags if name == "img"]
    assert len(images) == len(PLACES)
    for image in images:
        assert gzip.decompress(base64.b64decode(str(image["data-packed"]))).decode() == SVG
        assert (image["width"], image["height"]) == ("40.0", "20.0")


def test_foreign_text_is_escaped_and_braces_are_left_alone(tmp_path: Path) -> None:
    claim = CLAIM | {"sentence": NASTY, "unit": NASTY, "why": NASTY}
    folder(tmp_path, "nasty", "quick", committed.results(QUICK[:1]), [claim], NASTY)
    page = build(load(tmp_path))
    assert page.count("<script") == 4
    # The title of the page and of the experiment; of a claim the sentence and the unit, in two tables, and the reason.
    assert Page(page).text.count(NASTY) == 7


def test_the_committed_results_make_a_page(tmp_path: Path) -> None:
    out = tmp_path / "there" / "report.html"
    told = report(COMMITTED, out)
    assert re.match(rf"{out}: \d+ experiments, \d+ claims .*\(\d+\.\d MB\)$", told)
    assert out.stat().st_size < 8e6
    page = out.read_text()
    assert "Figure 1: a random network hides a subnetwork that is as good as a trained network" in page
    (played,) = re.findall('srcdoc="([^"]*)"', page)
    assert unescape(played) == (COMMITTED / "fig2" / "quick" / "figure.html").read_text()


def test_a_page_of_one_experiment(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    main(["report", "--results", str(whole), "--only", "fig10"])
    page = Page((tmp_path / "report-fig10.html").read_text())
    assert [a["id"] for t, a in page.tags if a.get("class") == "preset"] == ["fig10-quick"]
    largest = max(COMMITTED.glob("*/*/figure.svg"), key=lambda path: path.stat().st_size)
    assert len(build(load(COMMITTED, largest.parts[-3]))) < 2e6
    with pytest.raises(ResultsError, match=r"no results in .*/fig4; make reproduce-fig4 OUT=.* writes some$"):
        load(whole, "fig4")


def test_an_experiment_is_a_name_and_a_folder_that_is_no_preset_is_passed_over(tmp_path: Path) -> None:
    folder(tmp_path, "fig3", "quick", committed.results(QUICK))
    (notes := tmp_path / "fig3" / "notes" / "mine.txt").parent.mkdir()
    notes.touch()
    presets = {one.preset for line in load(tmp_path) for entry in line.entries for one in entry.folders}
    assert presets == {"quick"}
    for name in ("fig*", f"../{tmp_path.name}/fig3"):
        with pytest.raises(ResultsError, match="no results in"):
            load(tmp_path, name)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("results.csv", "run,accuracy", "results.csv is damaged: it has no run"),
        ("verdicts.json", None, "No such file or directory: .*verdicts.json"),
        ("verdicts.json", '{"experiment": "fi', "JSONDecodeError"),
        ("verdicts.json", '{"experiment": "fig3"}', "KeyError: 'claims'"),
    ],
)
def test_missing_and_damaged_files_are_named_with_the_remedy(
    tmp_path: Path, name: str, content: str | None, message: str
) -> None:
    path = folder(tmp_path, "fig3", "quick", committed.results(QUICK)) / name
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(ResultsError, match=f"{message}.*; make reproduce-fig3 PRESET=quick OUT={tmp_path} writes it"):
        load(tmp_path)
    with pytest.raises(ResultsError, match=r"no results in .*/none; make reproduce-fig2 OUT=.*/none writes some$"):
        load(tmp_path / "none")
