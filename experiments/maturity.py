"""Maturity: a mask that stops learning at an age, a density that changes with age, and a second task afterwards.

The meeting's notes ask "stop learning at 25? pruning", and compare the pruning of networks with that of brains. Brains
have most synapses in childhood, then lose about half of them, and change less from then on.

Ours, all of it. The mask is frozen at an age; the rest of the training is spent on nothing, or on the mask of the last
layer. The density moves linearly in the first half of all steps and rests in the second, so that nets have equally
many steps at their last density: from 100% or 20% to 50%, and from 100% or 8% to 20%. A constant density has had the
first half too. Then the pixels are permuted, a second task. The plastic net goes on with all scores, the mature one
with those of its last layer. What is left of the first task is measured with the last layer of now, and that of then.
Controls: trainings whose cosine ends at the age of freezing, since a high rate leaves a worse mask; a mask frozen
before it learns; the first task again instead of a second; a fresh net on the second task.

Source: Chechik, Meilijson and Ruppin, Neural Computation 10:1759, 1998 (first more synapses, then fewer); Averbeck,
PNAS 119:e2121331119, 2022 (what pruning costs); permuted pixels: Goodfellow et al., arXiv:1312.6211.
Cost: quick 152 runs, 4 minutes on two cores; short 114, on 20,000 images of MNIST and 10,000 of CIFAR-10, about 1.2
core-hours; paper 190, all images, full width.
"""

from dataclasses import replace
from functools import cache, partial

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments import _panels as panels
from experiments._ages import Curves, ages, line, nets, over_age, over_epochs, side_by_side
from lit_hidden.code import spec
from lit_hidden.judge import Claim
from lit_hidden.report import style
from lit_hidden.results import Results
from lit_hidden.run import Run

freeze = partial(spec, "maturity.Freeze")
PARTS = (0.0, 0.25, 0.5, 0.75)  # of a training: the ages at which a mask is frozen
STARTS = {0.5: (1.0, 0.2), 0.2: (1.0, 0.08)}  # densities at the end, and at the start of nets whose density moves
SMALL = Run(net="lenet", width=0.5, density=0.5, data="digits", epochs=8, batch_size=32)
LENET = Run(net="lenet", density=0.5, data="mnist", train_images=20_000, epochs=8)
CONV = Run(net="conv2", width=0.25, density=0.5, augment=False, train_images=10_000, epochs=12)
WHOLE = [replace(LENET, train_images=None, epochs=48), Run(net="conv4", density=0.5, augment=False, epochs=100)]
PRESETS = {  # a run of each net, ages, and the number of seeds; LeNet learns a second task
    "smoke": ([replace(SMALL, width=0.1, epochs=2)], (0.5,), 1),
    "quick": ([SMALL, replace(SMALL, net="conv2", width=0.125, epochs=4)], PARTS, 4),
    "short": ([LENET, CONV], PARTS, 3),
    "paper": (WHOLE, PARTS, 5),
}


def runs(preset: str) -> list[Run]:
    bases, parts, seeds = PRESETS[preset]
    grid, task = [], spec("maturity.SecondTask")
    for seed in range(seeds):
        for base in bases:
            run = replace(base, seed=seed)
            grid.append(run)
            for age in ages(run, parts):
                grid += [replace(run, callbacks=(freeze(epoch=age, then=then),)) for then in ("nothing", "last")]
                grid += [replace(run, epochs=age)] if age else []
            for density, starts in STARTS.items():
                grid += [replace(run, density=density)] if density != run.density else []
                moved = [(spec("maturity.Density", start=start),) for start in starts]
                grid += [replace(run, density=density, callbacks=callbacks) for callbacks in moved]
            if run.net == "lenet":
                after = [(task,), (freeze(epoch=0, then="last"), task), ()]
                grid += [*(run.then(callbacks=callbacks) for callbacks in after), replace(run, callbacks=(task,))]
    return grid


# --- reading the runs ------------------------------------------------------------------------------------------------


@cache
def arm(run: Run) -> str:
    """Name what a run is for: a first task learned to its end, frozen, with a density that moves; or a second task."""
    names = [one.class_path.rpartition(".")[2] for one in run.callbacks]
    if run.after is not None:
        return ("continued", "plastic", "mature")[len(names)]
    frozen = str(run.option("Freeze.then")[0]) if "Freeze" in names else ""
    return frozen or ({"Density": "moved", "SecondTask": "fresh"}[names[0]] if names else "learns")


def of(results: Results, net: str, name: str, density: float = 0.5) -> Results:
    """Keep a net's runs of one arm; maybe none."""
    return panels.there(results, net=net, density=density).where(lambda run: arm(run) == name)


def life(results: Results, net: str) -> int:
    """Give the epochs of a net's whole training."""
    return max(run.epochs for run in results.whole.runs if run.net == net)


@cache
def end(run: Run) -> int:
    """Give the age at which a net stops learning: because it is frozen, or because its training ends."""
    return int((run.option("Freeze.epoch") or [run.epochs])[0])


def course(results: Results, net: str, density: float, name: str) -> Results:
    """Keep a net's runs whose density comes to its last value in one way of `OVER_TIME`; maybe none."""
    if name == "constant":
        whole = life(results, net)
        return of(results, net, "learns", density).where(lambda run: run.epochs == whole)
    start = STARTS[density][("pruned", "grown").index(name)]
    return of(results, net, "moved", density).where(lambda run: run.option("Density.start") == [start])


def stopped(results: Results, net: str, name: str, part: float = 0.5) -> Results:
    """Keep a net's runs that stop at a part of the training, in one way of `FROZEN`; maybe none."""
    age = round(part * life(results, net))
    return of(results, net, name).where(lambda run: end(run) == age)


def lacking(results: Results, part: float) -> list[float]:
    """List the points that a net frozen at a part of its life, which then learns nothing, lacks, by net."""
    pairs = [(course(results, n, 0.5, "constant"), stopped(results, n, "nothing", part)) for n in nets(results)]
    return [whole.mean() - frozen.mean() for whole, frozen in pairs]


def ahead(results: Results, name: str) -> list[float]:
    """List the points by which one way to go on from half of a life beats to learn nothing, by net."""
    return [stopped(results, net, name).mean() - stopped(results, net, "nothing").mean() for net in nets(results)]


def pruning(results: Results, density: float, other: str) -> list[float]:
    """List the points by which pruning from 100% beats another way to the same density, by net."""
    pairs = [[course(results, net, density, name).mean() for name in ("pruned", other)] for net in nets(results)]
    return [pruned - rest for pruned, rest in pairs]


def unequal(results: Results) -> list[float]:
    """List how far the numbers of weights kept at the end differ, negated, by last density and net."""
    counts = [results.values("parameters", net=net, density=k) for k in STARTS for net in nets(results)]
    return [min(found) - max(found) for found in counts]


def stopping(results: Results) -> float:
    """Give the price of stopping: the points of the second task that the mature net lacks."""
    return of(results, "lenet", "plastic").mean() - of(results, "lenet", "mature").mean()


def lost(results: Results, name: str = "plastic", number: str | None = "first_readout") -> float:
    """Give the points of the first task that a net lost; of the plastic one, the price of going on."""
    return course(results, "lenet", 0.5, "constant").mean() - of(results, "lenet", name).mean(number)


CLAIMS = [
    Claim(
        "a mask that stops learning at half of its life is at most 2 points below one that learns on, in every net",
        lambda r: [2 - points for points in lacking(r, 0.5)],
        floor=lambda r: [stopped(r, *one).mean() for n in nets(r) for one in ((n, "nothing"), (n, "learns", 1.0))],
    ),
    Claim(
        "from half of a life on, learning in the last layer alone is worth at least 1 point, in every net",
        lambda r: [points - 1 for points in ahead(r, "last")],
    ),
    Claim(
        "to 50%: pruning from 100% is at least 1 point better than a constant density, in every net",
        lambda r: [points - 1 for points in pruning(r, 0.5, "constant")],
    ),
    Claim(
        "to 20%: pruning from 100% is at least 1 point better than a constant density, in every net",
        lambda r: [points - 1 for points in pruning(r, 0.2, "constant")],
    ),
    Claim(
        "pruning is at least 1 point better than growing to the same density, at both and in every net",
        lambda r: [points - 1 for density in STARTS for points in pruning(r, density, "grown")],
    ),
    Claim("price of stopping: the mature net lacks at least 5 points of the second task", lambda r: stopping(r) - 5),
    Claim(
        "price of going on: with its last layer of then, the plastic net lost at least 5 points of the first task",
        lambda r: lost(r) - 5,
    ),
    Claim(
        "a cosine that ends at half of a life is worth at least 1 point over freezing there, in every net",
        lambda r: [points - 1 for points in ahead(r, "learns")], kind="secondary",
    ),
    Claim(
        "control: a mask frozen before it learns lacks at least 20 points, in every net",
        lambda r: [points - 20 for points in lacking(r, 0)], kind="secondary",
    ),
    Claim(
        "control: as long a training on the first task again costs it less than 1 point",
        lambda r: 1 - lost(r, "continued", None), kind="secondary",
        floor=lambda r: [of(r, "lenet", name).mean() for name in ("learns", "continued")],
    ),
    Claim("the price of stopping is higher than that of going on", lambda r: stopping(r) - lost(r), kind="exploratory"),
    Claim(
        "after the first task the plastic net learns the second at least 1 point better than a fresh net",
        lambda r: of(r, "lenet", "plastic").mean() - of(r, "lenet", "fresh").mean() - 1, kind="exploratory",
    ),
    Claim(
        "all nets of one last density keep equally many weights in the end", unequal, "weights", "check", every=True,
    ),
    Claim(
        "with its last layer of then, the mature net is as good at the first task as before (within 0.1 points)",
        lambda r: 0.1 - abs(lost(r, "mature")), kind="check", every=True,
    ),
]  # fmt: skip

FROZEN = {  # how a net stops at an age
    "last": panels.Look("frozen but for the last layer's mask", style.NAVY, "-", "o"),
    "nothing": panels.Look("frozen", style.ORANGE, (0, (5, 1.5)), "s"),
    "learns": panels.Look("trained no longer, its rate falls", style.PURPLE, (0, (1.2, 1.2)), "D"),
}
OVER_TIME = {  # how the density comes to its last value
    "pruned": panels.Look("density sinks, from 100%", style.SKY, "-", "^"),
    "constant": panels.Look("constant density", style.BLACK, (0, (4, 1.2)), "p"),
    "grown": panels.Look("density grows, from 0.4 of the last", "#145c40", (0, (3, 1, 1, 1)), "v"),
}
SECOND = {
    "plastic": panels.Look("plastic: all scores go on", style.SKY, "-", "P"),
    "mature": panels.Look("mature: only the last layer's go on", style.ORANGE, (0, (5, 1.5)), "X"),
    "fresh": panels.Look("a fresh net", style.GREY, (0, (1.2, 1.2)), "x"),
    "continued": panels.Look("the first task again", style.BLACK, (0, (4, 1.2)), "*"),
}
TASKS = {"second task": None, "first task,\nlast layer of then": "first_readout", "first task": "first"}


def draw(results: Results, figure: Figure) -> None:
    figure.set_size_inches(12.5, 8.6)
    top, bottom = figure.subplots(2, 3)
    figure.subplots_adjust(left=0.055, right=0.985, top=0.95, bottom=0.2, wspace=0.2, hspace=0.36)
    found = nets(results)
    for axes, letter, net in zip(top, "ab", found, strict=False):
        draw_frozen(axes, results, net, f"({letter}) {net}: by the age at which it stops")
    for axes in top[len(found) : 2]:
        axes.axis("off")
    places = [(net, density) for net in found for density in STARTS]
    ways: Curves = {}
    for name, look in OVER_TIME.items():
        parts = [course(results, *place, name) for place in places]
        ways[replace(look, linestyle="")] = {at: part.values() for at, part in enumerate(parts) if len(part)}
        over_epochs(bottom[0], course(results, found[0], 0.2, name), look)
    side_by_side(top[2], ways, [f"{net}\nto {100 * k:g}%" for net, k in places], "(c) by how the density came about")
    line(bottom[0], life(results, found[0]) / 2)
    bottom[0].set_title(f"(d) {found[0]}, to 20%: left of the line it moves")
    draw_second(bottom[1], results)
    for name in ("plastic", "mature", "fresh"):
        over_epochs(bottom[2], of(results, "lenet", name), SECOND[name])
    bottom[2].set_title("(f) lenet learns the second task")
    panels.finish(figure, [*bottom[::2], bottom[1], *top], bbox_to_anchor=(0.5, 0.04))


def draw_frozen(axes: Axes, results: Results, net: str, title: str) -> None:
    """Draw accuracy at the end over the age at which a net stops; off the scale are those frozen before they learn."""
    parts = {look: of(results, net, name).by(end) for name, look in FROZEN.items()}
    never = [found.mean() for name in ("nothing", "last") if (found := parts[FROZEN[name]].pop(0, None))]
    curves: Curves = {look: {age: part.values() for age, part in by.items()} for look, by in parts.items()}
    over_age(axes, curves, "test accuracy (%)", title)
    told = "; frozen at 0: {:.0f}%, {:.0f}% but for the last layer".format(*never) if never[1:] else ""
    axes.set_xlabel(f"age (epochs){told}")


def draw_second(axes: Axes, results: Results) -> None:
    """Draw the accuracy on the second task, and on the first after it, with the last layer of now and of then."""
    parts: Curves = {}
    for name, look in SECOND.items():
        part, places = of(results, "lenet", name), {"fresh": (0,), "continued": (2,)}.get(name, (0, 1, 2))
        numbers = [None if name == "continued" else number for number in TASKS.values()]
        parts[replace(look, linestyle="")] = {at: part.values(numbers[at]) for at in places if len(part)}
    side_by_side(axes, parts, list(TASKS), "(e) lenet after the second task")
