"""Critical periods: vision that is blurred until an age, then clear.

The meeting's notes compare the differentiation of the visual system with pruning. A cataract that is removed too late
leaves an eye weak for life. Networks are alike: where training images are blurred until some epoch, and then clear,
the accuracy stays below that of a net that always saw clearly, although what follows is as long as its whole training.
Images that are upside down until then leave no such deficit.

Ours: masks beside weights, and three ways to count. The whole training is as long as the clear one (equal total); or
what follows the blur is (equal rest), under one schedule of the rate; or it is, under a rate that is restarted, after a
training on blurred images whose own rate fell to 0. Blur leaves a quarter of the native pixels in height and width.
Weights learn at 0.01, since LeNet's collapse at 0.1 in small batches. Controls: images upside down, at equal rest; nets
that never see clearly; a short blur; a second training with nothing blurred before.

Source: Achille, Rovere and Soatto, arXiv:1711.08856, figures 1 and 2 (All-CNN on CIFAR-10, blur to 8 x 8 pixels); the
restarted rate: after arXiv:2510.09687, in which cyclic rates remove the effect.
Cost: quick 192 runs, 4 minutes on two cores; short 192, on 20,000 images of MNIST and 10,000 of CIFAR-10, about 2
core-hours; paper 320, all images, full width.
"""

from dataclasses import replace
from functools import cache

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments import _panels as panels
from experiments._ages import Curves, ages, line, nets, over_age, over_epochs
from lit_hidden.code import spec
from lit_hidden.judge import Claim
from lit_hidden.report import style
from lit_hidden.results import Results
from lit_hidden.run import Run

PIXELS = {"digits": 2, "mnist": 7, "cifar10": 8}  # that blur leaves, of 8, 28 and 32
PARTS = (0.25, 0.5, 1.0)  # of a training: the ages at which vision clears
RATES = {"edge_popup": 0.1, "dense": 0.01}
SMALL = Run(net="lenet", width=0.5, data="digits", epochs=8, batch_size=32)
LENET = Run(net="lenet", data="mnist", train_images=20_000, epochs=8)
CONV = Run(net="conv2", width=0.25, augment=False, train_images=10_000, epochs=8)
PRESETS = {  # a run of each net, ages, and the number of seeds
    "smoke": ([replace(SMALL, width=0.1, epochs=2)], (0.5, 1.0), 1),
    "quick": ([SMALL, replace(SMALL, net="conv2", width=0.125, epochs=4)], PARTS, 3),
    "short": ([LENET, CONV], PARTS, 3),
    "paper": ([replace(LENET, train_images=None, epochs=48), Run(net="conv4", augment=False, epochs=100)], PARTS, 5),
}


def runs(preset: str) -> list[Run]:
    bases, parts, seeds = PRESETS[preset]
    grid = []
    for seed in range(seeds):
        for base in bases:
            run = replace(base, seed=seed)
            for clear in (replace(run, density=0.5), replace(run, lr=RATES["dense"])):
                grid += [clear, clear.then(epochs=clear.epochs)]  # the second: age 0 of a restarted rate
                for until in ages(clear, parts):
                    blur = (spec("deficit.Deficit", until=until, size=PIXELS[run.data]),)
                    flip = (spec("deficit.Deficit", until=until, kind="flip"),)
                    rest = replace(clear, epochs=until + clear.epochs)
                    grid += [replace(clear, callbacks=blur), *(replace(rest, callbacks=kind) for kind in (blur, flip))]
                    parent = replace(clear, epochs=until, callbacks=blur)
                    grid += [parent] if until < clear.epochs else []  # else it is the one of equal total
                    grid.append(parent.then(epochs=clear.epochs, callbacks=()))
    return grid


# --- reading the runs ------------------------------------------------------------------------------------------------


@cache
def age(run: Run) -> int:
    """Give the age at which vision clears, in epochs; 0 of a run that always sees clearly."""
    return int(((run.after or run).option("Deficit.until") or [0])[0])


def life(results: Results, net: str) -> int:
    """Give the epochs of a net's whole training: the last age."""
    return max(age(run) for run in results.whole.runs if run.net == net)


@cache
def arm(run: Run, whole: int) -> str:
    """Name how a run of a net with so many epochs in a whole training is counted."""
    if run.after is not None or not run.callbacks:
        return "clear" if run.after is None else "restarted"
    if run.option("Deficit.kind") == ["flip"]:
        return "flip"
    return {whole: "total", whole + age(run): "rest"}.get(run.epochs, "parent")


def of(results: Results, method: str, net: str, name: str) -> Results:
    """Keep a net's runs of one arm; maybe none."""
    whole = life(results, net)
    return panels.there(results, net=net, method=method).where(lambda run: arm(run, whole) == name)


def at(results: Results, method: str, net: str, name: str, part: float = 1.0) -> Results:
    """Keep a net's runs of an arm in which vision clears at a part of a whole training."""
    until = round(part * life(results, net))
    return of(results, method, net, name).where(lambda run: age(run) == until)


def deficit(results: Results, method: str, net: str, name: str, part: float = 1.0) -> float:
    """Give the points that a net lacks, to one that always saw clearly."""
    return of(results, method, net, "clear").mean() - at(results, method, net, name, part).mean()


def deficits(results: Results, name: str, part: float = 1.0, methods: tuple[str, ...] = tuple(RATES)) -> list[float]:
    """List the points that nets lack, by method and net."""
    return [deficit(results, method, net, name, part) for method in methods for net in nets(results)]


def beyond(results: Results, one: tuple[str, float], other: tuple[str, float]) -> list[float]:
    """List by how many points the deficit of one arm and age is larger than that of another, by method and net."""
    pairs = zip(deficits(results, *one), deficits(results, *other), strict=True)
    return [first - second for first, second in pairs]


CLAIMS = [
    Claim(
        "weights: after a blur as long as a whole training, an equal rest leaves at least 1 point lost, in every net",
        lambda r: [points - 1 for points in deficits(r, "rest", methods=("dense",))],
    ),
    Claim(
        "masks: after a blur as long as a whole training, an equal rest leaves at least 1 point lost, in every net",
        lambda r: [points - 1 for points in deficits(r, "rest", methods=("edge_popup",))],
    ),
    Claim(
        "images upside down leave a deficit at least 1 point smaller than blur does, masks and weights, in every net",
        lambda r: [points - 1 for points in beyond(r, ("rest", 1.0), ("flip", 1.0))],
    ),
    Claim(
        "where the rate is restarted, less than 1 point is lost, masks and weights, in every net",
        lambda r: [1 - points for points in deficits(r, "restarted")],
        floor=lambda r: [
            part.mean()
            for method in RATES
            for net in nets(r)
            for part in (of(r, method, net, "clear"), at(r, method, net, "restarted"))
        ],
    ),
    Claim(
        "at an equal rest blur costs masks more than weights, in every net",
        lambda r: [
            deficit(r, "edge_popup", net, "rest") - deficit(r, "dense", net, "rest") for net in nets(r)
        ],
        kind="exploratory",
    ),
    Claim(
        "control: where nothing was blurred, a second training with the rate restarted gains at most 1 point, in all",
        lambda r: [1 + points for points in deficits(r, "restarted", 0.0)], kind="secondary",
        floor=lambda r: [of(r, method, net, "clear").mean() for method in RATES for net in nets(r)],
    ),
    Claim(
        "at an equal rest a blur over a whole training costs more than one over its first quarter, in all",
        lambda r: beyond(r, ("rest", 1.0), ("rest", 0.25)), kind="secondary",
    ),
    Claim(
        "at an equal total blur over half of a training costs more than blur over its first quarter, in all",
        lambda r: beyond(r, ("total", 0.5), ("total", 0.25)), kind="secondary",
    ),
    Claim(
        "control: nets that never see clearly lack at least 10 points, masks and weights, in every net",
        lambda r: [points - 10 for points in deficits(r, "total")], kind="secondary",
    ),
]  # fmt: skip

LOOKS = {
    "total": panels.Look("blur, equal total", style.ORANGE, (0, (5, 1.5)), "s"),
    "rest": panels.Look("blur, equal rest", style.NAVY, "-", "o"),
    "restarted": panels.Look("blur, equal rest, rate restarted", style.PURPLE, (0, (1.2, 1.2)), "D"),
    "flip": panels.Look("upside down, equal rest", style.GREY, (0, (6, 1.2, 1.2, 1.2)), "x"),
    "clear": panels.Look("always clear", style.BLACK, (0, (1, 1.6)), ""),
}
WORDS = {"dense": "weights", "edge_popup": "masks"}


def draw(results: Results, figure: Figure) -> None:
    figure.set_size_inches(12.5, 8)
    rows = figure.subplots(2, 3)
    figure.subplots_adjust(left=0.055, right=0.985, top=0.95, bottom=0.16, wspace=0.2, hspace=0.36)
    found = nets(results)
    for row, letters, (method, word) in zip(rows, ("abc", "def"), WORDS.items(), strict=True):
        for axes, letter, net in zip(row, letters, found, strict=False):
            draw_deficits(axes, results, method, net, f"({letter}) {net}, {word}: deficit by age of clear vision")
        for axes in row[len(found) : 2]:
            axes.axis("off")
        draw_curves(row[2], results, method, found[-1])
        row[2].set_title(f"({letters[2]}) {found[-1]}, {word}, cleared at the line")
    panels.finish(figure, list(rows.flat), bbox_to_anchor=(0.5, 0.045), ncols=6)


def draw_deficits(axes: Axes, results: Results, method: str, net: str, title: str) -> None:
    """Draw the points below the mean of nets that always saw clearly, over age; off the scale: never clear."""
    clear, curves = of(results, method, net, "clear"), Curves()
    for name, look in LOOKS.items():
        if name != "clear" and len(clear):
            parts = of(results, method, net, name).by(age)
            curves[look] = {until: [clear.mean() - value for value in part.values()] for until, part in parts.items()}
    never = curves[LOOKS["total"]].pop(life(results, net), []) if curves else []
    axes.axhline(0, color=style.COLORS["muted"], linewidth=0.8)
    over_age(axes, curves, "points below always clear", title)
    axes.set_xlabel("age (epochs)" + (f"; never clear: {sum(never) / len(never):.1f} points" if never else ""))


def draw_curves(axes: Axes, results: Results, method: str, net: str) -> None:
    """Draw accuracy over epochs, where vision clears after a whole training; a restarted rate begins there."""
    whole = life(results, net)
    over_epochs(axes, of(results, method, net, "clear"), LOOKS["clear"])
    for name in ("rest", "restarted", "flip"):
        over_epochs(axes, at(results, method, net, name), LOOKS[name], since=whole if name == "restarted" else 0)
    line(axes, whole)
