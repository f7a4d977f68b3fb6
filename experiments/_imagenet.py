"""The grid that figures 8, 9 and 10 and table 2 share: which ResNets, on ImageNet and on what stands in for it.

Full ImageNet is the `paper` preset alone. `short` has 10 classes of Tiny ImageNet-100 at its own 64 pixels, `quick` and
`smoke` scikit-learn's digits, which need no download. Where batches are smaller than the authors' 256, the rates are
smaller in proportion: at the authors' rate the dense nets hardly train in a few epochs, and any subnetwork would seem
as good as they are. (ResNet-34 reached 21% after 4 epochs of `short`, and 40% at a quarter of the rate; one seed.)
"""

from dataclasses import replace

from lit_hidden.recipes import recipe
from lit_hidden.run import Run, vary

DENSITY = 0.3
DISTRIBUTIONS = ("kaiming_normal", "signed_constant")
NETS = {
    "resnet18": "ResNet-18",
    "resnet34": "ResNet-34",
    "resnet50": "ResNet-50",
    "resnet101": "ResNet-101",
    "wide_resnet50_2": "Wide ResNet-50",
}
DIGITS = Run(data="digits", width=0.125)
TINY = Run(data="tiny-imagenet-100", classes="first-10", image_size=64, width=0.25)
FEW, SMALL = ("resnet50", "wide_resnet50_2"), ("resnet18", "resnet34", "resnet50")
PRESETS = {  # a run, the hidden nets, the dense nets, and how many seeds
    "smoke": (replace(DIGITS, epochs=1, batch_size=64, lr=0.064, warmup_epochs=0), FEW, ("resnet34",), 1),
    "quick": (replace(DIGITS, epochs=3, batch_size=32, lr=0.032, warmup_epochs=1), FEW, SMALL, 3),
    "short": (replace(TINY, epochs=10, batch_size=64, lr=0.064, warmup_epochs=1), FEW, SMALL, 3),
    "paper": (Run(data="imagenet"), ("resnet50", "resnet101", "wide_resnet50_2"), tuple(NETS), 3),
}


def seeds(preset: str) -> list[Run]:
    """List the preset's run, once for each seed."""
    base, _, _, number = PRESETS[preset]
    return vary([base], seed=range(number))


def hidden(preset: str) -> list[Run]:
    """List the subnetworks of 30%, of every hidden net and both distributions."""
    return vary(seeds(preset), net=PRESETS[preset][1], density=[DENSITY], distribution=DISTRIBUTIONS)


def runs(preset: str) -> list[Run]:
    """List the subnetworks, the dense nets, and a random mask of ResNet-50 as a control."""
    dense = vary(seeds(preset), net=PRESETS[preset][2])
    control = [instead(run, "random") for run in vary(seeds(preset), net=["resnet50"], density=[DENSITY])]
    return by_seed([*hidden(preset), *dense, *control])


def instead(run: Run, method: str) -> Run:
    """Give a run another method: its warm-up as published, and its rate, in proportion to the batch."""
    published = recipe(method, run.net)
    lr = None if run.batch_size is None else published.lr * run.batch_size / published.batch_size
    return replace(run, method=method, lr=lr, warmup_epochs=None)


def by_seed(grid: list[Run]) -> list[Run]:
    """Sort runs seed by seed: half a grid is a figure with fewer seeds."""
    return sorted(grid, key=lambda run: run.seed)
