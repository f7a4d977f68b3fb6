"""The estimated time: arithmetic within a factor of what torch counts, measured runs before guesses, honest words."""

import json
import re
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lit_hidden.data import DATA, IMAGENET_DATA, data_module
from lit_hidden.data.wnids import CLASS_LISTS
from lit_hidden.engine.estimate import GUESS, MACS, Clock, Estimate, duration, elapsed, work
from lit_hidden.engine.store import Store
from lit_hidden.nets import build
from lit_hidden.recipes import CLASS_LISTS as COUNTS
from lit_hidden.recipes import IMAGES
from lit_hidden.run import Run

CPU = "CPU, 1 thread(s)"
CONV2, CONV4 = Run(density=0.5, net="conv2").resolved, Run(density=0.5, net="conv4").resolved
OWN = Run(density=0.5, net="mine:net").resolved
TIMES = {"seconds": 40.0, "started": "2026-01-01T10:00:00+00:00", "finished": "2026-01-01T10:00:50+00:00"}


def test_the_data_are_those_of_the_data_modules():
    assert IMAGES.keys() == DATA.keys() | IMAGENET_DATA.keys()
    for name, data in DATA.items():
        assert IMAGES[name] == (*data.shape[:2], *data.sizes, data.num_classes)
    for name, data in IMAGENET_DATA.items():
        channels, size, train, test, number = IMAGES[name]
        module = data_module(name)
        assert ((channels, size, size), number) == (module.shape, module.num_classes)
        # What lies on disk is not known here; what the publishers say of it stands in the docstrings.
        told = re.search(r"([\d,]+) training and ([\d,]+) test images", data.__doc__)
        if told:
            assert (train, test) == tuple(int(count.replace(",", "")) for count in told.groups())
    assert {name: len(wnids) for name, wnids in CLASS_LISTS.items()} == COUNTS
    assert IMAGES["imagenet"][2:] == (1_281_167, 50_000, 1000)


@pytest.mark.parametrize("net", MACS)
def test_the_arithmetic_is_what_torch_counts_and_near_it_at_other_widths_and_sizes(net):
    size = MACS[net][1]
    data = {28: "mnist", 32: "cifar10", 224: "imagenet"}[size]
    small = "digits" if size < 224 else "tiny-imagenet"
    for width, name, tolerance in ((1.0, data, 0.01), (1.0 if net == "lenet" else 0.25, small, 0.25)):
        channels, size, _, _, classes = IMAGES[name]
        with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
            model = build(net, width=width, in_channels=channels, image_size=size, num_classes=classes).eval()
            model(torch.zeros(1, channels, size, size))
        run = Run(net=net, width=width, data=name, train_images=1000).resolved
        images = 3 * 1000 + IMAGES[name][3]
        assert work(run) / images == pytest.approx(counter.get_total_flops() / 2, rel=tolerance)


@pytest.mark.parametrize(
    ("run", "images"),
    [
        (CONV2, 3 * 50_000 + 10_000),  # three passes of training images and one of tested ones
        (replace(CONV2, train_images=1000), 3 * 1000 + 10_000),
        (replace(CONV2, held_out=5000), 3 * 45_000 + 5000),
        (CONV2.then(epochs=0), 10_000),
        (Run(net="resnet18", data="imagenet"), 3 * 1_281_167 + 50_000),
        (Run(net="resnet18", data="imagenet", classes="first-10", images_per_class=50), 3 * 500 + 500),
        (Run(net="resnet18", data="imagenet", classes="first-10", train_images=700), 3 * 700 + 500),
    ],
)
def test_an_epoch_is_the_images_of_it(run, images):
    assert work(run.resolved) == pytest.approx(MACS[run.net][0] * images)


def test_before_anything_is_measured_it_is_a_guess_or_unknown():
    clock = Clock("cpu", CPU)
    assert clock.per_epoch(CONV2) == work(CONV2) / GUESS["cpu"]
    assert Clock("cuda", "").per_epoch(CONV2) == work(CONV2) / GUESS["cuda"]
    assert clock.per_epoch(OWN) is None
    assert str(clock.estimate([(OWN, 1), (OWN, 3)], 2)) == "unknown until a first run is measured"
    known = clock.estimate([(CONV2, 1)], 2)
    assert clock.estimate([(OWN, 1), (CONV2, 1), (OWN, 3)], 2) == replace(known, unknown=2)


def test_runs_alike_count_before_the_arithmetic():
    clock = Clock("cpu", CPU)
    clock.measure(replace(CONV2, seed=1, score_seed=1), 10, 100.0)
    clock.measure(replace(CONV2, seed=2, score_seed=2), 10, 300.0)
    assert clock.per_epoch(CONV2) == 20.0
    other = 20.0 * work(CONV4) / work(CONV2)
    assert clock.per_epoch(CONV4) == pytest.approx(other)
    assert clock.per_epoch(OWN) is None
    clock.measure(replace(OWN, seed=1), 1, 50.0)
    assert clock.per_epoch(OWN) == 50.0
    assert clock.per_epoch(CONV4) == pytest.approx(other), "arithmetic that is not known says nothing"
    analysis = CONV2.then(epochs=0)
    clock.measure(analysis, 0, 7.0)
    assert clock.estimate([(replace(analysis, seed=1), 0)] * 2, 1).seconds == 14.0


def test_what_was_measured_of_a_run_before_is_replaced():
    clock = Clock("cpu", CPU)
    for epochs, seconds in ((0, 0.0), (1, 30.0), (2, 40.0)):
        clock.measure(CONV2, epochs, seconds)
    assert clock.per_epoch(CONV2) == 20.0
    assert clock.estimate([], 1).measured == 1


def test_workers_share_the_runs_but_the_longest_is_one_workers():
    clock = Clock("cpu", CPU)
    clock.measure(CONV2, 1, 10.0)
    assert clock.estimate([(CONV2, 6)] * 4, 2) == Estimate(120.0, 2, 1)
    assert clock.estimate([(CONV2, 6), (CONV2, 1)], 2) == Estimate(60.0, 2, 1)
    assert clock.estimate([], 2) == Estimate(0.0, 2, 1)


def test_a_folder_of_runs_is_read_but_for_what_other_devices_took_or_is_damaged(tmp_path):
    store = Store(tmp_path)

    def leave(seed: int, device: str | None, name: str | None = None, text: str | None = None, **times) -> None:
        run = Run(density=0.5, net="conv2", epochs=10, seed=seed)
        folder = tmp_path / (name or run.hash)
        folder.mkdir()
        (folder / "run.json").write_text(run.to_json() if text is None else text)
        (folder / "metrics.csv").write_text("epoch,seconds\n0,0.0\n1,3.0\n2,6.0\n")
        if device:
            (folder / "result.json").write_text(json.dumps({"provenance": {**TIMES, "device": device, **times}}))

    assert Clock.read(store, "cpu", CPU).estimate([], 1).measured == 0
    leave(1, CPU)
    leave(2, "NVIDIA H100")
    leave(3, None)
    leave(4, CPU, name="0123456789ab.damaged-1")
    leave(5, CPU, text="{")
    leave(6, CPU, seconds=70.0)  # its epochs took longer than from its last start to its end
    clock = Clock.read(store, "cpu", CPU)
    assert clock.estimate([], 1).measured == 3
    assert clock.per_epoch(CONV2) == (50.0 + 6.0 + 70.0) / (10 + 2 + 10)


@pytest.mark.parametrize(
    ("seconds", "took", "takes"),
    [
        (0, "0 s", "less than a minute"), (29.4, "29 s", "less than a minute"), (59.6, "1 min", "about 1 min"),
        (80 * 60, "1 h 20 min", "about 1 h 20 min"), (2 * 3600, "2 h", "about 2 h"),
        (26 * 3600 + 600, "1 d 2 h", "about 1 d 2 h"), (48 * 3600, "2 d", "about 2 d"),
    ],
)  # fmt: skip
def test_times_are_said_as_people_do(seconds, took, takes):
    assert (elapsed(seconds), duration(seconds)) == (took, takes)


@pytest.mark.parametrize(
    ("estimate", "words"),
    [
        (Estimate(4800.0, 2, 12), "about 1 h 20 min on 2 workers; from 12 runs measured here"),
        (Estimate(30.0, 1, 1), "less than a minute on 1 worker; from 1 run measured here"),
        (Estimate(60.0, 2, 0, 3),
         "about 1 min on 2 workers, and 3 runs of unknown length; a guess: nothing is measured here yet"),
        (Estimate(None, 1, 3), "unknown until a first run is measured"),
    ],
)  # fmt: skip
def test_an_estimate_says_what_it_is_from(estimate, words):
    assert str(estimate) == words
