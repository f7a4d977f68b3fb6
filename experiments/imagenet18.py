"""Figure 8 where no GPU is at hand: ResNet-18 on Tiny ImageNet-100.

Not the paper's net, data or size: ResNet-18 at two widths, on all 100 classes of Tiny ImageNet-100, at 32 pixels. It
asks what figure 8 asks: accuracy over the number of parameters, for subnetworks of 30%, of Kaiming normal and of signed
constant weights, beside the dense nets. The smaller net stands where ResNet-34 stands there: 30% of ResNet-18 x0.25 are
214k weights, and ResNet-18 x0.125 has 183k parameters.

Source: Ramanujan et al., arXiv:1911.13299, figure 8, whose question it is (caption from memory, to be checked);
hyper-parameters from the authors' configs for ImageNet.
Cost: quick 21 runs, 2 minutes on two busy cores; short 21, an estimated hour; paper 35, of which 30 of 100 epochs, on a
GPU.
"""

from dataclasses import replace

from matplotlib.figure import Figure

from experiments import _margins as margins
from experiments import _sizes as sizes
from lit_hidden.judge import Claim
from lit_hidden.results import Results
from lit_hidden.run import Run, vary

DENSITY = 0.3
DISTRIBUTIONS = ("kaiming_normal", "signed_constant")
NET = Run(net="resnet18")
TINY = replace(NET, data="tiny-imagenet-100")
PRESETS = {  # a run, its rate in proportion to the batch; the widths, the wider first; and how many seeds
    "smoke": (replace(NET, data="digits", epochs=1, batch_size=64, lr=0.064, warmup_epochs=0), (0.25, 0.125), 1),
    "quick": (replace(NET, data="digits", epochs=3, batch_size=32, lr=0.032, warmup_epochs=1), (0.25, 0.125), 3),
    "short": (replace(TINY, image_size=32, augment="square", epochs=10, warmup_epochs=1), (0.25, 0.125), 3),
    "paper": (TINY, (1.0, 0.5), 5),
}


def runs(preset: str) -> list[Run]:
    base, widths, seeds = PRESETS[preset]
    grid = []
    for seed in vary([base], seed=range(seeds)):
        for net in vary([seed], width=widths):
            grid += [*vary([net], density=[DENSITY], distribution=DISTRIBUTIONS), net]
        grid.append(replace(seed, width=widths[0], density=DENSITY, method="random"))
    return grid


def found(results: Results, at: int, distribution: str = "signed_constant") -> float:
    """Give the accuracy of the narrower net's subnetwork (`at` is 0) or of the wider one's (-1)."""
    return results.mean(method="edge_popup", distribution=distribution, width=results.each("width")[at])


def trained(results: Results, at: int) -> float:
    """Give the accuracy of the narrower (0) or the wider (-1) net, trained."""
    return results.mean(method="dense", width=results.each("width")[at])


CLAIMS = [
    Claim("30% of the wider net, of signed constants, is at most 1 point below the net of half its width, trained",
          lambda r: 1 - (trained(r, 0) - found(r, -1)), floor=lambda r: [trained(r, 0), found(r, -1)]),
    Claim("30% of the wider net, of signed constants, is at most 1 point below that net trained",
          lambda r: 1 - (trained(r, -1) - found(r, -1)), floor=lambda r: [trained(r, -1), found(r, -1)]),
    Claim("at both widths signed constants beat Kaiming normal weights",
          lambda r: margins.constants_ahead(r, by="width")),
    Claim("the wider net has the better subnetwork, with either distribution",
          lambda r: [found(r, -1, distribution) - found(r, 0, distribution) for distribution in DISTRIBUTIONS]),
    Claim("the 30% of the wider net found beats a random 30%", margins.found_ahead),
]  # fmt: skip


def draw(results: Results, figure: Figure) -> None:
    axes = sizes.draw(figure, results, lambda run: f"x{run.width:g}")
    axes.set_title("30% of random ResNet-18 of two widths, and ResNet-18 trained")
