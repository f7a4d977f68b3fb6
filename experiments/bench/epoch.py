"""Epochs through `Trainer.fit` against a bare loop, and whole runs: what Lightning and the engine add to steps."""

import math
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from experiments import fig3
from experiments.bench.rows import Bench, Section, timed
from experiments.bench.training import BATCH, EDGE, Watched, fit, like, made, noise, step_of
from lit_hidden.classifier import LitClassifier
from lit_hidden.engine.train import AT_ONCE, train
from lit_hidden.modules import LitSubnetwork
from lit_hidden.run import Run

NETS = {"cpu": ("conv2", "conv4"), "cuda": ("conv2", "conv4", "conv8")}
PRODUCT = {"cpu": 1536, "cuda": 8192}  # rows and columns of the matrices whose product stands for the peak
TINY = "tiny net"
EPOCHS, SHORT, MORE = 100, 2, 8  # of a whole run, of a short one, and how many a longer one has besides
RUNS = {net: Run(net=net, density=0.5) for net in ("conv2", "conv4", "conv6", "conv8")}


class Epochs:
    """Epochs with Lightning and without, each with a module of its own that `make` builds; milliseconds of a step."""

    def __init__(self, make: Callable[[], LitClassifier], loader: Watched, folder: Path) -> None:
        self.module, self.step, self.loader, self.folder = make(), step_of(make(), loader.at_once), loader, folder
        self.ends: list[float] = []  # milliseconds after the last step

    def fit(self) -> float:
        """Measure a step in `Trainer.fit`."""
        fit(self.module, self.loader, self.folder)
        end, step = time.perf_counter(), statistics.median(self.loader.steps())
        self.ends.append(1000 * (end - self.loader.asked[-1]) - step * (self.loader.at_once or 1))
        return step

    def bare(self) -> float:
        """Measure a step in the bare loop."""
        for batch in self.loader:
            self.step(batch)
        return statistics.median(self.loader.steps())


def tiny(device: torch.device) -> LitClassifier:
    """Build a hidden net whose step is short: one linear layer."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10, bias=False))
    return LitSubnetwork(net, density=0.5, schedule="constant").to(device)


def epoch(bench: Bench, folder: Path) -> Section:
    """Measure epochs of hidden nets in Trainer.fit, what Lightning adds, and a large matrix product beside them."""
    device, size, at_once = bench.device, PRODUCT[bench.device.type], AT_ONCE if bench.device.type == "cuda" else 0
    about = (
        f"Hidden nets (density 0.5), batches of {BATCH} drawn 32x32 images through our loader: an epoch in Trainer.fit "
        "with the engine's settings and callbacks, cut to a few steps and without evaluation, and a bare loop; on a "
        f"GPU {AT_ONCE} steps at once. Lightning's share, with the engine's callbacks, is of the tiny net's fit - bare "
        "(one linear layer, 2 images; its caches are warm, so it is the least): of a larger net the difference is of "
        f"two noisy numbers. Peak: a product of two float32 matrices of {size}x{size} (on a GPU in TF32, as "
        "convolutions). The end of an epoch: metrics, checkpoint and the Trainer's end."
    )
    section = Section("epoch", device.type, about)
    factors = torch.randn(2, size, size, device=device)

    def product() -> float:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high" if device.type == "cuda" else before)  # TF32
        gflops = 2e-6 * size**3 / timed(lambda: torch.mm(*factors), bench.seconds / 4)
        torch.set_float32_matmul_precision(before)
        return gflops

    added: list[float] = []
    for net in (TINY, *NETS[device.type]):
        data = like(net, 32, 2 if net == TINY else BATCH)
        make = partial(tiny, device) if net == TINY else partial(made, net, 0.5, data, device)
        module, batch = make(), noise(data, device)
        with FlopCounterMode(display=False) as counter:
            torch.autograd.backward(module.training_step(batch, 0))
        took = timed(partial(step_of(module), batch), 0) / 1000
        count = min(200 if net == TINY else 20, max(4, math.ceil(1.5 * bench.seconds / took)))
        epochs = Epochs(make, Watched(EDGE + count, data.batch_size, device, at_once), folder)
        measures = {"fit, a step": epochs.fit, "bare, a step": epochs.bare, "matrix product": product}
        fitted, bare, peak = bench.turns(f"{net}, an epoch", measures, bench.few).values()
        difference = [a - b for a, b in zip(fitted, bare, strict=True)]
        added = added or difference
        times = {"fit, a step": fitted, "bare, a step": bare, "fit - bare, a step": difference}
        section.add("ms", {**times, "end of an epoch": epochs.ends}, net)
        rates = [counter.get_total_flops() / ms / 1e6 for ms in fitted]
        section.add("GFLOP/s", {"fit": rates, "matrix product": peak}, net)
        share = {
            "Lightning's share": zip(added, fitted, strict=True),
            "share of the peak": zip(rates, peak, strict=True),
        }
        section.add("%", {name: [100 * a / b for a, b in pairs] for name, pairs in share.items()}, net)
    return section


def runs(bench: Bench, data_dir: Path, of: dict[str, Run] = RUNS) -> Section:
    """Measure short and longer runs by the paper's protocol, and say how long whole ones take: seconds."""
    about = (
        "Runs of the paper's figure 3 (density 0.5) as reproduce trains them, in this process: data, evaluation, "
        f"checkpoints, results. {SHORT} and {SHORT + MORE} epochs are trained in turn; {EPOCHS} epochs are the first "
        f"plus the difference between the two for each epoch that is left. Medians of {bench.few} rounds."
    )
    section = Section("runs", bench.device.type, about)

    def took(run: Run) -> float:
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            train(run, Path(folder), data_dir, device=bench.device.type)
            return time.perf_counter() - began

    times: dict[str, list[tuple[float, float]]] = {}
    for net, run in of.items():
        measures = {f"{n} epochs": partial(took, replace(run, epochs=n)) for n in (SHORT, SHORT + MORE)}
        measures[f"{SHORT} epochs"]()  # compiles, and chooses algorithms
        short, longer = bench.turns(f"{net}, whole runs", measures, bench.few).values()
        times[net] = [(a, (b - a) / MORE) for a, b in zip(short, longer, strict=True)]
        whole = {f"{EPOCHS} epochs": [a + (EPOCHS - SHORT) * each for a, each in times[net]]}
        each = {"an epoch, evaluation included": [each for _, each in times[net]], f"a run of {SHORT} epochs": short}
        section.add("s", each | whole, net)
    if of is RUNS:
        section.add(
            "min", {"figure 3, one run after another": [minutes(each) for each in zip(*times.values(), strict=True)]}
        )
    return section


def minutes(times: Sequence[tuple[float, float]]) -> float:
    """Estimate figure 3's paper preset, one run after another.

    `times` holds, for each of `RUNS`, the seconds of a short run and of each further epoch. Smaller batches are more
    steps, each taken to last as long: Adam's baseline has 60 images.
    """
    by = dict(zip(RUNS, times, strict=True))
    grid = [run.resolved for run in fig3.runs("paper")]
    more = [BATCH / (r.batch_size or BATCH) * (by[r.net][0] + max(0, r.epochs - SHORT) * by[r.net][1]) for r in grid]
    return sum(more) / 60
