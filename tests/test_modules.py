"""The LightningModules: the paper's settings, the data's shape, schedules, checkpoints that come back."""

import contextlib
import json
import math
import pkgutil
import re
from collections import namedtuple
from typing import Any

import pytest
import torch
import yaml
from fitting import TINY, batch, fitted, trainer
from jsonargparse import ArgumentParser
from lightning.pytorch.callbacks import LambdaCallback
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn

from lit_hidden.classifier import LitClassifier
from lit_hidden.data import CIFAR10Data, DigitsData
from lit_hidden.edge_popup import maskers
from lit_hidden.modules import LitDense, LitSubnetwork, LitTicket
from lit_hidden.recipes import METHODS
from lit_hidden.run import Run
from lit_hidden.subnetwork import fingerprint, masks, save_subnetwork


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """A subnetwork of the tiny net, in a file."""
    hidden = LitSubnetwork(**TINY, density=0.3, distribution="kaiming_normal", scaled=True, seed=4)
    fitted(hidden)
    return str(save_subnetwork(hidden.net, tmp_path_factory.mktemp("found") / "found.safetensors"))


OWN = {"lr": 0.5, "momentum": 0.0, "weight_decay": 0.0, "schedule": "constant"}


@pytest.mark.parametrize(
    ("module", "net", "given", "expected"),
    [
        (LitSubnetwork, "conv4", {}, (0.1, 0.9, 1e-4, "cosine")),
        (LitTicket, "conv2", {"optimizer": "adam"}, (2e-4, None, 0.0, "constant")),
        (LitSubnetwork, "conv2", OWN, (0.5, 0.0, 0.0, "constant")),
    ],
)
def test_the_papers_settings_or_ones_own_reach_the_optimizer(module, net, given, expected, found):
    lit = module(**TINY | {"net": net} | given, **{"subnetwork": found} if module is LitTicket else {})
    lit.trainer = trainer(max_epochs=2)
    optimizer = lit.configure_optimizers()["optimizer"]
    assert isinstance(optimizer, torch.optim.Adam) == (given.get("optimizer") == "adam")
    group = optimizer.param_groups[0]
    assert (group["lr"], group.get("momentum"), group["weight_decay"], lit.recipe.schedule) == expected
    assert not group.get("nesterov")
    assert lit.recipe.batch_size == (60 if "optimizer" in given else 128)


HIDDEN = {"density": 0.5, "distribution": "signed_constant", "scaled": False, "seed": 0, "weight_seed": None}
HIDDEN |= {"score_seed": None, "skip": (), "masker": None, "hiding": None}


@pytest.mark.parametrize(
    ("module", "own"),
    [
        (LitDense, {"distribution": "kaiming_normal", "seed": 0}),
        (LitSubnetwork, HIDDEN),
        (LitTicket, {"subnetwork": None}),
    ],
)
def test_the_command_line_knows_every_argument_its_default_and_its_meaning(module, own):
    everyones = {"net": "conv4", "width": 1.0, "num_classes": None, "in_channels": None, "image_size": None}
    settings = ("lr", "momentum", "weight_decay", "schedule", "warmup_epochs", "label_smoothing", "task")
    parser = ArgumentParser()
    parser.add_class_arguments(module)
    assert vars(parser.get_defaults()) == everyones | {"optimizer": "sgd"} | dict.fromkeys(settings) | own
    told = " ".join(parser.format_help().split())
    docs = "".join(str(c.__doc__) for c in module.__mro__ if issubclass(c, LitClassifier))
    for name in vars(parser.get_defaults()):
        assert re.search(rf"\n        {name}: (.+)", docs)[1] in told
    with pytest.raises(TypeError, match="unexpected keyword argument 'densty'"):
        module(**{"subnetwork": None} if module is LitTicket else {}, densty=0.5)


class Mine(LitSubnetwork):
    """One of a user's, which says itself how it is made, and looks at its net."""

    def __init__(self, lr):
        super().__init__("conv2", 0.05, lr=lr)
        self.first = self.net[0].in_channels


@pytest.mark.parametrize("module", [lambda: LitSubnetwork("conv2", 0.05, lr=0.5), lambda: Mine(0.5)])
def test_a_module_takes_the_shape_from_the_data_and_keeps_what_it_learned(module, tmp_path):
    lit, data = module(), DigitsData(train_images=200)
    assert lit.net[0].in_channels == 3, "before the data are known"
    fit = trainer(max_epochs=1, logger=CSVLogger(tmp_path, version=0), log_every_n_steps=1)
    fit.fit(lit, data)
    told = LitSubnetwork("conv2", 0.05, num_classes=10, in_channels=1, image_size=32, lr=0.5)
    fitted(told)
    for name, tensor in told.net.state_dict().items():
        assert torch.equal(lit.net.state_dict()[name], tensor), name
    assert getattr(lit, "first", 1) == 1
    learned = lit.net[0].weight.detach()
    fit.test(lit, data, verbose=False)
    assert torch.equal(lit.net[0].weight, learned)
    with pytest.raises(ValueError, match="in_channels=1 contradicts CIFAR10Data, which has in_channels=3"):
        fit.test(lit, CIFAR10Data(), verbose=False)
    config = yaml.unsafe_load((tmp_path / "lightning_logs/version_0/hparams.yaml").read_text())
    run = Run(net="conv2", width=0.05, density=0.5, data="digits", train_images=200, held_out=144, epochs=1, lr=0.5)
    expected = {n: v for n, v in json.loads(run.to_json()).items() if n in config and not n.endswith("seed")}
    assert {n: config[n] for n in expected} == expected | {"augment": False, "image_size": 32}
    assert {"method", "net", "data", "batch_size", "epochs", "lr", "momentum", "density"} <= expected.keys()


def attached(lit, **settings):
    """A module in the process that a strategy has started, before it is trained."""
    lit.trainer = trainer(**settings)
    lit.trainer.datamodule = DigitsData()
    return lit


class Named:
    metric, unit, better = "seconds", "s", "lower"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LitDense(**TINY, optimizer="adamw"), "optimizer='adamw': method='dense' takes sgd or adam"),
        (
            lambda: LitSubnetwork(nn.Sequential(nn.Embedding(99, 8), nn.Linear(8, 2)), hiding={"strict": True}),
            "only 2% of the matrix weights are hidden",
        ),
        (lambda: LitSubnetwork(**TINY, hiding={"strct": True}), "hiding has 'strct'; it takes strict, embeddings and"),
        (lambda: LitSubnetwork(**TINY, schedule="step"), "schedule='step' is unknown; schedules are cosine, constant"),
        (lambda: LitSubnetwork(**TINY, optimizer="lion"), "method='edge_popup' takes sgd or adam"),
        (lambda: LitDense(**TINY, task=Named), "metric='seconds' of Named is the name of another number"),
        (lambda: LitTicket("nowhere", **TINY), "nowhere cannot be read: it is not there"),
        (
            lambda: fitted(LitDense("conv2", num_classes=7)),
            "num_classes=7 contradicts DigitsData, which has num_classes=10",
        ),
        (
            lambda: attached(LitSubnetwork("conv2", 0.05), strategy="ddp_spawn").configure_callbacks(),
            "with this strategy LitSubnetwork needs num_classes=10, in_channels=1, image_size=32",
        ),
        (
            lambda: trainer(max_epochs=-1, max_time={"seconds": 1}, limit_train_batches=1).fit(
                LitSubnetwork(**TINY), DigitsData(train_images=200)
            ),
            "schedule='cosine' needs an end",
        ),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError) as error:
        make()
    assert message in str(error.value)


@pytest.mark.parametrize("name", METHODS)
def test_what_is_said_of_a_method_is_what_its_module_does(name, found, tmp_path):
    said = METHODS[name]
    module = pkgutil.resolve_name(said.module)
    assert module.method == name
    lit = module(**({"subnetwork": found} if name == "ticket" else {}), **TINY)
    assert said.hides == bool(maskers(lit.net))
    random = torch.get_rng_state()
    lit.training_step(batch(), 0)
    draws = not torch.equal(random, torch.get_rng_state())
    assert said.captured == (said.learns is not None and not draws)
    before = {name: value.clone() for name, value in lit.net.state_dict().items()}
    fitted(lit)
    changed = {name for name, value in lit.net.state_dict().items() if not torch.equal(before[name], value)}
    assert {"scores" if name.endswith(".scores") else "weights" for name in changed} == {said.learns} - {None}
    with contextlib.nullcontext() if said.finds else pytest.raises(ValueError, match=r"hidden|weights learn"):
        LitTicket(save_subnetwork(lit.net, tmp_path / "file"), **TINY)


def test_the_rate_warms_up_and_falls_as_a_cosine_per_epoch_that_never_reaches_zero():
    def factors(epochs, of, **settings):
        lit = LitSubnetwork(**TINY, **settings)
        lit.trainer = trainer(max_epochs=of)
        return [lit.lr_factor(epoch) for epoch in epochs]

    assert factors([0, 50], 100) == pytest.approx([1.0, 0.5])
    assert factors([99], 100) == pytest.approx([2.47e-4], abs=5e-7)  # as printed, three digits
    assert factors(range(6), 10, warmup_epochs=5) == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert factors([7], -1, schedule="constant") == [1.0]


def test_a_cosine_ends_where_training_does():
    seen = []
    note = LambdaCallback(on_train_epoch_start=lambda fit, _: seen.append(fit.optimizers[0].param_groups[0]["lr"]))
    fit = trainer(max_epochs=-1, max_steps=4, accumulate_grad_batches=2, callbacks=[note])
    fit.fit(LitSubnetwork(**TINY), DigitsData(train_images=400))  # 4 batches, so 2 steps, an epoch
    assert seen[:2] == pytest.approx([0.1, 0.05])


def test_a_fit_resumed_with_more_epochs_goes_on_at_the_rate_of_the_longer_cosine(tmp_path):
    fitted(LitSubnetwork(**TINY)).save_checkpoint(tmp_path / "a.ckpt")
    seen = []
    note = LambdaCallback(on_train_epoch_start=lambda fit, _: seen.append(fit.optimizers[0].param_groups[0]["lr"]))
    data, lit = DigitsData(train_images=200), LitSubnetwork(**TINY, lr=0.02)
    trainer(max_epochs=3, callbacks=[note]).fit(lit, data, ckpt_path=tmp_path / "a.ckpt", weights_only=True)
    assert seen == pytest.approx([0.02 * (1 + math.cos(math.pi * epoch / 3)) / 2 for epoch in (1, 2)])


def test_a_ticket_takes_the_shape_from_its_subnetworks_file_and_then_from_the_data(tmp_path):
    found, data = LitSubnetwork("conv2", 0.05), DigitsData(train_images=200)
    trainer(max_epochs=1).fit(found, data)
    lit = LitTicket(save_subnetwork(found.net, tmp_path / "file", found.about), "conv2", 0.05)
    assert lit.net[0].in_channels == 1
    trainer(max_epochs=1).fit(lit, data)
    assert torch.equal(masks(lit.net)["0"], masks(found.net)["0"])


@pytest.mark.parametrize("module", [LitSubnetwork, LitTicket])
def test_a_checkpoint_comes_back_without_being_told_the_arguments(module, tmp_path, found):
    lit = module(**TINY, **{"subnetwork": found} if module is LitTicket else {"seed": 5, "skip": ["10"]})
    fitted(lit).save_checkpoint(tmp_path / "a.ckpt", weights_only=False)
    back = module.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True, map_location="cpu")
    assert back.hparams == lit.hparams
    assert ("10" in masks(back.net)) == (module is LitTicket)
    assert fingerprint(back.net) == fingerprint(lit.net)
    for name, mask in masks(lit.net).items():
        assert torch.equal(masks(back.net)[name], mask)


def test_a_net_of_ones_own_is_hidden_and_its_tickets_norm_layers_are_affine(tmp_path):
    def normed():
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(3600, 10))

    hidden = LitSubnetwork(normed(), density=0.3, scaled=True)
    fitted(hidden)
    assert list(maskers(hidden.net)) == ["0", "4"]
    weight = hidden.net[4].parametrizations.weight.original
    torch.testing.assert_close(weight.abs(), torch.full_like(weight, (2 / 3600 / 0.3) ** 0.5))
    assert "net" not in hidden.hparams
    ticket = LitTicket(save_subnetwork(hidden.net, tmp_path / "file"), normed())
    assert torch.equal(ticket.net[1].running_mean, hidden.net[1].running_mean)
    fitted(ticket)
    assert not torch.equal(ticket.net[1].weight, torch.ones(4))
    assert ticket.net[0].bias.any()


class Auxiliary(nn.Module):
    """As GoogLeNet: in training a named tuple with a second head."""

    def __init__(self, of: Any) -> None:
        super().__init__()
        self.of, self.fc = of, nn.Linear(3, 2)

    def forward(self, images: Tensor) -> Any:
        logits = self.fc(images.mean((2, 3)))
        return self.of(logits, 2 * logits) if self.training else logits


def test_of_several_outputs_the_logits_are_trained_and_outputs_without_logits_are_refused() -> None:
    images = torch.randn(4, 3, 8, 8)
    module = LitSubnetwork(Auxiliary(namedtuple("Outputs", ["logits", "aux"])))
    assert torch.equal(module.train()(images), module.eval()(images))
    with pytest.raises(TypeError, match="the net gave a list; it has to give a tensor, or an output with `logits`"):
        LitSubnetwork(Auxiliary(lambda *both: list(both))).train()(images)
