"""What a GPU does with lit_hidden: facts, steps, selection, kernels, epochs; a line of JSON each, written as it comes.

    python3 measure.py cuda OUT SECONDS      (cpu: tries the script itself, on tiny nets)

The most telling sections come first. None starts after SECONDS; one that fails is reported, and the next one starts.
"""

import csv
import json
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from functools import partial
from importlib.metadata import distributions
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from experiments.bench.rows import timed
from experiments.bench.training import Watched
from lit_hidden.engine.train import train
from lit_hidden.modules import LitDense, LitSubnetwork
from lit_hidden.run import Run
from lit_hidden.selection import _select_torch, top_k_mask
from lit_hidden.steps import Steps

dev, out, until = torch.device(sys.argv[1]), Path(sys.argv[2]), time.time() + float(sys.argv[3])
gpu = dev.type == "cuda"
nets, width, batch_size = (("conv2", "conv8", "conv4", "conv6"), 1.0, 128) if gpu else (("conv2",), 0.125, 8)
turn = 0.3 if gpu else 0.0  # seconds of a measurement at least
torch.set_num_threads(1)
torch.backends.cudnn.benchmark = True  # as the engine's Trainer sets it
warnings.filterwarnings("ignore", module="lightning")
out.mkdir(parents=True, exist_ok=True)


def say(**row: object) -> None:
    line = json.dumps(row)
    print(line, flush=True)
    with (out / "measure.jsonl").open("a") as file:
        file.write(line + "\n")


def section(name: str, work: Callable[[], object]) -> None:
    if time.time() > until:
        say(section=name, left_out="no time")
        return
    began = time.perf_counter()
    try:
        work()
    except Exception:
        say(section=name, failed=traceback.format_exc().splitlines()[-40:])  # its causes before it
        if gpu:
            torch.cuda.set_stream(torch.cuda.default_stream())  # a capture that failed leaves its own
    say(section=name, seconds=round(time.perf_counter() - began, 1))


def graphed(work: Callable[[], object], number: int) -> Callable[[], object]:
    """`number` times the work in a CUDA graph; on a CPU as it is."""
    if not gpu:
        return lambda: [work() for _ in range(number)]
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=side):
        kept = [work() for _ in range(number)]

    def replay() -> list[object]:
        graph.replay()
        return kept  # whose memory the graph writes to

    return replay


def facts() -> None:
    """Versions, and the rate of large matrix products."""
    installed = {found.name: found.version for found in distributions()}
    say(
        **{name: installed.get(name) for name in ("torch", "triton", "lightning", "numpy")},
        python=sys.version.split()[0],
        conv_tf32=torch.backends.cudnn.allow_tf32,
        matmul=torch.get_float32_matmul_precision(),
        device=torch.cuda.get_device_name() if gpu else "CPU",
    )
    size = 8192 if gpu else 256
    for name, precision, dtype in (
        ("float32", "highest", torch.float32), ("TF32", "high", torch.float32), ("bf16", "highest", torch.bfloat16),
    ):  # fmt: skip
        torch.set_float32_matmul_precision(precision)
        factors = torch.randn(2, size, size, device=dev).to(dtype)
        ms = timed(partial(torch.mm, *factors), turn)()
        say(product=name, tflops=round(2 * size**3 / ms / 1e9, 1))
    torch.set_float32_matmul_precision("highest")


def prepared(net: str, kind: str, at_once: int) -> tuple[Steps, Any]:
    """A net's steps and a block of that many batches."""
    torch.manual_seed(0)
    module = (LitSubnetwork if kind == "hidden" else LitDense)(net, width=width, schedule="constant").to(dev)
    steps = Steps(module.net, module.configure_optimizers()["optimizer"])
    return steps, next(iter(Watched(1, batch_size, dev, at_once)))


def steps_of(net: str, kind: str, precision: str) -> None:
    """Milliseconds of a training step, 100 of them at once, as the engine takes them."""
    many = 100 if gpu else 4
    steps, block = prepared(net, kind, many)
    began = time.perf_counter()
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    with torch.autocast(dev.type, torch.bfloat16, enabled=precision == "bf16"):
        # torch's own choice, the default: convolutions in TF32, products in float32.
        torch.set_float32_matmul_precision("high" if precision == "TF32" else "highest")
        torch.backends.cudnn.allow_tf32 = precision != "float32"
        try:
            losses = [round(float(steps.train(block).loss), 4) for _ in range(2)]
            first = time.perf_counter() - began
            ms = timed(partial(steps.train, block), turn, many)()
        finally:
            torch.set_float32_matmul_precision("highest")
            torch.backends.cudnn.allow_tf32 = True
    peak = torch.cuda.max_memory_allocated() / 1e9 if gpu else 0
    say(
        step=f"{net} {kind} {precision}", ms=round(ms, 5), losses=losses, first_s=round(first, 1),
        peak_gb=round(peak, 2),
    )  # fmt: skip
    steps.forget()


def selection() -> None:
    """Microseconds of a selection, 10 in a graph."""
    for n in (1728, 2560, 36_864, 65_536, 147_456, 589_824, 1_179_648, 2_359_296, 4_194_304) if gpu else (1728,):
        scores = torch.empty(n).uniform_(-1, 1).to(dev)
        ways = {"us": partial(top_k_mask, scores, n // 2)}
        ways["by_topk_us"] = partial(_select_torch, scores.view(torch.int32), n // 2)
        say(selection=n, **{way: round(1000 * timed(graphed(one, 10), turn, 10)(), 2) for way, one in ways.items()})


def kernels(net: str) -> None:
    """The kernels of a step and how long each takes, from an eager one: the graph holds the same."""
    steps, block = prepared(net, "hidden", 8)
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


def epochs(net: str) -> None:
    """Seconds of each epoch of a run as `reproduce` trains it, evaluation included, and of the whole run."""
    run = (
        Run(net=net, density=0.5, epochs=6) if gpu else Run(data="digits", net=net, width=0.125, epochs=2, density=0.5)
    )
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        place = Path(folder) / "data" / "cifar-10-batches-bin"
        place.mkdir(parents=True)
        for name in [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"] if gpu else []:  # drawn pixels
            records = np.random.default_rng(0).integers(0, 256, (10_000, 3073), dtype=np.uint8)
            records[:, 0] = np.arange(10_000) % 10
            records.tofile(place / name)
        began = time.perf_counter()
        train(run, Path(folder), place.parent, device=dev.type)
        whole = time.perf_counter() - began
        with (Path(folder) / "metrics.csv").open() as rows:
            ends = [float(row["seconds"]) for row in csv.DictReader(rows)]
    say(epochs=net, seconds=[round(b - a, 3) for a, b in pairwise(ends)], run=round(whole, 2))


section("facts", facts)
for net in nets[:2]:
    for kind, precision in (("hidden", "default"), ("hidden", "float32"), ("dense", "default")):
        section(f"{net} {kind} {precision}", partial(steps_of, net, kind, precision))
section("selection", selection)
for net in nets[:2]:
    section(f"kernels of {net}", partial(kernels, net))
for net in nets[:2]:
    for precision in ("TF32", "bf16"):
        section(f"{net} {precision}", partial(steps_of, net, "hidden", precision))
for net in nets[:2]:
    section(f"a run of {net}", partial(epochs, net))
for net in nets[2:]:
    for kind in ("hidden", "dense"):
        section(f"{net} {kind}", partial(steps_of, net, kind, "default"))
