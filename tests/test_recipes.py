"""Published hyper-parameters: the columns of papers.md's tables."""

from dataclasses import replace

import pytest

from lit_hidden import distributions, nets, recipes
from lit_hidden.data import DATA, IMAGENET_DATA
from lit_hidden.recipes import FINDERS, IMAGENET, METHODS, Method, method, recipe

SMALL = ["conv2", "conv4", "conv6", "conv8", "lenet"]
NETS = [*SMALL, "cifar_resnet18", *IMAGENET]


def test_the_names_that_runs_may_have_are_those_of_the_nets_and_the_data():
    assert sorted(recipes.NETS) == sorted(nets.NETS)
    assert recipes.IMAGES.keys() == {*DATA, *IMAGENET_DATA}


@pytest.mark.parametrize(
    ("name", "nets", "optimizer", "expected"),  # lr, schedule, weight decay, momentum, batch size
    [
        ("edge_popup", SMALL, "sgd", (0.1, "cosine", 1e-4, 0.9, 128)),
        ("edge_popup", ["cifar_resnet18"], "sgd", (0.1, "cosine", 5e-4, 0.9, 256)),
        ("edge_popup", SMALL, "adam", (1e-3, "cosine", 0, 0, 128)),
        ("edge_popup", IMAGENET, "sgd", (0.256, "cosine", 3.0517578125e-5, 0.875, 256)),
        ("dense", SMALL[:4], "sgd", (0.01, "cosine", 1e-4, 0.9, 128)),
        ("dense", ["lenet"], "sgd", (0.1, "cosine", 1e-4, 0.9, 128)),
        ("dense", ["cifar_resnet18"], "sgd", (0.1, "cosine", 5e-4, 0.9, 256)),
        ("dense", IMAGENET, "sgd", (0.256, "cosine", 3.0517578125e-5, 0.875, 256)),
        ("dense", ["conv2"], "adam", (2e-4, "constant", 0, 0, 60)),
        ("dense", ["conv4", "conv6", "conv8"], "adam", (3e-4, "constant", 0, 0, 60)),
        ("dense", ["lenet"], "adam", (1.2e-3, "constant", 0, 0, 60)),
        ("supermask", ["conv2", "conv4", "conv6"], "sgd", (200, "cosine", 0, 0.9, 128)),
        ("supermask", ["conv8"], "sgd", (800, "cosine", 0, 0.9, 128)),
        ("supermask", ["cifar_resnet18"], "sgd", (400, "cosine", 0, 0.9, 128)),
        ("supermask", IMAGENET, "sgd", (400, "cosine", 0, 0.9, 256)),
        ("random", NETS, "sgd", (0, "constant", 0, 0, 128)),
    ],
)
def test_settings_are_the_published_ones(name, nets, optimizer, expected) -> None:
    for net in nets:
        r = recipe(name, net, optimizer)
        assert (r.lr, r.schedule, r.weight_decay, r.momentum, r.batch_size) == expected, net
        warm = net in IMAGENET and name in ("edge_popup", "dense")
        assert (r.warmup_epochs, r.label_smoothing) == ((5, 0.1) if warm else (0, 0)), net
        assert r.distribution == ("kaiming_normal" if name == "dense" else "signed_constant")


@pytest.mark.parametrize("net", [*NETS, "mine.net", "timm:resnet10t"])
def test_tickets_are_trained_as_the_dense_baseline_is_and_other_methods_as_edge_popup(net: str) -> None:
    for optimizer in ("sgd", "adam"):
        assert recipe("ticket", net, optimizer) == replace(
            recipe("dense", net, optimizer), distribution="signed_constant"
        )
    assert method("mine.modules.Dale") == Method(module="mine.modules.Dale", learns="weights")
    assert recipe("mine.modules.Dale", net) == recipe("edge_popup", net)
    assert recipe("mine.modules.Dale", net, "adam").lr == recipe("dense", net, "adam").lr


def test_names_are_those_of_the_design_and_others_are_refused() -> None:
    assert set(FINDERS) == set(METHODS) - {"dense", "ticket"}
    assert tuple(distributions.DISTRIBUTIONS) == recipes.DISTRIBUTIONS
    for name, optimizer, message in (
        ("popup", "sgd", "methods are edge_popup, dense, supermask, random, ticket"),
        ("dense", "lion", "method='dense' takes sgd or adam"),
        ("random", "adam", "method='random' takes sgd"),
    ):
        with pytest.raises(ValueError, match=message):
            recipe(name, "conv4", optimizer)
