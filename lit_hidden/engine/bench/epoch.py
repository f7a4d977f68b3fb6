"""An epoch through `Trainer.fit` against a bare loop: what Lightning adds to a step, and how busy the device is."""

import math
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lit_hidden.classifier import LitClassifier
from lit_hidden.data import CIFAR10Data
from lit_hidden.engine.bench.loops import EDGE, Clock, Watched, bare, blocks, fit
from lit_hidden.engine.bench.rows import Effort, Measure, Row, Section, each, interleaved, written
from lit_hidden.engine.bench.training import Batch, like, made, noise
from lit_hidden.engine.train import AT_ONCE
from lit_hidden.modules import LitSubnetwork

NETS = {"cpu": ("conv2", "conv4"), "cuda": ("conv2", "conv4", "conv8")}
DENSITY = 0.5
BATCH = 128
PRODUCT = {"cpu": 1536, "cuda": 8192}  # rows and columns of the matrices whose product stands for the peak
PART = "Lightning's part of a step"
TINY, TINY_BATCH, TINY_STEPS = "tiny net", 2, 200


def flops(module: LitClassifier, batch: Batch) -> int:
    """Count the floating point operations of the products and convolutions of a step, forward and backward."""
    with FlopCounterMode(display=False) as counter:
        torch.autograd.backward(module.training_step(batch, 0))
    module.zero_grad()
    return int(counter.get_total_flops())


class Epochs:
    """The epochs of a net, with Lightning and without, each with a module of its own.

    Args:
        make: builds the module.
        loader: what both are trained on.
        device: where.
        folder: where the engine's files go.
        of: makes one number of an epoch's steps.
    """

    def __init__(
        self,
        make: Callable[[], LitClassifier],
        loader: Watched,
        device: torch.device,
        folder: Path,
        of: Callable[[list[float]], float] = statistics.median,
    ) -> None:
        self.loader, self.device, self.folder, self.of = loader, device, folder, of
        self.inside, self.outside = make(), make()
        # The clock is the host's: on a GPU, which runs behind, what is left of a step says nothing.
        self.clock = None if device.type == "cuda" or loader.at_once else Clock(self.inside)
        self.optimizer = self.outside.configure_optimizers()["optimizer"]
        self.ours: list[float] = []  # milliseconds of a step outside the module, its optimizer and the loader
        self.ends: list[float] = []  # milliseconds after the last step

    def fit(self, _: int) -> float:
        """Milliseconds of a step in `Trainer.fit`."""
        if self.clock:
            self.clock.spent = []
        fit(self.inside, self.loader, self.device, self.folder)
        end, steps = time.perf_counter(), self.loader.steps()
        last = self.of(steps) * (self.loader.at_once or 1)
        if self.clock:  # the last step's own time, which on a busy machine may be half of another's
            last = self.clock.spent[-1] + self.loader.making[-1]
        self.ends.append(1000 * (end - self.loader.asked[-1] - last))
        if self.clock:
            work = map(sum, zip(self.clock.spent[EDGE - 1 :], self.loader.making[EDGE - 1 :], strict=True))
            self.ours.append(1000 * self.of([step - inside for step, inside in zip(steps, work, strict=False)]))
        return 1000 * self.of(steps)

    def bare(self, _: int) -> float:
        """Milliseconds of a step in the bare loop."""
        (blocks if self.loader.at_once else bare)(self.outside, self.loader, self.optimizer)
        return 1000 * self.of(self.loader.steps())


def epoch(effort: Effort, device: torch.device, folder: Path) -> Section:
    """Measure an epoch of hidden nets with Lightning and without, and a large matrix product beside it.

    Args:
        effort: how long and how often.
        device: where.
        folder: for the engine's files.
    """
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(dir=folder) as place:
        for net in NETS[device.type]:
            rows += _of(net, effort, device, Path(place))
        rows += _tiny(effort, device, Path(place))
    size = PRODUCT[device.type]
    about = (
        f"Hidden nets at density {DENSITY:g}, width 1, batches of {BATCH} drawn 32x32 images through our loader: an "
        "epoch in Trainer.fit with the engine's settings and callbacks, cut to a few steps and without evaluation, and "
        "a bare loop of the same steps. "
        + (
            "Lightning's part of a step is taken inside fit: the step less what module, optimizer and loader take of "
            "it, which is not the difference of two noisy numbers. "
            if device.type == "cpu"
            else f"Both take {AT_ONCE} steps at once from one CUDA graph, as the engine does; one by one, the bare "
            "loop alone. The GPU runs behind the host, so Lightning's part is the difference of fit and bare. "
        )
        + "It is the engine's callbacks' part too. That of the tiny net (one linear layer, 2 images) is the difference "
        "of the lower quartiles of fit and bare, whose steps are short there; the caches are warm, so it is the least. "
        f"Peak: a product of two {size}x{size} matrices of float32 (on a GPU in TF32, as its convolutions are), in "
        "each round; the net's operations are those of "
        "its products and convolutions, forward and backward. The end of an epoch: metrics, checkpoint, and the "
        f"Trainer's end. Medians of {effort.few} rounds, of the tiny net {effort.rounds}."
    )
    return Section(f"An epoch, {device.type}", about, rows, _findings(rows), "epoch", device.type)


def _of(net: str, effort: Effort, device: torch.device, folder: Path) -> list[Row]:
    data = like(net, 32, BATCH)
    batch = noise(data, device)
    module = made(net, DENSITY, data, device)
    operations = flops(module, batch)
    with effort.console.status(f"{net}: first steps"):
        work = partial(bare, module, [batch], module.configure_optimizers()["optimizer"])
        took = min(each(work, device), each(work, device, effort.seconds / 4))
    del module
    # Three are not counted; of the others one may be disturbed.
    at_once = AT_ONCE if device.type == "cuda" else 0
    steps = EDGE + min(20, max(4, math.ceil(1.5 * effort.seconds / took / (at_once or 1))))
    make = partial(made, net, DENSITY, data, device)
    epochs = Epochs(make, Watched(steps, BATCH, device, at_once), device, folder)
    size = PRODUCT[device.type]
    one, other = torch.randn(2, size, size, device=device)

    def product(_: int) -> float:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high" if device.type == "cuda" else before)  # TF32, as convolutions
        try:
            return 2 * size**3 / each(partial(torch.mm, one, other), device, effort.seconds / 4) / 1e9
        finally:
            torch.set_float32_matmul_precision(before)

    measures: dict[str, Measure] = {"fit": epochs.fit, "bare": epochs.bare, "product": product}
    if at_once:
        measures["singly"] = Epochs(make, Watched(EDGE + at_once, BATCH, device), device, folder).bare
    found = interleaved(measures, effort.few, f"{net}, {steps} steps", effort.console)
    fitted, without = (Row(f"{name}, a step", "ms", found[name], net) for name in ("fit", "bare"))
    peak = Row("matrix product", "GFLOP/s", found["product"], net)
    rates = Row("fit", "GFLOP/s", tuple(operations / ms / 1e6 for ms in fitted.rounds), net)
    difference = tuple(a - b for a, b in zip(fitted.rounds, without.rounds, strict=True))
    part = tuple(epochs.ours) or difference
    share = tuple(100 * a / b for a, b in zip(part, fitted.rounds, strict=True))
    busy = tuple(100 * a / b for a, b in zip(rates.rounds, peak.rounds, strict=True))
    return [
        fitted,
        without,
        *([Row("bare, steps one by one", "ms", found["singly"], net)] if at_once else []),
        Row("fit - bare, a step", "ms", difference, net),
        Row(PART, "ms", part, net),
        Row("Lightning's share", "%", share, net),
        Row("end of an epoch", "ms", tuple(epochs.ends), net),
        rates,
        peak,
        Row("share of the peak", "%", busy, net),
    ]


def quiet(steps: list[float]) -> float:
    """Give the lower quartile: whatever disturbs a short step makes it longer."""
    return sorted(steps)[len(steps) // 4]


def _tiny(effort: Effort, device: torch.device, folder: Path) -> list[Row]:
    """What Lightning adds where a step is short."""

    def make() -> LitClassifier:
        net = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(CIFAR10Data.shape), 10, bias=False))
        return LitSubnetwork(net, density=DENSITY, schedule="constant").to(device)

    steps = EDGE + max(2, math.ceil(TINY_STEPS * min(1.0, effort.seconds)))
    epochs = Epochs(make, Watched(steps, TINY_BATCH, device), device, folder, quiet)
    found = interleaved({"fit": epochs.fit, "bare": epochs.bare}, effort.rounds, TINY, effort.console)
    fitted, without = (Row(f"{name}, a step", "ms", found[name], TINY) for name in ("fit", "bare"))
    difference = tuple(a - b for a, b in zip(fitted.rounds, without.rounds, strict=True))
    rows = [fitted, without, Row("fit - bare, a step", "ms", difference, TINY)]
    if epochs.ours:
        rows.append(Row(PART, "ms", tuple(epochs.ours), TINY))
    return rows


def _findings(rows: list[Row]) -> list[str]:
    numbers = {(row.group, row.what): row.median for row in rows}
    tiny = numbers[TINY, "fit - bare, a step"]
    return [
        f"{net}: Lightning adds {written(numbers[net, PART])} ms to a step, "
        f"{written(share)}% of it (by the tiny net {written(tiny)} ms); training does "
        f"{written(numbers[net, 'share of the peak'])}% of a large matrix product's operations a second"
        for (net, what), share in numbers.items()
        if what == "Lightning's share"
    ]
