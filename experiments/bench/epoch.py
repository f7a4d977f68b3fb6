"""Epochs through `Trainer.fit` against a bare loop: what Lightning and the engine add to steps."""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from experiments.bench.rows import Bench, Section, timed, turns
from experiments.bench.training import BATCH, EDGE, Watched, fit, like, made, noise, step_of
from lit_hidden.classifier import LitClassifier
from lit_hidden.engine.train import AT_ONCE
from lit_hidden.modules import LitSubnetwork

NETS = {"cpu": ("conv2", "conv4"), "cuda": ("conv2", "conv4", "conv8")}
STEPS = {"cpu": 5, "cuda": 20}  # timed, of an epoch; of the tiny net 10 times as many
PRODUCT = {"cpu": 1536, "cuda": 8192}  # rows and columns of the matrices whose product stands for the peak
TINY = "tiny net"


def epoch(bench: Bench) -> Section:
    """Measure epochs of hidden nets in Trainer.fit, what Lightning adds, and a large matrix product beside them."""
    device, kind = bench.device, bench.device.type
    size, at_once = PRODUCT[kind], AT_ONCE if kind == "cuda" else 0
    about = (
        f"Hidden nets (density 0.5), batches of {BATCH} drawn 32x32 images through our loader: an epoch in Trainer.fit "
        "with the engine's settings and callbacks, cut to a few steps and without evaluation, and a bare loop; on a "
        f"GPU {AT_ONCE} steps at once. Lightning's share, with the engine's callbacks, is the tiny net's fit - bare "
        "(one linear layer, 2 images; its caches are warm, so it is a lower bound): for a larger net the difference "
        f"is between two noisy numbers. Peak: a product of two float32 matrices of {size}x{size} (on a GPU in TF32, "
        "as convolutions)."
    )
    section = Section("epoch", kind, about)
    factors = torch.randn(2, size, size, device=device)
    multiply = timed(lambda: torch.mm(*factors), bench.seconds / 4)

    def product() -> float:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high" if kind == "cuda" else before)  # TF32
        gflops = 2e-6 * size**3 / multiply()
        torch.set_float32_matmul_precision(before)
        return gflops

    added: list[float] = []
    for net in (TINY, *NETS[kind]):
        data = like(net, 32, 2 if net == TINY else BATCH)
        make = partial(_tiny, device) if net == TINY else partial(made, net, 0.5, data, device)
        loader = Watched(EDGE + STEPS[kind] * (10 if net == TINY else 1), data.batch_size, device, at_once)
        with FlopCounterMode(display=False) as counter:
            torch.autograd.backward(make().training_step(noise(data, device), 0))
        with tempfile.TemporaryDirectory() as folder:
            measures: dict[str, Callable[[], float]] = {
                "fit, a step": loader.timing(partial(fit, make(), loader, Path(folder))),
                "bare, a step": loader.timing(partial(_bare, step_of(make(), at_once), loader)),
                "matrix product": product,
            }
            fitted, bare, peak = turns(measures, bench.rounds).values()
        difference = [a - b for a, b in zip(fitted, bare, strict=True)]
        added = added or difference
        rates = [counter.get_total_flops() / ms / 1e6 for ms in fitted]
        section.add("GFLOP/s", {"fit": rates, "matrix product": peak}, net)
        section.add("ms", {"fit, a step": fitted, "bare, a step": bare, "fit - bare, a step": difference}, net)
        shares = {"Lightning's share": (added, fitted), "share of the peak": (rates, peak)}
        percent = {name: [100 * a / b for a, b in zip(*pair, strict=True)] for name, pair in shares.items()}
        section.add("%", percent, net)
    return section


def _tiny(device: torch.device) -> LitClassifier:
    """Build a hidden net whose step is short: one linear layer."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10, bias=False))
    return LitSubnetwork(net, density=0.5, schedule="constant").to(device)


def _bare(step: Callable[[object], object], loader: Watched) -> None:
    for batch in loader:
        step(batch)
