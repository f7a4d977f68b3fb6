"""Figure 8: on ImageNet too, 30% of a random ResNet is as good as a smaller ResNet, trained.

The paper's figure has ImageNet's top-1 accuracy over the number of parameters: subnetworks of 30% of ResNet-50,
ResNet-101 and Wide ResNet-50, of Kaiming normal and of signed constant weights, beside dense ResNets. Added here: the
range over seeds, and a random 30% of ResNet-50. What the presets are is said in `experiments/_imagenet.py`.

Source: Ramanujan et al., arXiv:1911.13299, figure 8 and section 5 (caption and dense nets from memory, to be checked);
hyper-parameters from the authors' configs. These have no dense ResNet-34 and ResNet-101, which are trained as the other
dense nets are.
Cost: quick 24 runs, 3 minutes on two busy cores; short 24, an estimated hour; paper 36, of which 33 of 100 epochs, each
of them days of one GPU.
"""

from matplotlib.figure import Figure

from experiments import _imagenet as imagenet_grid
from experiments import _margins as margins
from experiments import _sizes as sizes
from lit_hidden.judge import Claim
from lit_hidden.results import Results

runs = imagenet_grid.runs
KEPT = f"{100 * imagenet_grid.DENSITY:g}%"
WIDE = {"net": "wide_resnet50_2", "distribution": "signed_constant"}  # the subnetwork compared
TRAINED = {"net": "resnet34", "method": "dense"}  # with this net


def larger(results: Results) -> list[float]:
    """List the points by which subnetworks of the other nets beat ResNet-50's, by distribution and net."""
    hidden = results.select(method="edge_popup")
    same = [hidden.select(distribution=distribution) for distribution in hidden.each("distribution")]
    others = [net for net in hidden.each("net") if net != "resnet50"]
    return [cells.mean(net=net) - cells.mean(net="resnet50") for cells in same for net in others]


CLAIMS = [
    Claim(
        f"{KEPT} of Wide ResNet-50, of signed constants, is at most 1 point below ResNet-34 trained",
        lambda r: 1 - (r.mean(**TRAINED) - r.mean(**WIDE)),
        floor=lambda r: [r.mean(**TRAINED), r.mean(**WIDE)],
    ),
    Claim(
        f"{KEPT} of Wide ResNet-50 has fewer parameters than ResNet-34",
        lambda r: r.mean("parameters", **TRAINED) - r.mean("parameters", **WIDE) - 1, "parameters", "check",
        every=True,
    ),
    Claim("in every net signed constants beat Kaiming normal weights", margins.constants_ahead),
    Claim("larger nets than ResNet-50 have better subnetworks, with either distribution", larger),
    Claim(f"the {KEPT} of ResNet-50 found beats a random {KEPT}", margins.found_ahead),
]  # fmt: skip


def draw(results: Results, figure: Figure) -> None:
    axes = sizes.draw(figure, results, lambda run: imagenet_grid.NETS[run.net])
    axes.set_title(f"{KEPT} of random ResNets, and ResNets trained")
