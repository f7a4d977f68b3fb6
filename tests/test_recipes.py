from collections.abc import Callable
from dataclasses import replace

import pytest

from lit_hidden.recipes import FINDERS, IMAGENET, METHODS, OPTIMIZERS, SCHEDULES, Method, Recipe, method, recipe

CONV = ["conv2", "conv4", "conv6", "conv8"]


def settings(method: str, net: str, optimizer: str = "sgd") -> tuple[float, str, float, float, int]:
    """The columns of papers.md's table: lr, schedule, weight decay, momentum, batch size."""
    r = recipe(method, net, optimizer)
    return r.lr, r.schedule, r.weight_decay, r.momentum, r.batch_size


@pytest.mark.parametrize("net", [*CONV, "lenet"])
def test_edge_popup_on_conv2_to_conv8_and_the_fully_connected_net(net: str) -> None:
    assert settings("edge_popup", net) == (0.1, "cosine", 1e-4, 0.9, 128)


def test_edge_popup_on_cifars_resnet18() -> None:
    assert settings("edge_popup", "cifar_resnet18") == (0.1, "cosine", 5e-4, 0.9, 256)


@pytest.mark.parametrize("net", CONV)
def test_dense_sgd_on_conv2_to_conv8(net: str) -> None:
    assert settings("dense", net) == (0.01, "cosine", 1e-4, 0.9, 128)


def test_dense_sgd_on_the_fully_connected_net_takes_the_larger_rate() -> None:
    assert settings("dense", "lenet") == (0.1, "cosine", 1e-4, 0.9, 128)


@pytest.mark.parametrize(
    ("net", "lr"), [("conv2", 2e-4), ("conv4", 3e-4), ("conv6", 3e-4), ("conv8", 3e-4), ("lenet", 1.2e-3)]
)
def test_dense_adam_takes_the_lottery_tickets_rates_and_stays_constant(net: str, lr: float) -> None:
    assert settings("dense", net, "adam") == (lr, "constant", 0, 0, 60)


def test_dense_cifar_resnet18() -> None:
    assert settings("dense", "cifar_resnet18") == (0.1, "cosine", 5e-4, 0.9, 256)


@pytest.mark.parametrize(
    ("net", "lr"), [("conv2", 200), ("conv4", 200), ("conv6", 200), ("conv8", 800), ("cifar_resnet18", 400)]
)
def test_zhous_supermask(net: str, lr: float) -> None:
    assert settings("supermask", net) == (lr, "cosine", 0, 0.9, 128)


@pytest.mark.parametrize("net", IMAGENET)
@pytest.mark.parametrize("method", ["edge_popup", "dense"])
def test_imagenet(method: str, net: str) -> None:
    assert settings(method, net) == (0.256, "cosine", 3.0517578125e-5, 0.875, 256)
    assert (recipe(method, net).warmup_epochs, recipe(method, net).label_smoothing) == (5, 0.1)


@pytest.mark.parametrize("net", IMAGENET)
def test_zhous_supermask_on_imagenet(net: str) -> None:
    assert settings("supermask", net) == (400, "cosine", 0, 0.9, 256)


@pytest.mark.parametrize("net", [*CONV, "lenet", "cifar_resnet18"])
@pytest.mark.parametrize("method", METHODS)
def test_only_imagenet_has_warmup_and_label_smoothing(method: str, net: str) -> None:
    assert (recipe(method, net).warmup_epochs, recipe(method, net).label_smoothing) == (0, 0)


@pytest.mark.parametrize("net", [*CONV, "lenet", "cifar_resnet18", *IMAGENET])
def test_baselines_start_kaiming_normal_and_subnetworks_signed_constant(net: str) -> None:
    distributions = {method: recipe(method, net).distribution for method in METHODS}
    signed = "signed_constant"
    assert distributions == {
        "edge_popup": signed,
        "dense": "kaiming_normal",
        "supermask": signed,
        "random": signed,
        "ticket": signed,
    }


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("net", [*CONV, "lenet", "cifar_resnet18", *IMAGENET])
def test_tickets_are_trained_as_the_dense_baseline_is(net: str, optimizer: str) -> None:
    dense = recipe("dense", net, optimizer)
    assert recipe("ticket", net, optimizer) == replace(dense, distribution="signed_constant")


@pytest.mark.parametrize("net", ["conv4", "resnet50", "lenet"])
def test_nothing_learns_in_a_random_subnetwork(net: str) -> None:
    assert settings("random", net) == (0, "constant", 0, 0, 128)


@pytest.mark.parametrize("method", METHODS)
def test_a_net_of_your_own_is_treated_as_conv4(method: str) -> None:
    assert recipe(method, "timm:resnet10t") == recipe(method, "conv4")


@pytest.mark.parametrize("net", [*CONV, "lenet", "cifar_resnet18", *IMAGENET, "mine.net"])
def test_a_method_of_your_own_is_known_by_its_module_and_gets_edge_popups_settings(net: str) -> None:
    assert method("mine.modules.Dale") == Method(module="mine.modules.Dale", learns="weights")
    assert recipe("mine.modules.Dale", net) == recipe("edge_popup", net)
    assert recipe("mine.modules.Dale", net, "adam").lr == recipe("dense", net, "adam").lr


def test_the_names_are_those_of_the_design() -> None:
    assert tuple(METHODS) == ("edge_popup", "dense", "supermask", "random", "ticket")
    assert set(FINDERS) == set(METHODS) - {"dense", "ticket"}
    assert OPTIMIZERS == ("sgd", "adam")
    assert SCHEDULES == ("cosine", "constant")
    assert Recipe() == recipe("edge_popup", "conv8")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: recipe("popup", "conv4"),
            "method='popup' is unknown; methods are edge_popup, dense, supermask, random, ticket",
        ),
        (
            lambda: recipe(method("Dale").module, "conv4"),
            "method='Dale' is unknown; methods are edge_popup, dense, supermask, random, ticket",
        ),
        (
            lambda: recipe("dense", "conv4", "lion"),
            "optimizer='lion' is unknown; optimizers are sgd, adam",
        ),
        (
            lambda: recipe("edge_popup", "conv4", "adam"),
            "optimizer='adam' is for the weights of dense and ticket; method='edge_popup' takes 'sgd'",
        ),
        (
            lambda: recipe("random", "conv4", "adam"),
            "optimizer='adam' is for the weights of dense and ticket; method='random' takes 'sgd'",
        ),
    ],
)
def test_what_has_no_recipe_is_refused(call: Callable[[], Recipe], message: str) -> None:
    with pytest.raises(ValueError) as error:
        call()
    assert str(error.value) == message


def test_the_distributions_named_are_those_that_can_be_drawn() -> None:
    from lit_hidden import distributions, recipes

    assert tuple(distributions.DISTRIBUTIONS) == recipes.DISTRIBUTIONS
