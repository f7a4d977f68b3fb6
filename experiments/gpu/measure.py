"""What a GPU takes for a step of a hidden net, by net, precision and kernel; a line of JSON each, written as it comes.

`python3 measure.py cuda OUT`; with `cpu` it tries itself, on tiny nets.
"""

import json
import sys
import warnings
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
    # By default torch computes convolutions in TF32, products in float32.
    torch.set_float32_matmul_precision("high" if precision == "TF32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision != "float32"
    with torch.autocast(dev.type, torch.bfloat16, enabled=precision == "bf16"):
        ms = timed(partial(steps.train, block), 0.3 if gpu else 0.0, many)()
    say(step=f"{net} hidden {precision}", ms=round(ms, 5))
    steps.forget()


def kernels(net: str) -> None:
    """The kernels of a step and how long each takes, from an eager one: the graph holds the same."""
    steps, block = prepared(net, 8)
    for _ in range(4):
        steps._step(block.loader, batch_size)
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
for precision, net in product(("float32", "TF32", "bf16", "default"), nets):
    step(net, precision)
for net in nets:
    kernels(net)
