"""What a GPU takes for a step of a hidden net, by net, precision and kernel; a line of JSON each, written as it comes.

    python3 measure.py cuda OUT      (cpu: tries the script itself, on tiny nets)

The most telling sections come first; one that fails is reported, and the next one starts.
"""

import json
import sys
import traceback
import warnings
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from experiments.bench.rows import timed
from experiments.bench.training import Watched
from lit_hidden.modules import LitSubnetwork
from lit_hidden.steps import Steps

dev, out = torch.device(sys.argv[1]), Path(sys.argv[2])
gpu = dev.type == "cuda"
nets, width, batch_size = (("conv2", "conv8"), 1.0, 128) if gpu else (("conv2",), 0.125, 8)


def say(**row: object) -> None:
    line = json.dumps(row)
    print(line, flush=True)
    with (out / "measure.jsonl").open("a") as file:
        file.write(line + "\n")


def section(work: Callable[..., None], *arguments: str) -> None:
    try:
        work(*arguments)
    except Exception:
        say(section=[work.__name__, *arguments], failed=traceback.format_exc().splitlines()[-40:])  # its causes before
        if gpu:
            torch.cuda.set_stream(torch.cuda.default_stream())  # a capture that failed leaves its own


def prepared(net: str, at_once: int) -> tuple[Steps, Any]:
    """A hidden net's steps and a block of that many batches."""
    torch.manual_seed(0)
    module = LitSubnetwork(net, width=width, schedule="constant").to(dev)
    steps = Steps(module.net, module.configure_optimizers()["optimizer"])
    return steps, next(iter(Watched(1, batch_size, dev, at_once)))


def step(net: str, precision: str) -> None:
    """Milliseconds of a training step, 100 of them at once, as the engine takes them."""
    many = 100 if gpu else 4
    steps, block = prepared(net, many)
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    with torch.autocast(dev.type, torch.bfloat16, enabled=precision == "bf16"):
        # By default torch computes convolutions in TF32, products in float32.
        torch.set_float32_matmul_precision("high" if precision == "TF32" else "highest")
        torch.backends.cudnn.allow_tf32 = precision != "float32"
        try:
            losses = [round(float(steps.train(block)["loss"]), 4) for _ in range(2)]
            ms = timed(partial(steps.train, block), 0.3 if gpu else 0.0, many)()
        finally:
            torch.set_float32_matmul_precision("highest")
            torch.backends.cudnn.allow_tf32 = True
    peak = torch.cuda.max_memory_allocated() / 1e9 if gpu else 0
    say(step=f"{net} hidden {precision}", ms=round(ms, 5), losses=losses, peak_gb=round(peak, 2))
    steps.forget()


def kernels(net: str) -> None:
    """The kernels of a step and how long each takes, from an eager one: the graph holds the same."""
    steps, block = prepared(net, 8)
    for _ in range(4):
        steps.place.fill_(0)
        steps._step(block.loader, batch_size)
    steps.place.fill_(0)
    with profile(activities=[ProfilerActivity.CUDA if gpu else ProfilerActivity.CPU]) as seen:
        steps._step(block.loader, batch_size)
        if gpu:
            torch.cuda.synchronize()
    rows = [(e.key, e.count, e.self_device_time_total if gpu else e.self_cpu_time_total) for e in seen.key_averages()]
    rows = sorted((row for row in rows if row[2] > 0), key=lambda row: -row[2])
    say(kernels=net, number=sum(row[1] for row in rows), us=round(sum(row[2] for row in rows)))
    with (out / f"kernels-{net}.txt").open("w") as listed:
        listed.writelines(f"{us:9.1f} us {count:4d}  {key}\n" for key, count, us in rows)


torch.set_num_threads(1)
torch.backends.cudnn.benchmark = True  # as the engine's Trainer sets it
warnings.filterwarnings("ignore", module="lightning")
out.mkdir(parents=True, exist_ok=True)
for net, precision in product(nets, ("default", "float32")):
    section(step, net, precision)
for net in nets:
    section(kernels, net)
for net, precision in product(nets, ("bf16", "TF32")):
    section(step, net, precision)
