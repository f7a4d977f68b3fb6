"""The estimated time: arithmetic within a factor of what torch counts, measured runs before guesses, honest words."""

import json
import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lit_hidden.data import DATA, IMAGENET_DATA, data_module
from lit_hidden.data.trees import CLASS_LISTS
from lit_hidden.engine.estimate import GUESS, MACS, elapsed, estimate, measured, work
from lit_hidden.engine.store import Store
from lit_hidden.nets import build
from lit_hidden.recipes import CLASS_LISTS as COUNTS
from lit_hidden.recipes import IMAGES
from lit_hidden.run import Run

CPU = "CPU, 1 thread(s)"
CONV2, CONV4 = Run(density=0.5, net="conv2").resolved, Run(density=0.5, net="conv4").resolved
OWN = Run(density=0.5, net="mine:net").resolved


def test_the_data_are_those_of_the_data_modules():
    assert IMAGES.keys() == DATA.keys() | IMAGENET_DATA.keys()
    for name, data in DATA.items():
        assert IMAGES[name] == (*data.shape[:2], *data.sizes, data.num_classes)
    for name, data in IMAGENET_DATA.items():
        channels, size, train, test, number = IMAGES[name]
        module = data_module(name)
        assert ((channels, size, size), number) == (module.shape, module.num_classes)
        # What lies on disk is not known here; what the publishers say of it stands in the docstrings.
        if told := re.search(r"([\d,]+) training and ([\d,]+) test images", data.__doc__):
            assert [f"{train:,}", f"{test:,}"] == list(told.groups())
    assert {name: len(wnids) for name, wnids in CLASS_LISTS.items()} == COUNTS
    assert IMAGES["imagenet"][2:] == (1_281_167, 50_000, 1000)


@pytest.mark.parametrize(
    ("net", "width", "data", "tolerance"),
    [
        *((net, 1.0, {28: "mnist", 32: "cifar10", 224: "imagenet"}[size], 0.01) for net, (_, size) in MACS.items()),
        ("lenet", 1.0, "digits", 0.25), ("conv4", 0.25, "digits", 0.25), ("resnet18", 0.25, "tiny-imagenet", 0.25),
    ],
)  # fmt: skip
def test_the_arithmetic_is_what_torch_counts_and_near_it_at_other_widths_and_sizes(net, width, data, tolerance):
    channels, size, _, tested, classes = IMAGES[data]
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        model = build(net, width=width, in_channels=channels, image_size=size, num_classes=classes).eval()
        model(torch.zeros(1, channels, size, size))
    run = Run(net=net, width=width, data=data, train_images=1000).resolved
    assert work(run) / (3 * 1000 + tested) == pytest.approx(counter.get_total_flops() / 2, rel=tolerance)


@pytest.mark.parametrize(
    ("run", "images"),
    [
        (CONV2, 3 * 50_000 + 10_000),  # three passes of training images and one of tested ones
        (replace(CONV2, train_images=1000), 3 * 1000 + 10_000),
        (replace(CONV2, held_out=5000), 3 * 45_000 + 5000),
        (Run(net="resnet18", data="imagenet"), 3 * 1_281_167 + 50_000),
        (Run(net="resnet18", data="imagenet", classes="first-10", images_per_class=50), 3 * 500 + 500),
        (Run(net="resnet18", data="imagenet", classes="first-10", train_images=700), 3 * 700 + 500),
    ],
)
def test_an_epoch_is_the_images_of_it(run, images):
    assert work(run.resolved) == pytest.approx(MACS[run.net][0] * images)


@pytest.fixture
def estimated(tmp_path):
    """Say how long runs take on so many workers, by what was done; a result is a device, epochs and seconds."""

    def say(left: list[Run], workers: int, *done: tuple[Run, str, float], on: str = "cpu", each: float = 1) -> str:
        pool: Any = SimpleNamespace(device=on, places=workers, per_run=each)
        known = [(run, {"provenance": {"device": device, "seconds": seconds}}) for run, device, seconds in done]
        return estimate([run.resolved for run in left], Store(tmp_path), pool, [*known, *measured(Store(tmp_path))])

    return say


def test_before_anything_is_measured_it_is_a_guess_or_unknown(estimated):
    days = work(CONV2) / GUESS["cpu"] * 10**4 / 2 / 86400  # on two workers
    guess = f"about {days:.3g} d on 2 worker(s), a guess: nothing is measured here yet"
    assert estimated([replace(CONV2, epochs=5000)] * 2, 2) == guess
    assert estimated([CONV2, OWN], 2) == "unknown until a first run is measured"


@pytest.mark.parametrize(
    ("left", "workers", "minutes"),
    [
        ([(CONV2, 1)], 1, 20),
        ([(CONV2, 2)] * 4, 2, 80),
        ([(CONV2, 2), (CONV2, 1)], 2, 40),  # a run has one worker
        ([(CONV4, 1)], 1, 20 * work(CONV4) / work(CONV2)),
        ([(OWN, 6)], 1, 5),
        ([(CONV2, 1), (OWN.then(), 0)], 1, 20),
    ],
)
def test_runs_alike_on_such_devices_count_before_the_arithmetic_and_all_workers_share_them(
    left, workers, minutes, estimated
):
    ten, one = replace(CONV2, epochs=10), replace(OWN, epochs=1)
    done = [(ten, CPU, 100.0 * 60), (replace(ten, seed=2), CPU, 300.0 * 60), (one, CPU, 50.0)]
    done += [(ten, "NVIDIA H100", 1.0), (ten, f"2 x {CPU}", 1.0)]
    runs = [replace(run, epochs=epochs) for run, epochs in left]
    assert estimated(runs, workers, *done) == f"about {elapsed(60 * minutes)} on {workers} worker(s)"


def test_gpus_and_runs_on_several_devices_go_by_their_like(estimated):
    done = [(replace(CONV2, epochs=1), device, s) for device, s in ((CPU, 1.0), ("H100", 60.0), ("4 x H100", 180.0))]
    one = [replace(CONV2, epochs=1)]
    assert estimated(one, 1, *done, on="cuda", each=0.5) == "about 1 min on 1 worker(s)"
    assert estimated(one, 1, *done, on="cuda", each=4) == "about 3 min on 1 worker(s)"


def test_a_folder_of_runs_is_read_but_for_what_is_damaged(tmp_path, estimated):
    def leave(seed: int, seconds: float, name: str = "", text: str = "") -> None:
        run = Run(density=0.5, net="conv2", epochs=10, seed=seed)
        folder = tmp_path / (name or run.hash)
        folder.mkdir()
        (folder / "run.json").write_text(text or run.to_json())
        (folder / "result.json").write_text(json.dumps({"provenance": {"device": CPU, "seconds": seconds}}))

    leave(1, 4000.0)
    leave(2, 8000.0)
    leave(4, 10.0, name="0123456789ab.damaged-1")
    leave(5, 10.0, text="{")
    assert estimated([replace(CONV2, epochs=6)], 1) == "about 1 h on 1 worker(s)"


def test_times_are_said_as_people_do():
    times = {0: "0 s", 40: "40 s", 1320: "22 min", 4800: "1.33 h", 181440: "2.1 d", 1234 * 86400: "1234 d"}
    assert {seconds: elapsed(seconds) for seconds in times} == times
