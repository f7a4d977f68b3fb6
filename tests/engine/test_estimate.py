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
TIMES = {"seconds": 4000.0, "started": "2026-01-01T10:00:00+00:00", "finished": "2026-01-01T11:23:20+00:00"}


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
    long = replace(CONV2, epochs=10**4)
    hours = round(work(CONV2) / GUESS["cpu"] * 10**4 / 2 / 3600)  # on two workers
    guess = f"about {hours // 24} d {hours % 24} h on 2 worker(s), a guess: nothing is measured here yet"
    assert clock.estimate([(long, 5000)] * 2, 2) == guess
    assert clock.estimate([(OWN, 1), (OWN, 3)], 2) == "unknown until a first run is measured"
    assert clock.estimate([(long, 5000)] * 2 + [(OWN, 3)], 2) == f"{guess}, without 1 run(s) of unknown length"


def test_runs_alike_count_before_the_arithmetic_and_all_workers_share_them():
    clock = Clock("cpu", CPU)
    clock.measure(replace(CONV2, seed=1, score_seed=1), 1, 10000.0)
    clock.measure(replace(CONV2, seed=1, score_seed=1), 10, 100.0 * 60)  # in place of what it took before
    clock.measure(replace(CONV2, seed=2, score_seed=2), 10, 300.0 * 60)
    ratio = work(CONV4) / work(CONV2)
    clock.measure(replace(OWN, seed=1), 1, 50.0)  # arithmetic that is not known says nothing of others
    clock.measure(analysis := CONV2.then(epochs=0), 0, 7.0)
    for left, workers, minutes in (
        ([(CONV2, 1)], 1, 20),
        ([(CONV2, 2)] * 4, 2, 80),
        ([(CONV2, 2), (CONV2, 1)], 2, 40),  # a run has one worker
        ([(CONV4, 1)], 1, 20 * ratio),
        ([(OWN, 6)], 1, 5),
        ([(replace(analysis, seed=1), 0)] * 60, 1, 7),
    ):
        hours, minutes = divmod(round(minutes), 60)
        told = f"{hours} h {minutes} min" if hours else f"{minutes} min"
        assert clock.estimate(left, workers) == f"about {told} on {workers} worker(s)"


def test_a_folder_of_runs_is_read_but_for_what_other_devices_took_or_is_damaged(tmp_path):
    def leave(seed: int, device: str | None, name: str | None = None, text: str | None = None, **times) -> None:
        run = Run(density=0.5, net="conv2", epochs=10, seed=seed)
        folder = tmp_path / (name or run.hash)
        folder.mkdir()
        (folder / "run.json").write_text(run.to_json() if text is None else text)
        (folder / "metrics.csv").write_text("epoch,seconds\n0,0.0\n1,300.0\n2,600.0\n")
        if device:
            (folder / "result.json").write_text(json.dumps({"provenance": {**TIMES, "device": device, **times}}))

    leave(1, CPU)
    leave(2, "NVIDIA H100")
    leave(3, None)
    leave(4, CPU, name="0123456789ab.damaged-1")
    leave(5, CPU, text="{")
    leave(6, CPU, seconds=7000.0)  # its epochs took longer than from its last start to its end
    clock = Clock.read(Store(tmp_path), "cpu", CPU)
    minutes = 10 * (5000 + 600 + 7000) / (10 + 2 + 10) / 60
    assert clock.estimate([(CONV2, 10)], 1) == f"about 1 h {minutes - 60:.0f} min on 1 worker(s)"


@pytest.mark.parametrize(
    ("seconds", "took"),
    [(0, "0 s"), (29.4, "29 s"), (59.6, "1 min"), (80 * 60, "1 h 20 min"), (2 * 3600, "2 h"),
     (26 * 3600 + 600, "1 d 2 h"), (48 * 3600, "2 d")],
)  # fmt: skip
def test_times_are_said_as_people_do(seconds, took):
    assert elapsed(seconds) == took
