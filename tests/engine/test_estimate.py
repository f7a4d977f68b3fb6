"""The estimated time: arithmetic counted a second way, measured runs before guesses, honest words."""

import json
import re
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lit_hidden.data import DATA, IMAGENET_DATA, data_module
from lit_hidden.data.wnids import CLASS_LISTS
from lit_hidden.engine.estimate import (
    GUESS,
    Clock,
    Estimate,
    duration,
    elapsed,
    macs,
    took,
    work,
)
from lit_hidden.engine.store import Store
from lit_hidden.nets import build
from lit_hidden.recipes import CLASS_LISTS as COUNTS
from lit_hidden.recipes import IMAGES
from lit_hidden.run import Run

CPU = "CPU, 1 thread(s)"
CONV2, CONV4 = Run(density=0.5, net="conv2").resolved, Run(density=0.5, net="conv4").resolved
OWN = Run(density=0.5, net="mine:net").resolved
PROVENANCE = {
    "device": CPU, "seconds": 40.0, "started": "2026-01-01T10:00:00+00:00", "finished": "2026-01-01T10:00:50+00:00"
}  # fmt: skip


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


def test_classes_are_those_of_the_data_or_those_chosen():
    assert Run(data="imagenet").num_classes == 1000
    assert Run(data="imagenet", classes="tiny-imagenet-100").num_classes == 100
    assert Run(data="tiny-imagenet-100", classes="first-10").num_classes == 10
    assert Run(data="digits").num_classes == 10


@pytest.mark.parametrize("net", ["conv2", "conv4", "conv6", "conv8"])
@pytest.mark.parametrize(("width", "data"), [(1.0, "cifar10"), (0.1, "digits"), (0.3, "mnist")])
def test_the_arithmetic_is_that_of_the_net(net, width, data):
    channels, size, *_ = IMAGES[data]
    counts = []
    model = build(net, width=width, in_channels=channels, image_size=size)
    for layer in model:
        if hasattr(layer, "weight"):
            # Each weight is used once for each place of the output.
            layer.register_forward_hook(
                lambda layer, _, out: counts.append(layer.weight.numel() * (out[0, 0].numel() if out.ndim == 4 else 1))
            )
    with torch.no_grad():
        model(torch.zeros(1, channels, size, size))
    assert macs(Run(net=net, width=width, data=data)) == sum(counts)


@pytest.mark.parametrize("net", ["conv4", "cifar_resnet18", "lenet"])
@pytest.mark.parametrize(("width", "data"), [(1.0, "cifar10"), (0.1, "digits"), (0.3, "mnist")])
def test_the_arithmetic_is_what_torch_counts(net, width, data):
    channels, size, *_ = IMAGES[data]
    assert 2 * macs(Run(net=net, width=width, data=data)) == flops(net, width, channels, size)


def flops(net, width, channels, size, number=10):
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:  # nothing is multiplied
        model = build(net, width=width, in_channels=channels, image_size=size, num_classes=number).eval()
        model(torch.zeros(1, channels, size, size))
    return counter.get_total_flops()


@pytest.mark.parametrize("net", ["resnet18", "resnet34", "resnet50", "resnet101", "wide_resnet50_2"])
def test_the_arithmetic_of_resnets_is_what_torch_counts_at_any_width_and_size(net):
    assert 2 * macs(Run(net=net, data="imagenet")) == flops(net, 1.0, 3, 224, 1000)
    assert 2 * macs(Run(net=net, data="digits", width=0.125)) == flops(net, 0.125, 1, 32)
    odd = Run(net=net, data="tiny-imagenet", classes="first-7", width=0.3, image_size=50)  # halved to 25, 13, 7, 4, 2
    assert 2 * macs(odd) == flops(net, 0.3, 3, 50, 7)


def test_an_epoch_is_three_passes_of_training_images_and_one_of_tested_ones():
    assert work(CONV2) == macs(CONV2) * (3 * 50_000 + 10_000)
    assert work(replace(CONV2, train_images=1000)) == macs(CONV2) * (3 * 1000 + 10_000)
    assert work(replace(CONV2, held_out=5000)) == macs(CONV2) * (3 * 45_000 + 5000)
    assert macs(OWN) is None
    assert work(OWN) is None


def test_an_epoch_of_a_part_of_imagenet_is_in_proportion():
    whole = Run(net="resnet18", data="imagenet").resolved
    assert work(whole) == macs(whole) * (3 * 1_281_167 + 50_000)
    tenth = Run(net="resnet18", data="tiny-imagenet-100", classes="first-10").resolved
    assert work(tenth) == macs(tenth) * (3 * 5_000 + 500)
    few = replace(tenth, images_per_class=50)
    assert work(few) == macs(tenth) * (3 * 500 + 500)
    assert work(replace(tenth, train_images=700)) == macs(tenth) * (3 * 700 + 500)
    assert work(replace(tenth, held_out=100)) == macs(tenth) * (3 * 4_900 + 100)
    small = replace(tenth, image_size=32)
    assert work(small) == work(tenth) * macs(small) / macs(tenth)


def test_before_anything_is_measured_it_is_a_guess_or_unknown():
    clock = Clock("cpu", CPU)
    assert clock.per_epoch(CONV2) == work(CONV2) / GUESS["cpu"]
    assert Clock("cuda", "").per_epoch(CONV2) == work(CONV2) / GUESS["cuda"]
    assert str(clock.estimate([(CONV2, 1)], 2)).endswith(" on 2 workers; a guess: nothing is measured here yet")
    assert clock.per_epoch(OWN) is None
    assert str(clock.estimate([(OWN, 1), (OWN, 3)], 2)) == "unknown until a first run is measured"
    known = clock.estimate([(CONV2, 1)], 2)
    assert clock.estimate([(OWN, 1), (CONV2, 1), (OWN, 3)], 2) == replace(known, unknown=2)


def test_runs_alike_count_before_the_arithmetic_and_that_before_the_mean():
    clock = Clock("cpu", CPU)
    clock.measure(replace(CONV2, seed=1, score_seed=1), 10, 100.0)
    clock.measure(replace(CONV2, seed=2, score_seed=2), 10, 300.0)
    assert clock.per_epoch(CONV2) == 20.0
    assert clock.per_epoch(CONV4) == pytest.approx(20.0 * macs(CONV4) / macs(CONV2))
    assert clock.per_epoch(OWN) == 20.0
    clock.measure(replace(OWN, seed=1), 1, 50.0)
    assert clock.per_epoch(OWN) == 50.0
    assert clock.per_epoch(CONV4) == pytest.approx(20.0 * macs(CONV4) / macs(CONV2)), "its arithmetic says nothing"
    dense = Run(net="conv2").resolved
    assert clock.per_epoch(dense) == pytest.approx(20.0)
    clock.measure(dense, 5, 25.0)
    assert clock.per_epoch(dense) == 5.0


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

    def leave(seed: int, device: str | None, name: str | None = None, text: str | None = None) -> None:
        run = Run(density=0.5, net="conv2", epochs=10, seed=seed)
        folder = tmp_path / (name or run.hash)
        folder.mkdir()
        (folder / "run.json").write_text(run.to_json() if text is None else text)
        (folder / "metrics.csv").write_text("epoch,seconds\n0,0.0\n1,3.0\n2,6.0\n")
        if device:
            (folder / "result.json").write_text(json.dumps({"provenance": {**PROVENANCE, "device": device}}))

    assert Clock.read(store, "cpu", CPU).estimate([], 1).measured == 0
    leave(1, CPU)
    leave(2, "NVIDIA H100")
    leave(3, None)
    leave(4, CPU, name="0123456789ab.damaged-1")
    leave(5, CPU, text="{")
    clock = Clock.read(store, "cpu", CPU)
    assert clock.estimate([], 1).measured == 2
    assert clock.per_epoch(CONV2) == (50.0 + 6.0) / (10 + 2)
    assert Clock.read(Store(tmp_path / "nowhere"), "cpu", CPU).estimate([], 1).measured == 0


def test_a_run_took_from_start_to_end_or_what_its_epochs_took_if_it_was_begun_before():
    assert took(PROVENANCE) == 50.0
    assert took({**PROVENANCE, "seconds": 70.0}) == 70.0


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "less than a minute"),
        (29, "less than a minute"),
        (31, "about 1 min"),
        (59.6 * 60, "about 1 h"),
        (80 * 60, "about 1 h 20 min"),
        (26 * 3600 + 600, "about 1 d 2 h"),
        (48 * 3600, "about 2 d"),
    ],
)
def test_times_are_said_as_people_do(seconds, words):
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (29.4, "29 s"),
        (59.6, "1 min"),
        (90, "2 min"),
        (2 * 3600, "2 h"),
        (8160, "2 h 16 min"),
        (26 * 3600 + 600, "1 d 2 h"),
    ],
)
def test_what_something_took_is_said_to_the_second_below_a_minute(seconds, words):
    assert elapsed(seconds) == words


def test_an_estimate_says_what_it_is_from():
    assert str(Estimate(4800.0, 2, 12)) == "about 1 h 20 min on 2 workers; from 12 runs measured here"
    assert str(Estimate(30.0, 1, 1)) == "less than a minute on 1 worker; from 1 run measured here"
    assert str(Estimate(4800.0, 1, 0)) == "about 1 h 20 min on 1 worker; a guess: nothing is measured here yet"
    assert str(Estimate(4800.0, 2, 0, 3)) == (
        "about 1 h 20 min on 2 workers, and 3 runs of unknown length; a guess: nothing is measured here yet"
    )
    assert str(Estimate(4800.0, 1, 2, 1)) == (
        "about 1 h 20 min on 1 worker, and 1 run of unknown length; from 2 runs measured here"
    )
    assert str(Estimate(None, 1, 3)) == "unknown until a first run is measured"


def test_an_analysis_costs_what_one_like_it_took_and_no_epoch_of_training() -> None:
    analysis = CONV2.then(epochs=0)
    assert work(analysis) < work(CONV2) / 3
    clock = Clock("cpu", CPU)
    clock.measure(analysis, 0, 7.0)
    assert clock.per_epoch(replace(CONV2, seed=5).then(epochs=0)) == 7.0
    assert clock.estimate([(analysis, 0), (replace(analysis, seed=1), 0)], 1).seconds == 14.0
    assert clock.per_epoch(CONV2) == pytest.approx(7.0 * work(CONV2) / work(analysis))
