"""What a GPU does with lit_hidden: facts, steps, selection, kernels, epochs; a line of JSON each, written as it comes.

    python3 measure.py cuda OUT SECONDS      (cpu: tries the script itself, on tiny nets)

Sections run in the order of what they tell; the time given ends them, and one that fails is told and passed over.
"""

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

import torch

dev, out, until = torch.device(sys.argv[1]), Path(sys.argv[2]), time.time() + float(sys.argv[3])
gpu = dev.type == "cuda"
out.mkdir(parents=True, exist_ok=True)
torch.set_num_threads(1)
warnings.filterwarnings("ignore", module="lightning")
file = (out / "measure.jsonl").open("a")


def say(**row: object) -> None:
    line = json.dumps(row)
    print(line, flush=True)
    file.write(line + "\n")
    file.flush()


def sync() -> None:
    if gpu:
        torch.cuda.synchronize()


def timed(work: Callable[[], object], times: int) -> dict[str, float]:
    """Median, smallest and largest milliseconds of several calls after one that does not count."""
    work()
    took = []
    for _ in range(times):
        sync()
        began = time.perf_counter()
        work()
        sync()
        took.append(1000 * (time.perf_counter() - began))
    took.sort()
    return {"ms": round(took[len(took) // 2], 5), "min": round(took[0], 5), "max": round(took[-1], 5)}


def section(name: str) -> Callable[[Callable[[], object]], None]:
    def run(work: Callable[[], object]) -> None:
        if time.time() > until:
            say(section=name, left_out="no time")
            return
        began = time.perf_counter()
        try:
            work()
        except Exception as error:
            chain: list[str] = []
            seen: BaseException | None = error
            while seen is not None and len(chain) < 5:  # of a capture, the first error is the cause
                chain.append(f"{type(seen).__name__}: {str(seen).splitlines()[0] if str(seen) else ''}"[:300])
                seen = seen.__cause__ or seen.__context__
            say(section=name, failed=chain)
            traceback.print_exc()
            if gpu:
                torch.cuda.set_stream(torch.cuda.default_stream())  # a capture that failed leaves its own
        say(section=name, seconds=round(time.perf_counter() - began, 1))

    return run


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


@section("facts")
def _() -> None:
    installed = {found.name: found.version for found in distributions()}
    say(
        torch=torch.__version__,
        **{name: installed.get(name) for name in ("triton", "lightning", "numpy")},
        cudnn=torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        python=sys.version.split()[0],
        conv_tf32=torch.backends.cudnn.allow_tf32,
        matmul=torch.get_float32_matmul_precision(),
        device=torch.cuda.get_device_name() if gpu else "CPU",
    )
    size = 8192 if gpu else 256
    one, two = torch.randn(size, size, device=dev), torch.randn(size, size, device=dev)
    for name, precision in (("float32", "highest"), ("TF32", "high")):
        torch.set_float32_matmul_precision(precision)
        took = timed(lambda: one @ two, 5)
        say(product=name, tflops=round(2 * size**3 / took["ms"] / 1e9, 1))
    torch.set_float32_matmul_precision("highest")
    half = one.bfloat16()
    took = timed(lambda: half @ half, 5)
    say(product="bf16", tflops=round(2 * size**3 / took["ms"] / 1e9, 1))
    took = timed(lambda: one.copy_(two), 10)
    say(copy_gb_s=round(2 * one.nbytes / took["ms"] / 1e6))
    few = torch.zeros(1000, device=dev)
    took = timed(graphed(lambda: few.add_(1), 200), 10)
    say(us_of_a_small_kernel_in_a_graph=round(1000 * took["ms"] / 200, 3))


def steps_of(net: str, kind: str, precision: str, width: float = 1.0 if gpu else 0.125) -> None:
    """Milliseconds of a training step, 100 of them at once, as the engine takes them."""
    from experiments.bench.training import Watched
    from lit_hidden.modules import LitDense, LitSubnetwork
    from lit_hidden.steps import Steps

    torch.manual_seed(0)
    module = (LitSubnetwork if kind == "hidden" else LitDense)(net, width=width, schedule="constant").to(dev)
    many = 100 if gpu else 4
    steps = Steps(module.net, module.configure_optimizers()["optimizer"])
    block = next(iter(Watched(1, 128 if gpu else 8, dev, many)))
    began = time.perf_counter()
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    with torch.autocast(dev.type, torch.bfloat16, enabled=precision == "bf16"):
        # torch's own choice: convolutions in TF32, products in float32.
        torch.set_float32_matmul_precision("high" if precision == "TF32" else "highest")
        torch.backends.cudnn.allow_tf32 = precision != "float32"
        try:
            losses = [round(float(steps.train(block).loss), 4) for _ in range(2)]
            first = time.perf_counter() - began
            took = timed(lambda: steps.train(block), 5)
        finally:
            torch.set_float32_matmul_precision("highest")
            torch.backends.cudnn.allow_tf32 = True
    say(
        step=f"{net} {kind} {precision}",
        **{k: round(v / many, 5) for k, v in took.items()},
        losses=losses,
        first_s=round(first, 1),
        peak_gb=round(torch.cuda.max_memory_allocated() / 1e9, 2) if gpu else 0,
    )
    steps.forget()


torch.backends.cudnn.benchmark = True  # as the engine's Trainer sets it
NETS = ("conv2", "conv8", "conv4", "conv6") if gpu else ("conv2",)
for net in NETS[:2]:
    for kind, precision in (("hidden", "default"), ("hidden", "float32"), ("dense", "default")):
        section(f"{net} {kind} {precision}")(partial(steps_of, net, kind, precision))


@section("selection")
def _() -> None:
    from lit_hidden.selection import _select_torch, top_k_mask

    for n in (1728, 2560, 36_864, 65_536, 147_456, 589_824, 1_179_648, 2_359_296, 4_194_304) if gpu else (1728,):
        scores = torch.empty(n).uniform_(-1, 1).to(dev)
        took = timed(graphed(lambda: top_k_mask(scores, n // 2), 10), 5)
        plain = timed(graphed(lambda: _select_torch(scores.view(torch.int32), n // 2), 10), 3)
        say(selection=n, us=round(100 * took["ms"], 2), by_topk_us=round(100 * plain["ms"], 2))


def kernels(net: str) -> None:
    """The kernels of a step and how long each takes, from an eager one: what the graph then holds."""
    from torch.profiler import ProfilerActivity, profile

    from experiments.bench.training import Watched
    from lit_hidden.modules import LitSubnetwork
    from lit_hidden.steps import Steps

    module = LitSubnetwork(net, width=1.0 if gpu else 0.125, schedule="constant").to(dev)
    steps = Steps(module.net, module.configure_optimizers()["optimizer"])
    size = 128 if gpu else 8
    block = next(iter(Watched(1, size, dev, 8)))
    for _ in range(4):
        steps.place.fill_(0)
        steps._step(block.loader, size)
    sync()
    steps.place.fill_(0)
    with profile(activities=[ProfilerActivity.CUDA if gpu else ProfilerActivity.CPU]) as seen:
        steps._step(block.loader, size)
        sync()
    rows = [(e.key, e.count, e.self_device_time_total if gpu else e.self_cpu_time_total) for e in seen.key_averages()]
    rows = sorted((row for row in rows if row[2] > 0), key=lambda row: -row[2])
    say(kernels=net, number=sum(row[1] for row in rows), us=round(sum(row[2] for row in rows)))
    for key, count, us in rows[:28]:
        print(f"  {us:9.1f} us {count:4d}  {key[:110]}", flush=True)
    with (out / f"kernels-{net}.txt").open("w") as listed:
        listed.writelines(f"{us:9.1f} us {count:4d}  {key}\n" for key, count, us in rows)


for net in NETS[:2]:
    section(f"kernels of {net}")(partial(kernels, net))
for net in NETS[:2]:
    for precision in ("TF32", "bf16"):
        section(f"{net} {precision}")(partial(steps_of, net, "hidden", precision))


def made_up(folder: Path) -> Path:
    """Files laid out as CIFAR-10's, of drawn pixels: how long an epoch takes does not depend on what is to be seen."""
    import numpy as np

    draws = np.random.default_rng(0)
    place = folder / "cifar-10-batches-bin"
    place.mkdir(parents=True, exist_ok=True)
    for name in [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]:
        records = draws.integers(0, 256, (10_000, 3073), dtype=np.uint8)
        records[:, 0] = np.arange(10_000) % 10
        records.tofile(place / name)
    return folder


def epochs(net: str, number: int, data: Path) -> None:
    """Seconds of each epoch of a run as `reproduce` trains it, evaluation included, and of the whole run."""
    import csv

    from lit_hidden.engine.train import train
    from lit_hidden.run import Run

    run = (
        Run(net=net, density=0.5, epochs=number)
        if gpu
        else Run(data="digits", net="conv2", width=0.125, epochs=2, density=0.5)
    )
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        began = time.perf_counter()
        train(run, Path(folder), data, device=dev.type)
        whole = time.perf_counter() - began
        with (Path(folder) / "metrics.csv").open() as rows:
            ends = [float(row["seconds"]) for row in csv.DictReader(rows)]
    say(epochs=net, seconds=[round(b - a, 3) for a, b in pairwise(ends)], run=round(whole, 2))


data = Path("/dev/shm/made-up")
section("made-up files")(lambda: made_up(data) if gpu else None)
for net in NETS[:2]:
    section(f"a run of {net}")(partial(epochs, net, 6, data))
for net in NETS[2:]:
    for kind in ("hidden", "dense"):
        section(f"{net} {kind}")(partial(steps_of, net, kind, "default"))
