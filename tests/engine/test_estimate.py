"""The estimated time: arithmetic within a factor of what torch counts, measured runs before guesses, honest words."""

import json
import re
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lit_hidden.data import DATA, IMAGENET_DATA, data_module
from lit_hidden.data.wnids import CLASS_LISTS
from lit_hidden.engine.estimate import GUESS, MACS, Clock, elapsed, work
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


def test_before_anything_is_measured_it_is_a_guess_or_unknown():
    clock = Clock("cpu", CPU)
    days = work(CONV2) / GUESS["cpu"] * 10**4 / 2 / 86400  # on two workers
    guess = f"about {days:.3g} d on 2 worker(s), a guess: nothing is measured here yet"
    assert clock.estimate([(CONV2, 5000)] * 2, 2) == guess
    assert clock.estimate([(CONV2, 5000), (OWN, 1)], 2) == "unknown until a first run is measured"


@pytest.mark.parametrize(
    ("left", "workers", "minutes"),
    [
        ([(CONV2, 1)], 1, 20),
        ([(CONV2, 2)] * 4, 2, 80),
        ([(CONV2, 2), (CONV2, 1)], 2, 40),  # a run has one worker
        ([(CONV4, 1)], 1, 20 * work(CONV4) / work(CONV2)),
        ([(OWN, 6)], 1, 5),
        ([(CONV2, 1), (OWN.then(epochs=0), 0)], 1, 20),
    ],
)
def test_runs_alike_count_before_the_arithmetic_and_all_workers_share_them(left, workers, minutes):
    clock = Clock("cpu", CPU)
    clock.measure(replace(CONV2, seed=1, score_seed=1), 1, 10000.0)
    clock.measure(replace(CONV2, seed=1, score_seed=1), 10, 100.0 * 60)  # in place of what it took before
    clock.measure(replace(CONV2, seed=2, score_seed=2), 10, 300.0 * 60)
    clock.measure(replace(OWN, seed=1), 1, 50.0)  # arithmetic that is not known says nothing of others
    assert clock.estimate(left, workers) == f"about {elapsed(60 * minutes)} on {workers} worker(s)"


def test_a_folder_of_runs_is_read_but_for_what_other_devices_took_or_is_damaged(tmp_path):
    def leave(seed: int, device: str, seconds: float, name: str = "", text: str = "") -> None:
        run = Run(density=0.5, net="conv2", epochs=10, seed=seed)
        folder = tmp_path / (name or run.hash)
        folder.mkdir()
        (folder / "run.json").write_text(text or run.to_json())
        (folder / "result.json").write_text(json.dumps({"provenance": {"device": device, "seconds": seconds}}))

    leave(1, CPU, 4000.0)
    leave(2, CPU, 8000.0)
    leave(3, "NVIDIA H100", 10.0)
    leave(4, CPU, 10.0, name="0123456789ab.damaged-1")
    leave(5, CPU, 10.0, text="{")
    clock = Clock("cpu", CPU, Store(tmp_path))
    assert clock.estimate([(CONV2, 6)], 1) == "about 1 h on 1 worker(s)"


def test_times_are_said_as_people_do():
    times = {0: "0 s", 40: "40 s", 1320: "22 min", 4800: "1.33 h", 181440: "2.1 d", 1234 * 86400: "1234 d"}
    assert {seconds: elapsed(seconds) for seconds in times} == times
