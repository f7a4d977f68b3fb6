"""Figure 9: on ImageNet few weights are best, about 30% of ResNet-50, and edge-popup finds better ones than Zhou et al.

The paper's figure has ResNet-50's top-1 accuracy on ImageNet over the percentage of weights kept, for edge-popup and
for Zhou et al.'s sampled supermasks. As in figure 6, what a supermask keeps is a result: its points stand where it
ended, and it is compared with edge-popup interpolated there. The densities are ours. At 30% and dense the runs are
figure 8's.

Source: Ramanujan et al., arXiv:1911.13299, figure 9 (the caption from memory, to be checked); Zhou et al.,
arXiv:1905.01067; hyper-parameters of both from the authors' configs.
Cost: quick 18 runs, 2 minutes on two busy cores; short 27, an estimated hour, a fifth of it figure 8's; paper 63, of
100 epochs, each of them days of one GPU, 9 of them figure 8's.
"""

from matplotlib.figure import Figure

from experiments import _curves as curves
from experiments import _imagenet as imagenet_grid
from experiments import _margins as margins
from lit_hidden.judge import Claim
from lit_hidden.results import Results
from lit_hidden.run import Run, vary

BEST = imagenet_grid.DENSITY
ROUNDED = ("density_rounded", "accuracy_rounded")  # of a supermask's most probable mask
DENSITIES = (0.1, 0.3, 0.5, 0.7, 0.9)
PRESETS = {  # the densities of edge-popup, the distributions, and where supermasks start
    "smoke": ((0.1, 0.3, 0.7), ("signed_constant",), (0.5,)),
    "quick": ((0.1, 0.3, 0.5, 0.7), ("signed_constant",), (0.5,)),
    "short": (DENSITIES, ("signed_constant",), (0.3, 0.5, 0.7)),
    "paper": (DENSITIES, imagenet_grid.DISTRIBUTIONS, DENSITIES),
}


def runs(preset: str) -> list[Run]:
    densities, distributions, starts = PRESETS[preset]
    dense = vary(imagenet_grid.seeds(preset), net=["resnet50"])
    hidden = vary(dense, density=densities, distribution=distributions)
    begun = vary(dense, density=starts, distribution=distributions)
    zhou = [imagenet_grid.instead(run, "supermask") for run in begun]
    return imagenet_grid.by_seed([*hidden, *zhou, *dense])


def by_distribution(results: Results) -> list[Results]:
    """Part the subnetworks, found either way, by the distribution of their weights."""
    hidden = results.where(lambda run: run.method != "dense")
    return [hidden.select(distribution=distribution) for distribution in hidden.each("distribution")]


def best(results: Results) -> list[float]:
    """List the points by which 30% beats 10%, 70% and more, by distribution and density."""
    popup = [same.select(method="edge_popup") for same in by_distribution(results)]
    return [
        same.mean(density=BEST) - same.mean(density=density)
        for same in popup
        for density in same.each("density")
        if density < BEST or density >= 0.7
    ]


CLAIMS = [
    Claim("30% of ResNet-50 is better than 10% and than 70% or more", best),
    Claim(
        "at as many weights kept, edge-popup beats sampled supermasks",
        lambda r: [margins.supermasks_behind(same) for same in by_distribution(r)],
    ),
    Claim(
        "at as many weights kept, edge-popup beats the supermasks' most probable masks",
        lambda r: [margins.supermasks_behind(same, *ROUNDED) for same in by_distribution(r)],
        kind="secondary",
    ),
]


def draw(results: Results, figure: Figure) -> None:
    figure.set_size_inches(7.6, 5.2)
    axes = figure.add_axes((0.085, 0.34, 0.895, 0.58))
    curves.panel(axes, results, "resnet50", zhou=imagenet_grid.DISTRIBUTIONS)
    axes.set_title("ResNet-50")
    curves.finish(figure, {"resnet50": axes}, results)
