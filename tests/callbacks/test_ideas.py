"""The ideas that come with the suite do what they say; stopped in the middle they end as if never stopped."""

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist
from torch import nn
from training import ARM, TEXT, TINY, counted, without_time

from lit_hidden.callbacks import RunCallback, weights
from lit_hidden.callbacks.corpus import source
from lit_hidden.callbacks.dale import Dale
from lit_hidden.callbacks.deficit import Deficit
from lit_hidden.callbacks.gates import Gates, Sparsity
from lit_hidden.callbacks.global_topk import GlobalTopK
from lit_hidden.callbacks.heads import Heads
from lit_hidden.callbacks.iterand import IteRand
from lit_hidden.callbacks.labels import RandomLabels
from lit_hidden.callbacks.lesion import Lesion
from lit_hidden.callbacks.maturity import Density, Freeze
from lit_hidden.callbacks.rdm import RDM
from lit_hidden.callbacks.rewind import Prune
from lit_hidden.callbacks.schedule import SecondCosine
from lit_hidden.callbacks.similarity import Probe, Stopped
from lit_hidden.callbacks.swaps import Swaps
from lit_hidden.callbacks.text import Text
from lit_hidden.callbacks.trace import Trace
from lit_hidden.callbacks.transformer import LearnedEmbeddings
from lit_hidden.classifier import LitClassifier
from lit_hidden.code import spec
from lit_hidden.data import DigitsData, ImageData
from lit_hidden.data.tensors import balanced_order
from lit_hidden.edge_popup import hide
from lit_hidden.engine.network import make_data, make_module, network
from lit_hidden.engine.train import Recorder, train
from lit_hidden.run import Run
from lit_hidden.subnetwork import used_masks

DENSE, HIDDEN = Run(epochs=2, **TINY), Run(density=0.5, epochs=2, **TINY)
OWN = hide(nn.Sequential(nn.Linear(4, 3)), 0.5, distribution=None)
NORMS = {"net": "cifar_resnet18", "width": 0.05, "data": "digits", "train_images": 300, "epochs": 1}


def begun(
    callback: RunCallback, run: Run = DENSE, seed: int = 0, parent: Path | None = None
) -> tuple[LitClassifier, ImageData]:
    """A module and its data after `on_run_start`."""
    data = make_data(run, "data")
    data.setup("fit")
    torch.manual_seed(0)
    module = make_module(run, data, parent.parent if parent else Path("none"))
    callback.run_seed = seed
    callback.on_run_start(SimpleNamespace(max_epochs=run.epochs), module, data, parent)
    return module, data


def after(run: Run, name: str, **options: Any) -> Run:
    return replace(run, callbacks=(spec(name, **options),))


# --- all of them ----------------------------------------------------------------------------------------

CHAIN = [DENSE]
for density in (0.5, 0.25):
    CHAIN.append(CHAIN[-1].then(callbacks=(spec("rewind.Prune", density=density),)))
EARLY, LATE = (after(DENSE, "lesion.Lesion", epoch=epoch) for epoch in (0, 1))
WATCHED = replace(DENSE, held_out=100, callbacks=(spec("early.Early", every=2), spec("rewind.Snapshot", update=1)))
HALVED = replace(HIDDEN, epochs=3, callbacks=(spec("lesion.Lesion", epoch=1, of="hemisphere", measure=True),
                                              spec("schedule.SecondCosine", epoch=1, before=2)))  # fmt: skip
RESUMED = {
    "lesion": EARLY, "hemisphere": HALVED, "dale": after(HIDDEN, "dale.Dale", balanced=True, subtract=True),
    "feedback": after(HIDDEN, "feedback.FeedbackAlignment"), "rewind": CHAIN[2],
    "text": Run(**TEXT | {"net": "transformer.learned_2", "optimizer": "adam", "lr": 0.01}, density=0.5, callbacks=(
        spec("text.Text", sha256=source()[0], characters=5), spec("heads.Heads", windows=4),
        spec("transformer.LearnedEmbeddings"))),
    "swaps": after(HIDDEN, "swaps.Swaps", updates=4), "early": WATCHED,
    "spiking": Run(**TINY | {"net": "spiking.lenet_4"}, density=0.5, epochs=2, callbacks=(spec("spiking.Neurons"),)),
    "cerebellum": Run(
        net="cerebellum.granules", width=0.05, density=0.08, data="arm.CodedArmData", task="arm.Angles", held_out=400,
        train_images=500, epochs=2, masker="cerebellum.TopPerUnit", optimizer="adam", lr=0.01,
        callbacks=(spec("cerebellum.Granules"), spec("arm.Endpoint")),
    ),
    "labels": after(replace(DENSE, epochs=3), "labels.RandomLabels", fraction=0.0),
    "density at the end": after(replace(HIDDEN, epochs=1), "maturity.Density", start=1.0),
    "second": HIDDEN.then(callbacks=(spec("maturity.Freeze", epoch=1, then="last"), spec("maturity.SecondTask"))),
    "iterand": after(HIDDEN, "iterand.IteRand", every=2),
    "global": after(replace(HIDDEN, masker="global_topk.GlobalPopup"), "global_topk.GlobalTopK"),
    "gates": after(replace(HIDDEN, masker="gates.Gates", optimizer="adam", lr=0.03), "gates.Sparsity", penalty=1.0),
    "rewound": WATCHED.then(callbacks=(spec("early.Early", every=2), spec("rewind.Prune", density=0.5, rewind=1))),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:only .* of the matrix weights")  # of the text's net the rest are embeddings
@pytest.mark.parametrize("name", RESUMED)
def test_a_run_stopped_and_resumed_ends_bit_equal_to_one_never_stopped(name, trained, monkeypatch):
    run = RESUMED[name]
    folder, whole = trained(run)
    stopped = folder.with_name(f"{run.hash}-stopped")
    stopped.mkdir()
    real = Recorder.on_train_epoch_end

    def stop_after_the_first_epoch(self: Any, trainer: Any, module: Any) -> None:
        real(self, trainer, module)
        if len(self.rows) == 2:
            raise RuntimeError("stopped here")

    monkeypatch.setattr(Recorder, "on_train_epoch_end", stop_after_the_first_epoch)
    with pytest.raises(RuntimeError, match="stopped here"):
        train(run, stopped, keep=True)
    monkeypatch.setattr(Recorder, "on_train_epoch_end", real)
    assert counted(train(run, stopped, keep=True)) == counted(whole)
    assert without_time(stopped) == without_time(folder)
    for path in (*folder.glob("*.npz"), *folder.glob("*.safetensors")):
        assert (stopped / path.name).read_bytes() == path.read_bytes(), path.name


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandomLabels(1.5), "fraction=1.5 of the images is impossible"),
        (lambda: begun(RandomLabels(), Run(**ARM)), "the targets of arm are torch.float32"),
        (lambda: RandomLabels().on_run_start(None, None, object(), None), "object: the images are not in memory"),
        (lambda: Trace(updates=0), "updates=0 records nothing"),
        (lambda: Swaps(updates=1).on_train_start(None, begun(Trace())[0]), "nothing swaps in this net"),
        (lambda: RDM(images=1), "images=1 cannot be compared with each other"),
        (lambda: Probe(images=3), "images=3, noise=(0.1, 0.2, 0.4)"),
        (lambda: Probe(fgsm=[]), "fgsm=[]: give at least 4 images, and strengths"),
        (lambda: begun(Probe(), Run(**ARM)), "the inputs of arm are torch.float32"),
        (lambda: begun(Stopped(3)), "the run before left no snapshot_3.npz"),
        (lambda: Freeze(1, then="sleep"), "then='sleep' is unknown; what learns afterwards is nothing or last"),
        (lambda: begun(Freeze(2)), "epoch=2 never begins in a run whose last epoch is 1"),
        (lambda: Density(0), "start=0 is the fraction of weights kept at first; it must lie in (0, 1]"),
        (lambda: begun(Density(1.0)), "no density can move in this net"),
        (lambda: begun(Density(1.0), replace(HIDDEN, masker="gates.Gates")), "no density can move in this net"),
        (
            lambda: Swaps(updates=1).on_train_start(
                None, begun(Trace(), replace(HIDDEN, masker="signed.SignedSupermask"))[0]
            ),
            "nothing swaps in this net",
        ),
        (lambda: Deficit(1, "squint"), "kind='squint' is unknown; a deficit is blur or flip"),
        (lambda: begun(Deficit(3)), "until=3 lies outside of a run of 2 epochs; it is 0 to 2"),
        (lambda: begun(Deficit(1, size=5)), "size=5 does not divide images of 32 x 32 pixels"),
        (lambda: Lesion(0, of="brains"), "of='brains'"),
        (lambda: Lesion(0, fraction=1.5), "fraction=1.5"),
        (lambda: begun(Lesion(2)), "epoch=2 never begins in a run whose last epoch is 1"),
        (lambda: begun(Lesion(0), Run(**NORMS)), "the norm layer 'bn1' gives dead units an output"),
        (lambda: begun(Lesion(0), Run(**TEXT)), "the norm layer 'blocks.0.norm1' gives dead units an output"),
        (lambda: begun(Lesion(0, measure=True), Run(**ARM)), "the accuracy of a classifier"),
        (lambda: SecondCosine(3, 2), "epoch=3, before=2: the epoch must lie in the first cosine, 0 to 2"),
        (lambda: begun(SecondCosine(2, 2)), "epoch=2 never begins in a run of 2 epochs"),
        (lambda: begun(SecondCosine(1, 2), replace(DENSE, schedule="constant")), "schedule='constant' has no second"),
        (lambda: begun(Dale()), "Dale's principle needs a hidden net: set a density"),
        (
            lambda: begun(Dale(), Run(**NORMS, density=0.5)),
            "conv1 has no layer before it that all its inputs come from",
        ),
        (lambda: Dale(1.2), "inhibitory=1.2 of the units is impossible"),
        (lambda: Dale(None, balanced=True), "inhibitory=None leaves nothing to balance"),
        (lambda: begun(Dale(0.2, balanced=True), replace(HIDDEN, width=0.02)), "0 of the 1 units of 0 inhibit"),
        (lambda: begun(GlobalTopK(), HIDDEN), "the layers of this net choose alone"),
        (lambda: begun(Sparsity(1.0), HIDDEN), "this net has no gates to close"),
        (lambda: IteRand(every=0), "every=0, rate=0.1"),
        (lambda: begun(IteRand(), DENSE), "is not hidden"),
        (
            lambda: IteRand().on_run_start(None, SimpleNamespace(net=OWN), None, None),
            "distribution=None: these weights were not drawn",
        ),
        (lambda: Gates(torch.empty(3, 4), 1.0), "density=1: gates start from one in (0, 1)"),
        (lambda: begun(Text("0123"), Run(**TEXT)), f"the run is about the text 0123, and here is {source()[0]}"),
        (lambda: begun(Heads()), "Sequential has no heads to look at; take net='transformer.layers_2'"),
        (
            lambda: begun(LearnedEmbeddings(), HIDDEN),
            "Sequential has no head of its own; take net='transformer.learned_2'",
        ),
        (lambda: begun(Prune(0.5)), "a dense parent run is needed"),
        (lambda: begun(Prune(0.5), HIDDEN, parent=Path("none")), "a dense parent run is needed"),
    ],
)
def test_what_cannot_be_is_refused_with_what_can(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


# --- lesion ---------------------------------------------------------------------------------------------


def dead(net: nn.Module) -> dict[str, list[int]]:
    """The units of each layer to which no weight leads."""
    return {name: (w.flatten(1) == 0).all(1).nonzero().flatten().tolist() for name, w in weights(net).items()}


CUT = after(HIDDEN, "lesion.Lesion", epoch=1)


@pytest.mark.parametrize("run", [LATE, CUT], ids=["dense", "hidden"])
def test_half_of_the_units_of_each_hidden_layer_are_dead_at_the_end_and_answer_nothing(run, trained):
    folder, result = trained(run)
    net = network(run, folder)
    found = dead(net)
    sizes = [len(weight) for weight in weights(net).values()]
    assert [len(units) for units in found.values()] == [round(size / 2) for size in sizes[:-1]] + [0]
    assert result["cut"] == sum(map(len, found.values()))
    images = next(iter(make_data(DENSE, "data").test_dataloader()))[0]
    for name, layer in net[:-1].named_children():
        images = layer(images)
        assert not images[:, found.get(name, [])].any()
        assert images.any()


def test_until_the_lesion_a_run_is_the_one_without(trained):
    whole, cut = trained(HIDDEN)[0], trained(CUT)[0]
    assert without_time(cut)[:2] == without_time(whole)[:2]
    assert without_time(cut)[2] != without_time(whole)[2]


def test_a_seed_has_one_lesion_at_every_age_after_which_the_rest_goes_on_learning(trained):
    early, late = (network(run, trained(run)[0]) for run in (EARLY, LATE))
    begin = begun(Lesion(0))[0].net
    assert dead(early) == dead(late) == dead(begin) != dead(begun(Lesion(0), seed=1)[0].net)
    for name, weight in weights(begin).items():
        assert (weight != weights(early)[name])[weight.flatten(1).any(1)].any(), name


def test_units_that_are_cut_have_no_bias_left():
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    nn.init.ones_(net[1].bias)
    Lesion(0).on_run_start(SimpleNamespace(max_epochs=1), SimpleNamespace(net=net), None, None)
    assert (net[1](torch.randn(9, 4)) == 0).all(0).sum() == 3


def test_edges_are_cut_in_every_layer_and_in_nets_with_norms():
    lesion = Lesion(0, of="edges", fraction=0.25)
    found = weights(begun(lesion, Run(**NORMS))[0].net).values()
    living = sum(int(weight.count_nonzero()) for weight in found)
    zeros = [int((weight == 0).sum()) for weight in found]
    assert zeros == [round(weight.numel() / 4) for weight in found]
    assert lesion.on_run_end(None, None, None) == {"cut": sum(zeros), "living": living, "revived": 0}


def test_after_a_lesion_the_net_comes_back_and_a_run_after_it_keeps_dead_edges_dead(trained):
    folder, result = trained(HALVED)
    net = network(HALVED, folder)
    assert {name: int(mask.sum()) for name, mask in used_masks(net).items()} == {
        layer["name"]: layer["kept_min"] for layer in result["layers"]
    }
    assert trained(HALVED.then(epochs=0, callbacks=(spec("rdm.RDM", images=5),)))[1]["accuracy"] == result["accuracy"]
    child = HALVED.then(epochs=1, callbacks=())
    after_it = network(child, trained(child)[0])
    for name, weight in weights(net).items():
        assert ((weight == 0) == (weights(after_it)[name] == 0)).all()
        assert used_masks(after_it)[name].sum() == used_masks(net)[name].sum()


def test_the_immediate_loss_is_that_of_the_net_before_cut_by_an_analysis(trained):
    options = {"of": "edges", "fraction": 0.3}
    late = (spec("lesion.Lesion", epoch=2, measure=True, **options), spec("schedule.SecondCosine", epoch=2, before=2))
    cut = HIDDEN.then(epochs=0, callbacks=(spec("lesion.Lesion", epoch=0, **options),))
    immediate = trained(replace(HIDDEN, epochs=3, callbacks=late))[1]["immediate"]
    assert immediate == pytest.approx(trained(cut)[1]["accuracy"], abs=1e-4)
    assert immediate != trained(HIDDEN)[1]["accuracy"]


@pytest.mark.parametrize(
    ("restarted", "expected"),  # half the cosine's phase is left where it is resumed, in three epochs
    [(True, [1, 0.5, 1, 0.75, 0.25]), (False, [1, 0.5, 0.5, 0.25, 0.5 * (1 - 0.75**0.5)])],
)
def test_a_second_cosine_begins_where_it_says(restarted, expected):
    module, _ = begun(SecondCosine(2, 4, restarted), replace(DENSE, epochs=5))
    assert [module.lr_factor(epoch) for epoch in (0, 2 - 1e-9, 2, 3, 4)] == pytest.approx(expected)
    assert module.lr_factor(5) == 0


# --- RDM ------------------------------------------------------------------------------------------------


def test_dissimilarities_are_scipys_of_answers_found_by_hand(trained):
    before = HIDDEN
    run = before.then(epochs=0, callbacks=(spec("rdm.RDM", images=40),))
    folder, result = trained(run)
    assert (result["accuracy"], result["rdm_images"]) == (trained(before)[1]["accuracy"], 40)
    data = DigitsData()
    loader = data.test_dataloader()
    images = torch.cat([images for images, _ in loader])
    labels = torch.cat([labels for _, labels in loader])
    chosen = balanced_order(labels)[:40]
    answers = images[chosen]
    with np.load(folder / "rdm.npz") as found, torch.no_grad():
        assert found["labels"].tolist() == labels[chosen].tolist()
        assert np.bincount(found["labels"]).tolist() == [4] * 10
        layers = {"0", "2", "6", "8", "10"}
        assert set(found.files) == {"labels", *layers, *(f"{name}.centroids" for name in layers)}
        for name, layer in network(before, trained(before)[0]).named_children():
            answers = layer(answers)
            if name in found:
                expected = pdist(answers.flatten(1).double().numpy(), "correlation")
                np.testing.assert_allclose(found[name], expected, atol=1e-6)
                means = np.stack([answers[labels[chosen] == c].flatten(1).double().numpy().mean(0) for c in range(10)])
                np.testing.assert_allclose(found[f"{name}.centroids"], pdist(means, "correlation"), atol=1e-6)


def test_attention_has_an_rdm_too(trained):
    run = Run(**TEXT | {"epochs": 0}, callbacks=(spec("rdm.RDM", images=10),))
    with np.load(trained(run)[0] / "rdm.npz") as found:
        layers = {"blocks.0.attention.in_proj_weight", "blocks.0.widen", "blocks.0.narrow", "head"}
        assert {name: found[name].shape for name in found.files} == dict.fromkeys(layers, (45,)) | {"labels": (10, 64)}
