"""A training step: hidden, dense, and the published algorithm written plainly."""

from collections.abc import Callable
from functools import partial

import torch

from lit_hidden.classifier import LitClassifier
from lit_hidden.engine.bench.loops import Watched
from lit_hidden.engine.bench.plain import PlainStep
from lit_hidden.engine.bench.rows import Effort, Row, Section, each, interleaved, ratio, written
from lit_hidden.engine.bench.training import Batch, like, made, noise, training
from lit_hidden.engine.train import AT_ONCE
from lit_hidden.steps import Steps

NETS = ("conv2", "conv4", "conv6", "conv8", "resnet50")
DENSITY = 0.5
BATCH = 128  # of 32x32 images
LARGE = {"cpu": (8, 64), "cuda": (64, 224)}  # of resnet50: images in a batch, and their pixels


def steps(effort: Effort, device: torch.device) -> Section:
    """Measure a training step of each net: milliseconds, and ratios paired by round."""
    rows: list[Row] = []
    for net in NETS:
        rows += _of(net, effort, device)
    batch, pixels = LARGE[device.type]
    about = (
        f"Forward, backward and update on one batch of noise that is on the device, in float32, at width 1, hidden at "
        f"density {DENSITY:g} and dense: Conv2 to Conv8 on {BATCH} images of 32x32 pixels, ResNet-50 on {batch} of "
        f"{pixels}x{pixels}{' (small, for a CPU)' if device.type == 'cpu' else ''}. Plain: the published algorithm as "
        "the authors formulate it (full sort, masks of floats, 1x1 convolutions for linear layers, NCHW, three numbers "
        "read at each step), with the same weights and scores. Ratios are paired by round; plain has the first "
        f"{effort.few} alone."
    )
    if device.type == "cuda":
        about += f" Conv2 to Conv8, hidden and dense: {AT_ONCE} at once from a CUDA graph, augmentation included."
    section = Section(f"Training steps, {device.type}", about, rows, [], "steps", device.type)
    return Section(**vars(section) | {"table": _table(section)})


def _of(net: str, effort: Effort, device: torch.device) -> list[Row]:
    batch_size, pixels = (BATCH, 32) if net.startswith("conv") else LARGE[device.type]
    data = like(net, pixels, batch_size)
    batch = noise(data, device)
    hidden, dense = (made(net, density, data, device) for density in (DENSITY, None))
    # As the engine takes them: many at once from a CUDA graph, where it can.
    many = AT_ONCE if device.type == "cuda" and net.startswith("conv") else 0
    work = {what: taken(module, batch, many) for what, module in (("hidden", hidden), ("dense", dense))}
    work["plain"] = partial(PlainStep(hidden), batch)
    times = {what: 1000 / (many or 1) if what != "plain" else 1000.0 for what in work}
    with effort.console.status(f"{net}: first steps"):
        warm = sum(each(one, device) for one in work.values())
    # Short turns: so near in time, what disturbs one step disturbs the others too. Plain takes long, and what is to
    # be known of it is no matter of percents: it has the first rounds alone.
    turn = effort.seconds / 8
    rounds = effort.enough(40, max(warm, len(work) * turn))
    measures = {what: lambda _, one=one, by=times[what]: by * each(one, device, turn) for what, one in work.items()}
    first = interleaved(measures, effort.few, net, effort.console)
    more = interleaved({what: measures[what] for what in ("hidden", "dense")}, rounds - effort.few, net, effort.console)
    rows = {what: Row(what, "ms", numbers + more.get(what, ()), net) for what, numbers in first.items()}
    return [
        *rows.values(),
        ratio("hidden / dense", rows["hidden"], rows["dense"]),
        ratio("plain / hidden", rows["plain"], rows["hidden"]),
        ratio("plain / dense", rows["plain"], rows["dense"]),
    ]


def taken(module: LitClassifier, batch: Batch, many: int) -> Callable[[], object]:
    """Give what takes a step on a batch; or so `many` at once, on drawn images of CIFAR-10's size.

    Args:
        module: is trained.
        batch: on its device.
        many: steps; 0 takes the one.
    """
    if not many:
        return partial(next, training(module, batch))
    block = next(iter(Watched(1, len(batch[1]), batch[1].device, many)))
    steps = Steps(module.net, module.configure_optimizers()["optimizer"], module.recipe.label_smoothing)
    return partial(steps.train, block)


def _table(section: Section) -> list[tuple[str, ...]]:
    """One line a net: medians, and of the ratio that says what hiding costs its middle half too."""
    table: list[tuple[str, ...]] = [
        ("net", "dense ms", "hidden ms", "plain ms", "hidden / dense", "middle half", "plain / hidden", "rounds")
    ]
    for net in section.groups():
        names = ("dense", "hidden", "plain", "hidden / dense", "plain / hidden")
        dense, hidden, plain, cost, gain = (row for name in names if (row := section.find(name, net)))
        quarter = len(cost.rounds) // 4
        inner = sorted(cost.rounds)[quarter : len(cost.rounds) - quarter]
        half = f"{inner[0]:.3f} to {inner[-1]:.3f}"
        numbers = [written(row.median) for row in (dense, hidden, plain)]
        table.append((net, *numbers, f"{cost.median:.3f}", half, f"{gain.median:.2f}", str(len(cost.rounds))))
    return table
